"""People on a page: groups, tightness, the map of faces, the hardest mistakes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.embedding import pair_scores
from centerarc.evaluation.groups import MEASURES, Breakdown, Gap, GroupResult
from centerarc.evaluation.separability import Distribution, Separability
from centerarc.report.charts import (
    Chart,
    axis,
    error_bars,
    numbers,
    percent_axis,
    percents,
    plain_text,
)
from centerarc.report.numbers import FaceSample, ReportData
from centerarc.report.rendering import data_uri
from centerarc.report.words import ABSENT, interval_words, percent, reason_words, with_sign

# Who is served worse by the threshold that all share.

# More groups than this make no chart that can be read; the worst are shown.
_MOST = 40
_NAMES = {"accuracy": "Accuracy", "tar": "TAR", "far": "FAR"}
_AXES = {
    "accuracy": "accuracy",
    "tar": "true accept rate (TAR)",
    "far": "false accept rate (FAR)",
}


@dataclass(frozen=True)
class GroupRow:
    """A group in words: its name, its pairs, and each rate with its interval."""

    name: str
    pairs: str
    rates: list[tuple[str, str]]


@dataclass(frozen=True)
class BreakdownPart:
    """What the page shows of a column.

    Attributes:
        column: its name.
        gaps: sentences on the worst and the best group.
        lacking: sentences on the measures that fewer than two groups carry.
        charts: of accuracy, and of the rate where groups differ.
        rows: all groups; empty where nothing can be said of any.
    """

    column: str
    gaps: list[str]
    lacking: list[str]
    charts: list[Chart]
    rows: list[GroupRow]


def breakdown_parts(breakdowns: Mapping[str, Breakdown]) -> list[BreakdownPart]:
    """A part of the page for each column."""
    return [
        _part(column, found, f"group-{number}")
        for number, (column, found) in enumerate(breakdowns.items())
    ]


def _part(column: str, found: Breakdown, key: str) -> BreakdownPart:
    known = {measure: _known(found, measure) for measure in MEASURES}
    drawn = {measure: groups for measure, groups in known.items() if len(groups) > 1}
    most = max(map(len, drawn.values()), default=0)
    span = _span(drawn)
    return BreakdownPart(
        column,
        [_gap_words(measure, gap) for measure, gap in found.gaps.items()],
        _lacking(found, known),
        [_chart(found, column, measure, f"{key}-{measure}", most, span) for measure in drawn],
        [_row(group) for group in found.groups.values()] if any(known.values()) else [],
    )


def _known(found: Breakdown, measure: str) -> list[GroupResult]:
    return [group for group in found.groups.values() if getattr(group, measure).value is not None]


def _span(drawn: Mapping[str, list[GroupResult]]) -> float:
    """The lowest end of accuracies and TARs with their intervals, so that charts share it."""
    ends = [1.0]
    for measure, groups in drawn.items():
        if measure != "far":
            for estimate in (getattr(group, measure) for group in groups):
                ends += [estimate.value, estimate.interval.low if estimate.interval else 1.0]
    return min(ends)


def _lacking(found: Breakdown, known: Mapping[str, list[GroupResult]]) -> list[str]:
    """Why measures are missing, the same words for those that lack the same."""
    count = len(found.groups)
    sentences = []
    for measure in MEASURES:
        if len(known[measure]) > 1:
            continue
        without = [group for group in found.groups.values() if group not in known[measure]]
        # The group that is nearest to having enough says what is needed.
        nearest = max(without, key=lambda group: _pairs_for(group, measure), default=None)
        if nearest is None:
            sentences.append("There is one group, so there is nothing to compare.")
            break
        if known[measure]:
            who, largest = f"one of the {count:,} groups", "the largest other"
        elif count > 1:
            who, largest = f"none of the {count:,} groups", "the largest"
        else:
            who, largest = "no group", ""
        reason = _lower(reason_words(getattr(nearest, measure).too_few))
        named = f"“{_named(nearest.name)}”, {largest}," if count > 1 else "it"
        sentences.append(f"{_NAMES[measure]} is known for {who}: {named} {reason}")
    return sentences


def _pairs_for(group: GroupResult, measure: str) -> int:
    counts = {"tar": group.num_genuine, "far": group.num_impostor}
    return counts.get(measure, min(counts.values()))


def _lower(text: str) -> str:
    return f"{text[:1].lower()}{text[1:]}"


def _gap_words(measure: str, gap: Gap) -> str:
    extreme = "highest" if measure == "far" else "lowest"
    other = "lowest" if measure == "far" else "highest"
    text = (
        f"{_NAMES[measure]} is {extreme} for {_named(gap.worst)} and {other} for "
        f"{_named(gap.best)}: a gap of {percent(gap.value)} points"
    )
    if gap.interval is not None:
        text += f" (95 % interval {interval_words(gap.interval)}"
        if gap.interval.low <= 0:
            text += "; other people might turn the order round"
        text += ")"
    return f"{text}."


def _chart(found: Breakdown, column: str, measure: str, key: str, most: int, low: float) -> Chart:
    """The groups of a measure, as high as ``most`` groups are, on an axis that begins at ``low``
    and, but for the FAR, ends at 100 %."""
    known = _known(found, measure)
    worst_first = sorted(
        known, key=lambda group: float(getattr(group, measure).value), reverse=measure == "far"
    )
    # Drawn from the bottom up.
    shown = worst_first[:_MOST][::-1]
    rows = min(most, _MOST)
    values = [float(getattr(group, measure).value) for group in shown]
    names = [_short(_named(group.name)) for group in shown]
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": percents(values),
        "y": list(range(len(shown))),
        "text": names,
        "marker": {
            "color": ["--accent"] * (len(shown) - 1) + ["--second"],
            "size": 10,
        },
        "hovertemplate": "%{text}: %{x:.2f}\u00a0%<extra></extra>",
    }
    intervals = [getattr(group, measure).interval for group in shown]
    bars = error_bars(values, intervals, "--muted")
    if bars is not None:
        dots["error_x"] = bars
    low, high = min(100 * low, 99.0), 100.0
    if measure == "far":
        ends = [*values, *(interval.high for interval in intervals if interval is not None)]
        low, high = 0.0, max(100 * max(ends), 0.01)
    pad = 0.06 * (high - low)
    less = " The worst are shown." if len(known) > _MOST else ""
    return Chart(
        key,
        f"{_NAMES[measure]} by {column}",
        f"At the cosine threshold {found.threshold:.3f} that all groups share, the worst on top, "
        f"with 95 % intervals over people.{less}",
        [dots],
        {
            "margin": {"l": 52, "r": 14, "t": 8, "b": 40},
            "xaxis": percent_axis(_AXES[measure], range=[low - pad, high + pad], nticks=5),
            "yaxis": {
                "tickvals": list(range(len(shown))),
                "ticktext": names,
                "range": [len(shown) - 0.4 - rows, len(shown) - 0.4],
                "fixedrange": True,
            },
        },
        height=70 + 30 * rows,
    )


def _row(group: GroupResult) -> GroupRow:
    rates = []
    for measure in MEASURES:
        estimate = getattr(group, measure)
        if estimate.value is None:
            rates.append((ABSENT, reason_words(estimate.too_few)))
        else:
            rates.append((with_sign(estimate.value), interval_words(estimate.interval)))
    pairs = f"{group.num_genuine:,} and {group.num_impostor:,}"
    if group.num_people is not None:
        pairs += f" of {group.num_people:,} people"
    return GroupRow(_named(group.name), pairs, rates)


def _named(name: str) -> str:
    return name or "(empty)"


def _short(name: str) -> str:
    text = name if len(name) <= 24 else f"{name[:23]}…"
    return plain_text(text)


# How tight and how far apart people are, as ranges on one axis of cosines.


def identity_chart(found: Separability) -> Chart:
    """Where most of each cosine lies: from 5 to 95 %, the middle half, and the median."""
    rows: list[tuple[str, Distribution]] = [
        ("margin", found.margin),
        ("nearest other center", found.separation),
        ("own center", found.compactness),
    ]
    if found.thresholds is not None:
        rows.insert(0, ("own threshold", found.thresholds))
    low = min(values.quantiles[0.05].value for _, values in rows)
    high = max(values.quantiles[0.95].value for _, values in rows)
    pad = 0.05 * max(high - low, 0.1)
    data: list[dict[str, Any]] = []
    for quantiles, width, name in (((0.05, 0.95), 3, "90\u00a0%"), ((0.25, 0.75), 11, "half")):
        x: list[float | None] = []
        y: list[float | None] = []
        for row, (_, values) in enumerate(rows):
            ends = numbers((values.quantiles[q].value for q in quantiles), 4)
            x += [*ends, None]
            y += [row, row, None]
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": x,
                "y": y,
                "line": {"color": "--accent", "width": width},
                "opacity": 0.45 if width > 3 else 0.8,
                "hoverinfo": "skip",
            }
        )
    data.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "median",
            "x": numbers((values.quantiles[0.5].value for _, values in rows), 4),
            "y": list(range(len(rows))),
            "text": [
                f"{name}: median {v.quantiles[0.5].value:.3f}<br>half from "
                f"{v.quantiles[0.25].value:.3f} to {v.quantiles[0.75].value:.3f}<br>90\u00a0% from "
                f"{v.quantiles[0.05].value:.3f} to {v.quantiles[0.95].value:.3f}"
                for name, v in rows
            ],
            "marker": {"color": "--ink", "size": 9, "symbol": "diamond"},
            "hovertemplate": "%{text}<extra></extra>",
        }
    )
    return Chart(
        "identities",
        "Cosines of faces and centers",
        "Where the cosines lie: the thin bar holds 90 %, the thick one half, the mark is the "
        "median. Faces should be near their own center, centers far from each other, and the "
        "thresholds that people need alike.",
        data,
        {
            "xaxis": axis("cosine", range=[low - pad, high + pad]),
            "yaxis": {
                "tickvals": list(range(len(rows))),
                "ticktext": [name for name, _ in rows],
                "range": [-0.6, len(rows) - 0.4],
                "fixedrange": True,
            },
        },
        height=300,
    )


# A map of faces: embeddings flattened to two dimensions, one colour a person.

MAX_IDENTITIES = 30
MAX_FACES = 400
_PICTURE = 80
# About the widest strip without any face, of the map's width and height.
_WIDEST_GAP = 0.1
_HUES = 10
_SYMBOLS = ("circle", "diamond", "square")


@dataclass(frozen=True)
class FaceMap:
    """The chart, and the picture behind each of its points, trace by trace."""

    chart: Chart
    pictures: list[list[str]]


def face_map(faces: FaceSample) -> FaceMap | None:
    """t-SNE (van der Maaten, Hinton 2008) of the faces by cosine distance, the same every time.

    The identities with the most faces are shown, at most 30 of them and 400 faces; None with
    fewer than 3 identities or 10 faces, which make no map.
    """
    from sklearn.manifold import TSNE

    identity, count = np.unique(faces.labels, return_counts=True)
    shown = identity[np.argsort(-count, kind="stable")][:MAX_IDENTITIES]
    if shown.size < 3:
        return None
    each = MAX_FACES // shown.size
    groups = [np.flatnonzero(faces.labels == label)[:each] for label in shown]
    chosen = np.concatenate(groups)
    if chosen.size < 10:
        return None
    vectors = np.asarray(faces.embeddings, dtype=np.float64)[chosen]
    pair_scores(vectors, [0], [0])  # refuses what has no direction
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    # A face has about as many true neighbours as its person has faces.
    around = float(np.clip(np.median([group.size for group in groups]), 5, 30))
    perplexity = min(around, (chosen.size - 1) / 3)
    place = TSNE(metric="cosine", perplexity=perplexity, random_state=0).fit_transform(vectors)
    place = _fill(place.astype(np.float64))
    data, pictures = [], []
    end = 0
    for number, (label, group) in enumerate(zip(shown, groups, strict=True)):
        points = place[end : end + group.size]
        end += group.size
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": faces.names[int(label)],
                "x": points[:, 0].round(2).tolist(),
                "y": points[:, 1].round(2).tolist(),
                "marker": {
                    "color": f"--hue-{number % _HUES}",
                    "symbol": _SYMBOLS[number // _HUES],
                    "size": 10,
                    "line": {"color": "--card", "width": 1},
                },
                "cliponaxis": False,
                "hoverinfo": "none",
            }
        )
        pictures.append([data_uri(faces.images[i], _PICTURE, 75) for i in group])
    hidden = {"visible": False}
    chart = Chart(
        "map",
        "A map of faces",
        f"{chosen.size} faces of {shown.size} people, placed by t-SNE so that faces which the "
        "model finds alike are neighbours. Colour and shape tell people apart; distances between "
        "far groups mean nothing, so wide empty strips are narrowed. Point at a face to see it, or "
        "walk with the arrow keys: the one that is shown has a ring. Zoom with the buttons, or "
        "with + and -; 0 shows all again.",
        data,
        {
            "xaxis": hidden,
            "yaxis": hidden,
            "margin": {"l": 14, "r": 14, "t": 14, "b": 14},
        },
        height=520,
    )
    return FaceMap(chart, pictures)


def _fill(place: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Lay points (N, 2) out for a wide chart: the longest way across, little of it empty.

    t-SNE leaves the map's direction to chance and its large distances without meaning, so turning
    it and narrowing strips that hold no face tell nothing wrong.
    """
    centred = place - place.mean(axis=0)
    turned: npt.NDArray[np.float64] = centred @ np.linalg.svd(centred, full_matrices=False)[2].T
    for column in (0, 1):
        order = np.argsort(turned[:, column], kind="stable")
        gaps = np.diff(turned[order, column])
        # Narrowing one strip makes the others a larger share of what is left.
        for _ in range(4):
            gaps = np.minimum(gaps, _WIDEST_GAP * gaps.sum())
        turned[order, column] = np.concatenate([[0.0], np.cumsum(gaps)])
    return turned


# The hardest mistakes: pairs on the wrong side of the threshold, worst first.

SHOWN = 6
_PICTURE_MISTAKES = 112


@dataclass(frozen=True)
class Mistake:
    """One wrong pair.

    Attributes:
        score: its cosine.
        names: of the two sides, "" each where names were not given.
        pictures: two ``data:`` URIs; None where there are none.
    """

    score: float
    names: tuple[str, str]
    pictures: tuple[str, str] | None


@dataclass(frozen=True)
class Mistakes:
    """Mistakes of one kind: how many there are, and the worst of them."""

    count: int
    worst: list[Mistake]


def find_mistakes(data: ReportData) -> tuple[Mistakes, Mistakes]:
    """False accepts and false rejects at the reported threshold."""
    assert data.verification is not None  # or there would be no pairs
    accepted = data.scores >= data.verification.threshold
    false_accepts = np.flatnonzero(accepted & ~data.same)
    false_rejects = np.flatnonzero(~accepted & data.same)
    by_score = data.scores
    return (
        _worst(data, false_accepts[np.argsort(-by_score[false_accepts], kind="stable")].tolist()),
        _worst(data, false_rejects[np.argsort(by_score[false_rejects], kind="stable")].tolist()),
    )


def _worst(data: ReportData, rows: list[int]) -> Mistakes:
    worst = []
    for row in rows[:SHOWN]:
        names = data.pair_names[row] if len(data.pair_names) else ("", "")
        pictures = None
        if data.pair_images is not None:
            first, second = data.pair_images(row)
            pictures = (data_uri(first, _PICTURE_MISTAKES), data_uri(second, _PICTURE_MISTAKES))
        elif not names[0]:
            break  # nothing to tell one from another by
        worst.append(Mistake(float(data.scores[row]), names, pictures))
    return Mistakes(len(rows), worst)
