"""All numbers of all pairs with their intervals, and those of models on the same images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from centerarc.evaluation.all_pairs import FARS, FPIR, AllPairs
from centerarc.evaluation.comparison import Difference, score_change
from centerarc.evaluation.intervals import Estimate, fields_of, rate_key
from centerarc.evaluation.seeds import SeedDifference, SeedMean, StudySummary, summarize_arms

CONVENTION = (
    "A genuine pair of a person who has g of them weighs 1 / g, an impostor pair of two people who "
    "have n and m images weighs 1 / (n m). TAR at the lowest threshold whose false accept rate is "
    "at most the FAR. A person's own threshold is the lowest one with at most the person's FAR "
    "against all others. TPIR: the first image of each person with several is in the gallery, the "
    "others are probes, and the people with a single image are the strangers."
)


@dataclass(frozen=True)
class AllPairsReport:
    """What all pairs of some people's images say about a model, each person weighing the same."""

    tar_at_far: dict[float, Estimate]  # TAR by FAR
    threshold_at_far: dict[float, float]  # of those that the people carry
    auc: Estimate  # area under TAR against FAR
    eer: Estimate  # equal error rate
    tpir_at_fpir: dict[float, Estimate]  # open-set identification
    threshold_spread: Estimate  # standard deviation over people of their own thresholds, a cosine
    threshold_range: tuple[float, float]  # 5% and 95% quantile of these
    person_far: float  # the FAR that each person's own threshold keeps
    num_people: int
    num_genuine_people: int  # those with two images or more
    num_images: int
    num_genuine: int  # pairs
    num_impostor: int  # pairs
    ordered: bool  # whether pairs are of images of two sides
    resamples: int
    interval_method: str  # how the intervals came about, in a few sentences

    @property
    def convention(self) -> str:
        """How the numbers are defined, in a few sentences."""
        return CONVENTION

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        counts = ("num_people", "num_genuine_people", "num_images", "num_genuine", "num_impostor")
        tars = {
            rate_key(far): {**tar.to_dict(), "threshold": self.threshold_at_far.get(far)}
            for far, tar in self.tar_at_far.items()
        }
        return {
            "convention": self.convention,
            "tar_at_far": tars,
            **fields_of(self, "auc", "eer", "tpir_at_fpir", "threshold_spread"),
            "threshold_range": list(self.threshold_range),
            **fields_of(self, "person_far", *counts, "ordered"),
            "intervals": self.interval_method,
        }


@dataclass(frozen=True)
class AllPairsComparison:
    """What a second model changes against a first one on all pairs of the same images."""

    tar_at_far: dict[float, Difference]
    auc: Difference
    eer: Difference  # less is better
    tpir_at_fpir: dict[float, Difference]
    threshold_spread: Difference  # less is better; of cosines
    largest_change: float  # of the n-th highest score of a kind, for any n
    equal: bool  # whether the scores are equal but for rounding, so that nothing differs
    interval_method: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        names = ("tar_at_far", "auc", "eer", "tpir_at_fpir", "threshold_spread")
        return {
            **fields_of(self, *names, "largest_change", "equal"),
            "intervals": self.interval_method,
        }


def report_all_pairs(
    record: AllPairs,
    *,
    fars: Sequence[float] = FARS,
    fpir: float = FPIR,
    bootstrap: int = 1000,
    seed: int = 0,
) -> AllPairsReport:
    """All numbers of a record, with 95% intervals over people.

    Args:
        record: From `score_all_pairs`.
        fars: False accept rates, in (0, 1), which its kept scores reach.
        fpir: False positive identification rate, in (0, 1).
        bootstrap: Resamples of the people, at least 100; 0 for no intervals.
        seed: Of the resampling.

    Raises:
        ValueError: A number out of range.

    Example:
        >>> from centerarc.evaluation import score_all_pairs
        >>> faces = [[1, 0], [3, 1], [0, 1], [1, 4], [1, 1]]
        >>> record = score_all_pairs(faces, ["ann", "ann", "bob", "bob", "cyd"])
        >>> report_all_pairs(record, fars=(0.4,), bootstrap=0).tar_at_far[0.4].value
        1.0
    """
    summary = summarize_arms(
        {"": {0: record}}, fars=fars, fpir=fpir, resamples=bootstrap, seed=seed
    )
    means = summary.arms[""].means
    supported = [far for far in fars if means[f"tar@{rate_key(far)}"].value is not None]
    return AllPairsReport(
        tar_at_far={far: _estimate(means[f"tar@{rate_key(far)}"]) for far in fars},
        threshold_at_far={far: record.tar_at_far(far).threshold for far in supported},
        auc=_estimate(means["auc"]),
        eer=_estimate(means["eer"]),
        tpir_at_fpir={fpir: _estimate(means[f"tpir@{rate_key(fpir)}"])},
        threshold_spread=_estimate(means["threshold_spread"]),
        threshold_range=record.threshold_range(),
        person_far=record.person_far,
        num_people=record.num_people,
        num_genuine_people=record.num_genuine_people,
        num_images=record.num_images,
        num_genuine=record.num_genuine,
        num_impostor=record.num_impostor,
        ordered=record.ordered,
        resamples=bootstrap,
        interval_method=summary.interval_method,
    )


def compare_all_pairs(
    records: Mapping[str, AllPairs],
    *,
    fars: Sequence[float] = FARS,
    fpir: float = FPIR,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, AllPairsComparison]:
    """The numbers of models minus those of the first of them, on the same resampled people.

    Args:
        records: By the model's name, at least two, of the same images.
        fars, fpir, bootstrap, seed: As of `report_all_pairs`.

    Returns:
        By the name of every model but the first.

    Raises:
        ValueError: Fewer than two models, records of different images, or a number out of range.
    """
    if len(records) < 2:
        raise ValueError(f"records must be of at least 2 models, got {len(records)}")
    summary: StudySummary = summarize_arms(
        {name: {0: record} for name, record in records.items()},
        fars=fars,
        fpir=fpir,
        resamples=bootstrap,
        seed=seed,
    )
    first, *others = records
    found = {}
    for name in others:
        differences = summary.arms[name].differences or {}
        changes = [
            score_change(getattr(records[name], scores), getattr(records[first], scores))
            for scores in ("genuine_score", "tail_score")
        ]
        equal = all(same for _, same in changes)

        def difference(of: SeedDifference, equal: bool = equal) -> Difference:
            if equal and of.value is not None:
                return Difference(of.value)
            return Difference(of.value, of.interval, of.doubt, too_few=of.too_few)

        found[name] = AllPairsComparison(
            tar_at_far={far: difference(differences[f"tar@{rate_key(far)}"]) for far in fars},
            auc=difference(differences["auc"]),
            eer=difference(differences["eer"]),
            tpir_at_fpir={fpir: difference(differences[f"tpir@{rate_key(fpir)}"])},
            threshold_spread=difference(differences["threshold_spread"]),
            largest_change=max(change for change, _ in changes),
            equal=equal,
            interval_method=summary.interval_method,
        )
    return found


def _estimate(mean: SeedMean) -> Estimate:
    return Estimate(mean.value, mean.interval, mean.too_few)


# As a result of an evaluation.


@dataclass(frozen=True)
class AllPairsSettings:
    """How all pairs are judged.

    Attributes:
        fars: False accept rates beyond those that are always reported, in (0, 1).
        fpir: False positive identification rate, in (0, 1).
        resamples: Of the people, at least 100; 0 for no intervals.
        seed: Of the resampling.
    """

    fars: tuple[float, ...] = ()
    fpir: float = FPIR
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        # Here and not after the work: images take long to embed.
        for name, rate in (*(("far", far) for far in self.fars), ("fpir", self.fpir)):
            if not 0 < rate < 1:
                raise ValueError(f"{name} must be in (0, 1), got {rate}")

    @property
    def all_fars(self) -> tuple[float, ...]:
        """All false accept rates, falling."""
        return tuple(sorted({*FARS, *self.fars}, reverse=True))


@dataclass(frozen=True, eq=False)
class AllPaired:
    """The result of all pairs of some people's images, and the scores behind it.

    Attributes:
        report: The numbers.
        record: The scores.
        settings: How it was judged.
    """

    report: AllPairsReport
    record: AllPairs
    settings: AllPairsSettings

    @classmethod
    def of(cls, record: AllPairs, settings: AllPairsSettings) -> "AllPaired":
        """Judges a record; a `ValueError` where its people or scores cannot carry a setting."""
        report = report_all_pairs(
            record,
            fars=settings.all_fars,
            fpir=settings.fpir,
            bootstrap=settings.resamples,
            seed=settings.seed,
        )
        return cls(report, record, settings)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        of = self.settings
        settings = {"far": list(of.fars), "fpir": of.fpir}
        settings |= {"resamples": of.resamples, "seed": of.seed}
        return {**self.report.to_dict(), "settings": settings}
