"""ROC, DET and differences between models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.comparison import Difference
from centerarc.evaluation.intervals import Interval
from centerarc.evaluation.roc_curve import roc
from centerarc.evaluation.scores import ScoreArray
from centerarc.evaluation.verification import VerificationReport
from centerarc.report.charts import (
    LINES,
    Chart,
    axis,
    error_bars,
    numbers,
    percent_axis,
    percents,
    plain_text,
    rate_axis,
)
from centerarc.report.scores import Step
from centerarc.report.words import small_percent

# The ROC and the DET, of one model or of several in one chart.

# Operating points for each power of ten of the FAR, where there are more.
_PER_DECADE = 120
_LOWEST_FRR = 1e-4
# Room above 100 %, so that a curve that runs along it is not cut.
_ROOM = 1.15
_MARKED = " The diamond is at the threshold chosen with the slider."
_NONE = "0\u00a0%"


@dataclass(frozen=True)
class Curve:
    """The operating points of a model and those that are reported.

    Attributes:
        far: (T,) rising from 0 to 1.
        tar: (T,) not falling.
        report: the numbers.
    """

    far: npt.NDArray[np.float64]
    tar: npt.NDArray[np.float64]
    report: VerificationReport

    @classmethod
    def of(
        cls, scores: ScoreArray, same: npt.NDArray[np.bool_], report: VerificationReport
    ) -> "Curve":
        """The curve of scored pairs, thinned to what a screen can show."""
        curve = roc(scores, same)
        kept = _shown(curve.far, 1 / report.num_impostor)
        return cls(curve.far[kept], curve.tar[kept], report)


def curve_charts(curves: Mapping[str, Curve], mark: Step | None = None) -> list[Chart]:
    """The ROC and the DET of models by name.

    Args:
        curves: of the models.
        mark: a threshold of a single model to mark; the page's slider moves the mark.
    """
    floor = min(0.5 / curve.report.num_impostor for curve in curves.values())
    return [_roc(curves, floor, mark), _det(curves, floor, mark)]


def _shown(far: npt.NDArray[np.float64], smallest: float) -> npt.NDArray[np.int64]:
    """Points that draw the curve: at each FAR the best, and of many FARs some of each decade."""
    last = np.append(np.flatnonzero(np.diff(far)), far.size - 1)  # the highest TAR at each FAR
    if last.size <= 2 * _PER_DECADE:
        return last.astype(np.int64)
    decades = max(1.0, -np.log10(smallest))
    wanted = 10.0 ** -np.linspace(decades, 0, int(_PER_DECADE * decades))
    at = np.searchsorted(far[last], wanted * (1 + 1e-12), side="right") - 1
    chosen = np.unique(np.concatenate([[0], at, [last.size - 1]]))
    return np.asarray(last[chosen], dtype=np.int64)


def _roc(curves: Mapping[str, Curve], floor: float, mark: Step | None) -> Chart:
    data: list[dict[str, Any]] = []
    for (name, curve), (colour, dash) in zip(curves.items(), _styles(curves), strict=True):
        hover = _hover("TAR %{customdata[1]:.2f}\u00a0%", name)
        data.append(_line(curve.far, curve.tar, 0.0, floor, name, colour, dash, hover))
        marks = _marks(curve)
        if marks:
            far, tar, intervals = zip(*marks, strict=True)
            data.append(
                _dots(list(far), list(tar), list(intervals), name, colour, "TAR %{y:.2f}\u00a0%")
            )
    if mark is not None:
        data.append(_marked(mark, floor, 0.0, rejects=False))
    return Chart(
        "roc",
        "Accepting the right people",
        "True accepts over false accepts (ROC); up and to the left is better. Dots are the "
        "reported rates with their 95 % intervals; the left edge stands for no false accept at all."
        + (_MARKED if mark is not None else ""),
        data,
        {
            "xaxis": rate_axis("false accept rate (FAR)", floor, edge=_NONE),
            "yaxis": percent_axis("true accept rate (TAR)"),
            "showlegend": len(curves) > 1,
        },
    )


def _det(curves: Mapping[str, Curve], floor: float, mark: Step | None) -> Chart:
    data: list[dict[str, Any]] = []
    lowest = min(0.5 / curve.report.num_genuine for curve in curves.values())
    lowest = max(lowest, _LOWEST_FRR)
    for (name, curve), (colour, dash) in zip(curves.items(), _styles(curves), strict=True):
        frr = 1.0 - curve.tar
        hover = _hover("FRR %{customdata[1]:.3~r}\u00a0%", name)
        data.append(_line(curve.far, frr, lowest, floor, name, colour, dash, hover))
        marks = [
            (far, max(1 - tar, lowest), _mirrored(interval, lowest))
            for far, tar, interval in _marks(curve)
        ]
        if marks:
            far_, rejected, intervals = zip(*marks, strict=True)
            data.append(
                _dots(
                    list(far_),
                    list(rejected),
                    list(intervals),
                    name,
                    colour,
                    "FRR %{y:.3~r}\u00a0%",
                )
            )
    equal = max(floor, lowest)
    data.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "equal errors",
            "x": percents([equal, 1]),
            "y": percents([equal, 1]),
            "line": {"color": "--muted", "width": 1, "dash": "dot"},
            "hoverinfo": "skip",
            "showlegend": False,
        }
    )
    if mark is not None:
        data.append(_marked(mark, floor, lowest, rejects=True))
    # Below a floor that is no rate's half, a rate need not be 0.
    least = _NONE if lowest > _LOWEST_FRR else f"≤ {small_percent(_LOWEST_FRR)}"
    return Chart(
        "det",
        "One error for the other",
        "False rejects over false accepts (DET); down and to the left is better. Where a curve "
        "crosses the dotted line both errors are equal: the EER. The left edge and the bottom edge "
        "stand for no error." + (_MARKED if mark is not None else ""),
        data,
        {
            "xaxis": rate_axis("false accept rate (FAR)", floor, edge=_NONE),
            "yaxis": rate_axis("false reject rate (FRR)", lowest, edge=least, room=_ROOM),
            "showlegend": len(curves) > 1,
        },
    )


def _styles(curves: Mapping[str, Curve]) -> list[tuple[str, str]]:
    return [LINES[number % len(LINES)] for number in range(len(curves))]


def _marks(curve: Curve) -> list[tuple[float, float, Interval | None]]:
    return [
        (far, tar.value, tar.interval)
        for far, tar in curve.report.tar_at_far.items()
        if tar.value is not None
    ]


def _marked(mark: Step, floor: float, lowest: float, *, rejects: bool) -> dict[str, Any]:
    """Where a threshold is on the curve; ``meta`` tells the slider what it moves, and how far."""
    rate = max(1 - mark.tar, lowest) if rejects else mark.tar
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "threshold",
        "meta": {"threshold": True, "rejects": rejects, "floor": [100 * floor, 100 * lowest]},
        "x": percents([max(mark.far, floor)]),
        "y": percents([rate]),
        "text": [f"{mark.threshold:.3f}"],
        "cliponaxis": False,
        "marker": {
            "color": "--ink",
            "size": 13,
            "symbol": "diamond-open",
            "line": {"width": 2.5},
        },
        "hovertemplate": "threshold %{text}<extra></extra>",
        "showlegend": False,
    }


def _mirrored(interval: Interval | None, lowest: float) -> Interval | None:
    """An interval of a TAR as one of the FRR, inside a logarithmic axis."""
    if interval is None:
        return None
    return Interval(max(1 - interval.high, lowest), max(1 - interval.low, lowest))


def _hover(rate: str, name: str) -> str:
    far = "FAR %{customdata[0]:.3~r}\u00a0%"
    return f"{far}<br>{rate}<extra>{plain_text(name)}</extra>"


def _line(
    far: npt.NDArray[np.float64],
    rate: npt.NDArray[np.float64],
    lowest: float,
    floor: float,
    name: str,
    colour: str,
    dash: str,
    hover: str,
) -> dict[str, Any]:
    """A step curve: between two operating points the lower FAR's rate holds."""
    # A logarithmic axis has no zero: what needs no false accept is drawn at the edge.
    start = int(np.flatnonzero(far <= floor)[-1])
    return {
        "type": "scatter",
        "mode": "lines",
        "name": plain_text(name),
        "x": percents(np.maximum(far[start:], floor)),
        "y": percents(np.maximum(rate[start:], lowest)),
        # What is said of a point is where it is, not where it is drawn.
        "customdata": [*map(list, zip(percents(far[start:]), percents(rate[start:]), strict=True))],
        "line": {"color": colour, "width": 2.5, "shape": "hv", "dash": dash},
        "hovertemplate": hover,
    }


def _dots(
    far: list[float],
    rate: list[float],
    intervals: list[Interval | None],
    name: str,
    colour: str,
    what: str,
) -> dict[str, Any]:
    dots: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "name": plain_text(name),
        "x": percents(far),
        "y": percents(rate),
        "marker": {"color": colour, "size": 9, "line": {"color": "--card", "width": 2}},
        "text": [small_percent(value) for value in far],
        "hovertemplate": what + " at FAR %{text}<extra>" + plain_text(name) + "</extra>",
        "showlegend": False,
    }
    bars = error_bars(rate, intervals, colour)
    if bars is not None:
        dots["error_y"] = bars
    return dots


# How far models are from the first one, and how sure that is.


def difference_chart(
    differences: Mapping[str, Sequence[tuple[str, Difference]]], first: str
) -> Chart:
    """Each rate minus that of the first model, with its interval, around a line at none.

    Args:
        differences: by model: names of rates with differences that have a value, the same for all.
        first: what they are differences to.
    """
    names = [name for name, _ in next(iter(differences.values()))]
    data: list[dict[str, Any]] = []
    count = len(differences)
    for number, (model, rates) in enumerate(differences.items()):
        colour = LINES[(number + 1) % len(LINES)][0]
        values = [100 * float(one.value or 0.0) for _, one in rates]
        bars = error_bars([value / 100 for value in values], [o.interval for _, o in rates], colour)
        offset = 0.5 * (number - (count - 1) / 2) / count
        trace: dict[str, Any] = {
            "type": "scatter",
            "mode": "markers",
            "name": plain_text(model),
            "x": numbers(values),
            "y": [len(names) - 1 - row - offset for row in range(len(names))],
            "text": names,
            "marker": {"color": colour, "size": 10},
            "hovertemplate": f"%{{text}}: %{{x:+.2f}} points<extra>{plain_text(model)}</extra>",
        }
        if bars is not None:
            trace["error_x"] = bars
        data.append(trace)
    return Chart(
        "differences",
        f"Minus {first}",
        "Differences in points with their 95 % intervals, all models on the same resampled people. "
        "Where an interval holds 0, other people might turn the difference round.",
        data,
        {
            "xaxis": axis("points", zeroline=True, zerolinecolor="--muted", tickangle=0),
            "yaxis": {
                "tickvals": list(range(len(names))),
                "ticktext": names[::-1],
                "range": [-0.6, len(names) - 0.4],
                "fixedrange": True,
            },
            "showlegend": count > 1,
        },
        height=130 + 46 * len(names),
    )
