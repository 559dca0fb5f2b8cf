"""What the scores look like: the ROC and the two histograms."""

from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.report.chart import Chart, axis
from centerarc.evaluation.roc_curve import roc
from centerarc.evaluation.verification import VerificationReport

_BINS = 60


def roc_chart(
    scores: npt.NDArray[np.float64], same: npt.NDArray[np.bool_], report: VerificationReport
) -> Chart:
    """TAR over FAR on a logarithmic axis, with the reported TARs and their intervals."""
    curve = roc(scores, same)
    floor = 0.5 / report.num_impostor
    # A step curve is drawn in full by the points where it turns.
    turn = np.ones(curve.far.size, dtype=np.bool_)
    turn[1:-1] = (np.diff(curve.far)[:-1] > 0) | (np.diff(curve.far)[1:] > 0)
    far, tar = curve.far[turn], curve.tar[turn]
    # A logarithmic axis has no zero: what is reached without any false accept is drawn at the edge.
    start = int(np.flatnonzero(far == 0)[-1])
    far, tar = np.maximum(far[start:], floor), tar[start:]
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "ROC",
            "x": [float(f"{value:.5g}") for value in far],
            "y": [float(f"{value:.5g}") for value in tar],
            "line": {"color": "--accent", "width": 2.5, "shape": "hv"},
            "hovertemplate": "FAR %{x:.4f}<br>TAR %{y:.2%}<extra></extra>",
        }
    ]
    marks = [
        (level, tar.value, tar.interval)
        for level, tar in report.tar_at_far.items()
        if tar.value is not None
    ]
    if marks:
        point: dict[str, Any] = {
            "type": "scatter",
            "mode": "markers",
            "name": "reported",
            "x": [level for level, _, _ in marks],
            "y": [value for _, value, _ in marks],
            "marker": {"color": "--accent", "size": 9, "line": {"color": "--card", "width": 2}},
            "hovertemplate": "TAR %{y:.2%} at FAR %{x}<extra></extra>",
        }
        if all(interval is not None for _, _, interval in marks):
            point["error_y"] = {
                "type": "data",
                "array": [i.high - v for _, v, i in marks if i is not None],
                "arrayminus": [v - i.low for _, v, i in marks if i is not None],
                "color": "--accent",
                "thickness": 1.5,
                "width": 5,
            }
        data.append(point)
    decades = [10.0**-power for power in range(9) if 10.0**-power > floor]
    return Chart(
        "roc",
        "Accepting the right people",
        "True accepts over false accepts (ROC); up and to the left is better. Dots are the "
        "reported rates with their 95 % intervals; the left edge means no false accept at all.",
        data,
        {
            "xaxis": axis(
                "false accept rate",
                type="log",
                range=[float(np.log10(floor)), 0],
                tickvals=decades,
                ticktext=[f"{value * 100:g} %" for value in decades],
            ),
            "yaxis": axis("true accept rate", tickformat=".0%"),
        },
    )


def score_chart(
    scores: npt.NDArray[np.float64], same: npt.NDArray[np.bool_], threshold: float
) -> Chart:
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
