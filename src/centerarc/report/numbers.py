"""What a report is made of, its headline and its tables of numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.groups import Breakdown
from centerarc.evaluation.identification import IdentificationReport
from centerarc.evaluation.intervals import Estimate
from centerarc.evaluation.scores import ScoreArray
from centerarc.evaluation.separability import Distribution, Separability
from centerarc.evaluation.verification import HeldOutFar, VerificationReport
from centerarc.report.words import (
    Row,
    interval_words,
    one_in,
    people_words,
    percent,
    rate_row,
    reason_words,
    small_percent,
    with_sign,
)

# What a report is made of.

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class FaceSample:
    """Faces for the map of embeddings and the strip of examples.

    Attributes:
        images: N images, each uint8 (H, W, 3) RGB.
        labels: (N,) identity of each.
        names: what to call each identity; ``names[label]``.
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


@dataclass(frozen=True)
class SearchCurves:
    """An identification result and its curves.

    Attributes:
        report: the numbers.
        cmc: (K,) closed-set share found within rank 1, 2, ..., K.
        fpir: (F,) open-set false positive rates.
        tpir: (F,) what is found at each of them.
    """

    report: IdentificationReport
    cmc: npt.NDArray[np.float64]
    fpir: npt.NDArray[np.float64]
    tpir: npt.NDArray[np.float64]


@dataclass(frozen=True)
class ReportData:
    """Everything that a report shows; what is left empty is left out of the page.

    Attributes:
        title: the page's heading.
        verification: the numbers of 1:1; None for a page on identification alone.
        scores: (P,) cosine of each pair.
        same: (P,) whether each pair is genuine.
        dataset: what was judged, for a sentence: "LFW, folds 7 and 8".
        pair_names: the two people of each pair.
        pair_images: gives the two images of a pair by its number; asked for the few shown only.
        history: training rows in order, with ``step`` and any of ``arcface_loss``,
            ``center_loss``, ``target_cosine`` and ``accuracy``; other keys are ignored.
        validation: validation rows in order, with ``step`` and any of ``auc``, ``accuracy`` and
            ``best_accuracy``; other keys are ignored.
        faces: faces for the map and the strip.
        protocol: further facts on how the numbers came about: (name, sentence).
        config: the recipe as YAML.
        command: what repeats the run.
        held_out: what calibrated thresholds did on held-out folds, by FAR.
        breakdowns: by column.
        search: 1:N.
        separability: how tight and how far apart people are.
        notes: what should be known of the numbers, in sentences.
        pictures_note: what the pictures of pairs are of, or how to have some, in a sentence.
    """

    title: str
    verification: VerificationReport | None
    scores: ScoreArray
    same: npt.NDArray[np.bool_]
    dataset: str
    pair_names: Sequence[tuple[str, str]] = ()
    pair_images: Callable[[int], tuple[Image, Image]] | None = None
    history: Sequence[Mapping[str, Any]] = ()
    validation: Sequence[Mapping[str, Any]] = ()
    faces: FaceSample | None = None
    protocol: Sequence[tuple[str, str]] = field(default=())
    config: str = ""
    command: str = ""
    held_out: Mapping[float, HeldOutFar] = field(default_factory=dict)
    breakdowns: Mapping[str, Breakdown] = field(default_factory=dict)
    search: SearchCurves | None = None
    separability: Separability | None = None
    notes: Sequence[str] = ()
    pictures_note: str = ""

    def __post_init__(self) -> None:
        if self.verification is None and self.search is None:
            raise ValueError("a report needs verification or search, got neither")


# The headline and the tables of numbers.

# The rate at which a model without folds is judged: as low as this if the pairs carry it.
_HEADLINE_FAR = 1e-4
# A larger share of one kind of pairs makes the accuracy a measure of that share.
_BALANCED = 0.6


@dataclass(frozen=True)
class Headline:
    """The number that stands first.

    Attributes:
        value: in per cent.
        what: its name.
        interval: "90.10 to 93.20", or "".
        sentence: what it means.
        counts: what it rests on.
        further: sentences on what else matters.
    """

    value: str
    what: str
    interval: str
    sentence: str
    counts: str
    further: tuple[str, ...] = ()


def headline(data: ReportData) -> Headline:
    """The number that says most, and what it means in a sentence."""
    if data.verification is None:
        assert data.search is not None  # a report has one of the two
        return _rank_headline(data.search.report)
    report = data.verification
    counts = f"{report.num_genuine:,} pairs of one person and {report.num_impostor:,} pairs of two"
    if report.num_people:
        counts += f", {report.num_people:,} people in all"
    found = _verification_headline(report, counts)
    if data.search is None:
        return found
    search = _rank_headline(data.search.report)
    return replace(found, further=(*found.further, search.sentence))


def _verification_headline(report: VerificationReport, counts: str) -> Headline:
    tar = report.tar_at_far.get(_HEADLINE_FAR)
    kfold = report.protocol == "k-fold"
    if not kfold and tar is not None and tar.value is not None:
        sentence = (
            f"Of 100 pairs of one person {percent(tar.value, 1)} are accepted at a threshold that "
            f"accepts at most {one_in(_HEADLINE_FAR)} pairs of two people"
        )
        what = f"TAR at FAR {small_percent(_HEADLINE_FAR)}"
        return _headline(tar, what, sentence + _elsewhere(tar), counts)
    share = max(report.num_genuine, report.num_impostor) / (
        report.num_genuine + report.num_impostor
    )
    optimistic = "The threshold was chosen on these very pairs, so expect less on others"
    if share > _BALANCED:
        sentence = (
            "A pair of one person scores higher than a pair of two people in "
            f"{percent(_known(report.auc), 1)} of 100 cases, where chance gives 50.0"
        )
        accuracy = (
            f"The {'accuracy' if kfold else 'best accuracy'} is "
            f"{with_sign(_known(report.accuracy))}, but {_constant(report, share)} of 100 cases."
        )
        further = (accuracy,) if kfold else (f"{accuracy} {optimistic}.",)
        found = _headline(report.auc, "AUC", sentence + _elsewhere(report.auc), counts)
        return replace(found, further=further)
    sentence = (
        "Shown two pictures, the model says rightly whether they are of one person in "
        f"{percent(_known(report.accuracy), 1)} of 100 cases, where {_constant(report, share)}"
        f"{_elsewhere(report.accuracy)}"
    )
    what = "accuracy"
    if not kfold:
        what = "best accuracy (optimistic)"
        sentence += f". {optimistic}"
    return _headline(report.accuracy, what, sentence, counts)


def _constant(report: VerificationReport, share: float) -> str:
    """What always giving the more frequent answer would reach."""
    if report.num_genuine == report.num_impostor:
        return "always giving the same answer would be right in 50.0"
    answer = "one person" if report.num_genuine > report.num_impostor else "two people"
    return f"always answering “{answer}” would be right in {percent(share, 1)}"


def number_rows(report: VerificationReport) -> list[Row]:
    """The table of verification."""
    if report.protocol == "k-fold":
        name = "Accuracy"
        how = (
            f"Mean of {len(report.fold_accuracy)} folds, each judged at the threshold that is best "
            f"on the others; their standard deviation is {percent(report.fold_std or 0.0)} points."
        )
    else:
        name = "Best accuracy"
        how = "At the threshold that is best for these very pairs: optimistic."
    rows = [
        rate_row(name, report.accuracy, how),
        rate_row("AUC", report.auc, "Chance that a pair of one person outscores one of two."),
        rate_row(
            "EER",
            report.eer,
            "The false accept rate and the false reject rate where the two are equal.",
        ),
    ]
    for far, tar in report.tar_at_far.items():
        how = (
            "Pairs of one person that are accepted at a threshold that accepts at most "
            f"{one_in(far)} pairs of two people."
        )
        name = f"TAR at FAR {small_percent(far)}"
        rows.append(rate_row(name, tar, reason_words(tar.too_few) or how))
    return rows


def search_rows(report: IdentificationReport) -> list[Row]:
    """The table of identification."""
    rows = []
    for rank, share in report.cmc.items():
        how = "The right person comes first."
        if rank > 1:
            how = f"The right person is among the first {rank}."
        rows.append(rate_row(f"Rank {rank}", share, how))
    for fpir, share in report.tpir_at_fpir.items():
        how = (
            "Pictures whose person is found at a threshold at which at most "
            f"{one_in(fpir)} strangers is taken for somebody{_at(report, fpir)}."
        )
        name = f"TPIR at FPIR {small_percent(fpir)}"
        rows.append(rate_row(name, share, reason_words(share.too_few) or how))
    return rows


def _at(report: IdentificationReport, fpir: float) -> str:
    """The threshold of an FPIR in each gallery."""
    found = report.threshold_at_fpir.get(fpir)
    if not found:
        return ""
    each = " and ".join(f"{threshold:.4f}" for threshold in found)
    return f": a cosine of {each}" + (" in the galleries" if len(found) > 1 else "")


def separability_rows(found: Separability) -> list[Row]:
    """The table of how near faces are to their own person, and how far from others."""
    rows = [
        _cosine_row(
            "Compactness",
            found.compactness,
            "Cosine of an image to the center of its person's other images; more is tighter.",
            _behind(found.compactness),
        ),
        _cosine_row(
            "Separation",
            found.separation,
            "Cosine of a person's center to the nearest other center; less is further apart.",
            f"{people_words(found.separation.count)}.",
        ),
        _cosine_row(
            "Margin",
            found.margin,
            "Compactness minus the cosine to the nearest other center; below 0 somebody else is "
            "nearer.",
            _behind(found.margin),
        ),
    ]
    nearest = (
        "Images that are nearer to their own person's center than to any other. "
        f"{_behind(found.margin)}"
    )
    rows.append(rate_row("Nearest center is the own", found.nearest_center_accuracy, nearest))
    if found.thresholds is None:
        reason = reason_words(found.too_few)
        rows.append(rate_row("Threshold spread", Estimate(None), reason))
        return rows
    spread = found.thresholds.std
    rows.append(
        Row(
            "Threshold spread",
            f"{spread.value:.3f}",
            interval_words(spread.interval, 1, 3),
            f"Standard deviation of the threshold that each person needs for FAR "
            f"{small_percent(found.far)}; the less, the better one threshold suits all. "
            f"{people_words(found.thresholds.count)}.",
        )
    )
    return rows


def _behind(found: Distribution) -> str:
    return f"{found.count:,} images of {people_words(found.num_people)}."


def _cosine_row(name: str, found: Distribution, how: str, behind: str) -> Row:
    mean = found.mean
    return Row(name, f"{mean.value:.3f}", interval_words(mean.interval, 1, 3), f"{how} {behind}")


def _rank_headline(report: IdentificationReport) -> Headline:
    rank = min(report.cmc)
    share = report.cmc[rank]
    place = "comes first" if rank == 1 else f"is among the first {rank}"
    people = f"{report.gallery_people[0]:,} people"
    sentence = (
        f"Looked up among {people}, the right person {place} for {percent(_known(share), 1)} of "
        f"100 pictures{_elsewhere(share)}"
    )
    counts = f"{report.mated[0]:,} pictures of people who are there"
    if report.nonmated[0]:
        counts += f", {report.nonmated[0]:,} of strangers"
    if report.distractors[0]:
        counts += f"; {report.distractors[0]:,} of the {people} are distractors"
    return _headline(share, f"rank {rank}", sentence, counts)


def _headline(estimate: Estimate, what: str, sentence: str, counts: str) -> Headline:
    interval = interval_words(estimate.interval)
    return Headline(percent(_known(estimate)), what, interval, f"{sentence}.", f"{counts}.")


def _elsewhere(estimate: Estimate) -> str:
    if estimate.interval is None:
        return ""
    low, high = estimate.interval.low, estimate.interval.high
    return (
        f"; with other people of this kind it would plausibly be between {percent(low, 1)} and "
        f"{percent(high, 1)}"
    )


def _known(estimate: Estimate) -> float:
    assert estimate.value is not None  # those that stand in a headline always have a value
    return estimate.value
