"""Several models on one page."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from centerarc.evaluation.comparison import Difference
from centerarc.evaluation.intervals import Estimate
from centerarc.evaluation.protocols.side_by_side import LESS_IS_BETTER, Comparison
from centerarc.report.charts import LINES
from centerarc.report.curves import Curve, curve_charts, difference_chart
from centerarc.report.evaluation_page import model_words, search_curves
from centerarc.report.rendering import render, require_report_extra
from centerarc.report.searches import search_charts
from centerarc.report.words import ABSENT, interval_words, small_percent, with_sign


@dataclass(frozen=True)
class ComparedRow:
    """A rate of every model: value, interval, and "better" or "worse" than the first one's where
    the interval of the difference supports that."""

    name: str
    cells: list[tuple[str, str, str]]


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
            _row(name, estimates, [_side(name, known.get(model, [])) for model in names])
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
    """What can be said of each model against the first, in a sentence or two."""
    first = comparison.names[0]
    found = []
    for name in comparison.names[1:]:
        rates = comparison.named_differences(name, small_percent)
        if not rates:
            continue
        told: dict[str, list[str]] = {"better": [], "worse": []}
        for rate, difference in rates:
            side = _side(rate, rates)
            if side:
                points = _points(float(difference.value or 0.0))
                told[side].append(f"{_short(rate)} ({points} points, {_interval(difference)})")
        words = [f"{side} in {_listed(each)}" for side, each in told.items() if each]
        if words:
            rest = len(rates) - sum(map(len, told.values()))
            more = f" The other {rest} measures cannot be told apart." if rest > 1 else ""
            more = " The other measure cannot be told apart." if rest == 1 else more
            found.append(f"{name} is {', and '.join(words)} than {first}.{more}")
            continue
        sentence = (
            f"{name} and {first} cannot be told apart by these people: the interval of every "
            f"difference holds 0. {_difference(*rates[0])}"
        )
        surest = min(rates, key=lambda one: _doubt(one[1]))
        if _doubt(surest[1]) < _doubt(rates[0][1]):
            sentence += f"; nearest to a difference comes {_difference(*surest, named=False)}"
        found.append(f"{sentence}.")
    return found


def _side(rate: str, rates: list[tuple[str, Difference]]) -> str:
    """Whether a rate is "better" or "worse" than the first model's; "" where that is not sure."""
    interval = next((one.interval for name, one in rates if name == rate), None)
    if interval is None or interval.low <= 0 <= interval.high:
        return ""
    return "better" if (interval.low > 0) != (rate == LESS_IS_BETTER) else "worse"


def _doubt(difference: Difference) -> float:
    return 1.0 if difference.contrary_share is None else difference.contrary_share


def _difference(rate: str, difference: Difference, *, named: bool = True) -> str:
    points = _points(float(difference.value or 0.0))
    if not named:
        return f"{_short(rate)} with {points} points ({_interval(difference)})"
    return (
        f"{rate[0].upper()}{_short(rate)[1:]} differs by {points} points ({_interval(difference)})"
    )


def _points(rate: float) -> str:
    """A difference in points with its sign, which nothing has none of."""
    text = f"{100 * rate:+.2f}"
    return "0.00" if float(text) == 0 else text


def _short(rate: str) -> str:
    return "EER" if rate == LESS_IS_BETTER else rate


def _interval(difference: Difference) -> str:
    assert difference.interval is not None  # differences with a value come from resamples
    low, high = difference.interval.low, difference.interval.high
    return f"95 % interval {100 * low:+.2f} to {100 * high:+.2f}"


def _listed(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _row(name: str, estimates: list[Estimate], sides: list[str]) -> ComparedRow:
    return ComparedRow(
        f"{name[0].upper()}{name[1:]}",
        [
            (ABSENT, "", "")
            if estimate.value is None
            else (with_sign(estimate.value), interval_words(estimate.interval), side)
            for estimate, side in zip(estimates, sides, strict=True)
        ],
    )


def _difference_rows(known: Mapping[str, list[tuple[str, Difference]]]) -> list[DifferenceRow]:
    return [
        DifferenceRow(
            model,
            name,
            _points(float(one.value or 0.0)),
            ""
            if one.interval is None
            else f"{100 * one.interval.low:+.2f} to {100 * one.interval.high:+.2f}",
            "" if one.contrary_share is None else f"{one.contrary_share:.3f}",
        )
        for model, rates in known.items()
        for name, one in rates
    ]
