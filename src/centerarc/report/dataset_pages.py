"""The pages of an inspection and of a check of a data set."""

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.curate.check import KINDS, CheckResult, Problem
from centerarc.curate.inspect import Overview
from centerarc.data.source import FaceSource
from centerarc.report.charts import Chart, axis, chart, dotted, lines, percent_axis, percents
from centerarc.report.rendering import data_uri, render, require_report_extra

Ints = npt.NDArray[np.int64]


def _face(source: FaceSource, index: int) -> dict[str, str]:
    """Picture, name and place of an image; no picture where it cannot be decoded."""
    try:
        picture = data_uri(np.asarray(source.image(index)))
    except ValueError:
        picture = ""
    name = source.identities[source.labels[index]]
    return {"picture": picture, "name": name, "place": source.place(index)}


def in_units(size: float) -> str:
    """A number of bytes for people: "4.1 kB"."""
    if size < 1000:
        return f"{size:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 1000:
            return f"{size:.3g} {unit}"
    return f"{size / 1000:.3g} TB"


# The page of an inspection: numbers, the long tail, samples and extremes.

_SAMPLES = 48
_EXTREMES = 6
_STRIP = 6
_LISTED = 12


def write_inspect_page(
    path: str | os.PathLike[str],
    source: FaceSource,
    overview: Overview,
    *,
    name: str,
    seed: int = 0,
) -> None:
    """Write one HTML page that needs no network and no other file.

    The file is complete or absent. A few dozen images are decoded for it.

    Args:
        path: the file to write.
        source: the source that was inspected.
        overview: what was found.
        name: what the page calls the source.
        seed: chooses the images of the contact sheet.

    Raises:
        ImportError: plotly is missing.
    """
    require_report_extra(["plotly"])
    found = overview.statistics
    rng = np.random.default_rng(seed)
    samples = np.sort(rng.choice(len(source), min(_SAMPLES, len(source)), replace=False))
    kinds = Counter(item.reason for item in overview.left_out)
    lengths = overview.file_bytes
    totals = [lengths.sum(), *np.quantile(lengths, [0.05, 0.5, 0.95])] if len(lengths) else []
    render(
        path,
        "inspect.html.j2",
        inspection_charts(overview),
        name=name,
        found=found,
        single=sum(identities for group, identities, _ in found.groups if group == "1"),
        different_sizes=len(overview.sizes) if len(overview.sizes) > _SIZES else 0,
        sizes=overview.sizes,
        formats=overview.formats,
        colors=overview.colors,
        bytes=[in_units(float(size)) for size in totals] or None,
        unreadable=overview.unreadable,
        samples=[_face(source, int(index)) for index in samples],
        extremes=_extremes(source, overview),
        left_out=[
            (kind, count, [item for item in overview.left_out if item.reason == kind][:_LISTED])
            for kind, count in kinds.most_common()
        ],
    )


def _extremes(
    source: FaceSource, overview: Overview
) -> list[tuple[str, list[tuple[str, int, list[dict[str, str]]]]]]:
    """The people with most and with fewest images, with some faces of each."""
    order = np.argsort(-overview.counts, kind="stable")
    order = order[overview.counts[order] > 0]
    number = min(_EXTREMES, len(order) // 2) or 1
    ends = [("Most images", order[:number]), ("Fewest images", order[::-1][:number])]
    found = []
    for title, labels in ends[: len(order)]:
        people = []
        for label in labels.tolist():
            images = np.flatnonzero(source.labels == label)
            spread = np.unique(np.linspace(0, len(images) - 1, _STRIP).round().astype(int))
            faces = [_face(source, int(index)) for index in images[spread]]
            people.append((source.identities[label], int(overview.counts[label]), faces))
        found.append((title, people))
    return found


# The charts of the inspection page.

_POINTS = 400
_SIZES = 12
_BINS = 24


def inspection_charts(overview: Overview) -> list[Chart]:
    """The charts of the spread of images over identities."""
    counts = np.sort(overview.counts[overview.counts > 0])[::-1]
    # Where all have one size, as aligned faces do, the files' sizes say more.
    sizes = overview.sizes.most_common()
    numbers = np.array([count for _, count in sizes])
    if len(sizes) <= 1:
        last = _bars("bytes", *_histogram(overview.file_bytes, np.ones_like(overview.file_bytes)))
    elif len(sizes) > _SIZES:
        shorter = np.array([min(size) for size, _ in sizes])
        last = _bars("sides", *_histogram(shorter, numbers))
    else:
        last = _bars("sides", [f"{w} x {h} " for (w, h), _ in sizes], numbers.tolist())
    return [_tail(counts), _groups(overview), _share(counts), last]


def _tail(counts: Ints) -> Chart:
    # Evenly spread on a logarithmic axis.
    ranks = np.unique(np.geomspace(1, len(counts), _POINTS).round().astype(np.int64))
    # A step ends where the count changes; without those points it would be slanted.
    turns = np.flatnonzero(np.diff(counts)) + 1
    if len(turns) < 4 * _POINTS:
        ranks = np.union1d(ranks, np.concatenate([turns, turns + 1]))
    line = lines(
        ranks.tolist(),
        counts[ranks - 1].tolist(),
        "--accent",
        line={"width": 2.5},
        fill="tozeroy",
        fillcolor="--soft",
        hovertemplate="identity %{x:,}<br>%{y:,} images<extra></extra>",
    )
    ranked = axis("identity, by rank", **_decades(len(counts)))
    return chart("tail", [line], ranked, axis("images", **_decades(int(counts[0]))), hovermode="x")


def _decades(largest: int) -> dict[str, Any]:
    top = float(np.log10(max(largest, 2)))
    # Where there are few decades, ticks between them.
    digits = (1, 2, 5) if top < 3 else (1,)
    ticks = [digit * 10**power for power in range(int(top) + 1) for digit in digits]
    ticks = [tick for tick in ticks if np.log10(tick) <= top + 0.04]
    return {
        "type": "log",
        "range": [0, top + 0.04],
        "tickvals": ticks,
        "ticktext": [f"{tick:,}" for tick in ticks],
    }


def _groups(overview: Overview) -> Chart:
    names, identities, images = zip(*overview.statistics.groups, strict=True)
    bars = []
    for name, values, color in (
        ("identities", identities, "--second"),
        ("images", images, "--accent"),
    ):
        hover = f"%{{customdata:,}} {name} (%{{y:.1f}}%)<extra></extra>"
        # A space keeps plotly from reading numbers.
        shares = percents(value / sum(values) for value in values)
        bar = _bar([f"{group} " for group in names], shares, color, hovertemplate=hover)
        bars.append({**bar, "name": name, "customdata": list(values)})
    spread = axis("images of an identity", type="category")
    more: dict[str, Any] = {"barmode": "group", "bargap": 0.25, "hovermode": "x"}
    return chart("groups", bars, spread, percent_axis("share"), **more)


def _share(counts: Ints) -> Chart:
    rows = np.unique(np.linspace(0, len(counts), _POINTS).round().astype(np.int64))
    held = np.concatenate([[0], np.cumsum(counts)])[rows] / counts.sum()
    line = lines(
        percents(rows / len(counts), 5),
        percents(held, 5),
        "--accent",
        line={"width": 2.5},
        hovertemplate="the first %{x:.1f}% have %{y:.1f}% of the images<extra></extra>",
    )
    return chart(
        "share",
        [dotted([0, 100]), line],
        percent_axis("identities, most images first", range=[0, 101]),
        percent_axis("images", range=[0, 102]),
        hovermode="x",
        margin={"l": 52, "r": 26, "t": 16, "b": 44},
    )


def _histogram(values: Ints, weights: Ints) -> tuple[list[str], list[int]]:
    """Counts whole numbers in bins that grow with them; the bins' names and counts."""
    if not len(values):
        return [], []
    low, high = max(int(values.min()), 1), int(values.max()) + 1
    edges = np.unique(np.geomspace(low, high, _BINS + 1).round())
    if len(edges) == 1:
        edges = np.array([low, high + 1.0])
    number, _ = np.histogram(values, edges, weights=weights)
    ends = zip(edges[:-1].astype(int).tolist(), edges[1:].astype(int).tolist(), strict=True)
    names = [f"{a:,} to {b - 1:,}" if b > a + 1 else f"{a:,} " for a, b in ends]
    return names, number.astype(int).tolist()


def _bar(names: list[str], heights: list[Any], color: str, **more: Any) -> dict[str, Any]:
    return {"type": "bar", "x": names, "y": heights, "marker": {"color": color}, **more}


def _bars(key: str, names: list[str], number: list[int]) -> Chart:
    """Bars with names under them."""
    bar = _bar(names, number, "--accent", hovertemplate="%{x}: %{y:,} images<extra></extra>")
    under: dict[str, Any] = {"type": "category"}
    many = len(names) > _SIZES
    if many:
        # Their whole names would not fit: where some of them begin.
        some = names[::6]
        under |= {"tickvals": some, "ticktext": [name.split()[0] for name in some]}
    # Half an image is no tick.
    whole = {"dtick": 1} if max(number, default=0) <= 6 else {}
    images = axis("images", tickformat=",", **whole)
    return chart(key, [bar], under, images, bargap=0.15 if many else 0.4, hovermode="x")


# The page of a check: each kind of problem with example pictures.

_PICTURES = 12
_ROWS = 200


def write_check_page(
    path: str | os.PathLike[str], source: FaceSource, result: CheckResult, *, name: str
) -> None:
    """Write one HTML page that needs no network and no other file.

    The file is complete or absent. Of each kind of problem up to 12 are shown with their pictures
    and up to 200 are listed; what a model found starts with the surest.

    Args:
        path: the file to write.
        source: the source that was checked.
        result: what was found.
        name: what the page calls the source.
    """
    counts = result.counts()
    sections = []
    for kind, count in counts.items():
        problems = [problem for problem in result.problems if problem.problem == kind]
        sections.append(
            {
                "kind": kind,
                "severity": KINDS[kind].severity,
                "meaning": KINDS[kind].meaning,
                "count": count,
                "examples": _examples(source, problems),
                "listed": problems[:_ROWS],
            }
        )
    # One image may have several errors, and an archive of images may have one.
    errors = [problem for problem in result.problems if problem.severity == "error"]
    images = {problem.place for problem in errors if KINDS[problem.problem].of_image}
    archives = {problem.place for problem in errors if not KINDS[problem.problem].of_image}
    render(
        path,
        "check.html.j2",
        name=name,
        result=result,
        found=[(len(images), "image"), (len(archives), "archive")],
        severities={
            severity: sum(n for kind, n in counts.items() if KINDS[kind].severity == severity)
            for severity in ("warning", "note")
        },
        sections=sections,
    )


def _examples(source: FaceSource, problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """The surest problems whose image, or pair of images, can be shown."""
    examples: list[dict[str, Any]] = []
    shown: set[frozenset[int | None]] = set()
    for problem in sorted(problems, key=lambda one: -(one.confidence or 0)):
        # Both images of a pair may be listed; the pair is shown once.
        pair = frozenset({problem.index, problem.other})
        if problem.index is None or (problem.other is not None and pair in shown):
            continue
        shown.add(pair)
        indices = (problem.index, problem.other)
        faces = [_face(source, index) for index in indices if index is not None]
        if faces[0]["picture"]:
            examples.append({"problem": problem, "faces": faces})
        if len(examples) == _PICTURES:
            break
    return examples
