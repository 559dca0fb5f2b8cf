"""Rounds in which all read the same images, in turns."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import cv2
import numpy as np
import torch
from benchmarks.common.turns import play
from benchmarks.data.implementations import Indices, Work

Rates = dict[str, float]


def orders(count: int, each: int, seed: int = 0) -> Callable[[int], Indices]:
    """Returns a function of a round's number: `each` image numbers in random order.

    Args:
        count: how many images there are; with fewer than `each` they come again.
        each: how many are read in a turn.
        seed: of the order.
    """

    def order(turn: int) -> Indices:
        rng = np.random.default_rng((seed, turn))
        times = -(-each // count)
        return np.concatenate([rng.permutation(count) for _ in range(times)])[:each]

    return order


def rates(works: Mapping[str, Work], order: Indices, turn: int) -> Rates:
    """One round: everyone reads the same images.

    Returns:
        Images a second of each.
    """
    seconds = play({name: partial(work, order, turn) for name, work in works.items()}, turn)
    return {name: len(order) / spent for name, spent in seconds.items()}


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it torch and OpenCV have one thread."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
