"""Thresholds of a gallery: rates by plain loops, intervals that hold in drawn galleries."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from centerarc.evaluation import calibrate, leave_one_out, operating_point, weak_spots
from centerarc.evaluation.people_rates import (
    beta_quantile,
    clopper_pearson,
    lowest_threshold,
    most_at_zero,
    person_rate,
    student_reach,
)


def draw(people, generator, noise=0.8, size=24, most=6, heavy=0.0):
    """Embeddings and labels of people: a center each, and photos around it."""
    who = np.repeat(np.arange(people), generator.integers(1, most + 1, people))
    centers = generator.normal(size=(people, size))
    spread = noise * np.exp(heavy * generator.normal(size=people))
    return centers[who] + spread[who, None] * generator.normal(size=(who.size, size)), who


def gallery(people=40, seed=0, **options):
    return leave_one_out(*draw(people, np.random.default_rng(seed), **options))


# The distributions behind the intervals.


@pytest.mark.parametrize("share", [1e-6, 0.025, 0.5, 0.975, 0.9999])
@pytest.mark.parametrize(("a", "b"), [(1, 20), (0.5, 9.5), (3.7, 211.3), (900, 8e4), (40, 0.7)])
def test_quantiles_of_the_beta_distribution_are_those_of_scipy(share, a, b):
    assert beta_quantile(share, a, b) == pytest.approx(stats.beta.ppf(share, a, b), rel=1e-9)


@pytest.mark.parametrize("freedom", [1, 2, 3.5, 19, 400])
def test_students_reach_is_that_of_scipy(freedom):
    expected = stats.t.ppf(0.975, freedom)
    assert student_reach(0.95, freedom) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("counted", "trials"), [(0, 17), (3, 40), (40, 40), (250, 1000)])
def test_the_interval_of_whole_trials_is_that_of_scipy(counted, trials):
    expected = stats.binomtest(counted, trials).proportion_ci(0.9, method="exact")
    assert clopper_pearson(counted, trials, 0.9) == pytest.approx((expected.low, expected.high))


def test_nothing_among_some_is_the_rule_of_three() -> None:
    assert most_at_zero(1000, 0.95) == pytest.approx(3 / 1000, rel=5e-3)
    assert (1 - most_at_zero(20, 0.95)) ** 20 == pytest.approx(0.05)


# How many independent photos some are worth.


def test_independent_photos_are_worth_what_they_are() -> None:
    generator = np.random.default_rng(1)
    scores = generator.normal(size=4000)
    found = person_rate(scores > 1, scores, np.arange(4000), 0.95)
    assert found.effective == pytest.approx(4000, rel=0.01)
    assert (found.low, found.high) == pytest.approx(
        clopper_pearson(found.photos, 4000, 0.95), rel=0.02
    )


def test_equal_photos_are_worth_one_each_person_and_a_mirrored_pair_one_together() -> None:
    generator = np.random.default_rng(2)
    scores = np.repeat(generator.normal(size=1000), 4)
    person = np.repeat(np.arange(1000), 4)
    alone = person_rate(scores > 1, scores, person, 0.95)
    assert alone.effective == pytest.approx(1000, rel=0.02)
    pairs = np.repeat(generator.normal(size=500), 2)
    partner = np.arange(1000) ^ 1
    two = person_rate(pairs > 1, pairs, np.arange(1000), 0.95, partner)
    assert two.effective == pytest.approx(500, rel=0.02)


# The rates.


def plain_point(faces, who, threshold, margin):
    """Counts of strangers with a name, and of enrolled photos by outcome, one at a time."""
    unit = faces / np.linalg.norm(faces, axis=1, keepdims=True)
    named, outcome = 0, {"right": 0, "wrong": 0, "none": 0}
    for a in range(who.size):
        score = {}
        for b in range(who.size):
            if a != b:
                score[who[b]] = max(score.get(who[b], -1.0), float(unit[a] @ unit[b]))

        def answer(scores):
            ranked = sorted(((s, p) for p, s in scores.items()), reverse=True)
            ahead = ranked[0][0] - ranked[1][0]
            return ranked[0][1] if ranked[0][0] >= threshold and ahead >= margin else None

        named += answer({p: s for p, s in score.items() if p != who[a]}) is not None
        if who[a] in score:
            found = answer(score)
            outcome["none" if found is None else "right" if found == who[a] else "wrong"] += 1
    return named, outcome


@pytest.mark.parametrize("margin", [0.0, 0.05])
@pytest.mark.parametrize("threshold", [0.2, 0.45, 0.6])
def test_rates_are_those_of_plain_loops(threshold, margin):
    faces, who = draw(12, np.random.default_rng(5), size=8)
    named, outcome = plain_point(faces, who, threshold, margin)
    found = operating_point(leave_one_out(faces, who), threshold, margin)
    judged = sum(outcome.values())
    assert (found.fpir.photos, found.fpir.of) == (named, who.size)
    # A stranger meets 11 of 12 people.
    assert found.fpir.value == pytest.approx(1 - (1 - named / who.size) ** (12 / 11))
    assert found.not_recognized.value == pytest.approx(outcome["none"] / judged)
    assert found.wrong_person.value == pytest.approx(outcome["wrong"] / judged)
    assert found.fnir.photos == outcome["none"] + outcome["wrong"]
    for rate in (found.fpir, found.fnir, found.not_recognized, found.wrong_person):
        assert 0 <= rate.low <= rate.value <= rate.high <= 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=40), st.floats(0.01, 0.99))
def test_no_lower_threshold_has_the_rate(numbers, most):
    scores = np.array(numbers) / 10
    found = lowest_threshold(scores, None, most)
    assert np.mean(scores >= found) <= most + 1e-9
    lower = np.nextafter(found, -np.inf)
    assert np.mean(scores >= lower) > most - 1e-9 or found == scores.min()


def test_the_chosen_thresholds_do_what_was_asked_for() -> None:
    left = gallery(200, seed=3)
    found = calibrate(left, 0.05, fnir=0.2, bootstrap=100)
    below = operating_point(left, np.nextafter(found.accept.threshold, -1))
    assert found.accept.fpir.value <= 0.05 < below.fpir.value
    above = operating_point(left, np.nextafter(found.at_fnir.threshold, 1))
    assert found.at_fnir.fnir.value <= 0.2 < above.fnir.value
    judged = left.judged
    assert np.mean(left.first[judged] < found.reject) <= 0.2
    assert found.reject <= found.accept.threshold
    inside = (left.rival >= found.reject) & (left.rival < found.accept.threshold)
    assert found.unsure_strangers.value == inside.mean()
    assert found.judged_people == sum(np.bincount(left.person) > 1)


def test_an_error_that_no_threshold_reaches_has_no_threshold() -> None:
    left = gallery(200, seed=3, noise=2.0)
    assert np.mean(~left.right[left.judged]) > 0.01
    assert calibrate(left, 0.05, fnir=0.01, bootstrap=100).at_fnir is None


def test_the_rate_in_smaller_galleries_is_the_mean_over_all_of_them() -> None:
    faces, who = draw(7, np.random.default_rng(8), size=5)
    left = leave_one_out(faces, who)
    found = calibrate(left, 0.3, bootstrap=100)
    unit = faces / np.linalg.norm(faces, axis=1, keepdims=True)
    cosine = unit @ unit.T
    for point in found.sizes[:2]:
        shares = []
        for a in range(who.size):
            others = [p for p in range(7) if p != who[a]]
            for drawn in itertools.combinations(others, point.people):
                best = cosine[a, np.isin(who, drawn)].max()
                shares.append(best >= found.accept.threshold)
        assert not point.extrapolated
        assert point.fpir == pytest.approx(np.mean(shares))
    people = [point.people for point in found.sizes]
    assert people == [1, 2, 4, 7, 14, 28, 56, 112]
    rates = [point.fpir for point in found.sizes]
    assert rates == sorted(rates)
    full = found.accept.fpir
    assert found.sizes[-1].fpir == pytest.approx(1 - (1 - full.value) ** 16)
    assert found.sizes[-1].high == pytest.approx(1 - (1 - full.high) ** 16)
    assert [point.extrapolated for point in found.sizes] == [False] * 4 + [True] * 4


def test_too_few_people_are_named_and_nothing_is_made_up() -> None:
    left = gallery(30, seed=4)
    found = calibrate(left, 0.001, bootstrap=100)
    assert found.accept.threshold > left.rival.max()
    assert found.accept.fpir.value == 0
    assert found.accept.fpir.high > found.smallest_fpir > 0.001
    assert found.too_few.startswith("FPIR 0.001 needs more people: 30 vouch for ")
    assert found.tail is None
    # A rate that is not beyond the data is not extrapolated, however sure one wants to be of it.
    inside = calibrate(gallery(120, seed=4, most=1), 0.27, 1 - 1e-15, bootstrap=100)
    assert inside.too_few is not None
    assert inside.tail is None
    few = calibrate(gallery(150, seed=4), 0.001, bootstrap=100)
    assert few.tail.extrapolated
    assert few.tail.low <= few.tail.threshold <= few.tail.high
    assert few.tail.threshold > few.tail.start
    many = calibrate(gallery(800, seed=4, size=12), 0.05, bootstrap=100)
    assert many.too_few is None
    assert many.tail is None


def test_two_people_and_single_photos_have_what_they_can() -> None:
    two = calibrate(leave_one_out([[1, 0], [2, 1], [0, 1]], [4, 4, 9]), 0.5, bootstrap=100)
    assert two.margin_rule is None
    assert two.judged_photos == 2
    with pytest.raises(ValueError, match="margin must be 0 in a gallery of 2 people"):
        operating_point(leave_one_out([[1, 0], [2, 1]], [4, 9]), 0.5, 0.1)
    single = calibrate(gallery(25, most=1), 0.2, bootstrap=100)
    assert single.accept.fnir is None
    assert single.margin_rule is None
    assert single.unsure_enrolled is None
    assert single.reject == single.accept.threshold


def test_a_calibration_is_plain_json_and_repeats() -> None:
    left = gallery(160, seed=9)
    found = calibrate(left, 0.002, bootstrap=100, tail=True)
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert json.loads(text)["accept"]["fpir"]["of"] == left.person.size
    assert found == calibrate(left, 0.002, bootstrap=100, tail=True)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_the_order_of_photos_does_not_matter(seed):
    generator = np.random.default_rng(seed)
    faces, who = draw(15, generator)
    order = generator.permutation(who.size)
    one = calibrate(leave_one_out(faces, who), 0.1, bootstrap=100)
    two = calibrate(leave_one_out(faces[order], who[order]), 0.1, bootstrap=100)
    assert two.accept.threshold == pytest.approx(one.accept.threshold, abs=1e-12)
    for name in ("fpir", "fnir", "wrong_person"):
        for end in ("value", "low", "high"):
            first, second = (getattr(getattr(each.accept, name), end) for each in (one, two))
            assert second == pytest.approx(first, abs=1e-9)
    assert two.sizes[0].fpir == pytest.approx(one.sizes[0].fpir)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fpir": 0.0}, r"fpir must be in \(0, 1\), got 0.0"),
        ({"fpir": 1.0}, "fpir must be in"),
        ({"fnir": 2.0}, r"fnir must be in \(0, 1\), got 2.0"),
        ({"confidence": 1.0}, r"confidence must be in \(0, 1\), got 1.0"),
        ({"fpir": math.nan}, "fpir must be in"),
        ({"bootstrap": 5}, "bootstrap must be at least 100 resamples, got 5"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        calibrate(gallery(5), **options)


def test_a_threshold_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match="threshold must be a finite cosine, got nan"):
        operating_point(gallery(5), math.nan)
    with pytest.raises(ValueError, match="margin must be at least 0, got -1"):
        operating_point(gallery(5), 0.5, -1)


# The margin to the second-best person.


def test_a_margin_that_does_not_help_is_said_not_to() -> None:
    rule = calibrate(gallery(150, seed=6), 0.02, bootstrap=200).margin_rule
    assert not rule.helps
    assert rule.recognized >= rule.recognized_without
    assert rule.gain_low <= 0


def test_a_margin_helps_where_poor_photos_look_like_everybody() -> None:
    # A fifth of the photos is drawn toward one direction, as blurred faces are: they resemble each
    # other's people, many at once, and set a threshold that other photos do not reach.
    generator = np.random.default_rng(7)
    faces, who = draw(300, generator, noise=0.8, most=5)
    faces[generator.random(who.size) < 0.2] += 2.0
    rule = calibrate(leave_one_out(faces, who), 0.02, bootstrap=200).margin_rule
    assert rule.margin > 0
    assert rule.helps
    assert rule.recognized > rule.recognized_without + 0.05


# Weak spots.


def test_planted_weak_spots_are_found() -> None:
    generator = np.random.default_rng(11)
    faces, who = draw(40, generator, noise=0.3, size=64, most=5)
    names = np.array([f"p{number:02}" for number in who.tolist()])
    twins = np.flatnonzero(who == 3)[0], np.flatnonzero(who == 8)[0]
    faces[twins[1]] = faces[twins[0]] + 0.01 * generator.normal(size=64)
    several = np.flatnonzero((np.bincount(who)[who] >= 4) & (who != 3) & (who != 8))
    lost = int(several[0])
    faces[lost] = generator.normal(size=64)
    left = leave_one_out(faces, names)
    found = weak_spots(left, most=5)
    best = found.alike[0]
    assert (best.first, best.second) == ("p03", "p08")
    assert {best.first_photo, best.second_photo} == set(map(int, twins))
    assert [pair.score for pair in found.alike] == sorted(
        (pair.score for pair in found.alike), reverse=True
    )
    photos = {spot.photo: spot for spot in found.misfits}
    assert lost in photos
    assert photos[lost].genuine < photos[lost].usual - 0.3
    counts = dict(zip(*np.unique(names, return_counts=True), strict=True))
    assert list(found.thin) == sorted(name for name, count in counts.items() if count == 1)
    json.dumps(found.to_dict())
    with pytest.raises(ValueError, match="most must be at least 1, got 0"):
        weak_spots(left, 0)


def test_a_usual_score_is_the_median_of_the_others() -> None:
    left = gallery(30, seed=12, noise=1.5)
    for spot in weak_spots(left, most=1000).misfits:
        others = np.flatnonzero(left.people[left.person] == spot.person)
        others = others[others != spot.photo]
        assert spot.usual == pytest.approx(np.median(left.genuine[others]))
        assert spot.reason == "far" or spot.rival >= spot.genuine


# What is promised.


@pytest.mark.parametrize(
    ("people", "fpir", "noise", "heavy"),
    [(20, 0.1, 0.5, 0.0), (20, 0.3, 1.0, 0.5), (120, 0.02, 0.5, 0.5), (120, 0.05, 1.2, 0.0)],
)
def test_the_true_rate_is_inside_the_interval_as_often_as_promised(people, fpir, noise, heavy):
    generator = np.random.default_rng(people)
    rounds, inside, width = 120, 0, []
    for _ in range(rounds):
        faces, who = draw(people, generator, noise=noise, heavy=heavy, most=8)
        left = leave_one_out(faces, who)
        threshold = lowest_threshold(left.rival, None, 1 - (1 - fpir) ** ((people - 1) / people))
        found = operating_point(left, threshold).fpir
        fresh = draw(6000, generator, noise=noise, heavy=heavy, most=1)[0]
        fresh /= np.linalg.norm(fresh, axis=1, keepdims=True)
        faces /= np.linalg.norm(faces, axis=1, keepdims=True)
        true = np.mean((faces @ fresh.T).max(axis=0) >= threshold)
        inside += found.low <= true <= found.high
        width.append(found.high - found.low)
    # Of 120 intervals that hold 95%, less than 106 hold in one of ten thousand such tests.
    assert inside >= 106
    low, high = clopper_pearson(fpir * people, people, 0.95)
    assert np.mean(width) < 1.25 * (high - low)  # not wider than if each person were one photo
