"""The page of one evaluation."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from centerarc.evaluation.identification import tpir_at_fpir
from centerarc.evaluation.protocols.judging import Evaluation, Identified, JudgedImages
from centerarc.evaluation.verification import VerificationReport
from centerarc.report.curves import Curve, curve_charts
from centerarc.report.numbers import (
    FaceSample,
    Image,
    ReportData,
    SearchCurves,
    headline,
    number_rows,
    search_rows,
    separability_rows,
)
from centerarc.report.people import (
    MAX_FACES,
    MAX_IDENTITIES,
    breakdown_parts,
    face_map,
    find_mistakes,
    identity_chart,
)
from centerarc.report.rendering import data_uri, render, require_report_extra
from centerarc.report.scores import (
    Step,
    kept_promise_chart,
    score_chart,
    threshold_rows,
    threshold_steps,
)
from centerarc.report.searches import search_charts, training_charts
from centerarc.report.words import with_sign

# The page of one model: numbers put into words, charts and pictures put into one file.

_STRIP_FACES = 14
_STRIP_PICTURE = 112


def write_report(path: str | os.PathLike[str], data: ReportData) -> None:
    """Write one self-contained HTML page; it needs no network and no other file.

    The file is complete or absent. The page shows the numbers with their intervals and protocol,
    ROC and DET, the score histograms with a threshold that can be moved, what calibrated thresholds
    are worth, identification, breakdowns, a map of faces, the hardest mistakes, the curves of
    training and the recipe, as far as ``data`` holds them.

    Args:
        path: the file to write, usually ``*.html``.
        data: what to show.

    Raises:
        ImportError: the extra ``report`` is not installed.
        ValueError: an embedding or a score that is not finite.
        OSError: the file cannot be written.
    """
    require_report_extra()
    report = data.verification
    training = training_charts(data.history, data.validation)
    scores, curves, promise, mistakes, steps = None, [], None, None, None
    marks: list[Step] = []
    if report is not None:
        scores = score_chart(data.scores, data.same, report.threshold)
        steps, marks = threshold_steps(data.scores, data.same, report)
        steps["marks"] = [mark.to_dict() for mark in marks]
        curves = curve_charts({"": Curve.of(data.scores, data.same, report)}, marks[0])
        promise = kept_promise_chart(report, data.held_out)
        mistakes = find_mistakes(data)
    search = [] if data.search is None else search_charts({"": data.search})
    identities = None if data.separability is None else identity_chart(data.separability)
    breakdowns = breakdown_parts(data.breakdowns)
    faces = face_map(data.faces) if data.faces is not None else None
    single = [scores, promise, identities, faces.chart if faces else None]
    charts = [
        *(chart for chart in single if chart is not None),
        *(chart for part in breakdowns for chart in part.charts),
        *(*curves, *search, *training),
    ]
    render(
        path,
        "page.html.j2",
        charts,
        pictures=faces.pictures if faces else [],
        steps=steps,
        data=data,
        report=report,
        kfold=report is not None and report.protocol == "k-fold",
        fold_accuracy=[] if report is None else _folds(report.fold_accuracy),
        headline=headline(data),
        start=_start_words(report, marks),
        rows=[] if report is None else number_rows(report),
        threshold_rows=[] if report is None else threshold_rows(report, data.held_out),
        scores=scores,
        curves=curves,
        promise=promise,
        search=search,
        search_rows=[] if data.search is None else search_rows(data.search.report),
        identities=identities,
        identity_rows=[] if data.separability is None else separability_rows(data.separability),
        breakdowns=breakdowns,
        training=training,
        map=faces.chart if faces else None,
        strip=_strip(data.faces),
        mistakes=mistakes,
    )


def _start_words(report: VerificationReport | None, marks: list[Step]) -> str:
    """How the answers at the slider's first threshold go with the accuracy above, in a sentence."""
    if report is None or report.protocol != "k-fold":
        return ""
    at = marks[0]
    right = report.num_genuine * at.tar + report.num_impostor * (1 - at.far)
    right /= report.num_genuine + report.num_impostor
    return (
        f"The accuracy of {with_sign(float(report.accuracy.value or 0.0))} is not of one "
        "threshold: each fold is judged at the one that is best on the other folds. The slider "
        f"begins at their mean, {at.threshold:.3f}, where {with_sign(right)} of the answers to all "
        "pairs are right."
    )


def _folds(accuracy: dict[int, float]) -> list[tuple[int, str]]:
    return [(fold, with_sign(value)) for fold, value in accuracy.items()]


def _strip(faces: FaceSample | None) -> list[tuple[str, str]]:
    """Name and picture of one face of each of the first people."""
    if faces is None:
        return []
    identities, first = np.unique(faces.labels, return_index=True)
    return [
        (faces.names[int(label)], data_uri(faces.images[int(i)], _STRIP_PICTURE))
        for label, i in list(zip(identities, first, strict=True))[:_STRIP_FACES]
    ]


# An evaluation as a page.

_FPIRS_PER_DECADE = 20
# What to call counts whose names do not say what is counted.
_COUNTED = {
    "gallery_images": "images in the gallery",
    "probes_images": "images of probes",
    "distractors_images": "images of distractors",
}
# Weights in a run folder all have the same names.
_RUN_WEIGHTS = ("best.safetensors", "last.safetensors")


def write_evaluation_page(
    path: str | os.PathLike[str], evaluation: Evaluation, *, title: str = ""
) -> None:
    """Write the page of an evaluation; see :func:`centerarc.evaluation.report.write_report`.

    Args:
        path: the file to write.
        evaluation: what was found.
        title: the page's heading; "Evaluation of" the model by default.

    Raises:
        ImportError: the extra ``report`` is not installed.
        ValueError: an image that is to be shown cannot be read.
        OSError: the file cannot be written.
    """
    pairs, images = evaluation.verification, evaluation.images
    picture = images.picture

    def pair_images(number: int) -> tuple[Image, Image]:
        assert pairs is not None
        assert picture is not None
        return picture(int(pairs.index[0][number])), picture(int(pairs.index[1][number]))

    data = ReportData(
        title=title or f"Evaluation of {model_name(evaluation.model)}",
        verification=None if pairs is None else pairs.report,
        scores=np.zeros(0) if pairs is None else pairs.scores,
        same=np.zeros(0, dtype=np.bool_) if pairs is None else pairs.same,
        dataset=evaluation.dataset,
        pair_names=() if pairs is None else _PairNames(evaluation),
        pair_images=None if pairs is None or picture is None else pair_images,
        faces=_faces(images),
        protocol=_facts(evaluation),
        command=evaluation.command,
        held_out={} if pairs is None else pairs.held_out,
        breakdowns={} if pairs is None else pairs.breakdowns,
        search=None
        if evaluation.identification is None
        else search_curves(evaluation.identification),
        separability=evaluation.separability,
        notes=[f"{note[:1].upper()}{note[1:]}." for note in evaluation.notes],
        pictures_note=_pictures_note(evaluation),
    )
    write_report(path, data)


def model_name(model: dict[str, object]) -> str:
    """What to call a model: its file, or the folder of its run."""
    path = Path(str(model.get("file", "embeddings")))
    if path.name in _RUN_WEIGHTS:
        return path.resolve().parent.name
    return path.name


def model_words(model: dict[str, object]) -> str:
    """Which model it is and what becomes of an image, in a sentence or two."""
    words = str(model.get("file", "embeddings"))
    digest = model.get("sha256", model.get("model"))
    if model.get("kind") == "embeddings":
        words += ", a file of embeddings"
        words += f", made by a model with SHA-256 {digest}" if digest else " by an unknown model"
    elif digest:
        words += f", SHA-256 {digest}"
    takes = model.get("preprocessing")
    if isinstance(takes, dict):
        size = takes.get("image_size")
        mean, std = (_plain(takes.get(name)) for name in ("mean", "std"))
        channels = str(takes.get("channels", "rgb")).upper()
        scaled = f"(x \u2212 {mean}) / {std}".replace(" ", "\u00a0")
        words += f". Input {size} x {size} {channels}, {scaled}"
    if "mirror" in model:
        words += "; features of image and mirror image summed" if model["mirror"] else ""
    return f"{words}."


def search_curves(identified: Identified) -> SearchCurves:
    """The curves of searches, the mean over galleries; FPIRs as far as the strangers carry them."""
    fewest = min(int((~search.mated).sum()) for search in identified.searches)
    steps = int(_FPIRS_PER_DECADE * np.log10(fewest) + 1e-9) if fewest else 0
    fpirs = [10.0 ** (-step / _FPIRS_PER_DECADE) for step in range(1, steps + 1)][::-1]
    tpirs = [
        np.mean([tpir_at_fpir(search, fpir).tpir for search in identified.searches])
        for fpir in fpirs
    ]
    return SearchCurves(identified.report, identified.curve, np.array(fpirs), np.array(tpirs))


class _PairNames(Sequence[tuple[str, str]]):
    """What to call the two sides of a pair, made when asked for: the people where there are
    pictures to tell them by, else the images."""

    def __init__(self, evaluation: Evaluation) -> None:
        assert evaluation.verification is not None
        self._pairs = evaluation.verification
        self._images = evaluation.images

    def __len__(self) -> int:
        return int(self._pairs.same.size)

    @overload
    def __getitem__(self, number: int) -> tuple[str, str]: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[tuple[str, str]]: ...
    def __getitem__(self, number: int | slice) -> tuple[str, str] | Sequence[tuple[str, str]]:
        if isinstance(number, slice):
            return [self[at] for at in range(*number.indices(len(self)))]
        a, b = (self._name(int(side[number])) for side in self._pairs.index)
        return a, b

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return (self[number] for number in range(len(self)))

    def _name(self, image: int) -> str:
        labels = self._images.labels
        if labels is None or self._images.picture is None:
            return self._images.places[image]
        return self._images.identities[int(labels[image])]


def _faces(images: JudgedImages) -> FaceSample | None:
    """Faces for the map: of the people with the most images; None without pictures or people."""
    if images.picture is None or images.labels is None:
        return None
    people, count = np.unique(images.labels, return_counts=True)
    shown = people[np.argsort(-count, kind="stable")][:MAX_IDENTITIES]
    each = max(1, MAX_FACES // max(1, shown.size))
    chosen = np.concatenate([np.flatnonzero(images.labels == label)[:each] for label in shown])
    return FaceSample(
        images=[images.picture(int(number)) for number in chosen],
        labels=images.labels[chosen],
        names=images.identities,
        embeddings=images.embedding[chosen],
    )


def _pictures_note(evaluation: Evaluation) -> str:
    if evaluation.verification is None:
        return ""
    if not any(evaluation.images.places):
        return "Pictures and names were left out of this page."
    if evaluation.images.picture is None:
        one = " Of each template one image is named." if evaluation.templates else ""
        return f"Embeddings come without pictures; --images with their folder shows them.{one}"
    if evaluation.templates:
        return "Of each template one image is shown; the scores are of the whole templates."
    return ""


def _facts(evaluation: Evaluation) -> list[tuple[str, str]]:
    """How the numbers came about, as pairs of a word and a sentence."""
    protocol = str(evaluation.data["protocol"])
    facts = [
        ("Model", model_words(evaluation.model)),
        ("Protocol", f"{protocol[:1].upper()}{protocol[1:]}."),
        ("Judged on", _data_words(evaluation)),
    ]
    if evaluation.templates:
        facts.append(("Templates", str(evaluation.templates["convention"])))
    if evaluation.verification is not None:
        note = evaluation.verification.people_note
        facts.append(("People", f"{note[:1].upper()}{note[1:]}."))
    return facts


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        shown = [f"{number:g}" for number in value]
        return shown[0] if len(set(shown)) == 1 else f"({', '.join(shown)})"
    return f"{value:g}" if isinstance(value, float | int) else str(value)


def _data_words(evaluation: Evaluation) -> str:
    shown = [
        f"{_COUNTED.get(name, name.replace('_', ' '))}: "
        f"{f'{value:,}' if isinstance(value, int) else value}"
        for name, value in evaluation.data.items()
        if name not in ("protocol", "folds", "files", "people_trained_on") and value is not None
    ]
    return " · ".join(shown)
