"""An evaluation as a page."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from centerarc.evaluation.identification.rates import tpir_at_fpir
from centerarc.evaluation.protocols.outcome import Evaluation, Identified, JudgedImages
from centerarc.evaluation.report.data import FaceSample, Image, ReportData, SearchCurves
from centerarc.evaluation.report.face_map import MAX_FACES, MAX_IDENTITIES
from centerarc.evaluation.report.page import write_report

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
