"""A cached source gives the same images, and asks for each only once, over all processes."""

import pickle

import numpy as np
import pytest
import torch

from centerarc.data.loader import TrainLoader
from centerarc.data.source import FaceSource
from centerarc.data.synthetic.source import SyntheticFaces
from centerarc.data.views import CachedSource


class Counting(FaceSource):
    """Six images, and a shared count of how often each was made."""

    def __init__(self) -> None:
        self.labels = np.array([0, 0, 0, 1, 1, 1])
        self.identities = ["ann", "bob"]
        self.made = torch.zeros(6, dtype=torch.long).share_memory_()

    def image(self, index: int) -> np.ndarray:
        if index == 5:
            raise ValueError("cannot read 'bob/3.jpg': damaged")
        self.made[index] += 1
        return np.full((4, 4, 3), index, dtype=np.uint8)


def test_each_image_is_made_once() -> None:
    source = Counting()
    cached = CachedSource(source, limit_bytes=1000)
    for _ in range(3):
        assert [int(cached.image(i)[0, 0, 0]) for i in range(5)] == [0, 1, 2, 3, 4]
    assert source.made.tolist() == [2, 1, 1, 1, 1, 0]  # The first told the size.


def test_a_damaged_image_stays_an_error() -> None:
    cached = CachedSource(Counting(), limit_bytes=1000)
    for _ in range(2):
        with pytest.raises(ValueError, match="damaged"):
            cached.image(5)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_and_workers_share_the_memory(workers: int) -> None:
    source = SyntheticFaces(4, 4, image_size=32)
    cached = CachedSource(source, limit_bytes=10**6)
    batches = []
    for faces in (source, cached):
        with TrainLoader(faces, batch_size=8, augmentation=None, seed=1, workers=workers) as loader:
            for epoch in range(2):
                loader.set_epoch(epoch)
                batches.append([images.clone() for images, _ in loader])
    for plain, kept in zip(batches[:2], batches[2:], strict=True):
        for a, b in zip(plain, kept, strict=True):
            assert torch.equal(a, b)
    assert cached._known.all()  # Seen here although, with workers, others filled it.


def test_augmentation_cannot_spoil_what_is_kept() -> None:
    cached = CachedSource(Counting(), limit_bytes=1000)
    with pytest.raises(ValueError, match="read-only"):
        cached.image(2)[0] = 9


def test_too_large_is_said_at_once() -> None:
    with pytest.raises(ValueError, match=r"needs 0.000288 MB for 6 images of 4 x 4 pixels"):
        CachedSource(Counting(), limit_bytes=100)


def test_survives_pickling() -> None:
    cached = CachedSource(SyntheticFaces(2, 2, image_size=16), limit_bytes=10**6)
    twin = pickle.loads(pickle.dumps(cached))
    assert np.array_equal(twin.image(3), cached.image(3))


class Damaged(Counting):
    """Only the last two images can be read."""

    def image(self, index: int) -> np.ndarray:
        if index < 4:
            raise ValueError(f"cannot read image {index}")
        return np.zeros((4, 4, 3), dtype=np.uint8)


def test_a_damaged_first_image_does_not_refuse_the_others() -> None:
    cached = CachedSource(Damaged(), limit_bytes=1000)
    assert cached.image(4).shape == (4, 4, 3)
    with pytest.raises(ValueError, match="cannot read image 0"):
        cached.image(0)
