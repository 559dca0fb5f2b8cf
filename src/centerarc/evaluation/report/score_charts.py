"""The histograms of scores, and what every threshold does."""

from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.report.chart import Chart, axis
from centerarc.evaluation.report.words import small_percent
from centerarc.evaluation.scores import ScoreArray
from centerarc.evaluation.verification.result import VerificationReport

_BINS = 60
# Steps of the slider.
_STEPS = 400


def score_chart(scores: ScoreArray, same: npt.NDArray[np.bool_], threshold: float) -> Chart:
    """Histograms of genuine and impostor scores with the threshold between them."""
    # The threshold may lie just outside the scores, and must be in the picture.
    low, high = min(float(scores.min()), threshold), max(float(scores.max()), threshold)
    edges = np.linspace(low, high + 1e-9, _BINS + 1)
    centers = (edges[1:] + edges[:-1]) / 2
    data = []
    highest = 0.0
    for kind, name, colour in (
        (~same, "different people", "--second"),
        (same, "same person", "--accent"),
    ):
        count, _ = np.histogram(scores[kind], edges)
        highest = max(highest, float(count.max() / kind.sum()))
        data.append(
            {
                "type": "bar",
                "name": name,
                "x": [float(f"{value:.4f}") for value in centers],
                "y": (count / kind.sum()).round(5).tolist(),
                "width": float(edges[1] - edges[0]),
                "opacity": 0.65,
                "marker": {"color": colour, "line": {"width": 0}},
                "hovertemplate": f"{name}<br>cosine %{{x:.2f}}: %{{y:.1%}}<extra></extra>",
            }
        )
    right = threshold > (low + high) / 2
    line = {"color": "--ink", "width": 1.5, "dash": "dot"}
    layout = {
        "barmode": "overlay",
        "bargap": 0,
        "showlegend": True,
        # Fixed, or the threshold's name would widen it on a narrow screen.
        "xaxis": axis("cosine similarity", range=[float(edges[0]), float(edges[-1])]),
        # Room above the hills for the threshold's name.
        "yaxis": axis("share of pairs", tickformat=".0%", range=[0, 1.15 * highest]),
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
) -> dict[str, Any]:
    """What each of some hundred thresholds accepts, counted exactly, for the page's slider.

    Returns:
        Plain data: ``threshold``, ``far`` and ``tar`` of each step, ``start`` where the slider
        stands first, ``marks`` with the steps of calibrated thresholds, and the numbers of pairs.
    """
    named = {
        f"FAR {small_percent(far)}": found.threshold
        for far, found in report.calibrated.items()
        if found.threshold is not None
    }
    low, high = float(scores.min()), float(scores.max())
    grid = np.linspace(low, high + (high - low) / _STEPS, _STEPS + 1)
    thresholds = np.unique(np.concatenate([grid, [report.threshold], list(named.values())]))
    shares = []
    for kind in (~same, same):
        ranked = np.sort(scores[kind])
        below = np.searchsorted(ranked, thresholds.astype(ranked.dtype), side="left")
        shares.append((ranked.size - below) / ranked.size)
    return {
        "threshold": [float(f"{value:.6g}") for value in thresholds],
        "far": [float(f"{value:.5g}") for value in shares[0]],
        "tar": [float(f"{value:.5g}") for value in shares[1]],
        "start": int(np.searchsorted(thresholds, report.threshold)),
        "marks": [
            {"name": name, "step": int(np.searchsorted(thresholds, value))}
            for name, value in named.items()
        ],
        "genuine": report.num_genuine,
        "impostor": report.num_impostor,
    }
