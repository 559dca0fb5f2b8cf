"""What a calibrated threshold is worth on folds that it was not chosen on."""

import numpy as np
import pytest

from centerarc.evaluation.verification import held_out_fars


def drawn(num_pairs=3000, folds=3, people=60, seed=0):
    rng = np.random.default_rng(seed)
    first = rng.integers(people, size=num_pairs)
    second = np.where(rng.random(num_pairs) < 0.4, first, rng.integers(people, size=num_pairs))
    same = first == second
    scores = rng.normal(size=num_pairs).round(2) + 1.5 * same
    return scores, same, rng.integers(1, folds + 1, size=num_pairs), (first, second)


@pytest.mark.parametrize("far", [0.5, 0.1, 0.01])
def test_each_fold_is_tried_at_the_threshold_of_the_others(far):
    scores, same, fold, people = drawn()
    found = held_out_fars(scores, same, fold, [far], people, bootstrap=100)[far]
    accepted = np.zeros(scores.size, bool)
    for number in (1, 2, 3):
        others = scores[(fold != number) & ~same]
        # The plain search: the lowest candidate that keeps the rate.
        fits = [t for t in np.unique(others) if np.mean(others > t) <= far]
        accepted[fold == number] = scores[fold == number] > min(fits)
        impostor = (fold == number) & ~same
        assert found.of_fold[number] == pytest.approx(accepted[impostor].mean())
    assert found.far.value == pytest.approx(accepted[~same].mean())
    assert found.tar.value == pytest.approx(accepted[same].mean())
    assert found.far.interval.low <= found.far.value <= found.far.interval.high
    # What was chosen on the very pairs keeps its promise; here it need not.
    assert found.far.value == pytest.approx(far, abs=0.05)


def test_too_few_impostors_to_choose_on_are_left_out():
    scores, same, fold, _ = drawn(num_pairs=400)
    fewest = min(int(((fold != number) & ~same).sum()) for number in (1, 2, 3))
    found = held_out_fars(scores, same, fold, [1 / fewest, 0.5 / fewest])
    assert list(found) == [1 / fewest]
    assert found[1 / fewest].far.interval is None


def test_one_fold_cannot_be_held_out():
    assert held_out_fars([0.9, 0.1], [1, 0], [1, 1], [0.5]) == {}


def test_others_of_one_kind_alone_are_refused():
    with pytest.raises(ValueError, match="without fold 1 no genuine pair is left"):
        held_out_fars([0.9, 0.8, 0.1], [1, 1, 0], [1, 1, 2], [0.5])
