"""The page of one evaluation."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.all_pairs_report import AllPaired, AllPairsReport
from centerarc.evaluation.groups import Breakdown
from centerarc.evaluation.identification import IdentificationReport
from centerarc.evaluation.intervals import Estimate
from centerarc.evaluation.protocols.judging import Evaluation, JudgedImages
from centerarc.evaluation.scores import ScoreArray
from centerarc.evaluation.separability import Separability
from centerarc.evaluation.verification import HeldOutFar, VerificationReport
from centerarc.report.charts import Chart
from centerarc.report.curves import (
    Curve,
    SearchCurves,
    all_pairs_chart,
    curve_charts,
    own_thresholds_chart,
    search_charts,
    training_charts,
)
from centerarc.report.numbers import (
    all_pairs_rows,
    interval_words,
    one_in,
    percent,
    search_rows,
    sentence,
    separability_rows,
    small_percent,
    table_cells,
    threshold_rows,
    verification_rows,
    with_sign,
)
from centerarc.report.people import (
    FaceSample,
    Mistakes,
    breakdown_parts,
    face_map,
    faces_to_map,
    find_mistakes,
    find_wrong_people,
    identity_chart,
)
from centerarc.report.rendering import Image, data_uri, render, require_report_extra
from centerarc.report.scores import Step, kept_promise_chart, score_chart, threshold_steps

_STRIP_FACES = 14


@dataclass(frozen=True)
class ReportData:
    """Everything that a report shows; what is left empty is left out of the page.

    Attributes:
        title: the page's heading.
        verification: the numbers of 1:1; None for a page on identification alone.
        scores: (P,) cosine of each pair.
        same: (P,) whether each pair is genuine.
        dataset: what was judged, for a sentence: "LFW, folds 7 and 8".
        pair_names: the two people of each pair, or what gives them by its number.
        pair_images: gives the two images of a pair by its number; asked for the few shown only.
        history: training rows in order, with `step` and any of `arcface_loss`, `center_loss`,
            `target_cosine` and `accuracy`; other keys are ignored.
        validation: validation rows in order, with `step` and any of `auc`, `accuracy` and
            `best_accuracy`; other keys are ignored.
        faces: faces for the map and the strip.
        protocol: further facts on how the numbers came about: (name, sentence).
        config: the recipe as YAML.
        command: what repeats the run.
        held_out: what calibrated thresholds did on held-out folds, by FAR.
        breakdowns: by column.
        search: 1:N.
        separability: how tight and how far apart people are.
        all_pairs: all pairs of some people's images.
        notes: what should be known of the numbers, in sentences.
        pictures_note: what the pictures of pairs are of, or how to have some, in a sentence.
        wrong_people: probes for which another person comes first, from `find_wrong_people`.

    Raises:
        ValueError: none of `verification`, `search` and `all_pairs` is given.
    """

    title: str
    verification: VerificationReport | None
    scores: ScoreArray
    same: npt.NDArray[np.bool_]
    dataset: str
    pair_names: Sequence[tuple[str, str]] | Callable[[int], tuple[str, str]] = ()
    pair_images: Callable[[int], tuple[Image, Image]] | None = None
    history: Sequence[Mapping[str, Any]] = ()
    validation: Sequence[Mapping[str, Any]] = ()
    faces: FaceSample | None = None
    protocol: Sequence[tuple[str, str]] = ()
    config: str = ""
    command: str = ""
    held_out: Mapping[float, HeldOutFar] = field(default_factory=dict)
    breakdowns: Mapping[str, Breakdown] = field(default_factory=dict)
    search: SearchCurves | None = None
    separability: Separability | None = None
    all_pairs: AllPaired | None = None
    notes: Sequence[str] = ()
    pictures_note: str = ""
    wrong_people: Mistakes | None = None

    def __post_init__(self) -> None:
        if self.verification is None and self.search is None and self.all_pairs is None:
            raise ValueError("a report needs verification, search or all_pairs, got none of them")


def write_report(path: str | os.PathLike[str], data: ReportData) -> None:
    """Write one self-contained HTML page; it needs no network and no other file.

    The file is complete or absent. The page shows the numbers with their intervals and protocol,
    ROC and DET, the score histograms with a threshold that can be moved, what calibrated thresholds
    are worth, identification, breakdowns, a map of faces, the hardest mistakes, the curves of
    training and the recipe, as far as `data` holds them.

    Args:
        path: the file to write, usually `*.html`.
        data: what to show.

    Raises:
        ImportError: the extra `report` is not installed.
        ValueError: an embedding or a score that is not finite.
        OSError: the file cannot be written.
    """
    require_report_extra()
    charts: list[Chart] = []
    steps: dict[str, Any] | None = None
    marks: list[Step] = []
    mistakes = None
    report = data.verification
    if report is not None:
        pairs = data.scores, data.same
        steps, marks = threshold_steps(*pairs, report)
        charts += curve_charts({"": Curve.of(*pairs, report)}, marks[0])
        charts += [score_chart(*pairs, report.threshold)]
        charts += kept_promise_chart(report, data.held_out)
        names = data.pair_names
        if isinstance(names, Sequence):
            names = names.__getitem__ if names else lambda _: ("", "")
        mistakes = find_mistakes(*pairs, report.threshold, names, data.pair_images)
    if data.search is not None:
        charts += search_charts({"": data.search})
    if data.all_pairs is not None:
        charts += [all_pairs_chart({"": data.all_pairs}), own_thresholds_chart(data.all_pairs)]
    if data.separability is not None:
        charts.append(identity_chart(data.separability))
    faces = None if data.faces is None else face_map(data.faces)
    if faces is not None:
        charts.append(faces[0])
    breakdowns = breakdown_parts(data.breakdowns)
    training = training_charts(data.history, data.validation)
    render(
        path,
        "evaluation.html.j2",
        [*charts, *training, *(chart for part in breakdowns for chart, _, _ in part.charts)],
        pictures=[] if faces is None else faces[1],
        steps=steps,
        data=data,
        report=report,
        kfold=report is not None and report.protocol == "k-fold",
        headline=headline(data),
        start=_start_words(report, marks),
        rows=table_cells([] if report is None else verification_rows(report)),
        threshold_rows=[] if report is None else threshold_rows(report, data.held_out),
        search_rows=table_cells([] if data.search is None else search_rows(data.search.report)),
        all_pairs_rows=table_cells(
            [] if data.all_pairs is None else all_pairs_rows(data.all_pairs.report)
        ),
        identity_rows=table_cells(
            [] if data.separability is None else separability_rows(data.separability)
        ),
        breakdowns=breakdowns,
        mistakes=mistakes,
        strip=_strip(data.faces),
        training=training,
    )


def _start_words(report: VerificationReport | None, marks: list[Step]) -> str:
    """How the answers at the slider's first threshold go with the accuracy above, in a sentence."""
    if report is None or report.protocol != "k-fold":
        return ""
    at = marks[0]
    right = report.num_genuine * at.tar + report.num_impostor * (1 - at.far)
    right /= report.num_genuine + report.num_impostor
    return (
        f"The accuracy of {with_sign(_known(report.accuracy))} does not come from a single "
        "threshold: each fold is judged at the threshold that is best on the other folds. The "
        f"slider starts at their mean, {at.threshold:.3f}, where {with_sign(right)} of the "
        "answers to all pairs are right."
    )


def _strip(faces: FaceSample | None) -> list[tuple[str, str]]:
    """Name and picture of one face of each of the first people."""
    if faces is None:
        return []
    identities, first = np.unique(faces.labels, return_index=True)
    return [
        (faces.names[int(label)], data_uri(faces.images[int(at)]))
        for label, at in list(zip(identities, first, strict=True))[:_STRIP_FACES]
    ]


# The headline.

# The rate at which a model without folds is judged: as low as this if the pairs carry it.
_HEADLINE_FAR = 1e-4
_ALL_PAIRS_FAR = 1e-3
# A larger share of one kind of pairs makes the accuracy a measure of that share.
_BALANCED = 0.6


@dataclass(frozen=True)
class Headline:
    """The number that stands first, its name, what it means and rests on, and what else matters."""

    value: str
    what: str
    interval: str
    sentence: str
    counts: str
    further: tuple[str, ...] = ()


def headline(data: ReportData) -> Headline:
    """The number that says most, and what it means in a sentence."""
    search = None if data.search is None else _rank_headline(data.search.report)
    report = data.verification
    if report is None:
        if search is not None:
            return search
        assert data.all_pairs is not None  # a report has one of the three
        return _all_pairs_headline(data.all_pairs.report)
    counts = f"{report.num_genuine:,} pairs of one person and {report.num_impostor:,} pairs of two"
    if report.num_people:
        counts += f", {report.num_people:,} people in all"
    found = _verification_headline(report, counts)
    if search is None:
        return found
    return replace(found, further=(*found.further, search.sentence))


def _verification_headline(report: VerificationReport, counts: str) -> Headline:
    tar = report.tar_at_far.get(_HEADLINE_FAR)
    kfold = report.protocol == "k-fold"
    if not kfold and tar is not None and tar.value is not None:
        text = (
            f"Of 100 pairs of one person {percent(tar.value, 1)} are accepted at a threshold that "
            f"accepts at most {one_in(_HEADLINE_FAR)} pairs of two people"
        )
        return _headline(tar, f"TAR at FAR {small_percent(_HEADLINE_FAR)}", text, counts)
    more = max(report.num_genuine, report.num_impostor)
    share = more / (report.num_genuine + report.num_impostor)
    constant = "always giving the same answer would be right in 50.0"
    if report.num_genuine != report.num_impostor:
        answer = "one person" if report.num_genuine == more else "two people"
        constant = f"always answering “{answer}” would be right in {percent(share, 1)}"
    optimistic = "The threshold was chosen on these very pairs, so expect less on others."
    if share > _BALANCED:
        text = (
            "A pair of one person scores higher than a pair of two people in "
            f"{percent(_known(report.auc), 1)} of 100 cases, where chance gives 50.0"
        )
        accuracy = (
            f"The {'accuracy' if kfold else 'best accuracy'} is "
            f"{with_sign(_known(report.accuracy))}, but {constant} of 100 cases."
        )
        further = accuracy if kfold else f"{accuracy} {optimistic}"
        return _headline(report.auc, "AUC", text, counts, (further,))
    text = (
        "Shown two pictures, the model correctly says whether they show the same person in "
        f"{percent(_known(report.accuracy), 1)} of 100 cases, where {constant}"
    )
    if kfold:
        return _headline(report.accuracy, "accuracy", text, counts)
    found = _headline(report.accuracy, "best accuracy (optimistic)", text, counts)
    return replace(found, sentence=f"{found.sentence} {optimistic}")


def _all_pairs_headline(report: AllPairsReport) -> Headline:
    counts = (
        f"{report.num_genuine:,} pairs of one person and {report.num_impostor:,} of two, all pairs "
        f"of {report.num_images:,} images of {report.num_people:,} people, who weigh the same"
    )
    tar = report.tar_at_far.get(_ALL_PAIRS_FAR)
    if tar is None or tar.value is None:
        text = (
            "A pair of one person scores higher than a pair of two people in "
            f"{percent(_known(report.auc), 1)} of 100 cases, where chance gives 50.0"
        )
        return _headline(report.auc, "AUC", text, counts)
    text = (
        f"Of 100 pairs of one person {percent(tar.value, 1)} are accepted at a threshold that "
        f"accepts at most {one_in(_ALL_PAIRS_FAR)} pairs of two people"
    )
    return _headline(tar, f"TAR at FAR {small_percent(_ALL_PAIRS_FAR)}", text, counts)


def _rank_headline(report: IdentificationReport) -> Headline:
    rank = min(report.cmc)
    share = report.cmc[rank]
    place = "comes first" if rank == 1 else f"is among the first {rank}"
    people = f"{report.gallery_people[0]:,} people"
    text = (
        f"Looked up among {people}, the right person {place} for {percent(_known(share), 1)} of "
        "100 pictures"
    )
    counts = f"{report.mated[0]:,} pictures of people who are there"
    if report.nonmated[0]:
        counts += f", {report.nonmated[0]:,} of strangers"
    if report.distractors[0]:
        counts += f"; {report.distractors[0]:,} of the {people} are distractors"
    return _headline(share, f"rank {rank}", text, counts)


def _headline(
    estimate: Estimate, what: str, text: str, counts: str, further: tuple[str, ...] = ()
) -> Headline:
    if estimate.interval is not None:
        low, high = percent(estimate.interval.low, 1), percent(estimate.interval.high, 1)
        text += f"; with other people of this kind it would plausibly be between {low} and {high}"
    value, interval = percent(_known(estimate)), interval_words(estimate.interval)
    return Headline(value, what, interval, f"{text}.", f"{counts}.", further)


def _known(estimate: Estimate) -> float:
    assert estimate.value is not None  # those that stand in a headline always have a value
    return estimate.value


# An evaluation as a page.

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
    """Write the page of an evaluation; see `write_report`.

    Args:
        path: the file to write.
        evaluation: what was found.
        title: the page's heading; "Evaluation of" the model by default.

    Raises:
        ImportError: the extra `report` is not installed.
        ValueError: an image that is to be shown cannot be read.
        OSError: the file cannot be written.
    """
    shared: dict[str, Any] = {
        "title": title or f"Evaluation of {model_name(evaluation.model)}",
        "dataset": evaluation.dataset,
        "faces": _faces(evaluation.images),
        "protocol": _facts(evaluation),
        "command": evaluation.command,
        "separability": evaluation.separability,
        "all_pairs": evaluation.all_pairs,
        "notes": [sentence(note) for note in evaluation.notes],
        "pictures_note": _pictures_note(evaluation),
    }
    shared |= _training_of(Path(str(evaluation.model.get("file", ""))))
    if evaluation.identification is not None:
        shared["search"] = SearchCurves.of(evaluation.identification)
        shared["wrong_people"] = find_wrong_people(evaluation.identification, evaluation.images)
    pairs, images, picture = evaluation.verification, evaluation.images, evaluation.images.picture
    if pairs is None:
        none = np.zeros(0)
        return write_report(
            path, ReportData(verification=None, scores=none, same=none > 0, **shared)
        )
    first, second = pairs.index

    def pair_images(number: int) -> tuple[Image, Image]:
        assert picture is not None
        return picture(int(first[number])), picture(int(second[number]))

    def name(image: int) -> str:
        """The person where there are pictures to tell people by, else the image."""
        if images.labels is None or picture is None:
            return images.places[image]
        return images.identities[int(images.labels[image])]

    data = ReportData(
        verification=pairs.report,
        scores=pairs.scores,
        same=pairs.same,
        pair_names=lambda number: (name(int(first[number])), name(int(second[number]))),
        pair_images=None if picture is None else pair_images,
        held_out=pairs.held_out,
        breakdowns=pairs.breakdowns,
        **shared,
    )
    return write_report(path, data)


def _training_of(weights: Path) -> dict[str, Any]:
    """The learning curves and the recipe that a run wrote beside its weights."""
    found: dict[str, Any] = {}
    metrics, recipe = weights.parent / "metrics.jsonl", weights.parent / "config.yaml"
    if weights.suffix != ".safetensors" or not metrics.is_file():
        return found
    rows = []
    for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, RecursionError):  # of a run that was cut off
            rows.append(json.loads(line))
    for name, kind in (("history", "train"), ("validation", "validation")):
        found[name] = [row for row in rows if isinstance(row, dict) and row.get("kind") == kind]
    if recipe.is_file():
        found["config"] = recipe.read_text(encoding="utf-8", errors="replace")
    return found


def model_name(model: dict[str, object]) -> str:
    """What to call a model: its file, the folder of its run, or its repository on the Hub."""
    file = str(model.get("file", "embeddings"))
    if file.startswith("hf://"):
        return file.partition("@")[0]
    path = Path(file)
    return path.resolve().parent.name if path.name in _RUN_WEIGHTS else path.name


def model_words(model: dict[str, object]) -> str:
    """Which model it is and what becomes of an image, in a sentence or two."""
    words = str(model.get("file", "embeddings"))
    digest = model.get("sha256", model.get("model"))
    if model.get("kind") == "embeddings":
        words += ", a file of embeddings"
        words += f", made by a model with SHA-256 {digest}" if digest else " by an unknown model"
    elif digest:
        words += f", SHA-256 {digest}"
    if model.get("origin_sha256"):
        words += ", quantized or changed after it was made of the weights with SHA-256 "
        words += str(model["origin_sha256"])
    takes = model.get("preprocessing")
    if isinstance(takes, dict):
        side = takes.get("image_size")
        height, width = takes.get("crop") or (side, side)
        mean, std = (_plain(takes.get(name)) for name in ("mean", "std"))
        channels = str(takes.get("channels", "rgb")).upper()
        scaled = f"(x \u2212 {mean}) / {std}".replace(" ", "\u00a0")
        words += f". Input {height} x {width} {channels}, {scaled}"
    if model.get("mirror"):
        words += "; features of image and mirror image summed"
    if model.get("features"):
        words += f"; features: {model['features']}"
    return f"{words}."


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        shown = [f"{number:g}" for number in value]
        return shown[0] if len(set(shown)) == 1 else f"({', '.join(shown)})"
    return f"{value:g}" if isinstance(value, float | int) else str(value)


def _faces(images: JudgedImages) -> FaceSample | None:
    """Faces for the map; None without pictures or people."""
    if images.picture is None or images.labels is None:
        return None
    chosen = np.concatenate(faces_to_map(images.labels))
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
    hidden = ("protocol", "folds", "files", "people_trained_on", "names_alike", "same_pictures")
    judged_on = [
        f"{_COUNTED.get(name, name.replace('_', ' '))}: "
        f"{f'{value:,}' if isinstance(value, int) else value}"
        for name, value in evaluation.data.items()
        if name not in hidden and value is not None
    ]
    facts = [
        ("Model", model_words(evaluation.model)),
        ("Protocol", sentence(str(evaluation.data["protocol"]))),
        ("Judged on", " · ".join(judged_on)),
    ]
    if evaluation.templates:
        facts.append(("Templates", str(evaluation.templates["convention"])))
    if evaluation.verification is not None:
        facts.append(("People", sentence(evaluation.verification.people_note)))
    return facts
