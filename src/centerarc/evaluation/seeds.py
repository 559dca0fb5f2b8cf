"""Arms of a study that were trained with several seeds: means, differences, and how sure they are.

All runs judge the same images, and a seed means the same in every arm. What would come out
otherwise is both who was judged and which seeds were taken, so an interval allows for both:

    variance = V_people + max(s^2 - I, 0) / S,  with S seeds

V_people is the variance of the mean over seeds when people are resampled, the same for all runs
(weights w_a of `AllPairs`). Drawing people counts what is special to the impostor pairs of two of
them three times (Owen 2007), so of a TAR two thirds of it are taken out (`AllPairs.pair_effects`),
but never more than half of the variance. s^2 is the variance (divided by S - 1) of the seeds'
values on all people. I is what resampled people change in one seed but not in all of them; both of
the others hold it, so it is taken out once. Intervals are those of Student's t with as many degrees
of freedom as the sum has (Satterthwaite 1946): resampling five seeds instead would give intervals
that are too short, because five draws of five values vary less than five new seeds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from centerarc.evaluation.all_pairs import FARS, FPIR, AllPairs
from centerarc.evaluation.intervals import (
    Interval,
    Supported,
    TooFew,
    Uncertainty,
    check_resamples,
    draw_people,
    fields_of,
    plain,
    rate_key,
)
from centerarc.evaluation.scores import FloatArray, IntArray

# Which two people, and what they do to a rate.
_Effects = tuple[IntArray, FloatArray]
# Draws of people at once.
_COLUMNS = 250
_AUC, _EER, _SPREAD = "auc", "eer", "threshold_spread"


@dataclass(frozen=True)
class SeedMean(Supported):
    """A measure's mean over seeds, with its 95% interval over people and seeds."""

    value: float | None  # None where there are too few people for it, or no run
    interval: Interval | None = None  # None without resamples
    by_seed: dict[int, float] | None = None  # of each seed, on all people
    too_few: TooFew | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return self.with_reason(value=self.value, interval95=self.interval, by_seed=self.by_seed)


@dataclass(frozen=True)
class SeedDifference(Supported):
    """An arm's mean minus the first arm's over the seeds that both have."""

    value: float | None
    interval: Interval | None = None  # 95% over people and seeds, both arms on the same ones
    doubt: float | None = None  # the p-value of no difference; small is sure
    by_seed: dict[int, float] | None = None  # of each seed
    too_few: TooFew | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return self.with_reason(
            value=self.value, interval95=self.interval, doubt=self.doubt, by_seed=self.by_seed
        )


@dataclass(frozen=True)
class ArmSummary:
    """What one arm reaches, by the name of the measure."""

    seeds: list[int]  # of its runs
    means: dict[str, SeedMean]
    differences: dict[str, SeedDifference] | None  # None of the first arm

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"seeds": self.seeds, **fields_of(self, "means"), **self._differences()}

    def _differences(self) -> dict[str, Any]:
        found = self.differences
        return {} if found is None else {"differences_to_first": plain(found)}


@dataclass(frozen=True)
class StudySummary:
    """All arms of a study; differences are to the first of them."""

    arms: dict[str, ArmSummary]
    num_people: int  # who are resampled
    num_genuine_people: int  # of them with genuine pairs
    num_images: int
    num_genuine: int  # pairs
    num_impostor: int  # pairs
    person_far: float  # the FAR of each person's threshold
    resamples: int
    seed: int

    @property
    def interval_method(self) -> str:
        """How the intervals came about, in a few sentences."""
        if not self.resamples:
            return "No intervals were asked for."
        counts = [len(arm.seeds) for arm in self.arms.values()]
        several, shared = max(counts) > 1, ", the same for all runs" if sum(counts) > 1 else ""
        seeds = (
            " and the variance of the seeds, with what both hold counted once, and Student's t for "
            "so few seeds"
            if several
            else ""
        )
        return (
            f"95% intervals from {self.resamples:,} bootstrap resamples of the "
            f"{self.num_people:,} people{shared}, with thresholds found again in each "
            f"and, of a TAR, what two people share counted once{seeds}. Every person weighs the "
            "same."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        counts = ("num_people", "num_genuine_people", "num_images", "num_genuine", "num_impostor")
        return {
            **fields_of(self, "arms", *counts, "person_far", "resamples", "seed"),
            "intervals": self.interval_method,
        }


def measure_names(fars: Sequence[float] = FARS, fpir: float = FPIR) -> list[str]:
    """The names of all measures: `tar@0.001` of each FAR, `auc`, `eer`, and so on.

    Example:
        >>> measure_names((1e-3,))
        ['tar@0.001', 'auc', 'eer', 'threshold_spread', 'tpir@0.01']
    """
    tars = [f"tar@{rate_key(far)}" for far in fars]
    return [*tars, _AUC, _EER, _SPREAD, f"tpir@{rate_key(fpir)}"]


def measured(
    record: AllPairs, fars: Sequence[float] = FARS, fpir: float = FPIR
) -> dict[str, float | TooFew]:
    """Every measure of a record by its name, or why the people are too few for it.

    Args:
        record: From `score_all_pairs`.
        fars: False accept rates, in (0, 1), which the kept scores reach.
        fpir: False positive identification rate, in (0, 1).

    Raises:
        ValueError: A rate out of range.

    Example:
        >>> from centerarc.evaluation import score_all_pairs
        >>> record = score_all_pairs([[1, 0], [3, 1], [0, 1], [1, 4]], [1, 1, 2, 2])
        >>> measured(record)["auc"]
        1.0
    """
    reasons = _reasons(record, fars, fpir)
    found: dict[str, float | TooFew] = {}
    for name, far in zip(measure_names(fars, fpir), fars, strict=False):
        reason = reasons.get(name)
        found[name] = record.tar_at_far(far).tar if reason is None else reason
    found |= {_AUC: record.auc, _EER: record.eer, _SPREAD: record.threshold_spread}
    name = measure_names((), fpir)[-1]
    reason = reasons.get(name)
    found[name] = record.tpir(fpir) if reason is None else reason
    return found


def summarize_arms(
    arms: Mapping[str, Mapping[int, AllPairs]],
    *,
    fars: Sequence[float] = FARS,
    fpir: float = FPIR,
    resamples: int = 1000,
    seed: int = 0,
) -> StudySummary:
    """Means over seeds and paired differences to the first arm, with 95% intervals.

    Intervals of the AUC and the EER are to first order in the people (records of older versions
    give none of the EER); the gallery of the TPIR and the thresholds behind their spread stay as
    they are in all resamples. With one seed an interval is over people alone.

    Args:
        arms: Records by the arm's name and the seed, all of the same images. Runs may be missing:
            a difference is over the seeds that both arms have, and has no value without any.
        fars: False accept rates, in (0, 1), which the kept scores reach.
        fpir: False positive identification rate, in (0, 1).
        resamples: Of the people, at least 100; 0 for no intervals.
        seed: Of the resampling.

    Raises:
        ValueError: No run of the first arm, records of different images, or a number out of
            range.

    Example:
        >>> import numpy as np
        >>> from centerarc.evaluation import score_all_pairs
        >>> rng = np.random.default_rng(0)
        >>> who = np.repeat(np.arange(40), 3)
        >>> def run(noise):
        ...     people = rng.normal(size=(40, 16))[who]
        ...     return score_all_pairs(people + noise * rng.normal(size=people.shape), who)
        >>> arms = {"a": {0: run(1.0), 1: run(1.0)}, "b": {0: run(0.5), 1: run(0.5)}}
        >>> found = summarize_arms(arms, fars=(0.01,), fpir=0.1, resamples=100)
        >>> found.arms["b"].differences["auc"].interval.low > 0
        True
    """
    check_resamples(resamples, or_none=True)
    if not arms or not next(iter(arms.values())):
        raise ValueError("arms must hold at least one run of the first arm")
    runs = [(arm, number) for arm, records in arms.items() for number in records]
    first = arms[runs[0][0]][runs[0][1]]
    for arm, number in runs:
        if arms[arm][number].digest != first.digest or arms[arm][number].ordered != first.ordered:
            raise ValueError(
                f"arms must be judged on the same images; {arm!r} with seed {number} is not, "
                f"unlike {runs[0][0]!r} with seed {runs[0][1]}"
            )
        if arms[arm][number].person_far != first.person_far:
            raise ValueError(
                f"arms must have one person_far, got {first.person_far} and "
                f"{arms[arm][number].person_far} of {arm!r} with seed {number}"
            )
    names = measure_names(fars, fpir)
    reasons = _reasons(first, fars, fpir)
    values = {run: measured(arms[run[0]][run[1]], fars, fpir) for run in runs}
    drawn: dict[tuple[str, int], dict[str, FloatArray]] = {}
    if resamples:
        drawn = _resampled({run: arms[run[0]][run[1]] for run in runs}, fars, fpir, resamples, seed)
    effects = _pair_effects(runs, arms, fars, reasons) if resamples else {}
    several, everyone = first.num_genuine_people, first.num_people
    baseline = runs[0][0]
    summaries = {}
    for arm, records in arms.items():
        means: dict[str, SeedMean] = {}
        differences: dict[str, SeedDifference] = {}
        for name in names:
            people = everyone if name == _SPREAD else several
            if reasons.get(name) is not None:
                means[name] = SeedMean(None, too_few=reasons[name])
                differences[name] = SeedDifference(None, too_few=reasons[name])
                continue
            mine = {n: _number(values[arm, n][name]) for n in records}
            moved = {n: drawn[arm, n][name] for n in records if name in drawn.get((arm, n), {})}
            pairs = {n: effects[name][arm, n] for n in mine} if name in effects else None
            means[name] = _mean(mine, moved, people, pairs, rate=name != _SPREAD)
            theirs = {n: _number(values[baseline, n][name]) for n in arms[baseline]}
            both = [n for n in mine if n in theirs]
            change = {n: mine[n] - theirs[n] for n in both}
            moves = {n: moved[n] - drawn[baseline, n][name] for n in both if n in moved}
            if name in effects:
                of = effects[name]
                pairs = {n: _minus(of[arm, n], of[baseline, n]) for n in both}
            differences[name] = _difference(change, moves, people, pairs, rate=name != _SPREAD)
        summaries[arm] = ArmSummary(list(records), means, None if arm == baseline else differences)
    return StudySummary(
        summaries,
        *(everyone, several, first.num_images, first.num_genuine, first.num_impostor),
        *(first.person_far, resamples, seed),
    )


def _pair_effects(
    runs: Sequence[tuple[str, int]],
    arms: Mapping[str, Mapping[int, AllPairs]],
    fars: Sequence[float],
    reasons: Mapping[str, TooFew],
) -> dict[str, dict[tuple[str, int], _Effects]]:
    """What every two people do to each TAR of each run."""
    names = measure_names(fars)
    return {
        name: {(arm, number): arms[arm][number].pair_effects(far) for arm, number in runs}
        for name, far in zip(names, fars, strict=False)
        if name not in reasons
    }


def _minus(effects: _Effects, others: _Effects) -> _Effects:
    return np.append(effects[0], others[0]), np.append(effects[1], -others[1])


def _reasons(record: AllPairs, fars: Sequence[float], fpir: float) -> dict[str, TooFew]:
    """Why there is no value, by the name of the measure."""
    found = dict(zip(measure_names(fars, fpir), map(record.too_few, fars), strict=False))
    found[measure_names((), fpir)[-1]] = record.too_few_strangers(fpir)
    return {name: reason for name, reason in found.items() if reason is not None}


def _number(value: float | TooFew) -> float:
    assert isinstance(value, float)  # its reasons are those of all records of these images
    return value


def _resampled(
    records: Mapping[tuple[str, int], AllPairs],
    fars: Sequence[float],
    fpir: float,
    resamples: int,
    seed: int,
) -> dict[tuple[str, int], dict[str, FloatArray]]:
    """Each measure of each run (B,), people drawn the same for all of them."""
    first = next(iter(records.values()))
    reasons = _reasons(first, fars, fpir)
    *tars, area, eer, spread, found = measure_names(fars, fpir)
    supported = [(name, far) for name, far in zip(tars, fars, strict=True) if name not in reasons]
    all_have_eer = all(math.isfinite(record.eer_threshold) for record in records.values())
    columns = max(1, min(_COLUMNS, 2_000_000 // first.num_people))
    parts: dict[tuple[str, int], dict[str, list[FloatArray]]] = {run: {} for run in records}
    for weights in draw_people(first.num_people, resamples, seed, columns):
        for run, record in records.items():
            rates = record.weighted_tars(weights, [far for _, far in supported])
            rows = dict(zip([name for name, _ in supported], rates, strict=True))
            rows |= {area: record.weighted_auc(weights), spread: record.weighted_spread(weights)}
            if all_have_eer:
                rows[eer] = record.weighted_eer(weights)
            if found not in reasons:
                rows[found] = record.weighted_tpir(weights, (fpir,))[0]
            for name, row in rows.items():
                parts[run].setdefault(name, []).append(row)
    return {
        run: {name: np.concatenate(rows) for name, rows in of.items()} for run, of in parts.items()
    }


def _uncertainty(
    values: Mapping[int, float],
    moved: Mapping[int, FloatArray],
    people: int,
    effects: Mapping[int, _Effects] | None = None,
) -> Uncertainty:
    """How far the mean of seeds' values may be off with other people and other seeds.

    Its variance is infinite where nothing tells.

    Args:
        values: of each seed.
        moved: (B,) of each seed, with resampled people.
        people: how many the values rest on.
        effects: what every two people do to the value of each seed; None for nothing.
    """
    if not moved:
        return Uncertainty(math.inf, 1.0)
    drawn = np.stack([moved[number] for number in values])
    drawn = drawn[:, ~np.isnan(drawn).any(axis=0)]
    if drawn.shape[1] < 2:
        return Uncertainty(math.inf, 1.0)
    count = len(values)
    of_mean = drawn.mean(axis=0)
    pairs = [] if effects is None else [effects[number] for number in values]
    twice = _squares(pairs) / count**2
    by_people = _once(float(of_mean.var(ddof=1)), twice)
    freedom = float(max(people - 1, 1))
    if count == 1:
        return Uncertainty(by_people, freedom)
    of_seeds = float(np.var(list(values.values()), ddof=1))
    apart = sum(_squares([each]) for each in pairs) - count * twice
    alone = float((drawn - of_mean).var(axis=1, ddof=1).sum())
    shared = _once(alone, apart) / (count - 1)
    variance = by_people + max(of_seeds - shared, 0.0) / count
    parts = by_people**2 / freedom + (of_seeds / count) ** 2 / (count - 1)
    if not variance or not parts:
        return Uncertainty(variance, freedom)
    return Uncertainty(variance, float(np.clip(variance**2 / parts, count - 1, freedom)))


def _squares(effects: Sequence[_Effects]) -> float:
    """The sum of squares of what every two people do in all of some seeds together."""
    if not effects:
        return 0.0
    pairs, values = (np.concatenate(part) for part in zip(*effects, strict=True))
    _, number = np.unique(pairs, return_inverse=True)
    together = np.bincount(number, values)
    return float(together @ together)


def _once(variance: float, pairs: float) -> float:
    """A variance of resampled people, with what two people share counted once and not thrice.

    Half of it stays at least, since the effects of few pairs are known too roughly for more.
    """
    return max(variance - 2 * pairs, variance / 2)


def _mean(
    values: dict[int, float],
    moved: Mapping[int, FloatArray],
    people: int,
    effects: Mapping[int, _Effects] | None,
    *,
    rate: bool,
) -> SeedMean:
    if not values:
        return SeedMean(None)
    mean = float(np.mean(list(values.values())))
    sure = _uncertainty(values, moved, people, effects)
    if not math.isfinite(sure.variance):
        return SeedMean(mean, None, values)
    if rate:
        return SeedMean(mean, sure.interval(mean, people), values)
    return SeedMean(mean, Interval(max(mean - sure.reach, 0.0), mean + sure.reach), values)


def _difference(
    values: dict[int, float],
    moved: Mapping[int, FloatArray],
    people: int,
    effects: Mapping[int, _Effects] | None,
    *,
    rate: bool,
) -> SeedDifference:
    if not values:
        return SeedDifference(None)
    mean = float(np.mean(list(values.values())))
    sure = _uncertainty(values, moved, people, effects)
    # Wilson's interval, which `difference` has for a variance of 0, is of rates.
    if not math.isfinite(sure.variance) or not (rate or sure.variance):
        return SeedDifference(mean, by_seed=values)
    return SeedDifference(mean, sure.difference(mean, people), sure.doubt(mean, people), values)
