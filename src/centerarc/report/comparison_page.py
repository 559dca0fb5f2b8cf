"""Several models on one page."""

import os
from collections.abc import Sequence

from centerarc.evaluation.comparison import Difference
from centerarc.evaluation.protocols.side_by_side import Comparison
from centerarc.report.charts import LINES
from centerarc.report.curves import (
    Curve,
    SearchCurves,
    all_pairs_chart,
    curve_charts,
    difference_chart,
    search_charts,
)
from centerarc.report.evaluation_page import model_words
from centerarc.report.numbers import (
    ComparedRow,
    compared_rows,
    equal_words,
)
from centerarc.report.rendering import render, require_report_extra


def write_comparison_page(
    path: str | os.PathLike[str], comparison: Comparison, *, title: str = ""
) -> None:
    """Write one self-contained HTML page that shows models side by side.

    Args:
        path: the file to write.
        comparison: of two models or more.
        title: the page's heading; the names of the models by default.

    Raises:
        ImportError: the extra `report` is not installed.
        OSError: the file cannot be written.
    """
    require_report_extra()
    names = comparison.names
    curves, search = [], []
    if comparison.verified:
        judged = zip(names, comparison.verified, strict=True)
        curves = curve_charts({n: Curve.of(one.scores, one.same, one.report) for n, one in judged})
    if comparison.identified:
        found = zip(names, comparison.identified, strict=True)
        search = search_charts({name: SearchCurves.of(one) for name, one in found})
    if comparison.all_paired:
        paired = zip(names, comparison.all_paired, strict=True)
        curves = [all_pairs_chart(dict(paired))]
    rows = compared_rows(comparison)
    differences = difference_chart(rows, names)
    render(
        path,
        "comparison.html.j2",
        [*curves, *search, *([] if differences is None else [differences])],
        title=title or f"{', '.join(names[:-1])} and {names[-1]}",
        comparison=comparison,
        colors=[LINES[number % len(LINES)][0] for number in range(len(names))],
        verdicts=[*equal_words(comparison).values(), *verdicts(rows, names)],
        rows=[
            (
                row.label,
                [
                    (*row.words(estimate), row.side(name))
                    for estimate, name in zip(row.estimates, names, strict=True)
                ],
            )
            for row in rows
        ],
        difference_rows=[
            (name, row.label, *row.difference_words(name))
            for name in names[1:]
            for row in rows
            if name in row.differences
        ],
        models=[
            (name, model_words(stored.content["model"]), str(stored.content.get("command", "")))
            for name, stored in zip(names, comparison.stored, strict=True)
        ],
    )


def verdicts(rows: Sequence[ComparedRow], names: Sequence[str]) -> list[str]:
    """What can be said of each model against the first, in a sentence or two."""
    found = []
    for name in names[1:]:
        known = [(row, row.differences[name]) for row in rows if name in row.differences]
        if not known:
            continue
        sides = {
            side: [
                f"{row.name} ({_shown(row, name)})" for row, _ in known if row.side(name) == side
            ]
            for side in ("better", "worse")
        }
        words = [f"{side} in {_listed(each)}" for side, each in sides.items() if each]
        if words:
            rest = len(known) - sum(map(len, sides.values()))
            more = f" The other {rest} measures cannot be told apart." if rest > 1 else ""
            more = " The other measure cannot be told apart." if rest == 1 else more
            found.append(f"{name} is {', and '.join(words)} than {names[0]}.{more}")
            continue
        first, difference = known[0]
        text = (
            f"{name} and {names[0]} cannot be told apart by these people: the interval of every "
            f"difference contains 0. {first.name[0].upper()}{first.name[1:]} differs by "
            f"{_shown(first, name, bracketed=True)}"
        )
        surest, least = min(known, key=lambda one: _doubt(one[1]))
        if _doubt(least) < _doubt(difference):
            nearest = f"{surest.name}, with {_shown(surest, name, bracketed=True)}"
            text += f"; the measure closest to a difference is {nearest}"
        found.append(f"{text}.")
    return found


def _shown(row: ComparedRow, name: str, *, bracketed: bool = False) -> str:
    value, interval, _ = row.difference_words(name)
    value += "" if row.cosine else " points"
    interval = f"95% interval {interval}"
    return f"{value} ({interval})" if bracketed else f"{value}, {interval}"


def _doubt(difference: Difference) -> float:
    return 1.0 if difference.doubt is None else difference.doubt


def _listed(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
