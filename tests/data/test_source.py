"""Sources: people are split, never images, and a source can be opened by name."""

import numpy as np
import pytest

from centerarc.data import create_source, split_identities, subset


class Four:
    identities = ["ann", "bob", "cyd", "dan"]  # noqa: RUF012
    labels = np.array([0, 1, 1, 2, 3, 0])

    def __len__(self) -> int:
        return 6

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


def test_a_split_repeats_covers_everybody_and_shares_nobody() -> None:
    names = [f"p{i}" for i in range(50)]
    train, held_out = split_identities(names, 0.2, seed=1)
    assert len(held_out) == 10
    assert sorted(train + held_out) == sorted(names)
    assert split_identities(reversed(names), 0.2, seed=1) == (train, held_out)
    assert split_identities(names, 0.2, seed=2) != (train, held_out)
    assert [len(part) for part in split_identities(["a", "b"], 0.01, seed=0)] == [1, 1]


def test_a_split_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fraction is 1\.0"):
        split_identities(["a", "b"], 1.0, seed=0)
    with pytest.raises(ValueError, match="1 different names"):
        split_identities(["a", "a"], 0.5, seed=0)


def test_sources_are_opened_by_name() -> None:
    source = create_source("synthetic", num_identities=2, images_per_identity=1, image_size=64)
    assert len(source) == 2
    with pytest.raises(ValueError, match="'web'; it must be one of folder, synthetic"):
        create_source("web")
    with pytest.raises(ValueError, match=r"wrong options for source 'folder'.*rooot"):
        create_source("folder", rooot="x")
