"""Scored pairs to every number of a verification result."""

import difflib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.protocols.outcome import Settings, Sides, Verified
from centerarc.evaluation.scores import BoolArray, IntArray, ScoreArray
from centerarc.evaluation.verification.group_breakdown import breakdown
from centerarc.evaluation.verification.held_out_far import held_out_fars
from centerarc.evaluation.verification.result import evaluate_verification

RESAMPLES = 1000
# Beyond so many pairs a thousand resamples take hours.
_MOST_RESAMPLED = 1_000_000

Groups = npt.NDArray[Any] | tuple[npt.NDArray[Any], npt.NDArray[Any]]


def judge_pairs(
    scores: ScoreArray,
    same: BoolArray,
    fold: IntArray | None,
    people: Sides | None,
    people_note: str,
    index: tuple[npt.NDArray[Any], ...],
    groups: dict[str, Groups],
    settings: Settings,
) -> Verified:
    """Measure everything that scored pairs can say.

    Args:
        scores: (P,) cosine of each pair.
        same: (P,) whether it is genuine.
        fold: (P,) its fold, or None; a single one is as good as none.
        people: the first and the second person of each pair; None where unknown.
        people_note: where they come from.
        index: what the pairs are of.
        groups: columns to break down by, from :func:`chosen_groups`.
        settings: how to judge.

    Returns:
        The result.

    Raises:
        ValueError: settings out of range or that the pairs cannot carry.
    """
    resamples = settings.resamples
    if resamples not in (None, 0) and people is None:
        people_note = f"{people_note}; so no intervals"
    if resamples is None:
        resamples = RESAMPLES if same.size <= _MOST_RESAMPLED else 0
        if people is not None and not resamples:
            people_note = (
                f"{people_note}; no intervals over them: beyond {_MOST_RESAMPLED:,} pairs they "
                "take hours and must be asked for"
            )
    drawn = people if resamples else None
    bootstrap = resamples or RESAMPLES
    report = evaluate_verification(
        scores,
        same,
        fold,
        drawn,
        convention=settings.convention,
        fars=settings.fars,
        bootstrap=bootstrap,
        seed=settings.seed,
    )
    supported = [far for far, tar in report.tar_at_far.items() if tar.value is not None]
    return Verified(
        report,
        scores,
        same,
        fold,
        people,
        people_note,
        index,
        {
            column: breakdown(
                scores,
                same,
                values,
                drawn,
                threshold=report.threshold,
                bootstrap=bootstrap,
                seed=settings.seed,
            )
            for column, values in groups.items()
        },
        {}
        if fold is None
        else held_out_fars(
            scores, same, fold, supported, drawn, bootstrap=bootstrap, seed=settings.seed
        ),
        settings,
    )


def chosen_groups(
    columns: dict[str, npt.NDArray[np.str_]], by: Iterable[str], source: str
) -> dict[str, Groups]:
    """The columns of a list of pairs that the user wants broken down.

    Args:
        columns: all columns of the list, each (P,).
        by: wanted names; ``age`` also means ``age_a`` with ``age_b``, one of each image.
        source: the file, for messages.

    Returns:
        By name: a value for each pair, or the values of its first and of its second image.

    Raises:
        ValueError: there is no such column; the message has those that there are.
    """
    sides = [name[:-2] for name in columns if name.endswith("_a") and f"{name[:-2]}_b" in columns]
    known = [*columns, *sides]
    found: dict[str, Groups] = {}
    for name in by:
        if name in columns:
            found[name] = columns[name]
        elif name in sides:
            found[name] = (columns[f"{name}_a"], columns[f"{name}_b"])
        else:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; the closest is {close[0]!r}" if close else ""
            there = ", ".join(map(repr, known)) or "none beside those of the pairs"
            raise ValueError(
                f"{source}, line 1: there is no column {name!r} to break down by; there are "
                f"{there}{hint}"
            )
    return found
