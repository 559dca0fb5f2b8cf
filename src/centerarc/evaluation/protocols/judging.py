"""Scored pairs to every number of a verification result."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.formats.csv_table import line_of
from centerarc.evaluation.protocols.number_bands import NumberBands, is_number, number_bands
from centerarc.evaluation.protocols.outcome import Settings, Sides, Verified
from centerarc.evaluation.scores import BoolArray, IntArray, ScoreArray
from centerarc.evaluation.verification.group_breakdown import Breakdown, breakdown
from centerarc.evaluation.verification.held_out_far import held_out_fars
from centerarc.evaluation.verification.result import evaluate_verification

RESAMPLES = 1000
# Beyond so many pairs a thousand resamples take hours.
_MOST_RESAMPLED = 1_000_000

Groups = npt.NDArray[Any] | tuple[npt.NDArray[Any], npt.NDArray[Any]] | NumberBands


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

    def broken_down(groups: Groups) -> Breakdown:
        values = groups.group if isinstance(groups, NumberBands) else groups
        found = breakdown(
            scores,
            same,
            values,
            drawn,
            threshold=report.threshold,
            bootstrap=bootstrap,
            seed=settings.seed,
        )
        if not isinstance(groups, NumberBands):
            return found
        return replace(found, groups={name: found.groups[name] for name in groups.order})

    supported = [far for far, tar in report.tar_at_far.items() if tar.value is not None]
    return Verified(
        report,
        scores,
        same,
        fold,
        people,
        people_note,
        index,
        {column: broken_down(values) for column, values in groups.items()},
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
            ``age=20,40`` cuts a column of numbers x into the groups "under 20", "20 to 40" (20 <=
            x < 40) and "40 and over". Several may stand in one text, with commas between.
        source: the file, for messages.

    Returns:
        By name: a value for each pair, the values of its first and of its second image, or bands.

    Raises:
        ValueError: there is no such column, a column comes twice, cuts do not rise, or a value to
            be cut is no number; the message has the columns that there are, or the value's line.
    """
    sides = [name[:-2] for name in columns if name.endswith("_a") and f"{name[:-2]}_b" in columns]
    known = [*columns, *sides]
    found: dict[str, Groups] = {}
    for name, cuts in _wanted(by, known):
        if name in found:
            raise ValueError(f"by must name each column once, got {name!r} twice")
        if name not in known:
            raise ValueError(_no_column(name, known, source))
        of = [name] if name in columns else [f"{name}_a", f"{name}_b"]
        if cuts is not None:
            found[name] = _cut({column: columns[column] for column in of}, cuts, source)
        else:
            first, *second = (columns[column] for column in of)
            found[name] = (first, second[0]) if second else first
    return found


def _wanted(by: Iterable[str], known: Sequence[str]) -> list[tuple[str, list[str] | None]]:
    """Names and cuts of "light,age=20,40": a number belongs to the cuts before it."""
    wanted: list[tuple[str, list[str] | None]] = []
    for text in by:
        cuts: list[str] | None = None
        # A name may hold commas itself.
        for part in [text] if text in known else [part.strip() for part in text.split(",")]:
            name, equals, first = part.partition("=")
            if cuts is not None and is_number(part):
                cuts.append(part)
            elif equals and part not in known:
                cuts = [first]
                wanted.append((name, cuts))
            else:
                cuts = None
                wanted.append((part, None))
    return wanted


def _cut(columns: dict[str, npt.NDArray[np.str_]], cuts: list[str], source: str) -> NumberBands:
    rising = all(map(is_number, cuts))
    ends = list(map(float, cuts)) if rising else []
    if not rising or any(high <= low for low, high in pairwise(ends)):
        raise ValueError(
            f"by must cut a column at rising numbers, e.g. age=20,40,60; got {','.join(cuts)!r}"
        )
    for column, values in columns.items():
        bad = next((text for text in np.unique(values).tolist() if not is_number(text)), None)
        if bad is not None:
            line = line_of(source, column, bad)
            where = source if line is None else f"{source}, line {line}"
            raise ValueError(f"{where}: {column} must be a number to be cut, got {bad[:40]!r}")
    return number_bands([*columns.values()], ends)


def _no_column(name: str, known: Sequence[str], source: str) -> str:
    if not known and Path(source).suffix.lower() not in (".csv", ".tsv"):
        return (
            f"{source}: a file of this format has no columns, so none to break down by such as "
            f"{name!r}; a .csv list of pairs can have some"
        )
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; the closest is {close[0]!r}" if close else ""
    there = ", ".join(map(repr, known)) or "none beside those of the pairs"
    return (
        f"{source}, line 1: there is no column {name!r} to break down by; there are {there}{hint}"
    )
