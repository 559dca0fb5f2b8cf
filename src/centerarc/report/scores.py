"""Histograms of scores, what every threshold does, and which one to set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.scores import ScoreArray
from centerarc.evaluation.verification import HeldOutFar, VerificationReport
from centerarc.report.charts import (
    Chart,
    axis,
    chart,
    dotted,
    markers,
    numbers,
    percent_axis,
    percents,
    rate_axis,
    reported,
)
from centerarc.report.numbers import small_percent

_BINS = 60
# Steps of the slider.
_STEPS = 400


@dataclass(frozen=True)
class Step:
    """What a threshold does.

    Attributes:
        name: what to call it, for a button.
        threshold: accept `score >= threshold`.
        far: share of the impostor pairs that it accepts.
        tar: share of the genuine pairs that it accepts.
    """

    name: str
    threshold: float
    far: float
    tar: float


def score_chart(scores: ScoreArray, same: npt.NDArray[np.bool_], threshold: float) -> Chart:
    """Histograms of genuine and impostor scores with the threshold between them."""
    low, high = _ends(scores, threshold)
    edges = np.linspace(low, high + 1e-9, _BINS + 1)
    centers = [float(f"{value:.4f}") for value in (edges[1:] + edges[:-1]) / 2]
    data = []
    highest = 0.0
    for kind, name, color in (
        (~same, "different people", "--second"),
        (same, "same person", "--accent"),
    ):
        share = np.histogram(scores[kind], edges)[0] / kind.sum()
        highest = max(highest, float(share.max()))
        data.append(
            {
                "type": "bar",
                "name": name,
                "x": centers,
                "y": percents(share),
                "width": float(edges[1] - edges[0]),
                "opacity": 0.65,
                "marker": {"color": color, "line": {"width": 0}},
                "hovertemplate": f"{name}<br>cosine %{{x:.2f}}: %{{y:.1f}}%<extra></extra>",
            }
        )
    left = threshold <= (low + high) / 2
    line = {"type": "line", "x0": threshold, "x1": threshold, "y0": 0, "y1": 1, "yref": "paper"}
    note = {"x": threshold, "y": 1, "yref": "paper", "yanchor": "top"}
    note |= {"xanchor": "left", "xshift": 4} if left else {"xanchor": "right", "xshift": -4}
    note["text"] = f"threshold {threshold:.3f}"
    return chart(
        "scores",
        data,
        # Fixed, or the threshold's name would widen it on a narrow screen.
        axis("cosine similarity", range=[low, high]),
        # Room above the hills for the threshold's name.
        percent_axis("share of pairs", range=[0, 115 * highest]),
        barmode="overlay",
        bargap=0,
        shapes=[{**line, "line": {"color": "--ink", "width": 1.5, "dash": "dot"}}],
        annotations=[{**note, "showarrow": False, "font": {"color": "--ink"}}],
    )


def threshold_steps(
    scores: ScoreArray, same: npt.NDArray[np.bool_], report: VerificationReport
) -> tuple[dict[str, Any], list[Step]]:
    """What each of some hundred thresholds accepts, counted exactly, for the page's slider.

    Returns:
        Plain data, with `far` and `tar` of thresholds that lie evenly from the left end of the
        histogram, `low`, to its right end, `high`; and the thresholds that have a name, first the
        one where the slider starts.
    """
    low, high = _ends(scores, report.threshold)
    ranked = [np.sort(scores[kind]) for kind in (~same, same)]

    def accepted(thresholds: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
        below = [np.searchsorted(r, thresholds.astype(r.dtype), side="left") for r in ranked]
        return [(r.size - b) / r.size for r, b in zip(ranked, below, strict=True)]

    named = {
        "mean of the folds" if report.protocol == "k-fold" else "most right answers": (
            report.threshold
        ),
        **{
            f"FAR {small_percent(far)}": found.threshold
            for far, found in report.calibrated.items()
            if found.threshold is not None
        },
    }
    rates = zip(named.items(), *accepted(np.array(list(named.values()))), strict=True)
    marks = [Step(name, value, float(far), float(tar)) for (name, value), far, tar in rates]
    far, tar = accepted(np.linspace(low, high, _STEPS + 1))
    steps = {
        "low": low,
        "high": high,
        "far": numbers(far),
        "tar": numbers(tar),
        "genuine": report.num_genuine,
        "impostor": report.num_impostor,
        "marks": [
            {
                "name": mark.name,
                "threshold": mark.threshold,
                **dict(zip(("far", "tar"), numbers((mark.far, mark.tar)), strict=True)),
            }
            for mark in marks
        ],
    }
    return steps, marks


def _ends(scores: ScoreArray, threshold: float) -> tuple[float, float]:
    """The ends of the histogram and of the slider: a little beyond the scores, but no cosine is
    beyond 1, and never short of the threshold, which may lie just outside the scores."""
    low, high = float(scores.min()), float(scores.max())
    room = max((high - low) / _BINS, 1e-6)
    return (
        min(threshold, max(low - room, min(low, -1.0))),
        max(threshold, min(high + room, max(high, 1.0))),
    )


def kept_promise_chart(
    report: VerificationReport, held_out: Mapping[float, HeldOutFar]
) -> list[Chart]:
    """The false accept rate that was reached against the one that was wanted.

    No chart where nothing was tried: without folds.
    """
    tried = {far: one for far, one in held_out.items() if one.far.value is not None}
    if not tried:
        return []
    floor = 0.5 / report.num_impostor
    rates = [max(float(one.far.value or 0.0), floor) for one in tried.values()]
    folds = [
        (far, max(rate, floor), f"fold {fold}")
        for far, one in tried.items()
        for fold, rate in one.of_fold.items()
    ]
    low, high = min(*tried, floor), 1.6 * max(*tried, *rates, *(rate for _, rate, _ in folds))
    ends = [1.2 * one.far.interval.high for one in tried.values() if one.far.interval is not None]
    high = min(1.0, max([high, *ends]))
    together = reported(
        percents(tried),
        rates,
        [one.far.interval for one in tried.values()],
        "--accent",
        size=10,
        name="all folds",
        hovertemplate="wanted %{x:.3~r}%, reached %{y:.3~r}%<extra></extra>",
    )
    if "error_y" in together:
        # A logarithmic axis has no zero.
        below = together["error_y"]["arrayminus"]
        most = (100 * (rate - floor / 2) for rate in rates)
        together["error_y"]["arrayminus"] = [*map(min, below, most)]
    each = markers(
        percents(far for far, _, _ in folds),
        percents(rate for _, rate, _ in folds),
        "--second",
        name="each fold",
        marker={"size": 7, "symbol": "circle-open"},
        cliponaxis=False,
        text=[name for _, _, name in folds],
        hovertemplate="%{text}: FAR %{y:.3~r}%<extra></extra>",
    )
    wanted = rate_axis("wanted false accept rate", min(tried) / 2, min(1.0, 2 * max(tried)))
    data = [dotted(percents([low, min(1.0, high)]), name="as wanted"), each, together]
    reached = rate_axis("reached on people not seen", floor, high, edge="0%")
    return [chart("promise", data, wanted, reached)]
