"""Charts of curves: ROC, DET, CMC, TPIR over FPIR, differences of models, and training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.all_pairs_report import AllPaired
from centerarc.evaluation.identification import IdentificationReport, tpir_at_fpir
from centerarc.evaluation.intervals import Estimate, Interval
from centerarc.evaluation.protocols.judging import Identified
from centerarc.evaluation.roc_curve import roc
from centerarc.evaluation.scores import ScoreArray
from centerarc.evaluation.verification import VerificationReport
from centerarc.report.charts import (
    LINES,
    Chart,
    axis,
    chart,
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
# Room above 100%, so that a curve that runs along it is not cut.
_ROOM = 1.15
_NONE = "0%"


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
    lowest = min(0.5 / curve.report.num_genuine for curve in curves.values())
    lowest = max(lowest, _LOWEST_FRR)
    accepted: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    for number, (name, curve) in enumerate(curves.items()):
        known = _known(curve.report.tar_at_far)
        missed = {
            far: Estimate(max(1 - (tar.value or 0.0), lowest), _mirrored(tar.interval, lowest))
            for far, tar in known.items()
        }
        # A logarithmic axis has no zero: what needs no false accept is drawn at the edge.
        start = int(np.flatnonzero(curve.far <= floor)[-1])
        far, tar = curve.far[start:], curve.tar[start:]
        for data, rate, least, dots, what in (
            (accepted, tar, 0.0, known, "TAR %{{{}:.2f}}%"),
            (rejected, 1.0 - tar, lowest, missed, "FRR %{{{}:.3~r}}%"),
        ):
            data += _model(
                *(name, number, percents(np.maximum(far, floor)), np.maximum(rate, least)),
                f"FAR %{{customdata[0]:.3~r}}%<br>{what.format('customdata[1]')}",
                percents(dots),
                dots,
                f"{what.format('y')} at FAR %{{x:.3~r}}%",
                # What is said of a point is where it is, not where it is drawn.
                customdata=[*map(list, zip(percents(far), percents(rate), strict=True))],
            )
    rejected.append(
        dotted(percents([max(floor, lowest), 1]), name="equal errors", showlegend=False)
    )
    if mark is not None:
        accepted.append(_marked(mark, floor, 0.0, rejects=False))
        rejected.append(_marked(mark, floor, lowest, rejects=True))
    far_axis = rate_axis("false accept rate (FAR)", floor, edge=_NONE)
    # Below a floor that is not a rate's half, a rate need not be 0.
    edge = _NONE if lowest > _LOWEST_FRR else f"≤ {small_percent(_LOWEST_FRR)}"
    frr_axis = rate_axis("false reject rate (FRR)", lowest, edge=edge, room=_ROOM)
    return [
        chart("roc", accepted, far_axis, percent_axis("true accept rate (TAR)")),
        chart("det", rejected, far_axis, frr_axis),
    ]


def _mirrored(interval: Interval | None, lowest: float) -> Interval | None:
    """An interval of a TAR as one of the FRR, inside a logarithmic axis."""
    if interval is None:
        return None
    return Interval(max(1 - interval.high, lowest), max(1 - interval.low, lowest))


def _model(
    name: str,
    number: int,
    x: list[float],
    rate: Floats,
    hover: str,
    at: list[float],
    rates: Mapping[Any, Estimate],
    dots_hover: str,
    *,
    shape: str = "hv",
    **more: Any,
) -> list[dict[str, Any]]:
    """The curve of a model, by default with steps: between two operating points the rate of the
    lower one holds; and dots for the reported rates, all of which have a value."""
    (color, dash), shown = LINES[number % len(LINES)], plain_text(name)
    style = {"width": 2.5, "shape": shape, "dash": dash}
    extra = f"<extra>{shown}</extra>"
    more = {**more, "name": shown, "hovertemplate": hover + extra}
    data = [lines(x, percents(rate), color, line=style, **more)]
    if rates:
        values = [float(one.value or 0.0) for one in rates.values()]
        intervals = [one.interval for one in rates.values()]
        more = {"name": shown, "hovertemplate": dots_hover + extra, "showlegend": False}
        data.append({**reported(at, values, intervals, color), **more})
    return data


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


# All pairs, each person weighing the same: the TAR at each FAR, and the threshold of each person.

_THRESHOLD_BINS = 40


def all_pairs_chart(found: Mapping[str, AllPaired]) -> Chart:
    """TAR against FAR of models by name, on a logarithmic axis, as far as the people carry it."""
    floor = min(1 / one.record.num_people_pairs for one in found.values())
    data: list[dict[str, Any]] = []
    for number, (name, one) in enumerate(found.items()):
        known, kept = _known(one.report.tar_at_far), one.record.curve_far >= floor
        hover = "TAR %{y:.2f}% at FAR %{x:.3~r}%"
        data += _model(
            *(name, number, percents(one.record.curve_far[kept]), one.record.curve_tar[kept]),
            *(hover, percents(known), known, hover),
            shape="linear",
        )
    far_axis = rate_axis("false accept rate (FAR)", floor)
    return chart("tars", data, far_axis, percent_axis("true accept rate (TAR)"))


def own_thresholds_chart(found: AllPaired) -> Chart:
    """How the thresholds that people need lie around those that are set for all."""
    thresholds = found.record.person_threshold
    count, edges = np.histogram(thresholds, bins=min(_THRESHOLD_BINS, max(5, thresholds.size // 4)))
    bars = {
        "type": "bar",
        "x": numbers((edges[1:] + edges[:-1]) / 2),
        "y": count.tolist(),
        "width": float(edges[1] - edges[0]),
        "marker": {"color": "--accent", "line": {"width": 0}},
        "hovertemplate": "threshold %{x:.3f}: %{y:,} people<extra></extra>",
    }
    return chart("own", [bars], axis("threshold that a person needs"), axis("people"), bargap=0)


# Identification: who is found within which rank, and which strangers are taken for someone.

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
    found: list[dict[str, Any]] = []
    strangers: list[dict[str, Any]] = []
    for number, (name, search) in enumerate(searches.items()):
        ranks = _known(search.report.cmc)
        ranks = {rank: one for rank, one in ranks.items() if rank <= search.cmc.size}
        within = [float(rank) for rank in range(1, search.cmc.size + 1)]
        hover = "rank %{x}: %{y:.2f}%"
        dots = (hover, [float(rank) for rank in ranks], ranks, hover)
        found += _model(name, number, within, search.cmc, *dots, shape="linear")
        tpirs = _known(search.report.tpir_at_fpir)
        hover = "FPIR %{x:.3~r}%: %{y:.2f}%"
        dots = (hover, percents(tpirs), tpirs, hover)
        strangers += _model(name, number, percents(search.fpir), search.tpir, *dots)
    ticks = [rank for rank in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if rank <= last]
    ends = [-0.05, float(np.log10(last)) + 0.05]
    names = [str(rank) for rank in ticks]
    rank_axis = axis("rank k", type="log", range=ends, tickvals=ticks, ticktext=names)
    charts = [chart("cmc", found, rank_axis, percent_axis("person within the first k"))]
    if all(search.fpir.size for search in searches.values()):
        low = min(float(search.fpir.min()) for search in searches.values())
        fpir = rate_axis("false positive rate (FPIR)", low / 1.2)
        charts.append(chart("openset", strangers, fpir, percent_axis("true positive rate (TPIR)")))
    return charts


def _known(rates: Mapping[Any, Estimate]) -> dict[Any, Estimate]:
    return {at: rate for at, rate in rates.items() if rate.value is not None}


# How far models are from the first one, and how sure that is.


def difference_chart(rows: Sequence[ComparedRow], names: Sequence[str]) -> Chart | None:
    """Each rate minus that of the first model, with its interval, around a line at none.

    Args:
        rows: the rates; those without differences are left out.
        names: of the models.

    Returns:
        None where there are no differences.
    """
    rows = [row for row in rows if row.differences and not row.cosine]
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
    points = axis("points", zeroline=True, zerolinecolor="--muted", tickangle=0)
    return chart("differences", data, points, names_axis(labels[::-1]), 130 + 46 * len(rows))


# How training went: losses, cosines and validation over steps.

_MAX_POINTS = 600
_SMOOTHING_POINTS = 25
Rows = Sequence[Mapping[str, Any]]


def training_charts(history: Rows, validation: Rows) -> list[Chart]:
    """A chart for each curve that the rows hold; none for rows that hold nothing."""
    loss = axis("loss", rangemode="tozero")
    cosines = _smoothed(history, "target_cosine", "cosine to the target prototype", "--accent")
    cosines += _smoothed(history, "accuracy", "training accuracy", "--second")
    judged = _judged(validation)
    arcface = _smoothed(history, "arcface_loss", "ArcFace loss", "--accent")
    center = _smoothed(history, "center_loss", "Center loss", "--accent")
    return [
        chart(key, data, axis("step"), side, height=260)
        for key, data, side in (
            ("arcface_loss", arcface, loss),
            ("center_loss", center, loss),
            ("cosines", cosines, axis("cosine, share")),
            ("validation", judged, percent_axis("share")),
        )
        if data
    ]


_MEASURES = {
    "auc": "AUC",
    "accuracy": "accuracy",
    "best_accuracy": "best accuracy (optimistic)",
}


def _judged(rows: Rows) -> list[dict[str, Any]]:
    """The measures of one set of pairs; of several, which rows name, the AUC of each."""
    sets = list(dict.fromkeys(row.get("set", "") for row in rows))
    traces = []
    for number, one in enumerate(sets):
        of_set = [row for row in rows if row.get("set", "") == one]
        for key, name in _MEASURES.items() if len(sets) == 1 else [("auc", f"AUC, {one}")]:
            steps, values = _column(of_set, key)
            if steps.size:
                color = LINES[(number + (key != "auc")) % len(LINES)][0]
                line = _over_steps(steps, 100 * values, plain_text(name), color)
                hover = "step %{x:,}: %{y:.2f}%<extra></extra>"
                traces.append({**line, "mode": "lines+markers", "hovertemplate": hover})
    return traces


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
    # A line through a single point would not be seen.
    only = {"mode": "markers"} if x.size == 1 else {}
    return lines(
        x.tolist(),
        numbers(y),
        color,
        name=name,
        line={"width": width},
        marker={"color": color, "size": 7},
        hovertemplate="step %{x:,}: %{y:.4g}<extra></extra>",
        **only,
    )
