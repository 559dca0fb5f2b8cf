"""The page of a gallery's calibration: its thresholds, what they promise, and its weak spots."""

import os
from typing import Any

import numpy as np

from centerarc.data.decode import read_image
from centerarc.evaluation.misfits import Misfit
from centerarc.evaluation.open_set import OperatingPoint
from centerarc.evaluation.people_rates import Rate
from centerarc.gallery import GalleryCalibration, Photo
from centerarc.report.charts import (
    Chart,
    axis,
    chart,
    lines,
    markers,
    numbers,
    percent_axis,
    percents,
)
from centerarc.report.numbers import small_percent
from centerarc.report.rendering import data_uri, render, require_report_extra

# Pairs of people and photos that are shown, and names that are listed.
_SHOWN, _LISTED = 24, 200
_POINTS = 400
# Of a face's box, so much more on each side is shown.
_ROUND = 0.25


def write_gallery_page(
    path: str | os.PathLike[str], found: GalleryCalibration, *, name: str
) -> None:
    """Writes one HTML page that needs no network and no other file.

    The file is complete or absent. Pictures are read from where the photos were when they were
    enrolled; one that is not there any more is marked.

    Args:
        path: The file to write.
        found: What was measured.
        name: What the page calls the gallery.

    Raises:
        ImportError: plotly is missing.
    """
    require_report_extra(["plotly"])
    measured = found.found
    render(
        path,
        "gallery.html.j2",
        [_scores(found), _sizes(found)],
        name=name,
        found=measured,
        limits=found.thresholds,
        chosen=found.chosen,
        tail=measured.tail,
        rule=measured.margin_rule,
        fpir=None if found.chosen is None else rate_words(found.chosen.fpir),
        confidence=f"{100 * measured.confidence:g}%",
        rows=_rows(found),
        alike=[
            {
                "faces": [_face(found, pair.first_photo), _face(found, pair.second_photo)],
                "detail": f"{pair.score:.3f}",
            }
            for pair in found.weak.alike[:_SHOWN]
        ],
        misfits=[
            {"faces": [_face(found, one.photo)], "detail": _misfit(found, one)}
            for one in found.weak.misfits[:_SHOWN]
        ],
        misfit_count=len(found.weak.misfits),
        thin=[found.names[int(one)] for one in found.weak.thin[:_LISTED]],
        thin_count=len(found.weak.thin),
    )


def _misfit(found: GalleryCalibration, one: Misfit) -> str:
    photo = f"photo {found.photos[one.photo].id}"
    if one.reason == "rival":
        rival = found.names[int(one.rival_person)]
        return f"{photo}: {one.rival:.3f} to {rival}, {one.genuine:.3f} to their own"
    return f"{photo}: {one.genuine:.3f} to their own, usually {one.usual:.3f}"


def _face(found: GalleryCalibration, row: int) -> dict[str, str]:
    photo = found.photos[row]
    return {
        "picture": _picture(photo),
        "name": found.names[photo.person],
        "place": f"photo {photo.id}: {photo.place}" if photo.place else f"photo {photo.id}",
    }


def _picture(photo: Photo) -> str:
    try:
        image = read_image(photo.place)
    except (OSError, ValueError):
        return ""
    if box := photo.facts.get("box"):
        x, y, width, height = box
        side = max(width, height) * (1 + 2 * _ROUND)
        left, top = x + width / 2 - side / 2, y + height / 2 - side / 2
        edges = [int(max(0, round(edge))) for edge in (top, top + side, left, left + side)]
        part = image[edges[0] : edges[1], edges[2] : edges[3]]
        image = part if part.size else image
    return data_uri(np.ascontiguousarray(image))


def rate_words(rate: Rate) -> tuple[str, str, str]:
    """A rate and the ends of its interval, in per cent to a millionth."""
    low, value, high = (small_percent(round(x, 8)) for x in (rate.low, rate.value, rate.high))
    return value, low, high


def _rows(found: GalleryCalibration) -> list[tuple[str, str, str, str]]:
    """Name, value, interval and what it says, of all numbers."""
    measured, rows = found.found, []

    def add(name: str, rate: Rate | None, how: str) -> None:
        if rate is None:
            rows.append((name, "not measurable", "", f"{how} No one has two photos."))
        else:
            value, low, high = rate_words(rate)
            rows.append((name, value, f"{low} to {high}", how))

    def point(label: str, at: OperatingPoint) -> None:
        how = f"At {at.threshold:.3f}" + (f" and {at.margin:.3f} ahead" if at.margin else "")
        add(f"FPIR, {label}", at.fpir, f"{how}: strangers' photos that get a name.")
        add(f"FNIR, {label}", at.fnir, f"{how}: enrolled people's photos without the right name.")
        add(f"not recognized, {label}", at.not_recognized, "Of these: without any name.")
        add(f"wrong person, {label}", at.wrong_person, "Of these: with another person's name.")

    point("accept", measured.accept if found.chosen is None else found.chosen)
    if measured.at_fnir is not None:
        point(f"for {small_percent(measured.wanted_fnir)} of the enrolled", measured.at_fnir)
    if found.thresholds.reject is not None:
        how = f"Between {found.thresholds.lower:.3f} and {found.thresholds.accept:.3f}"
        add("unsure, strangers", measured.unsure_strangers, f"{how}: strangers' photos.")
        add("unsure, enrolled", measured.unsure_enrolled, f"{how}: enrolled people's photos.")
    if (rule := measured.margin_rule) is not None and rule.margin:
        gain = f"{100 * rule.gain_low:.2f} to {100 * rule.gain_high:.2f}"
        said = "more" if rule.helps else "not shown to be more"
        rows.append(
            (
                "gain of a margin",
                f"{100 * rule.gain:.2f} points",
                gain,
                f"If the best person also had to be {rule.margin:.3f} ahead of the second: "
                f"enrolled photos recognized at the same FPIR, {said} than by a threshold alone. "
                "Measured on people who had no part in choosing it.",
            )
        )
    return rows


def _scores(found: GalleryCalibration) -> Chart:
    """Shares of strangers above, and of enrolled people below, each score."""
    left_out = found.left_out
    traces = []
    enrolled = left_out.first[left_out.judged]
    right = np.where(left_out.right[left_out.judged], enrolled, -np.inf)
    for name, scores, color, above in (
        ("strangers with a name", left_out.rival, "--second", True),
        ("enrolled without theirs", right, "--accent", False),
    ):
        if not len(scores):
            continue
        ordered = np.sort(scores)
        finite = ordered[np.isfinite(ordered)]
        at = np.unique(np.quantile(finite, np.linspace(0, 1, _POINTS))) if len(finite) else finite
        below = np.searchsorted(ordered, at, side="left") / len(ordered)
        share = 1 - below if above else below
        hover = "%{y:.3g}% at %{x:.3f}<extra></extra>"
        style: dict[str, Any] = {"line": {"width": 2.5, "dash": "solid" if above else "dash"}}
        trace = lines(numbers(at), percents(share), color, hovertemplate=hover, **style)
        traces.append({**trace, "name": name})
    limits = [("accept", found.thresholds.accept)]
    if found.thresholds.reject is not None:
        limits.append(("reject", found.thresholds.lower))
    rule = {"type": "line", "yref": "paper", "y0": 0, "y1": 1}
    stroke = {"color": "--ink", "width": 1.5, "dash": "dot"}
    shapes = [{**rule, "x0": x, "x1": x, "line": stroke} for _, x in limits]
    notes = [
        {
            **{"x": x, "y": 1, "yref": "paper", "text": f"{text} {x:.3f}", "showarrow": False},
            **{"xanchor": "left", "yanchor": "top", "xshift": 4, "yshift": -16 * number},
            "font": {"color": "--ink"},
        }
        for number, (text, x) in enumerate(limits)
    ]
    shares = percent_axis("share of photos", range=[0, 102])
    scored = axis("cosine similarity with the best person")
    return chart("scores", traces, scored, shares, shapes=shapes, annotations=notes)


def _sizes(found: GalleryCalibration) -> Chart:
    """The FPIR of the threshold in smaller and larger galleries."""
    traces = []
    for name, extrapolated, color, symbol in (
        ("measured", False, "--accent", "circle"),
        ("extrapolated", True, "--second", "circle-open"),
    ):
        points = [one for one in found.found.sizes if one.extrapolated == extrapolated]
        values = percents(one.fpir for one in points)
        error = {
            "type": "data",
            "symmetric": False,
            "array": percents(one.high - one.fpir for one in points),
            "arrayminus": percents(one.fpir - one.low for one in points),
            "color": color,
            "thickness": 1.5,
        }
        hover = "%{x:,} people: %{y:.3g}%<extra></extra>"
        dots = markers(
            [one.people for one in points],
            values,
            color,
            marker={"size": 9, "symbol": symbol},
            hovertemplate=hover,
            error_y=error,
        )
        traces.append({**dots, "name": name})
    people = sorted({one.people for one in found.found.sizes})
    across = axis(
        "people in the gallery",
        type="log",
        tickvals=people,
        ticktext=[f"{count:,}" for count in people],
    )
    return chart("sizes", traces, across, percent_axis("FPIR", rangemode="tozero"))
