"""Watches the arrays that come into being, for what a loss must never hold."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class NewArrays(TorchDispatchMode):
    """Within it, the new dense arrays: their storages, and the entries of the largest.

    Args:
        owned: arrays that are there already, and no news.
        least: bytes of a storage below which it is not noted.
    """

    def __init__(self, owned: Iterable[Tensor] = (), least: int = 0) -> None:
        super().__init__()
        self._owned = {tensor.untyped_storage().data_ptr() for tensor in owned}
        self._least = least
        self._kept: list[torch.UntypedStorage] = []  # So that no address is used twice.
        self.storages: set[int] = set()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple) else (out,):
            if not isinstance(tensor, Tensor) or tensor.is_sparse:
                continue
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._owned:
                self.largest = max(self.largest, tensor.numel())
                if storage.nbytes() >= self._least:
                    self.storages.add(storage.data_ptr())
                    self._kept.append(storage)
        return out
