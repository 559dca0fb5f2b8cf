"""Counts the bytes that collectives move in one step."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from torch import Tensor

from centerarc.losses.head import shards

# Where ``ClassShards`` takes its collectives from.
PLACES = ((dist, "all_reduce"), (shards, "all_gather_single"), (shards, "reduce_scatter_single"))


@contextlib.contextmanager
def counted_bytes() -> Iterator[Counter[str]]:
    """Within it, the bytes of each collective of this rank, of its larger side."""
    moved: Counter[str] = Counter()

    def counting(name: str, collective: Any) -> Any:
        def call(first: Tensor, *others: Any, **more: Any) -> Any:
            tensors = [t for t in (first, *others) if isinstance(t, Tensor)]
            moved[name] += max(tensor.nbytes for tensor in tensors)
            return collective(first, *others, **more)

        return call

    before = [getattr(place, name) for place, name in PLACES]
    for (place, name), collective in zip(PLACES, before, strict=True):
        setattr(place, name, counting(name, collective))
    try:
        yield moved
    finally:
        for (place, name), collective in zip(PLACES, before, strict=True):
            setattr(place, name, collective)
