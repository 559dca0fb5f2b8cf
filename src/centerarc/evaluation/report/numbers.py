"""The headline and the tables of numbers."""

from dataclasses import dataclass

from centerarc.evaluation.estimate import Estimate
from centerarc.evaluation.identification.result import IdentificationReport
from centerarc.evaluation.report.data import ReportData
from centerarc.evaluation.report.words import (
    Row,
    interval_words,
    one_in,
    percent,
    rate_row,
    small_percent,
)
from centerarc.evaluation.separability.measure import Distribution, Separability
from centerarc.evaluation.verification.result import VerificationReport

# The rate at which a model without folds is judged: as low as this if the pairs carry it.
_HEADLINE_FAR = 1e-4


@dataclass(frozen=True)
class Headline:
    """The number that stands first.

    Attributes:
        value: in per cent.
        what: its name.
        interval: "90.10 to 93.20", or "".
        sentence: what it means.
        counts: what it rests on.
    """

    value: str
    what: str
    interval: str
    sentence: str
    counts: str


def headline(data: ReportData) -> Headline:
    """The number that says most, and what it means in a sentence."""
    if data.verification is None:
        assert data.search is not None  # a report has one of the two
        return _rank_headline(data.search.report)
    report = data.verification
    counts = f"{report.num_genuine:,} pairs of one person and {report.num_impostor:,} pairs of two"
    if report.num_people:
        counts += f", {report.num_people:,} people in all"
    tar = report.tar_at_far.get(_HEADLINE_FAR)
    if report.protocol != "k-fold" and tar is not None and tar.value is not None:
        sentence = (
            f"Of 100 pairs of one person {percent(tar.value, 1)} are accepted when at most "
            f"{one_in(_HEADLINE_FAR)} pairs of two people is"
        )
        what = f"TAR at FAR {small_percent(_HEADLINE_FAR)}"
        return _headline(tar, what, sentence + _elsewhere(tar), counts)
    sentence = (
        "Shown two pictures, the model says rightly whether they are of one person in "
        f"{percent(_known(report.accuracy), 1)} of 100 cases{_elsewhere(report.accuracy)}"
    )
    what = "accuracy"
    if report.protocol != "k-fold":
        what = "best accuracy (optimistic)"
        sentence += ". The threshold was chosen on these very pairs, so expect less on others"
    return _headline(report.accuracy, what, sentence, counts)


def number_rows(report: VerificationReport) -> list[Row]:
    """The table of verification."""
    if report.protocol == "k-fold":
        name = "Accuracy"
        spread = f"{percent(report.fold_std or 0.0)} points standard deviation over folds"
        how = (
            f"Mean of {len(report.fold_accuracy)} folds, each judged at the threshold that is best "
            f"on the others; {spread}."
        )
    else:
        name = "Best accuracy"
        how = "At the threshold that is best for these very pairs: optimistic."
    rows = [
        rate_row(name, report.accuracy, how),
        rate_row("AUC", report.auc, "Chance that a pair of one person outscores one of two."),
        rate_row("EER", report.eer, "Error where false accepts and false rejects are as many."),
    ]
    for far, tar in report.tar_at_far.items():
        how = f"Pairs of one person accepted while at most {one_in(far)} of two people is."
        rows.append(rate_row(f"TAR at FAR {small_percent(far)}", tar, _sentence(tar.reason) or how))
    return rows


def search_rows(report: IdentificationReport) -> list[Row]:
    """The table of identification."""
    rows = []
    for rank, share in report.cmc.items():
        how = "The right person comes first." if rank == 1 else f"Is among the first {rank}."
        rows.append(rate_row(f"Rank {rank}", share, how))
    for fpir, share in report.tpir_at_fpir.items():
        how = f"Found when at most {one_in(fpir)} strangers is taken for somebody."
        rows.append(
            rate_row(f"TPIR at FPIR {small_percent(fpir)}", share, _sentence(share.reason) or how)
        )
    return rows


def separability_rows(found: Separability) -> list[Row]:
    """The table of what the joint loss promises."""
    rows = [
        _cosine_row(
            "Compactness",
            found.compactness,
            "Cosine of an image to the center of its person's other images; more is tighter.",
        ),
        _cosine_row(
            "Separation",
            found.separation,
            "Cosine of a person's center to the nearest other center; less is further apart.",
        ),
        _cosine_row(
            "Margin",
            found.margin,
            "Compactness minus the cosine to the nearest other center; below 0 somebody else is "
            "nearer.",
        ),
    ]
    nearest = "Images that are nearer to their own person's center than to any other."
    rows.append(rate_row("Nearest center is the own", found.nearest_center_accuracy, nearest))
    if found.thresholds is None:
        rows.append(rate_row("Threshold spread", Estimate(None), _sentence(found.threshold_reason)))
        return rows
    spread = found.thresholds.std
    rows.append(
        Row(
            "Threshold spread",
            f"{spread.value:.3f}",
            interval_words(spread.interval, 1, 3),
            f"Standard deviation of the threshold that each person needs for FAR "
            f"{small_percent(found.far)}; the less, the better one threshold suits all.",
        )
    )
    return rows


def _cosine_row(name: str, found: Distribution, how: str) -> Row:
    mean = found.mean
    return Row(name, f"{mean.value:.3f}", interval_words(mean.interval, 1, 3), how)


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


def _sentence(reason: str | None) -> str:
    return f"{reason}." if reason else ""
