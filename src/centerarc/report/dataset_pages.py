"""The pages of an inspection and of a check, and their charts."""

import base64
import io
import json
import os
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image

from centerarc import __version__
from centerarc.curate.check import CheckResult
from centerarc.curate.inspect import Overview
from centerarc.curate.problems import KINDS, Problem
from centerarc.data import source as sources
from centerarc.data.source import FaceSource
from centerarc.io.files import atomic_path

# The charts of the inspection page, as plain plotly data.
#
# Colours are names of the style sheet's custom properties; the page's script puts their values in,
# so that charts follow the reader's light or dark theme.

_POINTS = 400
_SIZES = 12
_BINS = 24


@dataclass(frozen=True)
class Chart:
    """A figure for plotly.js.

    Args:
        key: Unique in the page.
        title: Its heading.
        caption: What it shows and how to read it.
        data: Plotly traces.
        layout: Plotly layout.
    """

    key: str
    title: str
    caption: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]


def inspection_charts(overview: Overview) -> list[Chart]:
    """Returns the charts of the spread of images over identities."""
    counts = np.sort(overview.counts[overview.counts > 0])[::-1]
    # Where all have one size, as aligned faces do, the files' sizes say more.
    last = _sides(overview) if len(overview.sizes) > 1 else _bytes(overview)
    return [_tail(counts), _groups(overview), _share(counts), last]


def _some_ranks(size: int) -> npt.NDArray[np.int64]:
    """Ranks from 1 to `size`, evenly spread on a logarithmic axis."""
    return np.unique(np.geomspace(1, size, _POINTS).round().astype(np.int64))


def _tail(counts: npt.NDArray[np.int64]) -> Chart:
    ranks = _some_ranks(len(counts))
    # A step ends where the count changes; without those points it would be slanted.
    turns = np.flatnonzero(np.diff(counts)) + 1
    if len(turns) < 4 * _POINTS:
        ranks = np.union1d(ranks, np.concatenate([turns, turns + 1]))
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": ranks.tolist(),
        "y": counts[ranks - 1].tolist(),
        "line": {"color": "--accent", "width": 2.5},
        "fill": "tozeroy",
        "fillcolor": "--soft",
        "hovertemplate": "identity %{x:,}<br>%{y:,} images<extra></extra>",
    }
    return Chart(
        "tail",
        "The long tail",
        "Each identity's number of images, the one with most at the left; both axes logarithmic. "
        "A training sees the identities on the right seldom.",
        [line],
        {
            "xaxis": {"title": {"text": "identity, by rank"}, **_decades(len(counts))},
            "yaxis": {"title": {"text": "images"}, **_decades(int(counts[0]))},
        },
    )


def _decades(largest: int) -> dict[str, Any]:
    top = float(np.log10(max(largest, 2)))
    ticks = [10**power for power in range(int(top) + 1)]
    return {
        "type": "log",
        "range": [0, top + 0.04],
        "tickvals": ticks,
        "ticktext": [f"{tick:,}" for tick in ticks],
    }


def _groups(overview: Overview) -> Chart:
    names, identities, images = zip(*overview.statistics.groups, strict=True)
    total_identities, total_images = sum(identities), sum(images)
    bars = [
        {
            "type": "bar",
            "name": name,
            "x": [f"{group} " for group in names],  # a space keeps plotly from reading numbers
            "y": [value / total for value in values],
            "customdata": list(values),
            "marker": {"color": colour},
            "hovertemplate": f"%{{customdata:,}} {name} (%{{y:.1%}})<extra></extra>",
        }
        for name, values, total, colour in (
            ("identities", identities, total_identities, "--second"),
            ("images", images, total_images, "--accent"),
        )
    ]
    return Chart(
        "groups",
        "Identities by number of images",
        "Which part of the identities, and of all images, belongs to identities with so many "
        "images.",
        bars,
        {
            "showlegend": True,
            "barmode": "group",
            "bargap": 0.25,
            "xaxis": {"title": {"text": "images of an identity"}, "type": "category"},
            "yaxis": {"tickformat": ".0%"},
        },
    )


def _share(counts: npt.NDArray[np.int64]) -> Chart:
    rows = np.unique(np.linspace(0, len(counts), _POINTS).round().astype(np.int64))
    held = np.concatenate([[0], np.cumsum(counts)])[rows] / counts.sum()
    part = rows / len(counts)
    return Chart(
        "share",
        "How much the head holds",
        "The share of all images that the identities with most images have. On the dotted line all "
        "would have equally many.",
        [
            {
                "type": "scatter",
                "mode": "lines",
                "x": [0, 1],
                "y": [0, 1],
                "line": {"color": "--muted", "width": 1.5, "dash": "dot"},
                "hoverinfo": "skip",
            },
            {
                "type": "scatter",
                "mode": "lines",
                "x": part.round(5).tolist(),
                "y": held.round(5).tolist(),
                "line": {"color": "--accent", "width": 2.5},
                "hovertemplate": "the first %{x:.1%} have %{y:.1%} of the images<extra></extra>",
            },
        ],
        {
            "xaxis": {
                "title": {"text": "identities, most images first"},
                "tickformat": ".0%",
                "range": [0, 1.01],
            },
            "yaxis": {"tickformat": ".0%", "range": [0, 1.02]},
        },
    )


def _sides(overview: Overview) -> Chart:
    sizes = overview.sizes.most_common()
    if len(sizes) <= _SIZES:
        names = [f"{width} x {height} " for (width, height), _ in sizes]
        bars = _bars(names, [count for _, count in sizes])
        return Chart("sides", "Sizes", "Images of each width and height in pixels.", *bars)
    sides = np.array([min(size) for size, _ in sizes])
    names, number = _histogram(sides, np.array([count for _, count in sizes]))
    caption = f"Images by their shorter side in pixels; there are {len(sizes):,} different sizes."
    return Chart("sides", "Sizes", caption, *_bars(names, number))


def _bytes(overview: Overview) -> Chart:
    names, number = _histogram(overview.file_bytes, np.ones_like(overview.file_bytes))
    return Chart(
        "bytes", "Bytes", "Images by the size of their file in bytes.", *_bars(names, number)
    )


def _histogram(
    values: npt.NDArray[np.int64], weights: npt.NDArray[np.int64]
) -> tuple[list[str], list[int]]:
    """Counts whole numbers in bins that grow with them; returns the bins' names and counts."""
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


def _bars(names: list[str], number: list[int]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Bars with names under them: traces and layout."""
    bar = {
        "type": "bar",
        "x": names,
        "y": number,
        "marker": {"color": "--accent"},
        "hovertemplate": "%{x}: %{y:,} images<extra></extra>",
    }
    axis: dict[str, Any] = {"type": "category"}
    if len(names) > _SIZES:
        # Their whole names would not fit: where some of them begin.
        some = names[::6]
        axis |= {"tickvals": some, "ticktext": [name.split()[0] for name in some]}
    layout = {
        "bargap": 0.15 if len(names) > _SIZES else 0.4,
        "xaxis": axis,
        "yaxis": {"tickformat": ",", "title": {"text": "images"}},
    }
    return [bar], layout


# What the pages of this room share: their template environment and pictures.

_QUALITY = 82


def write_page(path: str | os.PathLike[str], template: str, **content: Any) -> None:
    """Renders a template of `assets` to one self-contained file, complete or absent.

    Args:
        path: The file to write.
        template: Name of the template.
        **content: What the template shows.
    """
    # With its dependencies a third of the time that the command line takes to start.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("centerarc.report", "assets/dataset"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = "{:,}".format
    page = environment.get_template(template).render(version=__version__, **content)
    with atomic_path(path) as temporary:
        # Names of files may hold bytes that are no UTF-8; a browser could not show them.
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def picture(source: FaceSource, index: int, size: int = 112) -> str:
    """Returns an image as a JPEG in a `data:` URI, or "" if it cannot be decoded.

    Args:
        source: Where it is.
        index: Its number.
        size: The most pixels of its longer side.
    """
    try:
        small = PIL.Image.fromarray(np.asarray(source.image(index)))
    except ValueError:
        return ""
    small.thumbnail((size, size), PIL.Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def in_units(size: float) -> str:
    """Returns a number of bytes for people: "4.1 kB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}" if unit != "bytes" else f"{size:.0f} bytes"
        size /= 1000
    return f"{size:.3g} TB"


def script_json(content: Any) -> str:
    """Returns JSON that no name inside can end the script element of."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


# The page of an inspection: numbers, the long tail, samples and extremes in one file.

_SAMPLES = 48
_EXTREMES = 6
_STRIP = 6
_LISTED = 12


def require_plotly() -> None:
    """Says how to install what the page needs, if it is not there; cheap.

    Raises:
        ImportError: If plotly is missing.
    """
    if find_spec("plotly") is None:
        raise ImportError("a report needs plotly: pip install 'centerarc[report]'")


def write_inspect_page(
    path: str | os.PathLike[str],
    source: FaceSource,
    overview: Overview,
    *,
    name: str,
    seed: int = 0,
) -> None:
    """Writes one HTML page that needs no network and no other file.

    The file is complete or absent. A few dozen images are decoded for it.

    Args:
        path: The file to write.
        source: The source that was inspected.
        overview: What was found.
        name: What the page calls the source.
        seed: Chooses the images of the contact sheet.

    Raises:
        ImportError: If plotly is missing.
    """
    require_plotly()
    from plotly.offline import get_plotlyjs

    charts = inspection_charts(overview)
    found = overview.statistics
    write_page(
        path,
        "inspect.html.j2",
        name=name,
        statistics=found,
        groups=[
            (
                group,
                identities,
                _part(identities / found.identities),
                images,
                _part(images / found.images),
            )
            for group, identities, images in found.groups
        ],
        headline=_headline(overview),
        rows=_rows(overview),
        files=_files(overview),
        charts=charts,
        samples=_samples(source, seed),
        extremes=_extremes(source, overview),
        left_out=_left_out(overview),
        figures=script_json(
            {chart.key: {"data": chart.data, "layout": chart.layout} for chart in charts}
        ),
        plotly_js=get_plotlyjs(),
    )


def _headline(overview: Overview) -> str:
    found = overview.statistics
    one = sum(identities for name, identities, _ in found.groups if name == "1")
    head = f"The tenth of the identities with most images has {found.heads[0.1]:.0%} of the images"
    if not one:
        return f"{head}; every identity has at least {found.minimum}."
    return f"{head}; {one / found.identities:.0%} of the identities have a single one."


def _rows(overview: Overview) -> list[tuple[str, str, str]]:
    """The table of images for each identity: name, value, meaning."""
    found = overview.statistics
    rows = [
        ("Fewest", f"{found.minimum:,}", "Images of the identity with fewest."),
        ("Median", f"{found.median:,g}", "Half of the identities have so many or fewer."),
        ("Mean", f"{found.mean:,.2f}", "Images divided by identities."),
        *(
            (f"{quantile:.0%} quantile", f"{value:,.4g}", f"{quantile:.0%} have so many or fewer.")
            for quantile, value in found.quantiles.items()
            if quantile > 0.5
        ),
        ("Most", f"{found.maximum:,}", "Images of the identity with most."),
        *(
            (f"Top {part:.0%}", f"{share:.1%}", "Their share of all images.")
            for part, share in found.heads.items()
        ),
        ("Gini", f"{found.gini:.3f}", "0: all have equally many; towards 1: one has them all."),
    ]
    return rows


def _part(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"


def _files(overview: Overview) -> list[tuple[str, str]]:
    sizes = overview.sizes.most_common(3)
    shown = ", ".join(f"{w} x {h} ({count:,})" for (w, h), count in sizes)
    if len(overview.sizes) > 3:
        shown += f" and {len(overview.sizes) - 3:,} more"
    facts = [
        ("Sizes in pixels", shown or "none readable"),
        ("Formats", _listed(overview.formats)),
        ("Colour", _listed(overview.colours)),
    ]
    if len(overview.file_bytes):
        low, middle, high = np.quantile(overview.file_bytes, [0.05, 0.5, 0.95])
        facts.append(
            (
                "Bytes",
                f"{in_units(float(overview.file_bytes.sum()))} in all; {in_units(middle)} for the "
                f"median image, {in_units(low)} to {in_units(high)} for nine in ten",
            )
        )
    if overview.unreadable:
        place, reason = overview.unreadable[0]
        number = len(overview.unreadable)
        facts.append(("Unreadable", f"{number:,} images, first {place}: {reason}"))
    return facts


def _listed(counter: Counter[str]) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in counter.most_common()) or "none"


def _samples(source: FaceSource, seed: int) -> list[dict[str, str]]:
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(source), min(_SAMPLES, len(source)), replace=False))
    return [_face(source, int(index)) for index in chosen]


def _face(source: FaceSource, index: int) -> dict[str, str]:
    return {
        "picture": picture(source, index, 96),
        "name": source.identities[source.labels[index]],
        "place": sources.place(source, index),
    }


def _extremes(source: FaceSource, overview: Overview) -> list[dict[str, Any]]:
    order = np.argsort(-overview.counts, kind="stable")
    order = order[overview.counts[order] > 0]
    number = min(_EXTREMES, len(order) // 2) or 1
    ends = [("Most images", order[:number])]
    if len(order) > 1:
        ends.append(("Fewest images", order[::-1][:number]))
    return [
        {"title": title, "people": [_person(source, overview, int(label)) for label in labels]}
        for title, labels in ends
    ]


def _person(source: FaceSource, overview: Overview, label: int) -> dict[str, Any]:
    images = np.flatnonzero(source.labels == label)
    spread = np.unique(np.linspace(0, len(images) - 1, _STRIP).round().astype(int))
    return {
        "name": source.identities[label],
        "count": int(overview.counts[label]),
        "faces": [_face(source, int(index)) for index in images[spread]],
    }


def _left_out(overview: Overview) -> list[dict[str, Any]]:
    kinds = Counter(item.kind for item in overview.left_out)
    return [
        {
            "kind": kind,
            "count": count,
            "some": [item for item in overview.left_out if item.kind == kind][:_LISTED],
        }
        for kind, count in kinds.most_common()
    ]


# The page of a check: each kind of problem with example pictures, in one file.

_PICTURES = 12
_ROWS = 200


def write_check_page(
    path: str | os.PathLike[str], source: FaceSource, result: CheckResult, *, name: str
) -> None:
    """Writes one HTML page that needs no network and no other file.

    The file is complete or absent. Of each kind of problem up to 12 are shown with their pictures
    and up to 200 are listed; what a model found starts with the surest.

    Args:
        path: The file to write.
        source: The source that was checked.
        result: What was found.
        name: What the page calls the source.
    """
    counts = result.counts()
    write_page(
        path,
        "check.html.j2",
        name=name,
        result=result,
        headline=_headline_check_page(result),
        severities={
            severity: sum(n for kind, n in counts.items() if KINDS[kind].severity == severity)
            for severity in ("error", "warning", "note")
        },
        sections=[_section(source, result, kind, count) for kind, count in counts.items()],
    )


def _headline_check_page(result: CheckResult) -> str:
    failed = result.images - result.decoded
    images = f"{_images(result.decoded)} decoded"
    images += f", {failed:,} could not be" if failed else ""
    if result.left_out:
        images += f"; {_images(result.left_out)} left out when the source was opened"
    if not result.problems:
        end = "nothing was found."
    elif not result.errors:
        end = "none must be left out of a training."
    else:
        # One image may have several errors, and an archive of images may have one.
        errors = [p for p in result.problems if p.severity == "error"]
        bad = len({p.place for p in errors if KINDS[p.problem].of_image})
        other = len({p.place for p in errors if not KINDS[p.problem].of_image})
        found = [_count(bad, "image")] if bad else []
        found += [_count(other, "archive")] if other else []
        verb = "has an error" if bad + other == 1 else "have an error"
        end = f"{' and '.join(found)} {verb} and must not be trained on."
    judged = f" {_sentence(result.judgement.summary())}" if result.judgement else ""
    return f"{images}; {end}{judged}"


def _images(number: int) -> str:
    return f"{_count(number, 'image')} {'was' if number == 1 else 'were'}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _sentence(line: str) -> str:
    return f"{line[0].upper()}{line[1:]}."


def _section(source: FaceSource, result: CheckResult, kind: str, count: int) -> dict[str, Any]:
    problems = [problem for problem in result.problems if problem.problem == kind]
    surest = sorted(problems, key=lambda p: -(p.confidence or 0))
    return {
        "kind": kind,
        "severity": KINDS[kind].severity,
        "meaning": KINDS[kind].meaning,
        "count": count,
        "examples": _examples(source, surest),
        "listed": problems[:_ROWS],
    }


def _examples(source: FaceSource, problems: list[Problem]) -> list[dict[str, Any]]:
    examples: list[dict[str, Any]] = []
    shown: set[frozenset[int | None]] = set()
    for problem in problems:
        # Both images of a pair may be listed; the pair is shown once.
        pair = frozenset({problem.index, problem.other})
        if problem.index is None or (problem.other is not None and pair in shown):
            continue
        shown.add(pair)
        pictures = [
            _face_check_page(source, index)
            for index in (problem.index, problem.other)
            if index is not None
        ]
        if pictures[0]["picture"]:
            examples.append({"problem": problem, "faces": pictures})
        if len(examples) == _PICTURES:
            break
    return examples


def _face_check_page(source: FaceSource, index: int) -> dict[str, str]:
    return {
        "picture": picture(source, index),
        "name": source.identities[source.labels[index]],
        "place": sources.place(source, index),
    }
