"""The charts of a study: differences from the baseline, seeds, curves, what was tried."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from centerarc.report.charts import (
    Chart,
    axis,
    chart,
    lines,
    markers,
    names_axis,
    numbers,
    percent_axis,
    percents,
    plain_text,
    rate_axis,
)
from centerarc.report.numbers import small_percent
from centerarc.report.study_result import (
    StudyCurve,
    StudyResult,
    StudyRow,
    StudyRun,
    is_rate,
    less_is_better,
)

# Color and dash of each arm; more arms than these repeat them.
STYLES = tuple(
    (f"--hue-{hue}", dash)
    for hue, dash in zip(
        (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
        ("solid", "dash", "dot", "dashdot", "longdash", "solid", "dash", "dot", "dashdot", "solid"),
        strict=True,
    )
)
_BAND = 0.14
# Trained rows whose mean is over all seeds, by what their axis is called.
_LEARNING = {"target_cosine": "cosine", "accuracy": "accuracy", "arcface_loss": "loss"}
_POINTS = 80
# The highest rate that is drawn; an axis up to 100% would hide what differs at low ones.
_HIGHEST_FAR = 0.1

_RATES = {"tar": ("TAR", "FAR"), "tpir": ("TPIR", "FPIR")}
_NAMES = {
    "auc": "AUC",
    "eer": "EER",
    "accuracy": "accuracy",
    "threshold_spread": "spread of own thresholds",
}


def measure_words(measure: str) -> str:
    """What a measure is called in words.

    Example:
        >>> measure_words("tar@0.001"), measure_words("eer"), measure_words("tpir@0.01")
        ('TAR at FAR 0.1%', 'EER', 'TPIR at FPIR 1%')
    """
    name, at, rate = measure.partition("@")
    if at and name in _RATES:
        kind, of = _RATES[name]
        return f"{kind} at {of} {small_percent(float(rate))}"
    return _NAMES.get(measure, measure.replace("_", " "))


def measure_meaning(measure: str) -> str:
    """What a measure counts, in a sentence for who sees its name first.

    Example:
        >>> measure_meaning("eer")
        'EER: the error rate at the threshold where false accepts and false rejects are as many.'
    """
    name, at, rate = measure.partition("@")
    percent = small_percent(float(rate)) if at else ""
    means = {
        "tar": (
            "the share of pairs of one person that are accepted, at the threshold that accepts "
            f"{percent} of the pairs of two people"
        ),
        "tpir": (
            "the share of images whose person is found, at the threshold where "
            f"{percent} of strangers are taken for someone"
        ),
        "auc": "how often a pair of one person scores above a pair of two people",
        "eer": "the error rate at the threshold where false accepts and false rejects are as many",
        "accuracy": "the share of pairs that are judged right",
        "threshold_spread": "how far the thresholds that single people need are apart",
    }
    said = measure_words(measure)
    return f"{said[:1].upper()}{said[1:]}: {means[name]}." if name in means else ""


def judged_by(words: str) -> str:
    """What judged the trials of a search.

    Example:
        >>> judged_by("tar@0.001 of fold 6")
        'TAR at FAR 0.1% of fold 6'
    """
    measure, of, name = words.partition(" of ")
    return f"{measure_words(measure)}{of}{name}"


def style_of(result: StudyResult, arm: str) -> tuple[str, str]:
    """Color and dash of an arm, the same in every chart."""
    place = [one.name for one in result.arms].index(arm)
    return STYLES[place % len(STYLES)]


# How a dash is drawn in a legend, in pixels on and off.
_DASHES = {"dash": "8 5", "dot": "2 3", "dashdot": "8 3 2 3", "longdash": "14 4"}


def legend(result: StudyResult, arms: Sequence[str]) -> list[tuple[str, str, str]]:
    """Name, color and SVG dash of arms, for one legend of several charts."""
    styles = [(arm, *style_of(result, arm)) for arm in arms]
    return [(arm, color, _DASHES.get(dash, "none")) for arm, color, dash in styles]


def _scaled(values: Sequence[float], measure: str) -> list[float]:
    return percents(values, 5) if is_rate(measure) else numbers(values)


def forest_chart(result: StudyResult) -> Chart | None:
    """The differences of the primary measure: of each seed, and their mean with its interval.

    Returns:
        None where no arm has a difference.
    """
    measure = result.primary_measure
    rows = [row for row in result.rows_of(result.primary_set, measure) if row.difference]
    if not rows:
        return None
    base = _seeds(result, result.baseline)
    unit = " points" if is_rate(measure) else ""
    form = "+.2f" if is_rate(measure) else "+.4f"
    data: list[dict[str, Any]] = []
    for place, row in enumerate(reversed(rows)):
        color, shown = style_of(result, row.arm)[0], plain_text(row.arm)
        assert row.difference is not None
        found = row.difference
        each = {
            seed: value - base[seed]
            for seed, value in _seeds(result, row.arm).items()
            if seed in base
        }
        data.append(
            markers(
                _scaled([*each.values()], measure),
                [place - 0.22] * len(each),
                color,
                text=[f"seed {seed}" for seed in each],
                marker={"size": 7, "symbol": "circle-open", "line": {"width": 1.5}},
                hovertemplate=f"%{{text}}: %{{x:{form}}}{unit}<extra>{shown}</extra>",
            )
        )
        mean = markers(
            _scaled([found.value], measure),
            [place],
            color,
            marker={"size": 11, "symbol": "diamond"},
            hovertemplate=f"mean %{{x:{form}}}{unit}<extra>{shown}</extra>",
        )
        if found.low is not None and found.high is not None:
            up, down = _scaled([found.high - found.value, found.value - found.low], measure)
            bar = {"type": "data", "array": [up], "arrayminus": [down], "color": color}
            mean["error_x"] = {**bar, "thickness": 2, "width": 6}
        data.append(mean)
    labels = [row.arm for row in reversed(rows)]
    side = "left" if less_is_better(measure) else "right"
    title = f"{'points' if is_rate(measure) else 'cosine'}; {side} of 0 is better"
    x = axis(title, tickangle=0, nticks=10, zeroline=True, zerolinecolor="--muted")
    names = {**names_axis([plain_text(name) for name in labels], -0.7), "showspikes": False}
    return chart("forest", data, x, names, 110 + 52 * len(rows), showlegend=False)


def seeds_chart(result: StudyResult, measure_words: str) -> Chart | None:
    """The primary measure of each run, an arm a row; None where no run is done."""
    measure = result.primary_measure
    rows = result.rows_of(result.primary_set, measure)
    if not rows:
        return None
    unit, form = ("%", ".2f") if is_rate(measure) else ("", ".4f")
    data: list[dict[str, Any]] = []
    for place, row in enumerate(reversed(rows)):
        color, shown = style_of(result, row.arm)[0], plain_text(row.arm)
        each = _seeds(result, row.arm)
        mean = _scaled([row.mean.value], measure)
        data.append(
            markers(
                mean,
                [place],
                color,
                marker={"size": 22, "symbol": "line-ns-open", "line": {"width": 2.5}},
                hovertemplate=f"mean %{{x:{form}}}{unit}<extra>{shown}</extra>",
            )
        )
        data.append(
            markers(
                _scaled([*each.values()], measure),
                [place] * len(each),
                color,
                text=[f"seed {seed}" for seed in each],
                marker={"size": 8, "opacity": 0.75},
                hovertemplate=f"%{{text}}: %{{x:{form}}}{unit}<extra>{shown}</extra>",
            )
        )
    labels = [plain_text(row.arm) for row in reversed(rows)]
    x = axis(measure_words, tickangle=0, **({"ticksuffix": "%"} if is_rate(measure) else {}))
    names = {**names_axis(labels), "showspikes": False}
    return chart("seeds", data, x, names, 110 + 40 * len(rows), showlegend=False)


def _seeds(result: StudyResult, arm: str) -> dict[int, float]:
    rows = result.rows_of(result.primary_set, result.primary_measure)
    return next((row.by_seed for row in rows if row.arm == arm), {})


def curve_charts(result: StudyResult) -> dict[str, Chart]:
    """TAR against FAR by set: the mean of each arm's seeds, and a band from the lowest to the
    highest."""
    found: dict[str, Chart] = {}
    for number, one in enumerate(result.sets):
        curves = [curve for curve in result.curves if curve.set == one.name]
        if not curves:
            continue
        people = one.facts.get("people", 0)
        # With every two people alike, nothing is known below the share of one couple.
        floor = max(curves[0].far[0], 2 / (people * (people - 1)) if people > 1 else 0.0)
        ends = (floor, _HIGHEST_FAR if floor < 0.1 * _HIGHEST_FAR else 1.0)
        top = max(max(curve.high[k] for k in _kept(curve, ends)) for curve in curves)
        top = min(101.0, 105 * top)
        data: list[dict[str, Any]] = []
        name, _, rate = result.primary_measure.partition("@")
        if name == "tar" and one.name == result.primary_set:
            at = percents([float(rate)] * 2)
            line = {"width": 1.5, "dash": "dot"}
            data.append(lines(at, [0, top], "--muted", line=line, hoverinfo="skip"))
        for curve in curves:
            data += _band(result, curve, ends)
        for curve in curves:
            data.append(_mean(result, curve, ends))
        found[one.name] = chart(
            f"tars-{number}",
            data,
            rate_axis("false accept rate (FAR)", *ends),
            percent_axis("true accept rate (TAR)", range=[0, top]),
            height=400,
            showlegend=False,
        )
    return found


def _kept(curve: StudyCurve, ends: tuple[float, float]) -> list[int]:
    low, high = ends[0] * 0.999, ends[1] * 1.001
    return [place for place, far in enumerate(curve.far) if low <= far <= high]


def _band(
    result: StudyResult, curve: StudyCurve, ends: tuple[float, float]
) -> list[dict[str, Any]]:
    kept = _kept(curve, ends)
    if curve.low == curve.high:  # of one seed
        return []
    far = percents([curve.far[k] for k in kept])
    low, high = (percents([side[k] for k in kept], 5) for side in (curve.low, curve.high))
    color = style_of(result, curve.arm)[0]
    return [
        lines(
            [*far, *far[::-1]],
            [*low, *high[::-1]],
            color,
            fill="toself",
            fillcolor=color,
            opacity=_BAND,
            line={"width": 0},
            hoverinfo="skip",
            legendgroup=curve.arm,
            showlegend=False,
        )
    ]


def _mean(result: StudyResult, curve: StudyCurve, ends: tuple[float, float]) -> dict[str, Any]:
    kept = _kept(curve, ends)
    color, dash = style_of(result, curve.arm)
    shown = plain_text(curve.arm)
    return lines(
        percents([curve.far[k] for k in kept]),
        percents([curve.tar[k] for k in kept], 5),
        color,
        name=shown,
        legendgroup=curve.arm,
        line={"width": 2.2, "dash": dash},
        hovertemplate=f"TAR %{{y:.2f}}% at FAR %{{x:.3~r}}%<extra>{shown}</extra>",
    )


def learning_charts(result: StudyResult) -> list[Chart]:
    """The validation and the training of each arm over its steps, means over its seeds."""
    done = [run for run in result.runs if run.status == "done"]
    found: list[Chart] = []
    judged = {arm.name: _validations(arm.name, done) for arm in result.arms}
    if any(judged.values()):
        data = [_learned(result, arm, points, "AUC") for arm, points in judged.items() if points]
        found.append(_learning_chart("validation", data, "AUC"))
    for key, words in _LEARNING.items():
        means = {arm.name: _means(arm.name, done, "train", key) for arm in result.arms}
        data = [_learned(result, arm, points, words) for arm, points in means.items() if points]
        if data:
            found.append(_learning_chart(key, data, words))
    return found


def _learning_chart(key: str, data: list[dict[str, Any]], words: str) -> Chart:
    return chart(key, data, axis("step"), axis(words), height=280, showlegend=False)


def _validations(arm: str, runs: Sequence[StudyRun]) -> dict[int, float]:
    """The mean AUC of the first validation set at each step that all seeds have."""
    return _means(arm, runs, "validation", "auc")


def _means(arm: str, runs: Sequence[StudyRun], kind: str, key: str) -> dict[int, float]:
    """The mean over an arm's runs of a number at each step that all of them have."""
    each: list[dict[int, float]] = []
    for run in runs:
        if run.arm != arm:
            continue
        values: dict[int, float] = {}
        for row in run.learning:
            if row.get("kind") == kind and isinstance(row.get(key), float):
                values.setdefault(int(row["step"]), float(row[key]))
        each.append(values)
    if not each:
        return {}
    steps = sorted(set(each[0]).intersection(*each[1:]))
    means = {step: float(np.mean([values[step] for values in each])) for step in steps}
    return _thinned(means)


def _thinned(values: Mapping[int, float]) -> dict[int, float]:
    """Means over neighbors, so that a curve is no longer than a chart can show."""
    if len(values) <= _POINTS:
        return dict(values)
    parts = np.array_split(np.array([*values.items()]), _POINTS)
    return {round(float(part[:, 0].mean())): float(part[:, 1].mean()) for part in parts}


def _learned(
    result: StudyResult, arm: str, points: Mapping[int, float], words: str
) -> dict[str, Any]:
    color, dash = style_of(result, arm)
    shown = plain_text(arm)
    return lines(
        [*points],
        numbers(points.values()),
        color,
        name=shown,
        line={"width": 1.8, "dash": dash},
        hovertemplate=f"{words} %{{y:.4f}} at step %{{x:,}}<extra>{shown}</extra>",
    )


def trials_chart(result: StudyResult) -> Chart | None:
    """What the searches reached: the best so far of each arm over its trials, and each trial."""
    if not result.tuning:
        return None
    data: list[dict[str, Any]] = []
    words, last = "", 1
    for arm in result.arms:
        search = result.tuning.get(arm.name)
        known = [one for one in (search or {}).get("trials", []) if one["value"] is not None]
        if search is None or not known:
            continue
        words = judged_by(search["measure"])
        color, dash = style_of(result, arm.name)
        shown = plain_text(arm.name)
        at = [one["number"] + 1 for one in known]
        last = max(last, *at)
        values = [float(one["value"]) for one in known]
        data.append(
            lines(
                at,
                percents(np.maximum.accumulate(values).tolist(), 5),
                color,
                name=shown,
                legendgroup=arm.name,
                line={"width": 1.8, "dash": dash, "shape": "hv"},
                hovertemplate=f"best of %{{x}}: %{{y:.2f}}%<extra>{shown}</extra>",
            )
        )
        data.append(
            markers(
                at,
                percents(values, 5),
                color,
                legendgroup=arm.name,
                showlegend=False,
                marker={"size": 6, "opacity": 0.6},
                hovertemplate=f"trial %{{x}}: %{{y:.2f}}%<extra>{shown}</extra>",
            )
        )
    if not data:
        return None
    x = axis("trial", range=[0.5, last + 0.5], tick0=1, dtick=max(1, -(-last // 8)))
    y = percent_axis(plain_text(words.partition(" of ")[0]))
    return chart("trials", data, x, y, showlegend=False)


def rows_by_arm(rows: Sequence[StudyRow]) -> dict[str, StudyRow]:
    """Rows of a measure by their arms."""
    return {row.arm: row for row in rows}
