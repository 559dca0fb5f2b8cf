"""Models on the same pairs or probes: how far apart they are, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.accuracy import Answers, Convention, answer_pairs
from centerarc.evaluation.gallery import GallerySearch
from centerarc.evaluation.identification import (
    FPIR_LEVELS,
    RANKS,
    evaluate_identification,
    mated_people,
    resampled_values,
)
from centerarc.evaluation.intervals import (
    Interval,
    PairPeople,
    check_resamples,
    contrary_share,
    difference_interval,
    low_high,
    rate_key,
    resampled_curves,
)
from centerarc.evaluation.roc_curve import Roc, roc
from centerarc.evaluation.scores import FloatArray, WeightedCurves, check_scores, rank_pairs
from centerarc.evaluation.verification import judged_fars

# Two models on the same pairs: how far apart they are, and how sure that is.


@dataclass(frozen=True)
class Difference:
    """What one model has more than another, and how sure that is.

    Attributes:
        value: the second model's rate minus the first one's; None when the data cannot support it.
        interval: 95 % over people, both models on the same people; None without a value.
        contrary_share: how often resampled differences are not on the side of most of them,
            doubled, as :func:`centerarc.evaluation.intervals.contrary_share` has it; small is
            sure. None without a value.
        reason: why there is no value.
    """

    value: float | None
    interval: Interval | None = None
    contrary_share: float | None = None
    reason: str | None = None

    @classmethod
    def of(
        cls, value: float, resampled: FloatArray, num_people: int, *, identical: bool
    ) -> "Difference":
        """Makes one of what resampling found.

        Args:
            value: the difference.
            resampled: (B,) the difference in each resample.
            num_people: the people that the rates rest on.
            identical: whether both models gave the same scores: then they differ on nobody.
        """
        if identical:
            return cls(0.0, Interval(0.0, 0.0), 1.0)
        return cls(value, difference_interval(resampled, num_people), contrary_share(resampled))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        result: dict[str, Any] = {
            "value": self.value,
            "interval95": low_high(self.interval),
            "contrary_share": self.contrary_share,
        }
        return result if self.reason is None else {**result, "reason": self.reason}


@dataclass(frozen=True)
class VerificationComparison:
    """What a second model changes against a first one on the same pairs.

    Attributes:
        accuracy: of ``protocol``; more is better.
        auc: area under the ROC; more is better.
        eer: equal error rate; less is better.
        tar_at_far: TAR by FAR; more is better.
        protocol: "k-fold" or "best_accuracy".
        convention: of the k-fold accuracy.
        num_people: distinct people.
        resamples: bootstrap resamples.
    """

    accuracy: Difference
    auc: Difference
    eer: Difference
    tar_at_far: dict[float, Difference]
    protocol: str
    convention: Convention
    num_people: int
    resamples: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        name = "kfold_accuracy" if self.protocol == "k-fold" else "best_accuracy"
        tars = {rate_key(far): found.to_dict() for far, found in self.tar_at_far.items()}
        return {
            name: self.accuracy.to_dict(),
            "auc": self.auc.to_dict(),
            "eer": self.eer.to_dict(),
            "tar_at_far": tars,
            "convention": self.convention,
            "num_people": self.num_people,
            "intervals": self.interval_method,
        }

    @property
    def interval_method(self) -> str:
        """How the intervals came about, in one sentence."""
        return (
            f"95 % percentile intervals of the difference over {self.resamples:,} bootstrap "
            f"resamples of the {self.num_people:,} people, the same for both models, with the "
            "thresholds of the accuracy held fixed; Wilson's (1927) for as many people where "
            "hardly any resample tells them apart."
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
    bootstrap: int = 1000,
    seed: int = 0,
) -> VerificationComparison:
    """Accuracy, AUC, EER and TAR at fixed FARs of a model b minus those of a model a.

    A paired bootstrap: each resample draws people and measures both models on them, so what makes
    people easy or hard for both falls out of the difference. The rates are those of
    :func:`centerarc.evaluation.evaluate_verification`.

    Args:
        scores_a: (P,) model a's similarity of each pair, higher is more alike.
        scores_b: (P,) model b's of the same pairs; need not be on the same scale.
        same: (P,) True where both images of the pair show one person.
        folds: (P,) each pair's fold, integers. None or a single fold: the accuracy is
            ``best_accuracy``.
        people: the first and the second person of each pair, each (P,), names or numbers.
        convention: of the k-fold accuracy, "exact" or "grid".
        fars: false accept rates beside those that are always compared, each in (0, 1).
        bootstrap: resamples, at least 100.
        seed: of the resampling; the people drawn are those of ``evaluate_verification``.

    Returns:
        The differences.

    Raises:
        ValueError: arguments that contradict each other, scores of different lengths, a score that
            is not finite (with its row), or no pair of one of the kinds.

    Example:
        >>> same, people = [1, 1, 0, 0], (["a", "b", "a", "b"], ["a", "b", "b", "a"])
        >>> found = compare_verification(
        ...     [0.9, 0.1, 0.5, 0.0], [0.9, 0.8, 0.5, 0.0], same, None, people, bootstrap=100
        ... )
        >>> found.auc.value
        0.25
    """
    models = {"scores_a": scores_a, "scores_b": scores_b}
    return compare_with_first(
        models,
        same,
        folds,
        people,
        convention=convention,
        fars=fars,
        bootstrap=bootstrap,
        seed=seed,
    )["scores_b"]


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
    """Compare the first of several models with each of the others, all on the same people.

    Args:
        scores: (P,) similarities of each pair by the model's name, at least two models.
        same: (P,) True where both images of the pair show one person.
        folds: (P,) each pair's fold, or None.
        people: the first and the second person of each pair, each (P,).
        convention: of the k-fold accuracy, "exact" or "grid".
        fars: false accept rates beside those that are always compared, each in (0, 1).
        bootstrap: resamples, at least 100.
        seed: of the resampling.

    Returns:
        By the name of every model but the first: that model's rates minus the first one's.

    Raises:
        ValueError: as :func:`compare_verification`, or fewer than two models.
    """
    if len(scores) < 2:
        raise ValueError(f"scores must be of at least 2 models, got {len(scores)}")
    check_resamples(bootstrap)
    checked = {name: _checked(name, values, same) for name, values in scores.items()}
    labels = next(iter(checked.values()))[1]
    sizes = {name: values.size for name, (values, _) in checked.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"scores must be of the same pairs, got {sizes}")
    answers = [answer_pairs(values, labels, folds, convention) for values, _ in checked.values()]
    num_impostor = int((~labels).sum())
    reasons = judged_fars(fars, num_impostor)
    supported = [far for far, reason in reasons.items() if reason is None]
    ranked = [rank_pairs(values, labels) for values, _ in checked.values()]
    who = PairPeople.of(people, labels)
    parts = [
        np.stack([_rates(c, a, supported) for c, a in zip(curves, answers, strict=True)])
        for curves in resampled_curves(ranked, who, bootstrap, seed)
    ]
    resampled = np.concatenate(parts, axis=2)
    point = np.stack(
        [
            _point_rates(roc(values, labels), answer, supported)
            for (values, _), answer in zip(checked.values(), answers, strict=True)
        ]
    )

    first, *_ = (values for values, _ in checked.values())
    alike = [np.array_equal(values, first) for values, _ in checked.values()]

    def compared(model: int) -> VerificationComparison:
        found = [
            Difference.of(float(value), row, who.fewest, identical=alike[model])
            for value, row in zip(
                point[model] - point[0], resampled[model] - resampled[0], strict=True
            )
        ]
        tars = dict(zip(supported, found[3:], strict=True))
        tars |= {far: Difference(None, reason=str(why)) for far, why in reasons.items() if why}
        return VerificationComparison(
            accuracy=found[0],
            auc=found[1],
            eer=found[2],
            tar_at_far=tars,
            protocol=answers[0].protocol,
            convention=convention,
            num_people=who.count,
            resamples=bootstrap,
        )

    return {name: compared(model) for model, name in enumerate(scores) if model}


def _checked(
    name: str, scores: npt.ArrayLike, same: npt.ArrayLike
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    try:
        return check_scores(scores, same)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _rates(curves: WeightedCurves, answers: Answers, fars: list[float]) -> FloatArray:
    """Accuracy, AUC, EER and TARs of B resamples: (3 + F, B)."""
    rates = [answers.resampled_accuracy(curves), curves.auc(), curves.eer()]
    return np.vstack([*rates, curves.tar_at_far(curves.points_at_far(fars))])


def _point_rates(curve: Roc, answers: Answers, fars: list[float]) -> FloatArray:
    tars = [curve.tar[curve.point_at_far(far)] for far in fars]
    return np.array([answers.accuracy, curve.auc, curve.eer, *tars])


# Models on the same probes and galleries: how far apart they are, and how sure that is.


@dataclass(frozen=True)
class IdentificationComparison:
    """What a second model changes against a first one; more is better everywhere.

    Attributes:
        cmc: by rank.
        tpir_at_fpir: by FPIR.
        num_people: distinct people among the probes.
        resamples: bootstrap resamples.
    """

    cmc: dict[int, Difference]
    tpir_at_fpir: dict[float, Difference]
    num_people: int
    resamples: int

    @property
    def interval_method(self) -> str:
        """How the intervals came about, in one sentence."""
        return (
            f"95 % percentile intervals of the difference over {self.resamples:,} bootstrap "
            f"resamples of the {self.num_people:,} people of the probes, the same for both models; "
            "galleries stay, thresholds are set anew; Wilson's (1927) for as many people where "
            "hardly any resample tells them apart."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "cmc": {str(rank): found.to_dict() for rank, found in self.cmc.items()},
            "tpir_at_fpir": {
                rate_key(f): found.to_dict() for f, found in self.tpir_at_fpir.items()
            },
            "num_people": self.num_people,
            "intervals": self.interval_method,
        }


def compare_identification(
    searches: Mapping[str, Sequence[GallerySearch]],
    *,
    ranks: Sequence[int] = RANKS,
    fpirs: Sequence[float] = FPIR_LEVELS,
    tpir_rank: int = 1,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, IdentificationComparison]:
    """Compare the first of several models with each of the others on the same probes.

    A paired bootstrap, as :func:`centerarc.evaluation.compare_verification` has it: each resample
    draws people and measures all models on their probes.

    Args:
        searches: by the model's name, one search for each gallery; at least two models.
        ranks: the k of the CMC, each at least 1.
        fpirs: false positive identification rates, in (0, 1).
        tpir_rank: the mate must be within this rank in the open set.
        bootstrap: resamples, at least 100.
        seed: of the resampling.

    Returns:
        By the name of every model but the first: that model's rates minus the first one's. An
        FPIR that the probes without a mate cannot carry has no value but a reason.

    Raises:
        ValueError: fewer than two models, searches of different probes or galleries, or what
            :func:`centerarc.evaluation.identification.evaluate_identification` refuses.

    Example:
        >>> from centerarc.evaluation.identification.gallery_search import search_gallery
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
    _check_same(searches)
    reports = {
        name: evaluate_identification(
            found, ranks=ranks, fpirs=fpirs, tpir_rank=tpir_rank, bootstrap=0
        )
        for name, found in searches.items()
    }
    first, *others = searches
    reasons = {fpir: share.reason for fpir, share in reports[first].tpir_at_fpir.items()}
    supported = [fpir for fpir, reason in reasons.items() if reason is None]
    values = {
        name: resampled_values(found, ranks, supported, tpir_rank, bootstrap, seed)
        for name, found in searches.items()
    }
    mated = mated_people(searches[first])

    def compared(name: str) -> IdentificationComparison:
        rates = [
            [report.cmc[rank].value for rank in ranks]
            + [report.tpir_at_fpir[fpir].value for fpir in supported]
            for report in (reports[first], reports[name])
        ]
        both = zip(searches[first], searches[name], strict=True)
        identical = all(a.same_scores(b) for a, b in both)
        point = np.array(rates[1], dtype=np.float64) - np.array(rates[0], dtype=np.float64)
        found = [
            Difference.of(float(value), row, mated, identical=identical)
            for value, row in zip(point, values[name] - values[first], strict=True)
        ]
        tpirs = dict(zip(supported, found[len(ranks) :], strict=True))
        return IdentificationComparison(
            dict(zip(ranks, found, strict=False)),
            {fpir: tpirs.get(fpir, Difference(None, reason=reasons[fpir])) for fpir in fpirs},
            reports[first].num_people,
            bootstrap,
        )

    return {name: compared(name) for name in others}


def _check_same(searches: Mapping[str, Sequence[GallerySearch]]) -> None:
    (first, reference), *others = searches.items()
    for name, found in others:
        if len(found) != len(reference) or not all(
            np.array_equal(a.probe_labels, b.probe_labels) and np.array_equal(a.mated, b.mated)
            for a, b in zip(found, reference, strict=True)
        ):
            raise ValueError(f"{first} and {name} are not of the same probes and galleries")
