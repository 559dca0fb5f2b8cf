"""Subsets: people are split, never images, and who has too few is named."""

import numpy as np
import pytest

from centerarc.data import FaceSource, Subset, split_identities, subset, with_enough_images


class Four(FaceSource):
    identities = ["ann", "bob", "cyd", "dan"]  # noqa: RUF012
    labels = np.array([0, 1, 1, 2, 3, 0])

    def image(self, index: int) -> np.ndarray:
        return np.full((1, 1, 3), index, dtype=np.uint8)


def test_a_subset_has_the_images_of_its_people_under_new_labels() -> None:
    part = subset(Four(), ["cyd", "ann"])
    assert part.identities == ["cyd", "ann"]
    assert len(part) == 3
    assert part.labels.tolist() == [1, 0, 1]
    assert [int(part.image(i)[0, 0, 0]) for i in range(3)] == [0, 3, 5]


@pytest.mark.parametrize(
    ("names", "message"),
    [([], "empty"), (["ann", "ann"], "twice"), (["ann", "eve"], "first 'eve'")],
)
def test_a_subset_of_wrong_names_is_refused(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        subset(Four(), names)


def test_a_subset_of_images_drops_people_without_any() -> None:
    part = Subset(Four(), images=np.array([True, False, False, True, True, False]))
    assert part.identities == ["ann", "cyd", "dan"]
    assert part.labels.tolist() == [0, 1, 2]
    assert part.indices.tolist() == [0, 3, 4]
    both = Subset(Four(), ["bob", "ann"], images=np.array([True, False, True, True, True, True]))
    assert both.identities == ["bob", "ann"]
    assert both.indices.tolist() == [0, 2, 5]
    with pytest.raises(
        ValueError, match=r"must be bool of shape \(6,\).*, got int64 of shape \(6,"
    ):
        Subset(Four(), images=np.ones(6, dtype=np.int64))
    with pytest.raises(ValueError, match="a subset needs at least one"):
        Subset(Four(), images=np.zeros(6, dtype=bool))


class Rich(Four):
    """Offers all that a source may offer."""

    weights = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])

    def encoded(self, index: int) -> bytes:
        return bytes([index])

    def place(self, index: int) -> str:
        return f"file {index}"


def test_what_a_source_offers_more_goes_through_a_subset() -> None:
    part = subset(subset(Rich(), ["cyd", "dan", "ann"]), ["dan", "ann"])
    assert [part.place(i) for i in range(3)] == ["file 0", "file 4", "file 5"]
    assert [part.encoded(i) for i in range(3)] == [b"\0", b"\4", b"\5"]
    assert part.weights is not None
    assert part.weights.tolist() == [1, 5, 6]
    row = np.zeros((1, 1, 3), dtype=np.uint8)
    part.image_into(1, row)
    assert (row == 4).all()


def test_a_source_that_offers_no_more_is_enough() -> None:
    part = subset(Four(), ["ann"])
    assert part.place(1) == "image 5"
    assert part.encoded(1) is None
    assert part.weights is None
    with pytest.raises(ValueError, match="'image 5': the image has 1 x 1 pixels and others have 2"):
        part.image_into(1, np.zeros((2, 2, 3), dtype=np.uint8))


def test_people_with_too_few_images_are_left_out_and_named() -> None:
    kept, few = with_enough_images(Four(), 2)
    assert kept.identities == ["ann", "bob"]
    assert kept.labels.tolist() == [0, 1, 1, 0]
    assert few is not None
    assert str(few) == "left out 2 people with fewer than 2 images (2 images; cyd, dan)"
    source = Four()
    assert with_enough_images(source, 1) == (source, None)
    with pytest.raises(ValueError, match="min_images is 3, but the person with the most images"):
        with_enough_images(source, 3)
    with pytest.raises(ValueError, match="min_images must be at least 1, got 0"):
        with_enough_images(source, 0)


def test_a_split_repeats_covers_everybody_and_shares_nobody() -> None:
    names = [f"p{i}" for i in range(50)]
    train, held_out = split_identities(names, 0.2, seed=1)
    assert len(held_out) == 10
    assert sorted(train + held_out) == sorted(names)
    assert split_identities(reversed(names), 0.2, seed=1) == (train, held_out)
    assert split_identities(names, 0.2, seed=2) != (train, held_out)
    assert [len(part) for part in split_identities(["a", "b"], 0.01, seed=0)] == [1, 1]


def test_a_split_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fraction must be .*, got 1\.0"):
        split_identities(["a", "b"], 1.0, seed=0)
    with pytest.raises(ValueError, match="at least 2 different names, got 1"):
        split_identities(["a", "a"], 0.5, seed=0)
