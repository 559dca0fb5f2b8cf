"""Rounds in which all take turns, so that a machine that grows slower is slow for all."""

import time
from collections.abc import Callable, Mapping

import numpy as np
from benchmarks.common.runner import Progress

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


def take_turns(
    words: str, rounds: int, play_round: Callable[[int], Seconds], record: list[Seconds]
) -> None:
    """Plays all rounds after one that is not recorded, with a line after each.

    Args:
        words: what the work is.
        rounds: how many are recorded.
        play_round: plays the round of a number.
        record: gets each round as soon as it is played, so that an early end leaves what there is.
    """
    play_round(rounds)
    progress = Progress(words, rounds)
    for turn in range(rounds):
        record.append(play_round(turn))
        progress.step()
