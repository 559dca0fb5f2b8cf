"""Charts of curves: ROC, DET, CMC, TPIR over FPIR, differences of models, and training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.identification import IdentificationReport, tpir_at_fpir
from centerarc.evaluation.intervals import Interval
from centerarc.evaluation.protocols.judging import Identified
from centerarc.evaluation.roc_curve import roc
from centerarc.evaluation.scores import ScoreArray
from centerarc.evaluation.verification import VerificationReport
from centerarc.report.charts import (
    LINES,
    Chart,
    axis,
    dotted,
    error_bars,
    lines,
    markers,
    names_axis,
    numbers,
    percent_axis,
    percents,
    plain_text,
    rate_axis,
    reported,
)
from centerarc.report.numbers import ComparedRow, small_percent
from centerarc.report.scores import Step

Floats = npt.NDArray[np.float64]

# The ROC and the DET of one model, or of several in one chart.

# Operating points for each power of ten of the FAR, where there are more.
_PER_DECADE = 120
_LOWEST_FRR = 1e-4
# Room above 100 %, so that a curve that runs along it is not cut.
_ROOM = 1.15
_NONE = "0\u00a0%"


@dataclass(frozen=True)
class Curve:
    """The operating points of a model and those that are reported.

    Attributes:
        far: (T,) rising from 0 to 1.
        tar: (T,) not falling.
        report: the numbers.
    """

    far: Floats
    tar: Floats
    report: VerificationReport

    @classmethod
    def of(
        cls, scores: ScoreArray, same: npt.NDArray[np.bool_], report: VerificationReport
    ) -> "Curve":
        """The curve of scored pairs, thinned to what a screen can show."""
        curve = roc(scores, same)
        kept = _shown(curve.far, 1 / report.num_impostor)
        return cls(curve.far[kept], curve.tar[kept], report)


def _shown(far: Floats, smallest: float) -> npt.NDArray[np.int64]:
    """Points that draw the curve: at each FAR the best, and of many FARs some of each decade."""
    last = np.append(np.flatnonzero(np.diff(far)), far.size - 1)  # the highest TAR at each FAR
    if last.size <= 2 * _PER_DECADE:
        return last.astype(np.int64)
    decades = max(1.0, -np.log10(smallest))
    wanted = 10.0 ** -np.linspace(decades, 0, int(_PER_DECADE * decades))
    at = np.searchsorted(far[last], wanted * (1 + 1e-12), side="right") - 1
    chosen = np.unique(np.concatenate([[0], at, [last.size - 1]]))
    return np.asarray(last[chosen], dtype=np.int64)


def curve_charts(curves: Mapping[str, Curve], mark: Step | None = None) -> list[Chart]:
    """The ROC and the DET of models by name.

    Args:
        curves: of the models.
        mark: a threshold of a single model to mark; the page's slider moves the mark.
    """
    floor = min(0.5 / curve.report.num_impostor for curve in curves.values())
    lowest = max(min(0.5 / curve.report.num_genuine for curve in curves.values()), _LOWEST_FRR)
    accepted, rejected = [], []
    for number, (name, curve) in enumerate(curves.items()):
        accepted += _traces(curve, name, number, floor, 0.0, rejects=False)
        rejected += _traces(curve, name, number, floor, lowest, rejects=True)
    rejected.append(
        dotted(percents([max(floor, lowest), 1]), name="equal errors", showlegend=False)
    )
    if mark is not None:
        accepted.append(_marked(mark, floor, 0.0, rejects=False))
        rejected.append(_marked(mark, floor, lowest, rejects=True))
    far = rate_axis("false accept rate (FAR)", floor, edge=_NONE)
    # Below a floor that is no rate's half, a rate need not be 0.
    least = _NONE if lowest > _LOWEST_FRR else f"≤ {small_percent(_LOWEST_FRR)}"
    return [
        Chart(
            "roc",
            accepted,
            {
                "xaxis": far,
                "yaxis": percent_axis("true accept rate (TAR)"),
                "showlegend": len(curves) > 1,
            },
        ),
        Chart(
            "det",
            rejected,
            {
                "xaxis": far,
                "yaxis": rate_axis("false reject rate (FRR)", lowest, edge=least, room=_ROOM),
                "showlegend": len(curves) > 1,
            },
        ),
    ]


def _traces(
    curve: Curve, name: str, number: int, floor: float, lowest: float, *, rejects: bool
) -> list[dict[str, Any]]:
    """The curve of a model, TAR or FRR over FAR, and dots for its reported rates."""
    rate, digits = (1.0 - curve.tar, ".3~r") if rejects else (curve.tar, ".2f")
    what = "FRR" if rejects else "TAR"
    shown, (color, dash) = plain_text(name), LINES[number % len(LINES)]
    # A logarithmic axis has no zero: what needs no false accept is drawn at the edge.
    start = int(np.flatnonzero(curve.far <= floor)[-1])
    far, rate = curve.far[start:], rate[start:]
    line = lines(
        percents(np.maximum(far, floor)),
        percents(np.maximum(rate, lowest)),
        color,
        name=shown,
        # A step curve: between two operating points the lower FAR's rate holds.
        line={"width": 2.5, "shape": "hv", "dash": dash},
        # What is said of a point is where it is, not where it is drawn.
        customdata=[list(point) for point in zip(percents(far), percents(rate), strict=True)],
        hovertemplate=f"FAR %{{customdata[0]:.3~r}}\u00a0%<br>"
        f"{what} %{{customdata[1]:{digits}}}\u00a0%<extra>{shown}</extra>",
    )
    fars, rates, intervals = [], [], []
    for level, tar in curve.report.tar_at_far.items():
        if tar.value is not None:
            fars.append(level)
            rates.append(max(1 - tar.value, lowest) if rejects else tar.value)
            interval = tar.interval
            if rejects and interval is not None:
                low, high = (max(1 - end, lowest) for end in (interval.high, interval.low))
                interval = Interval(low, high)
            intervals.append(interval)
    if not fars:
        return [line]
    dots = reported(
        percents(fars),
        rates,
        intervals,
        color,
        name=shown,
        text=[small_percent(level) for level in fars],
        hovertemplate=f"{what} %{{y:{digits}}}\u00a0% at FAR %{{text}}<extra>{shown}</extra>",
        showlegend=False,
    )
    return [line, dots]


def _marked(mark: Step, floor: float, lowest: float, *, rejects: bool) -> dict[str, Any]:
    """Where a threshold is on the curve; `meta` tells the slider what it moves, and how far."""
    rate = max(1 - mark.tar, lowest) if rejects else mark.tar
    return markers(
        percents([max(mark.far, floor)]),
        percents([rate]),
        "--ink",
        name="threshold",
        meta={"threshold": True, "rejects": rejects, "floor": [100 * floor, 100 * lowest]},
        text=[f"{mark.threshold:.3f}"],
        cliponaxis=False,
        marker={"size": 13, "symbol": "diamond-open", "line": {"width": 2.5}},
        hovertemplate="threshold %{text}<extra></extra>",
        showlegend=False,
    )


# Identification: who is found within which rank, and which strangers are taken for somebody.

_FPIRS_PER_DECADE = 20


@dataclass(frozen=True)
class SearchCurves:
    """An identification result and its curves.

    Attributes:
        report: the numbers.
        cmc: (K,) closed-set share found within rank 1, 2, ..., K.
        fpir: (F,) open-set false positive rates.
        tpir: (F,) what is found at each of them.
    """

    report: IdentificationReport
    cmc: Floats
    fpir: Floats
    tpir: Floats

    @classmethod
    def of(cls, identified: Identified) -> "SearchCurves":
        """The mean over galleries; FPIRs as far as the strangers carry them."""
        fewest = min(int((~search.mated).sum()) for search in identified.searches)
        steps = int(_FPIRS_PER_DECADE * np.log10(fewest) + 1e-9) if fewest else 0
        fpirs = [10.0 ** (-step / _FPIRS_PER_DECADE) for step in range(1, steps + 1)][::-1]
        tpirs = [
            np.mean([tpir_at_fpir(search, fpir).tpir for search in identified.searches])
            for fpir in fpirs
        ]
        return cls(identified.report, identified.curve, np.array(fpirs), np.array(tpirs))


def search_charts(searches: Mapping[str, SearchCurves]) -> list[Chart]:
    """The CMC, and TPIR over FPIR where there are strangers, of models by name."""
    last = max(2, *(search.cmc.size for search in searches.values()))
    ticks = [rank for rank in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if rank <= last]
    found: list[dict[str, Any]] = []
    opened: list[dict[str, Any]] = []
    for number, (name, search) in enumerate(searches.items()):
        (color, dash), shown = LINES[number % len(LINES)], plain_text(name)
        for data, x, y, rates, hover, shape in (
            (
                found,
                list(range(1, search.cmc.size + 1)),
                search.cmc,
                {r: one for r, one in search.report.cmc.items() if r <= search.cmc.size},
                "rank %{x}",
                "linear",
            ),
            (
                opened,
                percents(search.fpir),
                search.tpir,
                search.report.tpir_at_fpir,
                "FPIR %{x:.3~r}\u00a0%",
                "hv",
            ),
        ):
            template = f"{hover}: %{{y:.2f}}\u00a0%<extra>{shown}</extra>"
            line = {"width": 2.5, "dash": dash, "shape": shape}
            data.append(lines(x, percents(y), color, name=shown, line=line, hovertemplate=template))
            known = {at: one for at, one in rates.items() if one.value is not None}
            if known:
                values = [one.value for one in known.values() if one.value is not None]
                intervals = [one.interval for one in known.values()]
                at = list(known) if data is found else percents(known)
                dots = reported(at, values, intervals, color, name=shown, hovertemplate=template)
                data.append({**dots, "showlegend": False})
    charts = [
        Chart(
            "cmc",
            found,
            {
                "xaxis": axis(
                    "rank k",
                    type="log",
                    range=[-0.05, float(np.log10(last)) + 0.05],
                    tickvals=ticks,
                    ticktext=[str(rank) for rank in ticks],
                ),
                "yaxis": percent_axis("person within the first k"),
                "showlegend": len(searches) > 1,
            },
        )
    ]
    if all(search.fpir.size for search in searches.values()):
        low = min(float(search.fpir.min()) for search in searches.values())
        charts.append(
            Chart(
                "openset",
                opened,
                {
                    "xaxis": rate_axis("false positive rate (FPIR)", low / 1.2),
                    "yaxis": percent_axis("true positive rate (TPIR)"),
                    "showlegend": len(searches) > 1,
                },
            )
        )
    return charts


# How far models are from the first one, and how sure that is.


def difference_chart(rows: Sequence[ComparedRow], names: Sequence[str]) -> Chart | None:
    """Each rate minus that of the first model, with its interval, around a line at none.

    Args:
        rows: the rates; those without differences are left out.
        names: of the models.

    Returns:
        None where there are no differences.
    """
    rows = [row for row in rows if row.differences]
    models = [name for name in names[1:] if rows and name in rows[0].differences]
    if not models:
        return None
    labels = [row.label for row in rows]
    data: list[dict[str, Any]] = []
    for number, model in enumerate(models):
        color, shown = LINES[(number + 1) % len(LINES)][0], plain_text(model)
        found = [row.differences[model] for row in rows]
        values = [float(one.value or 0.0) for one in found]
        offset = 0.5 * (number - (len(models) - 1) / 2) / len(models)
        trace = markers(
            percents(values, 5),
            [len(rows) - 1 - row - offset for row in range(len(rows))],
            color,
            name=shown,
            text=labels,
            marker={"size": 10},
            hovertemplate=f"%{{text}}: %{{x:+.2f}} points<extra>{shown}</extra>",
        )
        bars = error_bars(values, [one.interval for one in found], color)
        data.append(trace if bars is None else {**trace, "error_x": bars})
    return Chart(
        "differences",
        data,
        {
            "xaxis": axis("points", zeroline=True, zerolinecolor="--muted", tickangle=0),
            "yaxis": names_axis(labels[::-1]),
            "showlegend": len(models) > 1,
        },
        height=130 + 46 * len(rows),
    )


# How training went: losses, cosines and validation over steps.

_MAX_POINTS = 600
_SMOOTHING_POINTS = 25
Rows = Sequence[Mapping[str, Any]]


def training_charts(history: Rows, validation: Rows) -> list[Chart]:
    """A chart for each curve that the rows hold; none for rows that hold nothing."""
    loss = axis("loss", rangemode="tozero")
    cosines = _smoothed(history, "target_cosine", "cosine to the own prototype", "--accent")
    cosines += _smoothed(history, "accuracy", "training accuracy", "--second")
    judged = []
    for key, name, color in (
        ("auc", "AUC", "--accent"),
        ("accuracy", "accuracy", "--second"),
        ("best_accuracy", "best accuracy (optimistic)", "--second"),
    ):
        steps, values = _column(validation, key)
        if steps.size:
            hover = "step %{x:,}: %{y:.2f}\u00a0%<extra></extra>"
            line = _over_steps(steps, 100 * values, name, color)
            judged.append({**line, "mode": "lines+markers", "hovertemplate": hover})
    arcface = _smoothed(history, "arcface_loss", "ArcFace loss", "--accent")
    center = _smoothed(history, "center_loss", "Center loss", "--accent")
    return [
        Chart(key, data, {"xaxis": axis("step"), "yaxis": side, "showlegend": legend}, height=260)
        for key, data, side, legend in (
            ("arcface_loss", arcface, loss, False),
            ("center_loss", center, loss, False),
            ("cosines", cosines, axis("cosine, share"), True),
            ("validation", judged, percent_axis("share"), True),
        )
        if data
    ]


def _column(rows: Rows, key: str) -> tuple[Floats, Floats]:
    found = [(row["step"], row[key]) for row in rows if row.get(key) is not None and "step" in row]
    table = np.array(found, dtype=np.float64).reshape(-1, 2)
    # JSON has no NaN, and one would spoil every running mean after it.
    table = table[np.isfinite(table).all(axis=1)]
    return table[:, 0], table[:, 1]


def _smoothed(rows: Rows, key: str, name: str, color: str) -> list[dict[str, Any]]:
    """A faint line of all values and a strong one of their running mean.

    The mean is over the last values up to each point, over fewer at the start, so that both
    lines begin together.
    """
    steps, values = _column(rows, key)
    if not steps.size:
        return []
    window = max(1, min(_SMOOTHING_POINTS, values.size // 8))
    total = np.cumsum(np.insert(values, 0, 0.0))
    end = np.arange(1, values.size + 1)
    start = np.maximum(end - window, 0)
    mean = (total[end] - total[start]) / (end - start)
    thin = max(1, -(-values.size // _MAX_POINTS))
    raw = _over_steps(steps[::thin], values[::thin], name, color)
    raw |= {"opacity": 0.25, "showlegend": False, "hoverinfo": "skip"}
    return [raw, _over_steps(steps[::thin], mean[::thin], name, color, width=2.5)]


def _over_steps(x: Floats, y: Floats, name: str, color: str, width: float = 1.5) -> dict[str, Any]:
    return lines(
        x.tolist(),
        numbers(y),
        color,
        name=name,
        line={"width": width},
        marker={"color": color, "size": 7},
        hovertemplate="step %{x:,}: %{y:.4g}<extra></extra>",
    )
