"""People on a page: groups, tightness, the map of faces, the hardest mistakes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.embedding import pair_scores
from centerarc.evaluation.groups import MEASURES, Breakdown, Gap, GroupResult
from centerarc.evaluation.intervals import Estimate
from centerarc.evaluation.protocols.judging import Identified, JudgedImages
from centerarc.evaluation.scores import ScoreArray
from centerarc.evaluation.separability import Distribution, Separability
from centerarc.report.charts import (
    Chart,
    axis,
    chart,
    error_bars,
    lines,
    markers,
    names_axis,
    numbers,
    percent_axis,
    percents,
    plain_text,
)
from centerarc.report.numbers import interval_words, percent, rate_words, reason_words
from centerarc.report.rendering import Image, data_uri

# Who is served worse by the threshold that all share.

# More groups than this make no chart that can be read; the worst are shown.
_MOST = 40
_NAMES = {"accuracy": "Accuracy", "tar": "TAR", "far": "FAR"}
_AXES = {"accuracy": "accuracy", "tar": "true accept rate (TAR)", "far": "false accept rate (FAR)"}


@dataclass(frozen=True)
class BreakdownPart:
    """What the page shows of a column.

    Attributes:
        column: its name.
        gaps: sentences on the worst and the best group.
        lacking: sentences on the measures that fewer than two groups carry.
        charts: of the measures that several groups have, with titles and captions.
        rows: name, pairs, and each rate with its interval, of all groups; empty where nothing can
            be said of any.
    """

    column: str
    gaps: list[str]
    lacking: list[str]
    charts: list[tuple[Chart, str, str]]
    rows: list[tuple[str, str, list[tuple[str, str]]]]


def breakdown_parts(breakdowns: Mapping[str, Breakdown]) -> list[BreakdownPart]:
    """A part of the page for each column."""
    parts = []
    for number, (column, found) in enumerate(breakdowns.items()):
        known = {
            measure: [g for g in found.groups.values() if _rate(g, measure).value is not None]
            for measure in MEASURES
        }
        drawn = {measure: groups for measure, groups in known.items() if len(groups) > 1}
        rows = min(_MOST, max(map(len, drawn.values()), default=0))
        # The lowest end of accuracies and TARs with their intervals, so that charts share it.
        low = 1.0
        for rate in (_rate(g, m) for m, groups in drawn.items() if m != "far" for g in groups):
            low = min(low, rate.value or 0.0, rate.interval.low if rate.interval else 1.0)
        charts = []
        for measure, groups in drawn.items():
            drawing = _group_chart(f"group-{number}-{measure}", measure, groups, rows, low)
            less = " The worst are shown." if len(groups) > _MOST else ""
            caption = (
                f"At the cosine threshold {found.threshold:.3f} that all groups share, the worst "
                f"on top, with 95% intervals over people.{less}"
            )
            charts.append((drawing, f"{_NAMES[measure]} by {column}", caption))
        parts.append(
            BreakdownPart(
                column,
                [_gap_words(measure, gap) for measure, gap in found.gaps.items()],
                _lacking(list(found.groups.values()), known),
                charts,
                [_row(group) for group in found.groups.values()] if any(known.values()) else [],
            )
        )
    return parts


def _rate(group: GroupResult, measure: str) -> Estimate:
    rate: Estimate = getattr(group, measure)
    return rate


def _lacking(groups: list[GroupResult], known: Mapping[str, list[GroupResult]]) -> list[str]:
    """Why measures are missing."""
    sentences: list[str] = []
    for measure in MEASURES:
        if len(known[measure]) > 1:
            continue
        without = [group for group in groups if group not in known[measure]]
        if not without:
            return [*sentences, "There is one group, so there is nothing to compare."]
        # The group that is nearest to having enough says what is needed.
        nearest = max(without, key=lambda group: _pairs_for(group, measure))
        if known[measure]:
            who, largest = f"one of the {len(groups):,} groups", "the largest other"
        elif len(groups) > 1:
            who, largest = f"none of the {len(groups):,} groups", "the largest"
        else:
            who, largest = "no group", ""
        reason = reason_words(_rate(nearest, measure).too_few)
        named = f"“{_named(nearest.name)}”, {largest}," if largest else "it"
        reason = f"{reason[:1].lower()}{reason[1:]}"
        sentences.append(f"{_NAMES[measure]} is known for {who}: {named} {reason}")
    return sentences


def _pairs_for(group: GroupResult, measure: str) -> int:
    counts = {"tar": group.num_genuine, "far": group.num_impostor}
    return counts.get(measure, min(counts.values()))


def _gap_words(measure: str, gap: Gap) -> str:
    worst, best = ("highest", "lowest") if measure == "far" else ("lowest", "highest")
    text = (
        f"{_NAMES[measure]} is {worst} for {_named(gap.worst)} and {best} for "
        f"{_named(gap.best)}: a gap of {percent(gap.value)} points"
    )
    if gap.interval is not None:
        doubt = "; with other people the order might be reversed" if gap.interval.low <= 0 else ""
        text += f" (95% interval {interval_words(gap.interval)}{doubt})"
    return f"{text}."


def _group_chart(key: str, measure: str, groups: list[GroupResult], rows: int, low: float) -> Chart:
    """The groups of a measure, as high as `rows` groups are, on an axis that begins at `low` and,
    but for the FAR, ends at 100%."""
    rates = sorted(
        ((group.name, _rate(group, measure)) for group in groups),
        key=lambda one: float(one[1].value or 0.0),
        reverse=measure == "far",
    )
    # The worst first, drawn from the bottom up.
    rates = rates[:_MOST][::-1]
    values = [float(rate.value or 0.0) for _, rate in rates]
    intervals = [rate.interval for _, rate in rates]
    names = [_named(name) for name, _ in rates]
    names = [plain_text(name if len(name) <= 24 else f"{name[:23]}…") for name in names]
    dots = markers(
        percents(values),
        list(range(len(rates))),
        ["--accent"] * (len(rates) - 1) + ["--second"],
        text=names,
        marker={"size": 10},
        hovertemplate="%{text}: %{x:.2f}%<extra></extra>",
    )
    bars = error_bars(values, intervals, "--muted")
    if bars is not None:
        dots["error_x"] = bars
    low, high = min(100 * low, 99.0), 100.0
    if measure == "far":
        ends = [*values, *(interval.high for interval in intervals if interval is not None)]
        low, high = 0.0, max(100 * max(ends), 0.01)
    pad = 0.06 * (high - low)
    return chart(
        key,
        [dots],
        percent_axis(_AXES[measure], range=[low - pad, high + pad], nticks=5),
        names_axis(names, len(rates) - 0.4 - rows),
        height=70 + 30 * rows,
        margin={"l": 52, "r": 14, "t": 8, "b": 40},
    )


def _row(group: GroupResult) -> tuple[str, str, list[tuple[str, str]]]:
    rates = []
    for rate in (_rate(group, measure) for measure in MEASURES):
        value, interval = rate_words(rate)
        rates.append((value, interval or reason_words(rate.too_few)))
    pairs = f"{group.num_genuine:,} and {group.num_impostor:,}"
    if group.num_people is not None:
        pairs += f" of {group.num_people:,} people"
    return _named(group.name), pairs, rates


def _named(name: str) -> str:
    return name or "(empty)"


# How tight and how far apart people are, as ranges on one axis of cosines.


def identity_chart(found: Separability) -> Chart:
    """Where most of each cosine lies: from 5 to 95%, the middle half, and the median."""
    rows: list[tuple[str, Distribution]] = [
        ("margin", found.margin),
        ("nearest other center", found.separation),
        ("own center", found.compactness),
    ]
    if found.thresholds is not None:
        rows.insert(0, ("own threshold", found.thresholds))
    values = [{q: one.value for q, one in found.quantiles.items()} for _, found in rows]
    low, high = min(v[0.05] for v in values), max(v[0.95] for v in values)
    pad = 0.05 * max(high - low, 0.1)
    data = []
    for ends, width, opacity, name in (
        ((0.05, 0.95), 3, 0.8, "90%"),
        ((0.25, 0.75), 11, 0.45, "half"),
    ):
        x: list[float | None] = []
        y: list[float | None] = []
        for row, of_row in enumerate(values):
            x += [*numbers((of_row[end] for end in ends), 4), None]
            y += [row, row, None]
        more: dict[str, Any] = {"name": name, "opacity": opacity, "hoverinfo": "skip"}
        data.append(lines(x, y, "--accent", line={"width": width}, **more))
    data.append(
        markers(
            numbers((v[0.5] for v in values), 4),
            list(range(len(rows))),
            "--ink",
            name="median",
            text=[
                f"{name}: median {v[0.5]:.3f}<br>half from {v[0.25]:.3f} to {v[0.75]:.3f}<br>"
                f"90% from {v[0.05]:.3f} to {v[0.95]:.3f}"
                for (name, _), v in zip(rows, values, strict=True)
            ],
            marker={"size": 9, "symbol": "diamond"},
            hovertemplate="%{text}<extra></extra>",
        )
    )
    cosine = axis("cosine", range=[low - pad, high + pad])
    names = names_axis([name for name, _ in rows])
    return chart("identities", data, cosine, names, height=300, showlegend=False)


# A map of faces: embeddings flattened to two dimensions, one color a person.

_MAX_IDENTITIES = 30
_MAX_FACES = 400
# About the widest strip without any face, of the map's width and height.
_WIDEST_GAP = 0.1
_HUES = 10
_SYMBOLS = ("circle", "diamond", "square")


@dataclass(frozen=True)
class FaceSample:
    """Faces for the map of embeddings and the strip of examples.

    Attributes:
        images: N images, each uint8 (H, W, 3) RGB.
        labels: (N,) identity of each.
        names: what to call each identity; `names[label]`.
        embeddings: (N, D), any length but 0.
    """

    images: Sequence[Image]
    labels: npt.NDArray[np.int64]
    names: Sequence[str]
    embeddings: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        sizes = (len(self.images), len(self.labels), len(self.embeddings))
        if len(set(sizes)) != 1:
            raise ValueError(
                "images, labels and embeddings of a FaceSample must be equally many, got "
                f"{sizes[0]}, {sizes[1]} and {sizes[2]}"
            )


def faces_to_map(labels: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """The faces of each identity that a map can show: of those with the most faces, at most 30
    identities and 400 faces."""
    identity, count = np.unique(labels, return_counts=True)
    shown = identity[np.argsort(-count, kind="stable")][:_MAX_IDENTITIES]
    each = _MAX_FACES // max(1, shown.size)
    return [np.flatnonzero(labels == label)[:each] for label in shown]


def face_map(faces: FaceSample) -> tuple[Chart, list[list[str]]] | None:
    """t-SNE (van der Maaten, Hinton 2008) of the faces by cosine distance, the same every time.

    Returns:
        The chart and the picture behind each of its points, trace by trace; None with fewer than 3
        identities or 10 faces, which make no map.
    """
    from sklearn.manifold import TSNE

    groups = faces_to_map(faces.labels)
    if len(groups) < 3 or sum(map(len, groups)) < 10:
        return None
    chosen = np.concatenate(groups)
    vectors = np.asarray(faces.embeddings, dtype=np.float64)[chosen]
    pair_scores(vectors, [0], [0])  # refuses what has no direction
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    # A face has about as many true neighbors as its person has faces.
    around = float(np.clip(np.median([group.size for group in groups]), 5, 30))
    perplexity = min(around, (chosen.size - 1) / 3)
    place = TSNE(metric="cosine", perplexity=perplexity, random_state=0).fit_transform(vectors)
    place = _fill(place.astype(np.float64)).round(2)
    data, pictures = [], []
    ends = np.cumsum([group.size for group in groups])
    for number, (group, at) in enumerate(zip(groups, np.split(place, ends[:-1]), strict=True)):
        marker = {
            "symbol": _SYMBOLS[number // _HUES],
            "size": 10,
            "line": {"color": "--card", "width": 1},
        }
        data.append(
            markers(
                at[:, 0].tolist(),
                at[:, 1].tolist(),
                f"--hue-{number % _HUES}",
                name=faces.names[int(faces.labels[group[0]])],
                marker=marker,
                cliponaxis=False,
                hoverinfo="none",
            )
        )
        pictures.append([data_uri(faces.images[i], 80) for i in group])
    hidden = {"visible": False}
    margin = {"l": 14, "r": 14, "t": 14, "b": 14}
    return chart("map", data, hidden, hidden, 520, margin=margin, showlegend=False), pictures


def _fill(place: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Lays points (N, 2) out for a wide chart: the longest way across, little of it empty.

    t-SNE leaves the map's direction to chance and its large distances without meaning, so turning
    it and narrowing strips that hold no face tell nothing wrong.
    """
    centered = place - place.mean(axis=0)
    turned: npt.NDArray[np.float64] = centered @ np.linalg.svd(centered, full_matrices=False)[2].T
    for column in (0, 1):
        order = np.argsort(turned[:, column], kind="stable")
        gaps = np.diff(turned[order, column])
        # Narrowing one strip makes the others a larger share of what is left.
        for _ in range(4):
            gaps = np.minimum(gaps, _WIDEST_GAP * gaps.sum())
        turned[order, column] = np.concatenate([[0.0], np.cumsum(gaps)])
    return turned


# The hardest mistakes: pairs on the wrong side of the threshold, worst first.

_SHOWN = 6


@dataclass(frozen=True)
class Mistakes:
    """Mistakes of one kind.

    Attributes:
        count: how many there are.
        worst: score, names of all sides ("" where not given) and their pictures as `data:` URIs
            (None where there are none) of the worst of them.
    """

    count: int
    worst: Sequence[tuple[float, tuple[str, ...], tuple[str, ...] | None]]


def find_mistakes(
    scores: ScoreArray,
    same: npt.NDArray[np.bool_],
    threshold: float,
    names: Callable[[int], tuple[str, str]],
    images: Callable[[int], tuple[Image, Image]] | None,
) -> tuple[Mistakes, Mistakes]:
    """False accepts and false rejects of pairs at a threshold.

    Args:
        scores: (P,) cosine of each pair.
        same: (P,) whether each is genuine.
        threshold: pairs are accepted from it upwards.
        names: gives the names of both sides of a pair by its number, or "" each.
        images: gives the two images of a pair by its number.
    """
    accepted = scores >= threshold
    found = []
    for wrong, order in ((accepted & ~same, -scores), (~accepted & same, scores)):
        rows = np.flatnonzero(wrong)
        rows = rows[np.argsort(order[rows], kind="stable")]
        worst = []
        for row in rows[:_SHOWN].tolist():
            of_row = names(row)
            pictures = None
            if images is not None:
                first, second = images(row)
                pictures = data_uri(first), data_uri(second)
            elif not of_row[0]:
                break  # nothing to tell one from another by
            worst.append((float(scores[row]), of_row, pictures))
        found.append(Mistakes(rows.size, worst))
    return found[0], found[1]


def find_wrong_people(found: Identified, images: JudgedImages) -> Mistakes | None:
    """Probes for which another person comes first: the probe, that person, and the right one.

    The furthest off come first. Of a person, the image most like the probe is shown. None where it
    is not known which images were looked up.
    """
    if found.probes is None or found.known is None or images.labels is None:
        return None
    (search,) = found.searches
    rows = np.flatnonzero(search.rank > 1)
    ahead = search.other_score[rows] - search.mate_score[rows]
    rows = rows[np.argsort(-ahead, kind="stable")]
    unit = images.embedding / np.linalg.norm(images.embedding, axis=1, keepdims=True)
    owner = images.labels[found.known]
    worst = []
    for row in rows[:_SHOWN].tolist():
        probe = int(found.probes[row])
        sides: list[int | None] = [probe]
        for person in (search.people[search.other_person[row]], search.probe_labels[row]):
            own = found.known[owner == person]
            like = unit[own] @ unit[probe]
            sides.append(int(own[np.argmax(like)]) if own.size else None)
        named = images.identities if images.picture is not None else images.places
        number = images.labels if images.picture is not None else np.arange(len(images.places))
        names = ["a distractor" if side is None else named[int(number[side])] for side in sides]
        picture = images.picture
        pictures = None
        if picture is not None:
            pictures = tuple("" if side is None else data_uri(picture(side)) for side in sides)
        elif not any(images.places):
            break  # nothing to tell one from another by
        worst.append((float(search.other_score[row]), tuple(names), pictures))
    return Mistakes(rows.size, worst)
