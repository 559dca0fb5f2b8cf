"""The threshold to set for a wanted false accept rate, and what it is worth on other people."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from centerarc.evaluation.report.chart import Chart, error_bars, percents, rate_axis
from centerarc.evaluation.report.words import interval_words, small_percent, with_sign
from centerarc.evaluation.verification.held_out_far import HeldOutFar
from centerarc.evaluation.verification.result import VerificationReport


@dataclass(frozen=True)
class ThresholdRow:
    """A wanted false accept rate and the threshold for it, in words.

    Attributes:
        wanted: the rate.
        threshold: the cosine from which pairs are accepted.
        threshold_range: where it would lie with other people, or "".
        tar: what it accepts of the pairs of one person.
        new_people: the rate to expect on new people, or "".
        held_out: the rate that was measured on folds it was not chosen on, or "".
    """

    wanted: str
    threshold: str
    threshold_range: str
    tar: str
    new_people: str
    held_out: str


def threshold_rows(
    report: VerificationReport, held_out: Mapping[float, HeldOutFar]
) -> list[ThresholdRow]:
    """A row for each rate that the impostor pairs can carry."""
    rows = []
    for far, found in report.calibrated.items():
        if found.threshold is None:
            continue
        tar = report.tar_at_far[far].value
        interval = found.far_interval
        tried = held_out.get(far)
        rows.append(
            ThresholdRow(
                small_percent(far),
                f"{found.threshold:.4f}",
                interval_words(found.threshold_interval, 1, 4),
                "" if tar is None else with_sign(tar),
                ""
                if interval is None
                else f"{small_percent(interval.low)} to {small_percent(interval.high)}",
                "" if tried is None or tried.far.value is None else small_percent(tried.far.value),
            )
        )
    return rows


def kept_promise_chart(
    report: VerificationReport, held_out: Mapping[float, HeldOutFar]
) -> Chart | None:
    """The false accept rate that was reached against the one that was wanted.

    None where nothing was tried: without folds.
    """
    tried = {far: found for far, found in held_out.items() if found.far.value is not None}
    if not tried:
        return None
    reached = [found.far.value for found in tried.values() if found.far.value is not None]
    floor = 0.5 / report.num_impostor
    low, high = min(*tried, floor), max(*tried, *reached)
    folds = [
        (far, max(rate, floor), fold)
        for far, found in tried.items()
        for fold, rate in found.of_fold.items()
    ]
    high = min(1.0, 1.6 * max(high, *(rate for _, rate, _ in folds)))
    for found in tried.values():
        if found.far.interval is not None:
            high = min(1.0, max(high, 1.2 * found.far.interval.high))
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "as wanted",
            "x": percents([low, high]),
            "y": percents([low, high]),
            "line": {"color": "--muted", "width": 1, "dash": "dot"},
            "hoverinfo": "skip",
        },
        {
            "type": "scatter",
            "mode": "markers",
            "name": "each fold",
            "x": percents(far for far, _, _ in folds),
            "y": percents(rate for _, rate, _ in folds),
            "marker": {"color": "--second", "size": 7, "symbol": "circle-open"},
            "cliponaxis": False,
            "text": [f"fold {fold}" for _, _, fold in folds],
            "hovertemplate": "%{text}: FAR %{y:.3~r}\u00a0%<extra></extra>",
        },
    ]
    rates = [max(rate, floor) for rate in reached]
    together: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "name": "all folds",
        "x": percents(tried),
        "y": percents(rates),
        "marker": {"color": "--accent", "size": 10, "line": {"color": "--card", "width": 2}},
        "hovertemplate": "wanted %{x:.3~r}\u00a0%, reached %{y:.3~r}\u00a0%<extra></extra>",
    }
    bars = error_bars(rates, [found.far.interval for found in tried.values()], "--accent")
    if bars is not None:
        # A logarithmic axis has no zero.
        for far, rate in enumerate(rates):
            bars["arrayminus"][far] = min(bars["arrayminus"][far], 100 * (rate - floor / 2))
        together["error_y"] = bars
    data.append(together)
    return Chart(
        "promise",
        "Does a threshold keep its promise?",
        "For each wanted false accept rate, thresholds were chosen on all folds but one and tried "
        "on that one, whose people they had not seen. On the dotted line the promise is kept; "
        "above it more strangers get in than wanted.",
        data,
        {
            "xaxis": rate_axis(
                "wanted false accept rate", min(tried) / 2, min(1.0, 2 * max(tried))
            ),
            "yaxis": rate_axis("reached on people not seen", floor, high, edge="0\u00a0%"),
            "showlegend": True,
        },
    )
