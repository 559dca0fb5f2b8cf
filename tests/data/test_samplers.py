"""Orders of an epoch: each sampler shows what it promises, by seed and epoch alone."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from centerarc.data import Balanced, FaceSource, IdentityBatches, InBlocks, Sampler, Shuffled
from centerarc.data.augmentation import uniform_draws


class Faces(FaceSource):
    """A source of labels only."""

    def __init__(self, counts: list[int], weights: np.ndarray | None = None) -> None:
        self.identities = [f"p{i}" for i in range(len(counts))]
        # Mixed up, so that nothing rests on the images of a person lying together.
        labels = np.repeat(np.arange(len(counts)), counts)
        self.labels = np.random.default_rng(0).permutation(labels)
        self.weights = weights

    def image(self, index: int) -> np.ndarray:
        raise AssertionError("a sampler looks at no image")


COUNTS = st.lists(st.integers(1, 12), min_size=1, max_size=12)


def all_samplers(source: Faces) -> list[Sampler]:
    return [
        Shuffled(source),
        Shuffled(source, distinct=4),
        IdentityBatches(source, batch_size=6, images_per_identity=2),
        Balanced(source),
        InBlocks(source, block=5, pool=2),
    ]


def test_the_order_follows_seed_and_epoch_alone() -> None:
    source = Faces([9, 1, 4, 7, 30])
    for one, two in zip(all_samplers(source), all_samplers(source), strict=True):
        first = one.order(3, 1)
        assert first.dtype == np.int64
        assert len(first) == len(one)
        assert (two.order(3, 1) == first).all()
        assert (one.order(3, 2) != first).any()
        assert (one.order(4, 1) != first).any()
        assert (one.order(3, 1) == first).all()


@given(counts=COUNTS, seed=st.integers(0, 100), epoch=st.integers(0, 5))
def test_shuffling_shows_every_image_once(counts: list[int], seed: int, epoch: int) -> None:
    source = Faces(counts)
    samplers: list[Sampler] = [Shuffled(source), InBlocks(source, block=3, pool=2)]
    if len(source) >= 4:
        samplers.append(Shuffled(source, distinct=4))
    for sampler in samplers:
        assert sorted(sampler.order(seed, epoch)) == list(range(len(source)))


@given(counts=COUNTS, batch=st.integers(1, 10), seed=st.integers(0, 100))
def test_distinct_batches_repeat_no_one_unless_they_must(
    counts: list[int], batch: int, seed: int
) -> None:
    source = Faces(counts)
    if len(source) < batch:
        with pytest.raises(ValueError, match="too few for one batch"):
            Shuffled(source, distinct=batch)
        return
    sampler = Shuffled(source, distinct=batch)
    batches = len(sampler) // batch
    crowded = sum(count > batches for count in counts)
    assert bool(sampler.note) == bool(crowded)
    assert not crowded or sampler.note.startswith(f"{crowded} people")
    order = sampler.order(seed, 0)[: batches * batch].reshape(batches, batch)
    for row in source.labels[order]:
        for label, times in Counter(row.tolist()).items():
            # Evenly spread over all batches, even of those with more images than batches.
            assert times <= -(-counts[label] // batches)


def test_distinct_batches_are_not_the_same_company_every_epoch() -> None:
    source = Faces([4] * 40)
    sampler = Shuffled(source, distinct=16)
    met: Counter[tuple[int, int]] = Counter()
    for epoch in range(60):
        for batch in sampler.order(0, epoch).reshape(10, 16):
            labels = sorted(source.labels[batch].tolist())
            met.update((a, b) for a in labels for b in labels if a < b)
    # 60 epochs x 10 batches x 120 pairs over 780 pairs: 92 each, were it even.
    assert len(met) == 780
    assert min(met.values()) > 40
    assert max(met.values()) < 180


@given(
    counts=st.lists(st.integers(1, 12), min_size=4, max_size=12),
    people=st.integers(1, 4),
    each=st.integers(1, 5),
    seed=st.integers(0, 50),
)
@settings(max_examples=200, deadline=None)
def test_identity_batches_hold_p_people_with_k_images(
    counts: list[int], people: int, each: int, seed: int
) -> None:
    source = Faces(counts)
    sampler = IdentityBatches(source, batch_size=people * each, images_per_identity=each)
    order = sampler.order(seed, 0)
    assert len(order) == len(sampler)
    visits: Counter[int] = Counter()
    for batch in order.reshape(-1, people, each):
        labels = source.labels[batch]
        assert (labels == labels[:, :1]).all()
        assert len(set(labels[:, 0].tolist())) == people
        for images, label in zip(batch, labels[:, 0].tolist(), strict=True):
            assert len(set(images.tolist())) == min(each, counts[label])
            visits[label] += 1
    # In turns: no one is two visits ahead.
    times = [visits[label] for label in range(len(counts))]
    assert max(times) - min(times) <= 1 + (len(counts) % people > 0)
    few = sum(count < each for count in counts)
    assert bool(sampler.note) == bool(few)


@given(counts=COUNTS, seed=st.integers(0, 50))
def test_balanced_shows_everyone_equally_often_and_goes_round_their_images(
    counts: list[int], seed: int
) -> None:
    source = Faces(counts)
    order = Balanced(source).order(seed, 0)
    assert len(order) == len(source)
    people = Counter(source.labels[order].tolist())
    times = [people[label] for label in range(len(counts))]
    assert max(times) - min(times) <= 1
    images = Counter(order.tolist())
    for label in range(len(counts)):
        shown = [images[i] for i in np.flatnonzero(source.labels == label).tolist()]
        assert max(shown) - min(shown) <= 1


def test_blocks_are_read_in_runs() -> None:
    order = InBlocks(Faces([40]), block=10, pool=2).order(0, 0)
    for half in (order[:20], order[20:]):
        blocks = {int(index) // 10 for index in half}
        assert len(blocks) == 2
    assert sorted(order.tolist()) == list(range(40))
    assert (order[:20] != np.sort(order[:20])).any()


def test_weights_say_how_often_an_image_is_shown() -> None:
    weights = np.array([1.0] * 10 + [2.5] * 8 + [0.25] * 8)
    source = Faces([26], weights)
    sampler = Shuffled(source)
    assert len(sampler) == 10 + 20 + 2
    total: Counter[int] = Counter()
    for epoch in range(8):
        shown = Counter(sampler.order(5, epoch).tolist())
        assert all(shown[i] == 1 for i in range(10))
        assert all(shown[i] in (2, 3) for i in range(10, 18))
        assert sum(shown[i] for i in range(18, 26)) == 2
        total += shown
    # Over four epochs each image of the quarter came once, over two each of the half.
    assert all(total[i] == 20 for i in range(10, 18))
    assert all(total[i] == 2 for i in range(18, 26))


def test_a_weight_that_comes_to_no_image_shows_none() -> None:
    source = Faces([4], np.array([0.1, 1.0, 1.0, 1.0]))
    assert sorted(Shuffled(source).order(0, 0).tolist()) == [1, 2, 3]
    assert len(Shuffled(Faces([1], np.array([0.2]))).order(0, 0)) == 0


def test_wrong_sizes_are_named() -> None:
    source = Faces([3, 3])
    with pytest.raises(ValueError, match="images_per_identity must divide batch_size 6, got 4"):
        IdentityBatches(source, batch_size=6, images_per_identity=4)
    with pytest.raises(ValueError, match="needs 3 identities, but the source has 2"):
        IdentityBatches(source, batch_size=6, images_per_identity=2)
    with pytest.raises(ValueError, match="block must be at least 1, got 0"):
        InBlocks(source, block=0)
    with pytest.raises(ValueError, match="pool must be at least 1, got 0"):
        InBlocks(source, block=1, pool=0)


@given(
    first=st.integers(0, 10**12), count=st.integers(0, 9), cut=st.integers(0, 9), seed=st.integers()
)
def test_numbers_belong_to_positions(first: int, count: int, cut: int, seed: int) -> None:
    key = (abs(seed), 3)
    whole = uniform_draws(key, first, count, 8)
    assert whole.shape == (count, 8)
    cut = min(cut, count)
    parts = [
        uniform_draws(key, first, cut, 8),
        uniform_draws(key, first + cut, count - cut, 8),
    ]
    assert (np.concatenate(parts) == whole).all()
    assert ((whole >= 0) & (whole < 1)).all()


def test_numbers_are_even_and_unrelated() -> None:
    draws = uniform_draws((0, 0), 0, 20_000, 4)
    counts = [np.histogram(draws[:, c], bins=20, range=(0, 1))[0] for c in range(4)]
    # 1000 a bin, deviation 31.
    assert np.abs(np.array(counts) - 1000).max() < 160
    others = [uniform_draws(key, 0, 20_000, 4) for key in ((0, 1), (1, 0))]
    for other in (draws[:, [1, 2, 3, 0]], np.roll(draws, 1, axis=0), *others):
        correlations = [np.corrcoef(draws[:, c], other[:, c])[0, 1] for c in range(4)]
        assert np.abs(correlations).max() < 0.03
