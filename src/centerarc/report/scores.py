"""Histograms of scores, what every threshold does, and which one to set."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.scores import ScoreArray
from centerarc.evaluation.verification import HeldOutFar, VerificationReport
from centerarc.report.charts import Chart, axis, error_bars, percent_axis, percents, rate_axis
from centerarc.report.words import interval_words, small_percent, with_sign

# The histograms of scores, and what every threshold does.

_BINS = 60
# Steps of the slider.
_STEPS = 400


@dataclass(frozen=True)
class Step:
    """What a threshold does.

    Attributes:
        name: what to call it, for a button.
        threshold: accept ``score >= threshold``.
        far: share of the impostor pairs that it accepts.
        tar: share of the genuine pairs that it accepts.
    """

    name: str
    threshold: float
    far: float
    tar: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the page's script."""
        far, tar = _rates((self.far, self.tar))
        return {"name": self.name, "threshold": self.threshold, "far": far, "tar": tar}


def score_chart(scores: ScoreArray, same: npt.NDArray[np.bool_], threshold: float) -> Chart:
    """Histograms of genuine and impostor scores with the threshold between them."""
    low, high = _ends(scores, threshold)
    edges = np.linspace(low, high + 1e-9, _BINS + 1)
    centers = (edges[1:] + edges[:-1]) / 2
    data = []
    highest = 0.0
    for kind, name, colour in (
        (~same, "different people", "--second"),
        (same, "same person", "--accent"),
    ):
        count, _ = np.histogram(scores[kind], edges)
        share = count / kind.sum()
        highest = max(highest, float(share.max()))
        data.append(
            {
                "type": "bar",
                "name": name,
                "x": [float(f"{value:.4f}") for value in centers],
                "y": percents(share),
                "width": float(edges[1] - edges[0]),
                "opacity": 0.65,
                "marker": {"color": colour, "line": {"width": 0}},
                "hovertemplate": f"{name}<br>cosine %{{x:.2f}}: %{{y:.1f}}\u00a0%<extra></extra>",
            }
        )
    right = threshold > (low + high) / 2
    line = {"color": "--ink", "width": 1.5, "dash": "dot"}
    layout = {
        "barmode": "overlay",
        "bargap": 0,
        "showlegend": True,
        # Fixed, or the threshold's name would widen it on a narrow screen.
        "xaxis": axis("cosine similarity", range=[low, high]),
        # Room above the hills for the threshold's name.
        "yaxis": percent_axis("share of pairs", range=[0, 115 * highest]),
        "shapes": [
            {
                "type": "line",
                "x0": threshold,
                "x1": threshold,
                "y0": 0,
                "y1": 1,
                "yref": "paper",
                "line": line,
            }
        ],
        "annotations": [
            {
                "x": threshold,
                "y": 1,
                "yref": "paper",
                "yanchor": "top",
                "xanchor": "right" if right else "left",
                "xshift": -4 if right else 4,
                "showarrow": False,
                "text": f"threshold {threshold:.3f}",
                "font": {"color": "--ink"},
            }
        ],
    }
    return Chart(
        "scores",
        "Telling people apart",
        "Similarity of pairs of one person and of two people. The less the two hills overlap, the "
        "fewer the mistakes; pairs right of the threshold are taken for one person.",
        data,
        layout,
    )


def threshold_steps(
    scores: ScoreArray, same: npt.NDArray[np.bool_], report: VerificationReport
) -> tuple[dict[str, Any], list[Step]]:
    """What each of some hundred thresholds accepts, counted exactly, for the page's slider.

    Returns:
        Plain data, with ``far`` and ``tar`` of thresholds that lie evenly from the left end of the
        histogram, ``low``, to its right end, ``high``; and the thresholds that have a name, first
        the one where the slider stands at first.
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
    points = zip(named.items(), *accepted(np.array(list(named.values()))), strict=True)
    far, tar = accepted(np.linspace(low, high, _STEPS + 1))
    steps = {
        "low": low,
        "high": high,
        "far": _rates(far),
        "tar": _rates(tar),
        "genuine": report.num_genuine,
        "impostor": report.num_impostor,
    }
    return steps, [Step(name, value, float(f), float(t)) for (name, value), f, t in points]


def _ends(scores: ScoreArray, threshold: float) -> tuple[float, float]:
    """The ends of the histogram and of the slider: a little beyond the scores, but no cosine is
    beyond 1, and never beyond the threshold, which may lie just outside the scores."""
    low, high = float(scores.min()), float(scores.max())
    room = max((high - low) / _BINS, 1e-6)
    return (
        min(threshold, max(low - room, min(low, -1.0))),
        max(threshold, min(high + room, max(high, 1.0))),
    )


def _rates(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


# The threshold to set for a wanted false accept rate, and what it is worth on other people.


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
