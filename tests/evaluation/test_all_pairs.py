"""All pairs with equal weight for people against loops over every pair."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from centerarc.evaluation import all_pair_scores
from centerarc.evaluation.all_pair_scores import score_all_pairs
from centerarc.evaluation.all_pairs import AllPairs
from centerarc.evaluation.intervals import draw_people
from centerarc.evaluation.seeds import summarize_arms
from tests.evaluation.worlds import EveryPair, world

SIZES = [1, 4, 2, 1, 7, 3, 1, 2, 5, 1, 1, 2, 1, 1, 3, 2]
FARS = (0.3, 0.1, 0.02)


@pytest.fixture(params=[False, True], ids=["one side", "two sides"])
def judged(request: pytest.FixtureRequest) -> tuple[AllPairs, EveryPair]:
    faces, labels = world(SIZES)
    other = None
    if request.param:
        other = faces + 0.3 * np.random.default_rng(5).normal(size=faces.shape)
    return score_all_pairs(faces, labels, other), EveryPair(faces, labels, other)


def test_every_pair_is_counted_once(judged: tuple[AllPairs, EveryPair]) -> None:
    found, every = judged
    assert found.num_genuine == len(every.genuine)
    assert found.num_impostor == len(every.impostor) == found.tail_score.size
    scores = np.sort([s for s, *_ in every.impostor])[::-1]
    np.testing.assert_allclose(found.tail_score, scores, atol=1e-6)
    scores = np.sort([s for s, _ in every.genuine])[::-1]
    np.testing.assert_allclose(found.genuine_score, scores, atol=1e-6)


@pytest.mark.parametrize("far", FARS)
def test_the_tar_is_that_of_a_loop(judged: tuple[AllPairs, EveryPair], far: float) -> None:
    found, every = judged
    point = found.tar_at_far(far)
    assert point.tar == pytest.approx(every.tar(far, np.ones(len(SIZES))), abs=1e-12)
    _, _, impostor, weight = every.weights(np.ones(len(SIZES)))
    # Just above a float32 score, which may be less than it is in float64.
    accepted = weight[impostor >= point.threshold + 1e-6].sum() / weight.sum()
    assert point.far == pytest.approx(accepted, abs=1e-12)
    assert point.far <= far


def test_the_tar_of_resampled_people_is_that_of_a_loop(
    judged: tuple[AllPairs, EveryPair], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, every = judged
    drawn = np.random.default_rng(1).multinomial(16, np.full(16, 1 / 16), size=12).T.astype(float)
    # Blocks that do not divide the scores, far smaller than what one threshold lets in.
    monkeypatch.setattr("centerarc.evaluation.all_pairs._ROWS", 7)
    tars = found.weighted_tars(drawn, FARS)
    expected = [[every.tar(far, column) for column in drawn.T] for far in FARS]
    np.testing.assert_allclose(tars, expected, atol=1e-12)


def test_two_people_move_the_tar_by_their_accepted_pairs(
    judged: tuple[AllPairs, EveryPair],
) -> None:
    found, every = judged
    far, ones = 0.1, np.ones(len(SIZES))
    threshold = found.tar_at_far(far).threshold + 1e-6
    slope = (every.tar(1.5 * far, ones) - every.tar(far / 1.5, ones)) / (1.5 * far - far / 1.5)
    expected: dict[int, float] = {}
    for score, a, b, weight in every.impostor:
        if score >= threshold:
            pair = min(a, b) * 16 + max(a, b)
            expected[pair] = expected.get(pair, 0.0) + weight
    total = sum(weight for *_, weight in every.impostor)
    pairs, effects = found.pair_effects(far)
    # People are numbered in the order of their names, '0', '1', '10', ...
    number = [int(name) for name in found.people]
    sides = [sorted((number[pair // 16], number[pair % 16])) for pair in pairs.tolist()]
    assert {a * 16 + b: pytest.approx(e) for (a, b), e in zip(sides, effects, strict=True)} == {
        pair: slope * share / total for pair, share in expected.items()
    }


def test_the_area_is_that_of_a_loop(judged: tuple[AllPairs, EveryPair]) -> None:
    found, every = judged
    # Scores within 1 / 131,072 of each other count as equal.
    assert found.auc == pytest.approx(every.auc(np.ones(len(SIZES))), abs=1e-5)


def test_the_area_moves_with_people_to_first_order(judged: tuple[AllPairs, EveryPair]) -> None:
    found, every = judged
    ones = np.ones((len(SIZES), 1))
    assert found.weighted_auc(ones)[0] == pytest.approx(found.auc, abs=1e-12)
    for person in range(len(SIZES)):
        up, down = ones[:, 0].copy(), ones[:, 0].copy()
        up[person], down[person] = 1.001, 0.999
        slope = (every.auc(up) - every.auc(down)) / 0.002
        moved = found.weighted_auc(np.stack([up, down], axis=1))
        assert (moved[0] - moved[1]) / 0.002 == pytest.approx(slope, abs=2e-5)


def test_each_persons_threshold_is_that_of_a_loop() -> None:
    faces, labels = world(SIZES)
    every = EveryPair(faces, labels)
    for far in (0.5, 0.1, 0.01):
        found = score_all_pairs(faces, labels, person_far=far)
        expected = [every.person_threshold(person, far) for person in range(len(SIZES))]
        np.testing.assert_allclose(found.person_threshold, expected, atol=1e-6)
    assert found.threshold_spread == pytest.approx(np.std(expected), abs=1e-6)
    twice = found.weighted_spread(np.ones((len(SIZES), 2)))
    np.testing.assert_allclose(twice, found.threshold_spread)


def test_small_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    faces, labels = world(SIZES)
    whole = score_all_pairs(faces, labels)
    for values in (1, 80, 190):  # rows of 38 images: one, two, five at once
        monkeypatch.setattr(all_pair_scores, "_BLOCK_VALUES", values)
        parts = score_all_pairs(faces, labels)
        for name in ("genuine_score", "tail_score", "person_threshold", "genuine_auc"):
            np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), atol=1e-6)
        assert parts.eer == pytest.approx(whole.eer, abs=1e-6)
        assert parts.tpir(0.2) == whole.tpir(0.2)


def test_the_kept_scores_reach_three_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    faces, labels = world(SIZES * 3)
    whole = score_all_pairs(faces, labels)
    monkeypatch.setattr(all_pair_scores, "_FEW", 10)
    cut = score_all_pairs(faces, labels)
    assert cut.tail_score.size < whole.tail_score.size / 10
    assert cut.tar_at_far(0.03) == whole.tar_at_far(0.03)
    assert cut.tar_at_far(0.01) == whole.tar_at_far(0.01)
    with pytest.raises(ValueError, match=r"far must be below what .* reach, got 0\.2"):
        cut.tar_at_far(0.2)
    assert np.isnan(cut.weighted_tars(np.ones((48, 1)), (0.2,))).all()


def test_the_equal_error_rate_is_where_both_are_equal(
    judged: tuple[AllPairs, EveryPair],
) -> None:
    found, every = judged
    genuine, weight, impostor, other = every.weights(np.ones(len(SIZES)))
    edges = np.sort(np.concatenate([genuine, impostor]))
    false = np.array([other[impostor >= t].sum() for t in edges]) / other.sum()
    missed = np.array([weight[genuine < t].sum() for t in edges]) / weight.sum()
    # False accepts fall and misses rise with the threshold; the rate lies between two steps.
    at = int(np.argmax(missed >= false))
    low = min(false[at], missed[at - 1])
    high = max(false[at - 1], missed[at])
    assert low - 1e-9 <= found.eer <= high + 1e-9


@pytest.mark.parametrize("noise", [0.6, 1.5])
def test_the_equal_error_rate_moves_with_people(noise: float) -> None:
    faces, labels = world([1, 2, 3, 4] * 20, noise=noise)
    found, every = score_all_pairs(faces, labels), EveryPair(faces, labels)
    number = [int(name) for name in found.people]
    drawn = next(draw_people(80, 200, 1, 200))
    exact = np.array([every.eer(column) for column in drawn.T])
    moved = found.weighted_eer(drawn[number])
    assert found.weighted_eer(np.ones((80, 1)))[0] == pytest.approx(found.eer, abs=1e-12)
    assert np.corrcoef(moved, exact)[0, 1] > 0.95
    assert moved.std() == pytest.approx(exact.std(), rel=0.15)


def test_each_persons_false_accepts_are_those_of_a_loop(judged: tuple[AllPairs, EveryPair]) -> None:
    found, every = judged
    shares = np.zeros((16, 16))
    for score, a, b, weight in every.impostor:
        if score >= found.eer_threshold:
            shares[a, b] += weight
            shares[b, a] += weight
    expected = shares.sum(axis=1) / 15 / (2 if found.ordered else 1)
    number = [int(name) for name in found.people]
    np.testing.assert_allclose(found.impostor_eer, expected[number], atol=1e-6)


def test_the_curve_is_the_tar_at_each_far(judged: tuple[AllPairs, EveryPair]) -> None:
    found, every = judged
    assert (np.diff(found.curve_tar) >= 0).all()
    assert found.curve_tar[-1] == 1.0
    for at in (80, 100, 110):
        expected = every.tar(float(found.curve_far[at]), np.ones(len(SIZES)))
        assert found.curve_tar[at] == pytest.approx(expected, abs=0.02)


def test_probes_are_found_by_a_loop(judged: tuple[AllPairs, EveryPair]) -> None:
    faces, labels = world(SIZES)
    found = score_all_pairs(faces, labels)
    unit = faces / np.linalg.norm(faces, axis=1)[:, None]
    images = np.bincount(labels)
    gallery = {a: int(np.flatnonzero(labels == a)[0]) for a in np.flatnonzero(images > 1)}
    strangers, probes = [], []
    for row, who in enumerate(labels.tolist()):
        if row in gallery.values():
            continue
        scores = {a: float(unit[row] @ unit[at]) for a, at in gallery.items()}
        best = max(scores, key=scores.__getitem__)
        if who in gallery:
            probes.append((who, scores[who] if best == who else -2.0))
        else:
            strangers.append(scores[best])
    cut = sorted(strangers, reverse=True)[1]  # 7 strangers, of whom 20% is one
    by_person = [np.mean([s > cut for a, s in probes if a == who]) for who in gallery]
    assert found.tpir(0.2) == pytest.approx(np.mean(by_person), abs=1e-12)
    with pytest.raises(ValueError, match=r"FPIR 0\.01 needs at least 100 .* there are 7"):
        found.tpir()


def test_equal_scores_are_let_in_together() -> None:
    found = score_all_pairs(np.ones((6, 2)), [0, 0, 1, 1, 2, 2])
    assert found.tar_at_far(0.5).tar == 0.0
    assert found.tar_at_far(0.5).far == 0.0
    assert found.auc == pytest.approx(0.5)
    assert found.eer == pytest.approx(0.5)


def test_a_person_with_many_images_weighs_as_much_as_others() -> None:
    # Pairs of person 0 are all right, that of person 1 is wrong: half, not 45 of 46.
    faces = np.array([[1.0, 0, 0]] * 10 + [[0, 1.0, 0], [0, 0, 1.0]] + [[0, 0.1, 1.0]])
    found = score_all_pairs(faces, [0] * 10 + [1, 1, 2])
    assert found.tar_at_far(0.4).tar == pytest.approx(0.5)


def test_too_few_people_give_a_reason() -> None:
    found = score_all_pairs(*world(SIZES))
    assert found.num_people_pairs == 120
    assert (
        str(found.too_few(1e-3))
        == "FAR 0.001 needs at least 1,000 combinations of two people, there are 120"
    )
    with pytest.raises(ValueError, match=r"needs at least 1,000 combinations of two people"):
        found.tar_at_far(1e-3)
    with pytest.raises(ValueError, match=r"far must be in \(0, 1\), got 0"):
        found.tar_at_far(0)
    with pytest.raises(ValueError, match=r"fpir must be in \(0, 1\), got 1"):
        found.tpir(1)


@pytest.mark.parametrize(
    ("embeddings", "labels", "options", "message"),
    [
        ([[1, 0], [0, 1]], [0, 1], {}, "at least 2 people, one of them with 2 images, got 2 with"),
        ([[1, 0], [0, 1]], [0, 0], {}, "got 1 with at most 2"),
        ([[1, 0], [0, 0], [0, 1]], [0, 0, 1], {}, "longer than 0, row 1"),
        ([[1, 0], [0, 1]], [0, 0, 1], {}, "embeddings must have 3 rows as labels, got 2"),
        (np.eye(3), [0, 0, 1], {"other": np.eye(3)[:2]}, "other must have 3 rows"),
        (np.eye(3), [0, 0, 1], {"other": np.eye(3, 4)}, "other must have the shape"),
        (np.eye(3), [0, 0, 1], {"places": ["a"]}, "places must have 3 names, got 1"),
        (np.eye(3), [0, 0, 1], {"person_far": 0.0}, r"person_far must be in \(0, 1\), got 0"),
    ],
)
def test_wrong_input_is_refused(
    embeddings: object, labels: list[int], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        score_all_pairs(embeddings, labels, **options)  # type: ignore[arg-type]


def test_a_record_survives_its_file(tmp_path: Path, judged: tuple[AllPairs, EveryPair]) -> None:
    found, _ = judged
    found.save(tmp_path / "a.npz")
    again = AllPairs.load(tmp_path / "a.npz")
    for name in AllPairs.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    again.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_file_from_before_the_eer_had_an_interval_gives_none(judged) -> None:
    found, _ = judged
    arrays = found.to_arrays()
    del arrays["impostor_eer"], arrays["eer_threshold"]
    old = AllPairs.from_arrays(arrays, "old")
    for records in ((old,), (found, old)):
        runs = dict(enumerate(records))
        means = summarize_arms({"a": runs}, fars=(0.1,), fpir=0.2, resamples=100).arms["a"].means
        assert means["eer"].value == found.eer
        assert means["eer"].interval is None
        assert means["auc"].interval is not None


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    found = score_all_pairs(*world(SIZES))
    place = tmp_path / "a.npz"
    with pytest.raises(ValueError, match=r"there is no file '.*a\.npz'"):
        AllPairs.load(place)
    found.save(place)
    place.write_bytes(place.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"cannot read '.*a\.npz'"):
        AllPairs.load(place)
    np.savez(place, format=np.array("other"))
    with pytest.raises(ValueError, match="does not hold all pairs"):
        AllPairs.load(place)
    for change, message in (
        ({"genuine_score": found.genuine_score[:-1]}, "genuine_person must have .* values, got"),
        ({"tail_score": found.tail_score[::-1]}, "tail_score must be finite and fall"),
        ({"tail_first": found.tail_second}, "must be of two people in every pair"),
        ({"tail_first": found.tail_first - 1}, "must be numbers of people"),
        ({"images": found.images * 2}, "genuine_score must have"),
        ({"probe_person": found.probe_person + 99}, "probe_person must be numbers of people"),
        ({"impostor_eer": found.impostor_eer + 1}, r"impostor_eer must be in \[0, 1\]"),
        ({"eer_threshold": np.nan}, "impostor_eer must be in .* at a finite eer_threshold"),
        ({"eer": 2.0}, r"eer must be in \[0, 1\]"),
        ({"impostor_auc": found.impostor_auc * np.nan}, r"must be in \[0, 1\]"),
        ({"person_far": 0.0}, "person_far"),
        ({"people": found.images}, "people must have shape"),
    ):
        replace(found, **change).save(place)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=message):
            AllPairs.load(place)


def test_the_digest_says_which_images_these_are() -> None:
    faces, labels = world(SIZES)
    places = [str(row) for row in range(len(labels))]
    first = score_all_pairs(faces, labels, places=places).digest
    assert first == score_all_pairs(2 * faces, labels, places=places).digest
    assert first != score_all_pairs(faces, labels, places=places[::-1]).digest
    assert first != score_all_pairs(faces, labels[::-1], places=places).digest
