"""The histograms of scores, and what every threshold does."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.report.chart import Chart, axis, percent_axis, percents
from centerarc.evaluation.report.words import small_percent
from centerarc.evaluation.scores import ScoreArray
from centerarc.evaluation.verification.result import VerificationReport

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
