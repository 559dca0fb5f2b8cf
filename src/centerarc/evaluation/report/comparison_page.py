"""Several models on one page."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from centerarc.evaluation.estimate import Estimate
from centerarc.evaluation.protocols.side_by_side import LESS_IS_BETTER, Comparison
from centerarc.evaluation.report.chart import LINES
from centerarc.evaluation.report.curve_charts import Curve, curve_charts
from centerarc.evaluation.report.difference_charts import difference_chart
from centerarc.evaluation.report.evaluation_page import model_words, search_curves
from centerarc.evaluation.report.rendering import render, require_report_extra
from centerarc.evaluation.report.search_charts import search_charts
from centerarc.evaluation.report.words import ABSENT, interval_words, percent, small_percent
from centerarc.evaluation.verification.comparison import Difference

# A difference whose resamples hardly ever change sides is called one.
_SURE = 0.05


@dataclass(frozen=True)
class ComparedRow:
    """A rate of every model: value, interval, and whether it is the best."""

    name: str
    cells: list[tuple[str, str, bool]]


@dataclass(frozen=True)
class DifferenceRow:
    """A difference to the first model in words."""

    model: str
    name: str
    value: str
    interval: str
    contrary: str


def write_comparison_page(
    path: str | os.PathLike[str], comparison: Comparison, *, title: str = ""
) -> None:
    """Write one self-contained HTML page that shows models side by side.

    Args:
        path: the file to write.
        comparison: of two models or more.
        title: the page's heading; the names of the models by default.

    Raises:
        ImportError: the extra ``report`` is not installed.
        OSError: the file cannot be written.
    """
    require_report_extra()
    names = comparison.names
    curves = []
    if comparison.verified:
        curves = curve_charts(
            {
                name: Curve.of(one.scores, one.same, one.report)
                for name, one in zip(names, comparison.verified, strict=True)
            }
        )
    search = []
    if comparison.identified:
        search = search_charts(
            {n: search_curves(one) for n, one in zip(names, comparison.identified, strict=True)}
        )
    known = {name: comparison.named_differences(name, small_percent) for name in names[1:]}
    differences = difference_chart(known, names[0]) if any(known.values()) else None
    charts = [*curves, *search, *([] if differences is None else [differences])]
    render(
        path,
        "comparison.html.j2",
        charts,
        title=title or f"{', '.join(names[:-1])} and {names[-1]}",
        comparison=comparison,
        colours=[LINES[number % len(LINES)][0] for number in range(len(names))],
        verdicts=verdicts(comparison),
        rows=[
            _row(name, estimates, less=name == LESS_IS_BETTER)
            for name, estimates in comparison.named_rates(small_percent)
        ],
        difference_rows=_difference_rows(known),
        curves=curves,
        search=search,
        differences=differences,
        method=comparison.interval_method,
        models=[
            (name, model_words(stored.content["model"]), str(stored.content.get("command", "")))
            for name, stored in zip(names, comparison.stored, strict=True)
        ],
    )


def verdicts(comparison: Comparison) -> list[str]:
    """What can be said of each model against the first, in a sentence."""
    first = comparison.names[0]
    found = []
    for name in comparison.names[1:]:
        rates = comparison.named_differences(name)
        if not rates:
            continue
        rate, difference = rates[0]
        assert difference.value is not None  # an accuracy or a rank always has a value
        assert difference.interval is not None
        assert difference.contrary_share is not None
        low, high = difference.interval.low, difference.interval.high
        by = f"{percent(abs(difference.value))} points of {rate}"
        interval = f"95 % interval {100 * low:+.2f} to {100 * high:+.2f}"
        if difference.contrary_share >= _SURE:
            found.append(
                f"{name} and {first} cannot be told apart by these people: they differ by {by} "
                f"({interval})."
            )
        else:
            better = "better" if difference.value > 0 else "worse"
            found.append(f"{name} is {better} than {first} by {by} ({interval}).")
    return found


def _row(name: str, estimates: list[Estimate], *, less: bool) -> ComparedRow:
    known = [estimate.value for estimate in estimates if estimate.value is not None]
    best = (min if less else max)(known, default=None)
    # Where all are equal none is the best.
    lead = best is not None and len(set(known)) > 1
    return ComparedRow(
        f"{name[0].upper()}{name[1:]}",
        [
            (ABSENT, "", False)
            if estimate.value is None
            else (
                f"{percent(estimate.value)} %",
                interval_words(estimate.interval),
                lead and estimate.value == best,
            )
            for estimate in estimates
        ],
    )


def _difference_rows(known: Mapping[str, list[tuple[str, Difference]]]) -> list[DifferenceRow]:
    return [
        DifferenceRow(
            model,
            name,
            f"{100 * float(one.value or 0.0):+.2f}",
            ""
            if one.interval is None
            else f"{100 * one.interval.low:+.2f} to {100 * one.interval.high:+.2f}",
            "" if one.contrary_share is None else f"{one.contrary_share:.3f}",
        )
        for model, rates in known.items()
        for name, one in rates
    ]
