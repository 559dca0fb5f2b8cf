"""Numbers as a reader wants them, and rows of them for the tables of pages and of terminals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from centerarc.evaluation.all_pairs_report import AllPairsComparison, AllPairsReport
from centerarc.evaluation.comparison import (
    Difference,
    IdentificationComparison,
    VerificationComparison,
)
from centerarc.evaluation.identification import IdentificationReport
from centerarc.evaluation.intervals import Estimate, Interval, TooFew, Trials
from centerarc.evaluation.protocols.side_by_side import Comparison
from centerarc.evaluation.separability import Distribution, Separability
from centerarc.evaluation.verification import HeldOutFar, VerificationReport

ABSENT = "not measurable"
# What a page calls the trials that there are too few of.
_TRIALS: dict[Trials, str] = {
    "genuine": "pairs of one person",
    "impostor": "pairs of two people",
    "either": "pairs of each kind",
    "impostor of each": "pairs with others for every person",
    "unmated": "probes of people who are not in the gallery",
    "people pairs": "combinations of two people",
}

# Words. A no-break space stands before each per cent sign.


def percent(rate: float, digits: int = 2) -> str:
    """A rate in per cent without the sign: 0.5 is "50.00"."""
    return f"{100 * rate:.{digits}f}"


def with_sign(rate: float, digits: int = 2) -> str:
    """A rate in per cent with the sign.

    Example:
        >>> with_sign(0.5)
        '50.00%'
    """
    return f"{percent(rate, digits)}%"


def small_percent(rate: float) -> str:
    """A rate that may be tiny, in per cent with three significant digits and the sign.

    Example:
        >>> small_percent(0.1), small_percent(1e-5), small_percent(0.01234)
        ('10%', '0.001%', '1.23%')
    """
    text = f"{100 * rate:.3g}"
    if "e" in text:
        text = f"{100 * rate:.10f}".rstrip("0")
    return f"{text}%"


def one_in(rate: float) -> str:
    """A small rate as "1 in 1,000"."""
    return f"1 in {round(1 / rate):,}"


def interval_words(interval: Interval | None, factor: float = 100.0, digits: int = 2) -> str:
    """An interval as "90.10 to 93.20", or nothing."""
    if interval is None:
        return ""
    return f"{factor * interval.low:.{digits}f} to {factor * interval.high:.{digits}f}"


def rate_words(estimate: Estimate) -> tuple[str, str]:
    """A rate and its interval, both in per cent."""
    value = ABSENT if estimate.value is None else with_sign(estimate.value)
    return value, interval_words(estimate.interval)


def points(rate: float) -> str:
    """A difference in points with its sign, which no difference does not have."""
    text = f"{100 * rate:+.2f}"
    return "0.00" if float(text) == 0 else text


def p_value_words(p_value: float | None) -> str:
    """A p-value for a table; empty where there is none."""
    if p_value is None:
        return ""
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def people_words(count: int) -> str:
    """So many people, or one person."""
    return "1 person" if count == 1 else f"{count:,} people"


def sentence(text: str) -> str:
    """A note as a sentence; one that begins with the name of a file keeps that as it is."""
    first = text.partition(" ")[0].strip(",:;").replace("-", "")
    return f"{text[:1].upper() if first.isalpha() else text[:1]}{text[1:]}." if text else ""


def thin_words(estimate: Estimate | Difference) -> str:
    """What must be said of an interval that rests on too few cases, or nothing.

    Example:
        >>> thin_words(Estimate(0.5, None, thin=1.26))
        'The interval rests on about 1.3 mistakes: it misses the truth more often than it says.'
    """
    if estimate.thin is None:
        return ""
    return (
        f"The interval rests on about {estimate.thin:.1f} mistakes: it misses the truth more often "
        "than it says."
    )


def reason_words(too_few: TooFew | None) -> str:
    """Why there is no value, as a sentence in the words of a page, or nothing.

    Example:
        >>> reason_words(TooFew("impostor", 2, rate=("FAR", 0.1)))
        'FAR 10% needs at least 10 pairs of two people, there are 2.'
    """
    return "" if too_few is None else sentence(too_few.sentence(small_percent, _TRIALS))


# Rows.


@dataclass(frozen=True)
class Row:
    """A measured number.

    Attributes:
        name: of the measure.
        estimate: the number with its interval.
        how: what it says, in sentences.
        note: what a narrow table says in their place.
        cosine: whether it is a cosine and not a rate.
        spread: between which cosines most lie, "" for a rate.
    """

    name: str
    estimate: Estimate
    how: str
    note: str = ""
    cosine: bool = False
    spread: str = ""

    @property
    def words(self) -> tuple[str, str]:
        """The number and its interval."""
        if not self.cosine or self.estimate.value is None:
            return rate_words(self.estimate)
        return f"{self.estimate.value:.3f}", interval_words(self.estimate.interval, 1, 3)


def table_cells(rows: Sequence[Row]) -> list[tuple[str, str, str, str]]:
    """Rows for the table of a page: name, value, interval, and what it says or why it lacks."""
    return [
        (
            row.name,
            *row.words,
            reason_words(row.estimate.too_few)
            or " ".join(filter(None, (row.how, thin_words(row.estimate)))),
        )
        for row in rows
    ]


# The measure that is a cosine among rates.
SPREAD = "threshold spread"
# Name of a rate, and the FAR or FPIR that it is measured at.
_Key = tuple[str, float | None]


def _verification_rates(found: VerificationReport | VerificationComparison) -> dict[_Key, Any]:
    accuracy = "accuracy" if found.protocol == "k-fold" else "best accuracy"
    return {
        (accuracy, None): found.accuracy,
        ("AUC", None): found.auc,
        ("EER", None): found.eer,
        **{("TAR at FAR", far): rate for far, rate in found.tar_at_far.items()},
    }


def _search_rates(found: IdentificationReport | IdentificationComparison) -> dict[_Key, Any]:
    return {
        **{(f"rank {rank}", None): rate for rank, rate in found.cmc.items()},
        **{("TPIR at FPIR", fpir): rate for fpir, rate in found.tpir_at_fpir.items()},
    }


def _all_pairs_rates(found: AllPairsReport | AllPairsComparison) -> dict[_Key, Any]:
    return {
        **{("TAR at FAR", far): rate for far, rate in found.tar_at_far.items()},
        ("AUC", None): found.auc,
        ("EER", None): found.eer,
        (SPREAD, None): found.threshold_spread,
        **{("TPIR at FPIR", fpir): rate for fpir, rate in found.tpir_at_fpir.items()},
    }


def _name(key: _Key) -> str:
    return key[0] if key[1] is None else f"{key[0]} {small_percent(key[1])}"


def verification_rows(report: VerificationReport) -> list[Row]:
    """Accuracy, AUC, EER and the TARs."""
    frequent = max(report.num_genuine, report.num_impostor)
    constant = with_sign(frequent / (report.num_genuine + report.num_impostor))
    note = f"always giving the more frequent answer: {constant}"
    how = "At the threshold that is best for these very pairs: optimistic."
    if report.protocol == "k-fold":
        folds, spread = len(report.fold_accuracy), percent(report.fold_std or 0.0)
        kind = "stratified folds" if report.fold_note else "folds"
        how = (
            f"Mean of {folds} {kind}, each judged at the threshold that is best on the others; "
            f"their standard deviation is {spread} points."
        )
        convention = "" if report.convention == "exact" else f"convention {report.convention}; "
        note = (
            f"{folds} {kind}, ± {spread} points between them; {convention}"
            f"mean threshold {report.threshold:.4f}; {note}"
        )
    else:
        note = f"threshold {report.threshold:.4f}, chosen on these pairs: optimistic; {note}"
    meanings = [
        how,
        "Chance that a pair of one person outscores one of two.",
        "The false accept rate and the false reject rate where the two are equal.",
        *(
            "Pairs of one person that are accepted at a threshold that accepts at most "
            f"{one_in(far)} pairs of two people."
            for far in report.tar_at_far
        ),
    ]
    nearest = report.convention == "insightface"
    if nearest:
        meanings[3:] = [
            "Pairs of one person that are accepted at the threshold whose false accepts are "
            f"nearest to {one_in(far)} pairs of two people, above or below."
            for far in report.tar_at_far
        ]
    notes = [note, "", "", *["convention insightface" if nearest else ""] * len(report.tar_at_far)]
    rates = _verification_rates(report).items()
    return [
        Row(_name(key), rate, says, note)
        for (key, rate), says, note in zip(rates, meanings, notes, strict=True)
    ]


def search_rows(report: IdentificationReport) -> list[Row]:
    """The ranks and the TPIRs of identification."""
    fewest = min(report.gallery_people)
    meanings = [
        f"Always 100%: the gallery has {people_words(fewest)}."
        if rank >= fewest
        else "The right person comes first."
        if rank == 1
        else f"The right person is among the first {rank}."
        for rank in report.cmc
    ]
    probes = "1 probe" if report.mated[0] == 1 else f"{report.mated[0]:,} probes"
    first = f"{probes} among {people_words(report.gallery_people[0])}"
    if report.distractors[0]:
        first += f", {report.distractors[0]:,} of them distractors"
    notes = [
        f"always 100%: the gallery has {people_words(fewest)}" if rank >= fewest else ""
        for rank in report.cmc
    ]
    notes[0] = "; ".join(filter(None, (first, notes[0])))
    strangers = f"; {report.nonmated[0]:,} probes of strangers"
    for fpir in report.tpir_at_fpir:
        found = report.threshold_at_fpir.get(fpir)
        at = " and ".join(f"{threshold:.4f}" for threshold in found or ())
        of = " in the galleries" if found and len(found) > 1 else ""
        by_scores = report.open_set == "insightface"
        meanings.append(
            (
                "Pictures whose person, at any rank, scores above a threshold that is reached by "
                f"the wrong people {fpir:g} times as often as there are pictures"
                if by_scores
                else "Pictures whose person is found at a threshold at which at most "
                f"{one_in(fpir)} strangers is taken for someone"
            )
            + (f": a cosine of {at}{of}." if at else ".")
        )
        strangers = "; convention insightface" if by_scores else strangers
        notes.append(f"threshold {at}{strangers}" if at else "")
        strangers = "" if at else strangers
    return [
        Row(_name(key), rate, how, note)
        for (key, rate), how, note in zip(
            _search_rates(report).items(), meanings, notes, strict=True
        )
    ]


def all_pairs_rows(report: AllPairsReport) -> list[Row]:
    """The numbers of all pairs: TARs, AUC, EER, how alike people's thresholds are, and TPIR."""
    several = people_words(report.num_genuine_people)
    strangers = report.num_people - report.num_genuine_people
    probes = report.num_images - strangers - report.num_genuine_people
    low, high = report.threshold_range
    far = small_percent(report.person_far)
    rows = []
    for key, rate in _all_pairs_rates(report).items():
        name, at = key
        spread, note = "", ""
        if name == "TAR at FAR" and at is not None:
            threshold = report.threshold_at_far.get(at)
            how = (
                "Pairs of one person that are accepted at a threshold that accepts at most "
                f"{one_in(at)} pairs of two people; mean over {several}."
            )
            note = "" if threshold is None else f"threshold {threshold:.4f}"
        elif name == "AUC":
            how = "Chance that a pair of one person outscores one of two."
        elif name == "EER":
            how = "The false accept rate and the false reject rate where the two are equal."
        elif name == SPREAD:
            spread = f"{low:.3f} to {high:.3f}"
            how = (
                f"Standard deviation over people of the threshold that each needs for FAR {far}; "
                f"the less, the better one threshold suits all. 90% of them are {spread}."
            )
            note = f"at FAR {far} each; 90% of people {spread}"
        else:
            how = (
                f"Of {probes:,} pictures, looked up among {several} with one picture each, those "
                "whose person comes first at a threshold at which at most "
                f"{one_in(float(at or 0))} of {strangers:,} strangers is taken for someone."
            )
            note = f"{probes:,} probes among {several}; {strangers:,} strangers"
        rows.append(Row(_name(key), rate, how, note, name == SPREAD, spread))
    return rows


def separability_rows(found: Separability) -> list[Row]:
    """How near faces are to their own person, and how far from others."""
    images = _images_of(found.margin)
    rows = [
        _cosines(
            "compactness",
            found.compactness,
            "Cosine of an image to the center of its person's other images; more is tighter.",
        ),
        _cosines(
            "separation",
            found.separation,
            "Cosine of a person's center to the nearest other center; less is further apart.",
        ),
        _cosines(
            "margin",
            found.margin,
            "Compactness minus the cosine to the nearest other center; below 0 another person is "
            "nearer.",
        ),
        Row(
            "nearest center is their own",
            found.nearest_center_accuracy,
            f"Images that are nearer to their own person's center than to any other. {images}.",
            # Each image with a margin is one whose nearest center is known.
            images,
        ),
    ]
    far = small_percent(found.far)
    if found.thresholds is None:
        return [*rows, Row(f"own threshold, FAR {far}", Estimate(None, too_few=found.too_few), "")]
    needed = f"the threshold that each person needs for FAR {far}"
    people, spread = people_words(found.thresholds.count), found.thresholds.std
    return [
        *rows,
        _cosines(f"own threshold, FAR {far}", found.thresholds, f"Mean of {needed}."),
        Row(
            "threshold spread",
            Estimate(spread.value, spread.interval),
            f"Standard deviation of {needed}; the less, the better one threshold suits all. "
            f"{people}.",
            people,
            cosine=True,
        ),
    ]


def _cosines(name: str, found: Distribution, how: str) -> Row:
    low, high = (found.quantiles[share].value for share in (0.05, 0.95))
    of = _images_of(found)
    mean = Estimate(found.mean.value, found.mean.interval)
    return Row(name, mean, f"{how} {of}.", of, True, f"{low:.3f} to {high:.3f}")


def _images_of(found: Distribution) -> str:
    """Whose values they are: of people, or of images of people."""
    people = people_words(found.num_people)
    return people if found.count == found.num_people else f"{found.count:,} images of {people}"


class ThresholdRow(NamedTuple):
    """The threshold for a wanted false accept rate, in words; "" for what is not known."""

    wanted: str
    threshold: str
    # Where it would lie with other people.
    threshold_range: str
    tar: str
    # The false accept rate to expect on new people, and the one of folds it was not chosen on.
    new_people: str
    held_out: str


def threshold_rows(
    report: VerificationReport, held_out: Mapping[float, HeldOutFar]
) -> list[ThresholdRow]:
    """A row for each rate that the impostor pairs can carry."""
    rows = []
    for far, found in report.calibrated.items():
        if found.threshold is None:
            continue
        tar, new = report.tar_at_far[far].value, found.far_interval
        tried = held_out[far].far.value if far in held_out else None
        rows.append(
            ThresholdRow(
                small_percent(far),
                f"{found.threshold:.4f}",
                interval_words(found.threshold_interval, 1, 4),
                "" if tar is None else with_sign(tar),
                "" if new is None else f"{small_percent(new.low)} to {small_percent(new.high)}",
                "" if tried is None else small_percent(tried),
            )
        )
    return rows


@dataclass(frozen=True)
class ComparedRow:
    """A rate of several models.

    Attributes:
        name: of the rate.
        estimates: of each model.
        differences: to the first model, by the name of each other one that has a value.
    """

    name: str
    estimates: list[Estimate]
    differences: dict[str, Difference] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Its name, which says where less is better."""
        return f"{self.name} (less is better)" if self._less else self.name

    @property
    def cosine(self) -> bool:
        """Whether it is a cosine and not a rate."""
        return self.name == SPREAD

    @property
    def _less(self) -> bool:
        return self.name in ("EER", SPREAD)

    def words(self, estimate: Estimate) -> tuple[str, str]:
        """The number of a model and its interval."""
        return Row(self.name, estimate, "", cosine=self.cosine).words

    def difference_words(self, model: str) -> tuple[str, str, str]:
        """The difference of a model, its interval and its p-value."""
        return difference_words(self.differences[model], cosine=self.cosine)

    def side(self, model: str) -> str:
        """Whether a model is "better" or "worse" than the first one; "" where that is not sure."""
        found = self.differences.get(model)
        interval = None if found is None else found.interval
        if interval is None or interval.low <= 0 <= interval.high:
            return ""
        return "better" if (interval.low > 0) != self._less else "worse"


def compared_rows(comparison: Comparison) -> list[ComparedRow]:
    """Every rate of all models."""
    models = [_verification_rates(one.report) for one in comparison.verified]
    against = {name: _verification_rates(one) for name, one in comparison.differences.items()}
    searches = [_search_rates(one.report) for one in comparison.identified]
    searched = {name: _search_rates(one) for name, one in comparison.search_differences.items()}
    paired = [_all_pairs_rates(one.report) for one in comparison.all_paired]
    differ = {n: _all_pairs_rates(one) for n, one in comparison.all_pairs_differences.items()}
    return [
        *_compared(models, against),
        *_compared(searches, searched),
        *_compared(paired, differ),
    ]


def _compared(
    models: list[dict[_Key, Estimate]], against: dict[str, dict[_Key, Difference]]
) -> list[ComparedRow]:
    return [
        ComparedRow(
            _name(key),
            [rates[key] for rates in models],
            # Where scores are equal, nothing is left to say of each rate.
            {name: one[key] for name, one in against.items() if one[key].interval is not None},
        )
        for key in (models[0] if models else ())
    ]


def equal_words(comparison: Comparison) -> dict[str, str]:
    """A sentence on each model whose scores are those of the first, by its name."""
    found: dict[str, list[float]] = {}
    for name in comparison.names[1:]:
        parts = (
            comparison.differences.get(name),
            comparison.search_differences.get(name),
            comparison.all_pairs_differences.get(name),
        )
        known = [part for part in parts if part is not None]
        if known and all(part.equal for part in known):
            found[name] = [part.largest_change for part in known]
    return {
        name: f"{name} and {comparison.names[0]} are equal: every score is the same"
        + (f" but for rounding (at most {max(changes):.1g})." if any(changes) else ".")
        for name, changes in found.items()
    }


def difference_words(found: Difference, *, cosine: bool = False) -> tuple[str, str, str]:
    """A difference in points, its interval and its p-value.

    That of a cosine is not in points but as it is.
    """
    interval, value = found.interval, float(found.value or 0.0)
    ends = [] if interval is None else [interval.low, interval.high]
    form = "{:+.4f}" if cosine else "{:+.2f}"
    return (
        f"{value:+.4f}" if cosine else points(value),
        " to ".join(form.format(end if cosine else 100 * end) for end in ends),
        p_value_words(found.doubt),
    )
