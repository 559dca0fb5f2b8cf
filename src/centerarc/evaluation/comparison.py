"""Models on the same pairs or probes: how far apart they are, and how sure that is.

A paired bootstrap: each resample draws people and measures all models on them, so what makes
people easy or hard for all of them falls out of the difference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.accuracy import Convention
from centerarc.evaluation.gallery import GallerySearch
from centerarc.evaluation.identification import (
    FPIR_LEVELS,
    RANKS,
    evaluate_identification,
    mated_people,
    resampled_rates,
)
from centerarc.evaluation.intervals import (
    Interval,
    PairPeople,
    Supported,
    TooFew,
    check_resamples,
    contrary_share,
    difference_interval,
    fields_of,
)
from centerarc.evaluation.scores import FloatArray, check_scores_as_given
from centerarc.evaluation.verification import ScoredPairs, accuracy_key


@dataclass(frozen=True)
class Difference(Supported):
    """What one model has more than another, and how sure that is."""

    value: float | None  # the second model's rate minus the first one's; None without support
    interval: Interval | None = None  # 95% over people, both models on the same people
    contrary_share: float | None = None  # see `intervals.contrary_share`; small is sure
    too_few: TooFew | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        share = self.contrary_share
        return self.with_reason(value=self.value, interval95=self.interval, contrary_share=share)


def _differences(
    rates: FloatArray, resampled: FloatArray, num_people: int, *, identical: bool
) -> list[Difference]:
    """Differences of two models' rates (2, R) and resampled rates (2, R, B) on `num_people`.

    Models that gave the same scores differ on no one, which resampling alone would not be sure of.
    """
    if identical:
        return [Difference(0.0, Interval(0.0, 0.0), 1.0) for _ in rates[0]]
    return [
        Difference(float(value), difference_interval(row, num_people), contrary_share(row))
        for value, row in zip(rates[1] - rates[0], resampled[1] - resampled[0], strict=True)
    ]


def _method(resamples: int, people: str, held: str) -> str:
    return (
        f"95% percentile intervals of the difference over {resamples:,} bootstrap "
        f"resamples of the {people}, the same for both models{held}; where hardly any resample "
        "tells them apart, Wilson's interval (1927) for as many people."
    )


# On the same pairs.


@dataclass(frozen=True)
class VerificationComparison:
    """What a second model changes against a first one on the same pairs."""

    accuracy: Difference  # of `protocol`; more is better
    auc: Difference  # area under the ROC; more is better
    eer: Difference  # equal error rate; less is better
    tar_at_far: dict[float, Difference]  # TAR by FAR; more is better
    protocol: str  # "k-fold" or "best_accuracy"
    convention: Convention  # of the k-fold accuracy
    num_people: int  # distinct people
    resamples: int  # bootstrap resamples

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            accuracy_key(self.protocol): self.accuracy.to_dict(),
            **fields_of(self, "auc", "eer", "tar_at_far", "convention", "num_people"),
            "intervals": self.interval_method,
        }

    @property
    def interval_method(self) -> str:
        """How the intervals came about, in one sentence."""
        held = ", with the thresholds of the accuracy held fixed"
        return _method(self.resamples, f"{self.num_people:,} people", held)


def compare_verification(
    scores_a: npt.ArrayLike,
    scores_b: npt.ArrayLike,
    same: npt.ArrayLike,
    folds: npt.ArrayLike | None,
    people: tuple[npt.ArrayLike, npt.ArrayLike],
    *,
    convention: Convention = "exact",
    fars: Sequence[float] = (),
    bootstrap: int = 1000,
    seed: int = 0,
) -> VerificationComparison:
    """The rates of a model b minus those of a model a, by `compare_with_first`.

    Args:
        scores_a: (P,) model a's similarity of each pair, higher is more alike.
        scores_b: (P,) model b's of the same pairs; need not be on the same scale.
        same, folds, people, convention, fars, bootstrap, seed: as of `compare_with_first`,
            whose errors these are too.

    Example:
        >>> same, people = [1, 1, 0, 0], (["a", "b", "a", "b"], ["a", "b", "b", "a"])
        >>> found = compare_verification(
        ...     [0.9, 0.1, 0.5, 0.0], [0.9, 0.8, 0.5, 0.0], same, None, people, bootstrap=100
        ... )
        >>> found.auc.value
        0.25
    """
    options: dict[str, Any] = {"fars": fars, "bootstrap": bootstrap, "seed": seed}
    scores = {"scores_a": scores_a, "scores_b": scores_b}
    found = compare_with_first(scores, same, folds, people, convention=convention, **options)
    return found["scores_b"]


def compare_with_first(
    scores: Mapping[str, npt.ArrayLike],
    same: npt.ArrayLike,
    folds: npt.ArrayLike | None,
    people: tuple[npt.ArrayLike, npt.ArrayLike],
    *,
    convention: Convention = "exact",
    fars: Sequence[float] = (),
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, VerificationComparison]:
    """Accuracy, AUC, EER and TAR at fixed FARs of models minus those of the first of them.

    Args:
        scores: (P,) similarities of each pair by the model's name, at least two models.
        same, folds, people, convention, fars, bootstrap, seed: as of
            `centerarc.evaluation.evaluate_verification`, which draws the same people.

    Returns:
        By the name of every model but the first: that model's rates minus the first one's.

    Raises:
        ValueError: fewer than two models, scores of different lengths, or what
            `evaluate_verification` refuses, with the model's name.
    """
    if len(scores) < 2:
        raise ValueError(f"scores must be of at least 2 models, got {len(scores)}")
    check_resamples(bootstrap)
    checked = []
    for name, given in scores.items():
        try:
            checked.append(check_scores_as_given(given, same))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    labels = checked[0][1]
    models = [ScoredPairs(values, labels, folds, convention, fars) for values, _ in checked]
    first, who = models[0], PairPeople(people, labels)
    rates = np.stack([model.rates for model in models])

    def measured(drawn: FloatArray) -> FloatArray:
        rows = []
        for model in models:
            curves = who.curves(drawn, model.ranked)
            rows.append(model.resampled_rates(curves, curves.points_at_far(first.fars)))
        return np.stack(rows)

    resampled = who.resampled(measured, bootstrap, seed)
    results = {}
    for number, name in enumerate(scores):
        if not number:
            continue
        identical = np.array_equal(checked[number][0], checked[0][0])
        pair = [0, number]
        found = _differences(rates[pair], resampled[pair], who.fewest, identical=identical)
        tars = dict(zip(first.fars, found[3:], strict=True))
        tars |= {far: Difference(None, too_few=few) for far, few in first.unsupported.items()}
        protocol = first.protocol
        accuracy, auc, eer = found[:3]
        results[name] = VerificationComparison(
            accuracy, auc, eer, tars, protocol, convention, who.count, bootstrap
        )
    return results


# On the same probes and galleries.


@dataclass(frozen=True)
class IdentificationComparison:
    """What a second model changes against a first one; more is better everywhere."""

    cmc: dict[int, Difference]  # by rank
    tpir_at_fpir: dict[float, Difference]  # by FPIR
    num_people: int  # distinct people among the probes
    resamples: int  # bootstrap resamples

    @property
    def interval_method(self) -> str:
        """How the intervals came about, in one sentence."""
        people = f"{self.num_people:,} people of the probes"
        return _method(self.resamples, people, "; galleries stay, thresholds are set again")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        rates = fields_of(self, "cmc", "tpir_at_fpir", "num_people")
        return {**rates, "intervals": self.interval_method}


def compare_identification(
    searches: Mapping[str, Sequence[GallerySearch]],
    *,
    ranks: Sequence[int] = RANKS,
    fpirs: Sequence[float] = FPIR_LEVELS,
    tpir_rank: int = 1,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, IdentificationComparison]:
    """CMC and TPIR at fixed FPIRs of models minus those of the first of them.

    Args:
        searches: by the model's name, one search for each gallery; at least two models.
        ranks, fpirs, tpir_rank, bootstrap, seed: as of
            `centerarc.evaluation.evaluate_identification`, with intervals always.

    Returns:
        By the name of every model but the first: that model's rates minus the first one's. An
        FPIR that the probes without a mate cannot carry has no value but a reason.

    Raises:
        ValueError: fewer than two models, searches of different probes or galleries, or what
            `evaluate_identification` refuses.

    Example:
        >>> from centerarc.evaluation import search_gallery
        >>> faces, who = [[1, 0], [0, 1]], [1, 2]
        >>> good = search_gallery(faces, who, [[3, 1], [1, 3]], who)
        >>> bad = search_gallery(faces, who, [[3, 1], [3, 2]], who)
        >>> found = compare_identification({"a": [good], "b": [bad]}, ranks=(1, 2), bootstrap=100)
        >>> {rank: difference.value for rank, difference in found["b"].cmc.items()}
        {1: -0.5, 2: 0.0}
    """
    if len(searches) < 2:
        raise ValueError(f"searches must be of at least 2 models, got {len(searches)}")
    check_resamples(bootstrap)
    (first, reference), *others = searches.items()
    for name, found in others:
        if len(found) != len(reference) or not all(
            np.array_equal(a.probe_labels, b.probe_labels) and np.array_equal(a.mated, b.mated)
            for a, b in zip(found, reference, strict=True)
        ):
            raise ValueError(f"{first} and {name} are not of the same probes and galleries")

    reports = {
        name: evaluate_identification(
            found, ranks=ranks, fpirs=fpirs, tpir_rank=tpir_rank, bootstrap=0
        )
        for name, found in searches.items()
    }
    reasons = {f: share.too_few for f, share in reports[first].tpir_at_fpir.items()}
    supported = [fpir for fpir, reason in reasons.items() if reason is None]
    rates, resampled = {}, {}
    for name, found in searches.items():
        cmc, tpir = reports[name].cmc, reports[name].tpir_at_fpir
        values = [cmc[rank].value for rank in ranks] + [tpir[fpir].value for fpir in supported]
        rates[name] = np.array(values, dtype=np.float64)
        resampled[name] = resampled_rates(found, ranks, supported, tpir_rank, bootstrap, seed)
    results = {}
    for name, found in others:
        differences = _differences(
            np.stack([rates[first], rates[name]]),
            np.stack([resampled[first], resampled[name]]),
            mated_people(reference),
            identical=all(a.same_scores(b) for a, b in zip(reference, found, strict=True)),
        )
        tpirs = {fpir: Difference(None, too_few=reason) for fpir, reason in reasons.items()}
        tpirs |= dict(zip(supported, differences[len(ranks) :], strict=True))
        results[name] = IdentificationComparison(
            dict(zip(ranks, differences, strict=False)), tpirs, reports[first].num_people, bootstrap
        )
    return results
