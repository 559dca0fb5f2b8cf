"""Thresholds for rates that data cannot carry: a generalized Pareto tail of the highest scores.

ISO/IEC 5152:2024 describes how biometric performance is estimated with extreme value theory. What
comes out is an extrapolation, and is marked as one.
"""

import math
from dataclasses import dataclass

import numpy as np

from centerarc.evaluation.intervals import check_resamples, draw_people
from centerarc.evaluation.left_out import LeaveOneOut
from centerarc.evaluation.people_rates import Plain, in_larger
from centerarc.evaluation.scores import FloatArray, IntArray

# The share of the scores that is the tail, or more, up to the last, where that are too few photos.
_SHARE, _PHOTOS, _MOST_SHARE = 0.1, 50, 0.25
# By simulation, intervals from the tails of fewer people hold too seldom.
_FEWEST_PHOTOS, _FEWEST_PEOPLE = 30, 30
# Samples of the fitted distribution that the goodness of the fit is compared with.
_SAMPLES = 400


@dataclass(frozen=True)
class ExtremeTail(Plain):
    """A threshold for an FPIR beyond the data, by the shape of the highest strangers' scores."""

    fpir: float
    threshold: float
    low: float  # of the threshold's interval
    high: float
    start: float  # the score at which the tail starts
    share: float  # of strangers' photos from there on
    shape: float  # of the distribution: below 0 it ends, at 0 it is exponential
    scale: float
    photos: int  # in the tail
    people: int  # theirs
    fit_p: float  # of Anderson and Darling's test: below 0.05 the tail has another form
    extrapolated: bool = True


def fit_pareto(excesses: FloatArray, weights: FloatArray | None = None) -> tuple[float, float]:
    """Fit shape and scale by probability-weighted moments (Hosking and Wallis 1987).

    With a_0 = E[x] and a_1 = E[x (1 - F(x))], shape = 2 - a_0 / (a_0 - 2 a_1) and
    scale = 2 a_0 a_1 / (a_0 - 2 a_1): more exact than maximum likelihood for fewer than some 500
    values, and always there. The distribution function is 1 - (1 + shape x / scale)^(-1 / shape).

    Args:
        excesses: (n,) at least 0, not all equal.
        weights: (n,) how often each counts, None for once.

    Returns:
        Shape, below 1, and scale.
    """
    order = np.argsort(excesses, kind="stable")
    values = excesses[order]
    many = np.ones(values.size) if weights is None else weights[order]
    shape, scale = _fit(values[None], many[None])
    return float(shape[0]), float(scale[0])


def _fit(values: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Shapes and scales (B,) of rising values (B, n) or (1, n) and their weights."""
    total = weights.sum(axis=1)
    # The plotting position (j - 0.35) / n of Hosking and Wallis, in the middle of a value's weight.
    above = total[:, None] - np.cumsum(weights, axis=1) + weights / 2 - 0.15
    mean = (weights * values).sum(axis=1) / total
    tilted = (weights * values * above).sum(axis=1) / total**2
    rest = mean - 2 * tilted
    with np.errstate(divide="ignore", invalid="ignore"):
        return 2 - mean / rest, 2 * mean * tilted / rest


def pareto_above(share: FloatArray, shape: FloatArray, scale: FloatArray) -> FloatArray:
    """The excess that a share in (0, 1] of the distribution is above."""
    logs = -np.log(share)
    flat = np.abs(shape) < 1e-9
    safe = np.where(flat, 1.0, shape)
    return np.asarray(scale * np.where(flat, logs, np.expm1(safe * logs) / safe))


def anderson_darling(rising: FloatArray, shape: FloatArray, scale: FloatArray) -> FloatArray:
    """A^2 (B,) of rising values (B, n) and distributions (B,)."""
    count = rising.shape[1]
    inside = 1 + shape[:, None] * rising / scale[:, None]
    small = np.abs(shape[:, None]) < 1e-9
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(
            small,
            -rising / scale[:, None],
            -np.log(np.maximum(inside, 1e-300)) / np.where(small, 1.0, shape[:, None]),
        )
    survival = np.clip(np.exp(logs), 1e-12, 1 - 1e-12)
    factor = 2 * np.arange(1, count + 1) - 1
    terms = factor * (np.log1p(-survival) + np.log(survival[:, ::-1]))
    return np.asarray(-count - terms.sum(axis=1) / count)


def why_no_tail(left_out: LeaveOneOut, fpir: float) -> str | None:
    """Why `extreme_tail` has no threshold for an FPIR, in one line; None where it has."""
    tail = _tail(left_out)[1]
    people, share = np.unique(left_out.person[tail]).size, tail.size / left_out.person.size
    if tail.size < _FEWEST_PHOTOS or people < _FEWEST_PEOPLE:
        return (
            f"a tail needs at least {_FEWEST_PHOTOS} photos of {_FEWEST_PEOPLE} people, "
            f"got {tail.size} of {people}"
        )
    if _most(left_out, fpir) >= share:
        return f"fpir must be below the tail's share of {share:.3g}, got {fpir:g}"
    highest = float(left_out.rival[tail].max())
    if left_out.rival[tail].min() == highest:
        return f"a tail needs different scores, all {tail.size} are {highest:g}"
    return None


def _most(left_out: LeaveOneOut, fpir: float) -> float:
    """The share in a gallery without the stranger's person that is `fpir` in all of it."""
    size = left_out.people.size
    return in_larger(fpir, (size - 1) / size)


def _tail(left_out: LeaveOneOut) -> tuple[float, IntArray]:
    """Where the tail starts, and the photos above."""
    total = left_out.rival.size
    count = min(max(round(_SHARE * total), _PHOTOS), round(_MOST_SHARE * total))
    start = float(np.sort(left_out.rival)[max(total - count - 1, 0)])
    return start, np.flatnonzero(left_out.rival > start)


def alike_pairs(left_out: LeaveOneOut) -> IntArray:
    """(P,) numbers; equal for two people each of whom is the other's most similar person."""
    size = left_out.people.size
    order = np.lexsort((left_out.rival, left_out.person))
    top = order[np.searchsorted(left_out.person[order], np.arange(size), side="right") - 1]
    partner, own = left_out.rival_person[top], np.arange(size)
    pair = np.where(partner[partner] == own, np.minimum(own, partner), own)
    return np.unique(pair, return_inverse=True)[1].astype(np.int64)


def extreme_tail(
    left_out: LeaveOneOut,
    fpir: float,
    confidence: float = 0.95,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> ExtremeTail:
    """Extrapolate the threshold of an FPIR from the highest scores of strangers.

    The tail is the highest tenth of the scores; where that is less than 50 photos, so many, but no
    more than a quarter. Its excesses over its start are fitted by `fit_pareto`. The interval is the
    middle of thresholds from resampled people, where two people who are each other's most
    similar are drawn together, since both have the same highest score. Few excesses look as if
    they had an end soon; so for the upper end each resample has the higher one of its thresholds by
    that fit and by an exponential tail. The fit is judged with one photo of each such person or
    pair by Anderson and Darling's A^2 against samples of the fitted distribution that are fitted
    again.

    Args:
        left_out: from `leave_one_out`.
        fpir: wanted, in (0, 1), less than the tail's share.
        confidence: of the threshold's interval, in (0, 1).
        bootstrap: resamples, at least 100.
        seed: of resamples and samples.

    Raises:
        ValueError: arguments out of range, or a tail of less than 30 photos or 30 people, or whose
            scores are all equal.
    """
    for name, value in (("fpir", fpir), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must be in (0, 1), got {value}")
    check_resamples(bootstrap)
    reason = why_no_tail(left_out, fpir)
    if reason is not None:
        raise ValueError(reason)
    start, tail = _tail(left_out)
    people = np.unique(left_out.person[tail]).size
    share, most = tail.size / left_out.person.size, _most(left_out, fpir)
    tail = tail[np.argsort(left_out.rival[tail], kind="stable")]
    excess = left_out.rival[tail] - start
    shape, scale = fit_pareto(excess)
    at = pareto_above(np.array([most / share]), np.array([shape]), np.array([scale]))
    pair = alike_pairs(left_out)
    low, high = _interval(left_out, tail, excess, pair, most, confidence, bootstrap, seed)
    return ExtremeTail(
        fpir=fpir,
        threshold=float(start + at[0]),
        low=start + low,
        high=start + high,
        start=start,
        share=share,
        shape=shape,
        scale=scale,
        photos=int(tail.size),
        people=int(people),
        fit_p=fit_probability(excess, pair[left_out.person[tail]], seed),
    )


def _interval(
    left_out: LeaveOneOut,
    tail: IntArray,
    excess: FloatArray,
    pair: IntArray,
    most: float,
    confidence: float,
    bootstrap: int,
    seed: int,
) -> tuple[float, float]:
    of_photo = pair[left_out.person]
    count = int(pair.max()) + 1
    photos = np.bincount(of_photo, minlength=count).astype(np.float64)
    found, longest = [], []
    for drawn in draw_people(count, bootstrap, seed, max(1, min(64, 4_000_000 // tail.size))):
        weights = drawn[of_photo[tail]].T
        share = weights.sum(axis=1) / (photos @ drawn)
        enough = np.count_nonzero(weights, axis=1) > 4
        shape, scale = _fit(excess[None], weights[enough])
        above = np.minimum(most / share[enough], 1.0)
        found.append(pareto_above(above, shape, scale))
        middle = weights[enough] @ excess / weights[enough].sum(axis=1)
        longest.append(np.fmax(found[-1], -middle * np.log(above)))
    outside = (1 - confidence) / 2
    low = np.nanquantile(np.concatenate(found), outside)
    high = np.nanquantile(np.concatenate(longest), 1 - outside)
    return float(low), float(high)


def fit_probability(excess: FloatArray, pair: IntArray, seed: int) -> float:
    """The share of samples of the fitted distribution that fit no better than some excesses.

    Args:
        excess: (n,) at least 0.
        pair: (n,) numbers of people; one value of each is drawn, since theirs are alike.
        seed: of that draw and the samples.

    Returns:
        A p-value, 0 if the density rises toward its end (shape at most -1), which is no tail, and
        NaN where there are less than five different values.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(excess.size)
    chosen = order[np.unique(pair[order], return_index=True)[1]]
    values = np.sort(excess[chosen])[None]
    if values.shape[1] < 5 or values[0, 0] == values[0, -1]:
        return math.nan
    shape, scale = _fit(values, np.ones_like(values))
    if shape[0] <= -1:
        return 0.0
    observed = anderson_darling(values, shape, scale)[0]
    shares = 1 - generator.random((_SAMPLES, values.shape[1]))
    samples = np.sort(pareto_above(shares, shape[:, None], scale[:, None]), axis=1)
    again = _fit(samples, np.ones_like(samples))
    worse = int(np.count_nonzero(anderson_darling(samples, *again) >= observed))
    return (worse + 1) / (_SAMPLES + 1)
