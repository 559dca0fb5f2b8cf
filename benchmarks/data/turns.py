"""Rounds in which all take turns, so that a machine that grows slower is slow for all."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import cv2
import numpy as np
import torch
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


def play(works: Mapping[str, Work], order: Indices, turn: int) -> Rates:
    """One round: everyone reads the same images, in an order of turns that is drawn.

    Returns:
        Images a second of each.
    """
    names = list(works)
    rates = {}
    for number in np.random.default_rng((1, turn)).permutation(len(names)).tolist():
        start = time.perf_counter()
        works[names[number]](order, turn)
        rates[names[number]] = len(order) / (time.perf_counter() - start)
    return rates


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
