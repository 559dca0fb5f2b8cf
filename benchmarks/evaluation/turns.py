"""Rounds in which all take turns, so that a machine that grows slower is slow for all."""

import time
from collections.abc import Callable, Mapping

import numpy as np

# Seconds of each by name.
Seconds = dict[str, float]


def play(works: Mapping[str, Callable[[], object]], turn: int) -> Seconds:
    """One round, in an order of turns that is drawn."""
    names = list(works)
    seconds = {}
    for number in np.random.default_rng((1, turn)).permutation(len(names)).tolist():
        start = time.perf_counter()
        works[names[number]]()
        seconds[names[number]] = time.perf_counter() - start
    return seconds
