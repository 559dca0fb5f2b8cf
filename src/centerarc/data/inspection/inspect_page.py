"""The page of an inspection: numbers, the long tail, samples and extremes in one file."""

import os
from collections import Counter
from importlib.util import find_spec
from typing import Any

import numpy as np

from centerarc.data import source as sources
from centerarc.data.inspection.charts import inspection_charts
from centerarc.data.inspection.overview import Overview
from centerarc.data.inspection.page import in_units, picture, script_json, write_page
from centerarc.data.source import FaceSource

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
