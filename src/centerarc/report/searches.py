"""Charts of searches and of training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.report.charts import (
    LINES,
    Chart,
    axis,
    error_bars,
    percent_axis,
    percents,
    plain_text,
    rate_axis,
)
from centerarc.report.numbers import SearchCurves
from centerarc.report.words import small_percent

# Identification: who is found within which rank, and which strangers are taken for somebody.


def search_charts(searches: Mapping[str, SearchCurves]) -> list[Chart]:
    """The CMC, and TPIR over FPIR where there are strangers, of models by name."""
    charts = [_cmc(searches)]
    if all(search.fpir.size for search in searches.values()):
        charts.append(_open_set(searches))
    return charts


def _cmc(searches: Mapping[str, SearchCurves]) -> Chart:
    data: list[dict[str, Any]] = []
    last = 1
    for number, (name, search) in enumerate(searches.items()):
        colour, dash = LINES[number % len(LINES)]
        ranks = np.arange(1, search.cmc.size + 1)
        last = max(last, int(ranks[-1]))
        data.append(
            _line(ranks.tolist(), search.cmc, name, colour, dash, "rank %{x}: %{y:.2f}\u00a0%")
        )
        shown = [
            (rank, share)
            for rank, share in search.report.cmc.items()
            if share.value is not None and rank <= search.cmc.size
        ]
        data.append(
            _dots(
                [rank for rank, _ in shown],
                [share.value for _, share in shown],
                [share.interval for _, share in shown],
                name,
                colour,
                "rank %{x}: %{y:.2f}\u00a0%",
            )
        )
    ticks = [rank for rank in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if rank <= last]
    return Chart(
        "cmc",
        "Finding people who are there",
        "Share of pictures whose person is among the first k (CMC). Dots are the reported ranks "
        "with their 95 % intervals.",
        data,
        {
            "xaxis": axis(
                "rank k",
                type="log",
                range=[-0.05, float(np.log10(max(last, 2))) + 0.05],
                tickvals=ticks,
                ticktext=[str(rank) for rank in ticks],
            ),
            "yaxis": percent_axis("person within the first k"),
            "showlegend": len(searches) > 1,
        },
    )


def _open_set(searches: Mapping[str, SearchCurves]) -> Chart:
    data: list[dict[str, Any]] = []
    low = 1.0
    for number, (name, search) in enumerate(searches.items()):
        colour, dash = LINES[number % len(LINES)]
        low = min(low, float(search.fpir.min()))
        hover = "FPIR %{x:.3~r}\u00a0%: %{y:.2f}\u00a0%"
        data.append(
            _line(percents(search.fpir), search.tpir, name, colour, dash, hover, shape="hv")
        )
        shown = [
            (fpir, share)
            for fpir, share in search.report.tpir_at_fpir.items()
            if share.value is not None
        ]
        if shown:
            data.append(
                _dots(
                    percents(fpir for fpir, _ in shown),
                    [share.value for _, share in shown],
                    [share.interval for _, share in shown],
                    name,
                    colour,
                    "FPIR %{text}: %{y:.2f}\u00a0%",
                )
            )
    return Chart(
        "openset",
        "Finding people, and no strangers",
        "Share of pictures whose person is found (TPIR) over the share of strangers who are taken "
        "for somebody (FPIR). Up and to the left is better.",
        data,
        {
            "xaxis": rate_axis("false positive rate (FPIR)", low / 1.2),
            "yaxis": percent_axis("true positive rate (TPIR)"),
            "showlegend": len(searches) > 1,
        },
    )


def _line(
    x: list[Any], y: Any, name: str, colour: str, dash: str, hover: str, shape: str = "linear"
) -> dict[str, Any]:
    shown = plain_text(name)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": shown,
        "x": x,
        "y": percents(y),
        "line": {"color": colour, "width": 2.5, "dash": dash, "shape": shape},
        "hovertemplate": f"{hover}<extra>{shown}</extra>",
    }


def _dots(
    x: list[Any], y: list[Any], intervals: list[Any], name: str, colour: str, hover: str
) -> dict[str, Any]:
    dots: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "name": plain_text(name),
        "x": x,
        "y": percents(y),
        "marker": {"color": colour, "size": 9, "line": {"color": "--card", "width": 2}},
        "text": [
            small_percent(value / 100) if isinstance(value, float) else str(value) for value in x
        ],
        "hovertemplate": f"{hover}<extra>{plain_text(name)}</extra>",
        "showlegend": False,
    }
    bars = error_bars(y, intervals, colour)
    if bars is not None:
        dots["error_y"] = bars
    return dots


# How training went: losses, cosines and validation over steps.

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
            line = _line_training_charts(steps, 100 * values, name, colour, mode="lines+markers")
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
    raw = _line_training_charts(steps[::thin], values[::thin], name, colour)
    raw |= {"opacity": 0.25, "showlegend": False, "hoverinfo": "skip"}
    return [raw, _line_training_charts(steps[::thin], mean[::thin], name, colour, width=2.5)]


def _line_training_charts(
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
