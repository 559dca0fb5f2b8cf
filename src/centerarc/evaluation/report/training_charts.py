"""How training went: losses, cosines and validation over steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.report.chart import Chart, axis, percent_axis

_MAX_POINTS = 600
_SMOOTHING_POINTS = 25
# key, title, caption
_LOSSES = (
    (
        "arcface_loss",
        "ArcFace loss",
        "How far the right identity is from winning by the margin. Lower is better.",
    ),
    (
        "center_loss",
        "Center loss",
        "How far faces lie from their identity's center, before its weight is applied.",
    ),
)
# key, name, colour
_VALIDATION = (
    ("auc", "AUC", "--accent"),
    ("accuracy", "accuracy", "--second"),
    ("best_accuracy", "best accuracy (optimistic)", "--second"),
)


def training_charts(
    history: Sequence[Mapping[str, Any]], validation: Sequence[Mapping[str, Any]]
) -> list[Chart]:
    """A chart for each curve that the rows hold; none for rows that hold nothing."""
    charts = []
    for key, title, caption in _LOSSES:
        steps, values = _column(history, key)
        if steps.size:
            charts.append(
                Chart(
                    key,
                    title,
                    caption,
                    _smoothed(steps, values, title, "--accent"),
                    {"xaxis": axis("step"), "yaxis": axis("loss", rangemode="tozero")},
                    height=260,
                )
            )
    traces = []
    for key, name, colour in (
        ("target_cosine", "cosine to the own prototype", "--accent"),
        ("accuracy", "training accuracy", "--second"),
    ):
        steps, values = _column(history, key)
        if steps.size:
            traces += _smoothed(steps, values, name, colour)
    if traces:
        charts.append(
            Chart(
                "cosines",
                "Cosine and training accuracy",
                "How closely faces point at their own identity, and how often it is the nearest.",
                traces,
                {"xaxis": axis("step"), "yaxis": axis("cosine, share"), "showlegend": True},
                height=260,
            )
        )
    traces = []
    for key, name, colour in _VALIDATION:
        steps, values = _column(validation, key)
        if steps.size:
            line = _line(steps, 100 * values, name, colour, mode="lines+markers")
            line["hovertemplate"] = "step %{x:,}: %{y:.2f}\u00a0%<extra></extra>"
            traces.append(line)
    if traces:
        charts.append(
            Chart(
                "validation",
                "Validation",
                "Measured during training on people that are not trained on.",
                traces,
                {
                    "xaxis": axis("step"),
                    "yaxis": percent_axis("share"),
                    "showlegend": True,
                },
                height=260,
            )
        )
    return charts


def _column(
    rows: Sequence[Mapping[str, Any]], key: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    points = [(row["step"], row[key]) for row in rows if row.get(key) is not None and "step" in row]
    table = np.array(points, dtype=np.float64).reshape(-1, 2)
    # JSON has no NaN, and one would spoil every running mean after it.
    table = table[np.isfinite(table).all(axis=1)]
    return table[:, 0], table[:, 1]


def _smoothed(
    steps: npt.NDArray[np.float64], values: npt.NDArray[np.float64], name: str, colour: str
) -> list[dict[str, Any]]:
    """A faint line of all values and a strong one of their running mean.

    The mean is over the last values up to each point, over fewer at the start, so that both
    lines begin together.
    """
    window = max(1, min(_SMOOTHING_POINTS, values.size // 8))
    total = np.cumsum(np.insert(values, 0, 0.0))
    end = np.arange(1, values.size + 1)
    start = np.maximum(end - window, 0)
    mean = (total[end] - total[start]) / (end - start)
    thin = max(1, -(-values.size // _MAX_POINTS))
    raw = _line(steps[::thin], values[::thin], name, colour)
    raw |= {"opacity": 0.25, "showlegend": False, "hoverinfo": "skip"}
    return [raw, _line(steps[::thin], mean[::thin], name, colour, width=2.5)]


def _line(
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    name: str,
    colour: str,
    *,
    mode: str = "lines",
    width: float = 1.5,
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": mode,
        "name": name,
        "x": x.tolist(),
        "y": [float(f"{value:.5g}") for value in y],
        "line": {"color": colour, "width": width},
        "marker": {"color": colour, "size": 7},
        "hovertemplate": "step %{x:,}: %{y:.4g}<extra></extra>",
    }
