"""Models on the same pairs or probes: how far apart they are, and how sure that is.

All models are measured on the same people, so what makes people easy or hard for all of them falls
out of the difference.
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
    SearchConvention,
    evaluate_identification,
    mated_people,
    resampled_rates,
)
from centerarc.evaluation.intervals import (
    PAIR_INTERVALS,
    Effect,
    Interval,
    PairPeople,
    Supported,
    TooFew,
    check_resamples,
    contrary_share,
    difference_interval,
    fields_of,
    thin_key,
)
from centerarc.evaluation.scores import ScoreArray, check_scores_as_given
from centerarc.evaluation.verification import ScoredPairs, accuracy_key

# Of the range of scores: what other hardware, batches or a mirrored copy of a file may change.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Difference(Supported):
    """What one model has more than another, and how sure that is."""

    value: float | None  # the second model's rate minus the first one's; None without support
    interval: Interval | None = None  # 95% over people, both models on the same people
    # Of pairs the p-value of no difference, of probes what `intervals.contrary_share` says; small
    # is sure.
    doubt: float | None = None
    thin: float | None = None  # as of `Estimate`
    too_few: TooFew | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        thin = thin_key(self.thin)
        return self.with_reason(
            value=self.value, interval95=self.interval, doubt=self.doubt, **thin
        )


# On the same pairs.


@dataclass(frozen=True)
class VerificationComparison:
    """What a second model changes against a first one on the same pairs."""

    accuracy: Difference  # of `protocol`; more is better
    auc: Difference  # area under the ROC; more is better
    eer: Difference  # equal error rate; less is better
    tar_at_far: dict[float, Difference]  # TAR by FAR; more is better
    largest_change: float  # of the score of a pair
    equal: bool  # whether the scores are equal but for rounding, so that nothing differs
    protocol: str  # "k-fold" or "best_accuracy"
    convention: Convention  # of the k-fold accuracy
    num_people: int  # distinct people

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            accuracy_key(self.protocol): self.accuracy.to_dict(),
            **fields_of(self, "auc", "eer", "tar_at_far", "largest_change", "equal"),
            **fields_of(self, "convention", "num_people"),
            "intervals": self.interval_method,
        }

    @property
    def interval_method(self) -> str:
        """How the intervals came about, in one sentence."""
        return (
            f"95% intervals of the difference over the {self.num_people:,} people: "
            f"{PAIR_INTERVALS}, with the thresholds of the accuracy those of the folds; where no "
            "pair tells the models apart, Wilson's interval (1927) for as many people. The p-value "
            "is how likely so large a difference is where there is none."
        )


def compare_verification(
    scores_a: npt.ArrayLike,
    scores_b: npt.ArrayLike,
    same: npt.ArrayLike,
    folds: npt.ArrayLike | None,
    people: tuple[npt.ArrayLike, npt.ArrayLike],
    *,
    convention: Convention = "exact",
    fars: Sequence[float] = (),
) -> VerificationComparison:
    """The rates of a model b minus those of a model a, by `compare_with_first`.

    Args:
        scores_a: (P,) model a's similarity of each pair, higher is more alike.
        scores_b: (P,) model b's of the same pairs; need not be on the same scale.
        same, folds, people, convention, fars: as of `compare_with_first`, whose errors these are
            too.

    Example:
        >>> same, people = [1, 1, 0, 0], (["a", "b", "a", "b"], ["a", "b", "b", "a"])
        >>> found = compare_verification(
        ...     [0.9, 0.1, 0.5, 0.0], [0.9, 0.8, 0.5, 0.0], same, None, people
        ... )
        >>> found.auc.value
        0.25
    """
    scores = {"scores_a": scores_a, "scores_b": scores_b}
    found = compare_with_first(scores, same, folds, people, convention=convention, fars=fars)
    return found["scores_b"]


def compare_with_first(
    scores: Mapping[str, npt.ArrayLike],
    same: npt.ArrayLike,
    folds: npt.ArrayLike | None,
    people: tuple[npt.ArrayLike, npt.ArrayLike],
    *,
    convention: Convention = "exact",
    fars: Sequence[float] = (),
) -> dict[str, VerificationComparison]:
    """Accuracy, AUC, EER and TAR at fixed FARs of models minus those of the first of them.

    Args:
        scores: (P,) similarities of each pair by the model's name, at least two models.
        same, folds, people, convention, fars: as of
            `centerarc.evaluation.evaluate_verification`.

    Returns:
        By the name of every model but the first: that model's rates minus the first one's.

    Raises:
        ValueError: fewer than two models, scores of different lengths, or what
            `evaluate_verification` refuses, with the model's name.
    """
    if len(scores) < 2:
        raise ValueError(f"scores must be of at least 2 models, got {len(scores)}")
    models: dict[str, ScoredPairs] = {}
    for name, given in scores.items():
        try:
            values, labels = check_scores_as_given(given, same)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        models[name] = ScoredPairs(values, labels, folds, convention, fars)
    first, *others = models.values()
    who = PairPeople(people, first.same)
    results = {}
    for name, model in zip(list(models)[1:], others, strict=True):
        change, equal = _change(model.scores, first.scores)
        rates = list(zip(model.rates.tolist(), first.rates.tolist(), strict=True))
        found = [Difference(rate - of_first) for rate, of_first in rates]
        if not equal:
            effects = zip(model.effects(who), first.effects(who), strict=True)
            found = [_difference(*each, who) for each in zip(rates, effects, strict=True)]
        tars = dict(zip(first.fars, found[3:], strict=True))
        tars |= {far: Difference(None, too_few=few) for far, few in first.unsupported.items()}
        accuracy, auc, eer = found[:3]
        results[name] = VerificationComparison(
            *(accuracy, auc, eer, tars, change, equal),
            *(first.protocol, first.convention, who.count),
        )
    return results


def score_change(scores: ScoreArray, first: ScoreArray) -> tuple[float, bool]:
    """The largest change of a score, and whether it is none but for rounding.

    Of two tails of the highest scores, what both have is compared.
    """
    common = min(scores.size, first.size)
    return _change(scores[:common], first[:common])


def _change(scores: ScoreArray, first: ScoreArray) -> tuple[float, bool]:
    """The largest change of a score, and whether it is none but for rounding."""
    known = ~np.isnan(first)
    change = float(np.abs(scores[known] - first[known]).max(initial=0.0))
    return change, change <= _ROUNDING * float(np.ptp(first[known]) if known.any() else 0.0)


def _difference(
    rates: tuple[float, float], effects: tuple[Effect, Effect], who: PairPeople
) -> Difference:
    """A model's rate minus the first one's, with what each pair does to both."""
    value, people = rates[0] - rates[1], who.fewest
    sure = effects[0].uncertainty(who, minus=effects[1])
    thin = [effect.thin(rate, people) for effect, rate in zip(effects, rates, strict=True)]
    few = min((one for one in thin if one is not None), default=None)
    return Difference(value, sure.difference(value, people), sure.doubt(value, people), few)


# On the same probes and galleries.


@dataclass(frozen=True)
class IdentificationComparison:
    """What a second model changes against a first one; more is better everywhere."""

    cmc: dict[int, Difference]  # by rank
    tpir_at_fpir: dict[float, Difference]  # by FPIR
    largest_change: float  # of the score of a probe's own person or of the best other one
    equal: bool  # whether scores and ranks are equal but for rounding, so that nothing differs
    num_people: int  # distinct people among the probes
    resamples: int  # bootstrap resamples

    @property
    def interval_method(self) -> str:
        """How the intervals came about, in one sentence."""
        return (
            f"95% percentile intervals of the difference over {self.resamples:,} bootstrap "
            f"resamples of the {self.num_people:,} people of the probes, the same for both models; "
            "galleries stay, thresholds are set again; where hardly any resample tells the models "
            "apart, Wilson's interval (1927) for as many people. The p-value is that of the "
            "bootstrap: how often a resample gives no or the opposite difference, doubled, at "
            "least 2 / (resamples + 1)."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        names = ("cmc", "tpir_at_fpir", "largest_change", "equal", "num_people")
        rates = fields_of(self, *names)
        return {**rates, "intervals": self.interval_method}


def compare_identification(
    searches: Mapping[str, Sequence[GallerySearch]],
    *,
    ranks: Sequence[int] = RANKS,
    fpirs: Sequence[float] = FPIR_LEVELS,
    tpir_rank: int = 1,
    bootstrap: int = 1000,
    seed: int = 0,
    convention: SearchConvention = "exact",
) -> dict[str, IdentificationComparison]:
    """CMC and TPIR at fixed FPIRs of models minus those of the first of them.

    Args:
        searches: by the model's name, one search for each gallery; at least two models.
        ranks, fpirs, tpir_rank, bootstrap, seed, convention: as of
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
            found,
            ranks=ranks,
            fpirs=fpirs,
            tpir_rank=tpir_rank,
            bootstrap=0,
            convention=convention,
        )
        for name, found in searches.items()
    }
    reasons = {f: share.too_few for f, share in reports[first].tpir_at_fpir.items()}
    supported = [fpir for fpir, reason in reasons.items() if reason is None]
    rates, resampled, people = {}, {}, mated_people(reference)
    for name, found in searches.items():
        cmc, tpir = reports[name].cmc, reports[name].tpir_at_fpir
        values = [cmc[rank].value for rank in ranks] + [tpir[fpir].value for fpir in supported]
        rates[name] = np.array(values, dtype=np.float64)
        resampled[name] = resampled_rates(
            found, ranks, supported, tpir_rank, bootstrap, seed, convention
        )
    results = {}
    for name, found in others:
        changes = [
            _change(np.asarray(getattr(a, scores)), np.asarray(getattr(b, scores)))
            for a, b in zip(found, reference, strict=True)
            for scores in ("mate_score", "other_score")
        ]
        equal = all(same for _, same in changes) and all(
            np.array_equal(a.rank, b.rank) for a, b in zip(found, reference, strict=True)
        )
        moved = resampled[name] - resampled[first]
        differences = [
            Difference(float(value))
            if equal
            else Difference(float(value), difference_interval(row, people), contrary_share(row))
            for value, row in zip(rates[name] - rates[first], moved, strict=True)
        ]
        tpirs = {fpir: Difference(None, too_few=reason) for fpir, reason in reasons.items()}
        tpirs |= dict(zip(supported, differences[len(ranks) :], strict=True))
        results[name] = IdentificationComparison(
            *(dict(zip(ranks, differences, strict=False)), tpirs),
            *(max(change for change, _ in changes), equal),
            *(reports[first].num_people, bootstrap),
        )
    return results
