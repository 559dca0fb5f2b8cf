"""Batches: the same whatever reads them, and no file or worker can hang a run."""

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from centerarc.data import (
    Augmentation,
    AugmentationConfig,
    Balanced,
    FaceSource,
    IdentityBatches,
    InBlocks,
    Sampler,
    Shuffled,
    TrainLoader,
    iterate_images,
    to_input,
)

SIZE = 8


class Numbered(FaceSource):
    """Image i is filled with i, so a batch shows which images it holds."""

    def __init__(self, per_identity: int = 5, identities: int = 4) -> None:
        self.identities = [f"p{i}" for i in range(identities)]
        self.labels = np.repeat(np.arange(identities), per_identity)
        self.damaged: set[int] = set()

    def image(self, index: int) -> np.ndarray:
        if index in self.damaged:
            raise ValueError(f"cannot read 'file{index}'")
        return np.full((SIZE, SIZE, 3), index, dtype=np.uint8)


class Deadly(Numbered):
    """Kills the process that reads image 3, as the kernel does when memory ends."""

    def image(self, index: int) -> np.ndarray:
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().image(index)


class Uneven(Numbered):
    def image(self, index: int) -> np.ndarray:
        return np.zeros((SIZE + (index == 3), SIZE, 3), dtype=np.uint8)


Epoch = list[tuple[torch.Tensor, torch.Tensor]]


def epoch(loader: TrainLoader, number: int = 0, start: int = 0) -> Epoch:
    loader.set_epoch(number, start)
    return list(loader)


def same(a: Epoch, b: Epoch) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x[0], y[0]) and torch.equal(x[1], y[1]) for x, y in zip(a, b, strict=True)
    )


def loader(source: Numbered | None = None, **options: object) -> TrainLoader:
    settings: dict[str, object] = {
        "batch_size": 4,
        "augmentation": Augmentation(AugmentationConfig(move=1, occlusion=1)),
        "seed": 7,
    }
    return TrainLoader(source or Numbered(), **(settings | options))  # type: ignore[arg-type]


def test_an_epoch_shows_every_image_once_with_its_label() -> None:
    batches = epoch(loader(augmentation=None))
    assert len(batches) == 5
    for images, labels in batches:
        assert images.shape == (4, SIZE, SIZE, 3)
        assert images.dtype == torch.uint8
        assert labels.dtype == torch.int64
        assert (images[:, 0, 0, 0] // 5 == labels).all()
    shown = torch.cat([images[:, 0, 0, 0] for images, _ in batches]).tolist()
    assert sorted(shown) == list(range(20))
    assert shown != list(range(20))


def test_batches_follow_seed_and_epoch_and_nothing_else() -> None:
    first = epoch(loader())
    with loader(workers=2) as parallel:
        assert same(epoch(parallel), first)
        assert same(epoch(parallel, 1), epoch(loader(), 1))
        assert same(epoch(parallel), first)
    assert not same(epoch(loader(), 1), first)
    assert not same(epoch(loader(seed=8)), first)


def test_the_last_smaller_batch_can_be_kept() -> None:
    sizes = [len(labels) for _, labels in epoch(loader(batch_size=8, drop_last=False))]
    assert sizes == [8, 8, 4]
    assert len(loader(batch_size=8, drop_last=False)) == 3
    assert len(loader(batch_size=8)) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_replaced_by_its_own_identity_and_told_once(workers: int) -> None:
    source = Numbered()
    source.damaged = {6, 7}
    with loader(source, augmentation=None, workers=workers) as damaged:
        with pytest.warns(UserWarning, match="file[67]") as told:
            first = epoch(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again = epoch(damaged)
    assert same(first, again)
    # Python 3.12 also warns of a fork beside a thread, such as that of pytest-xdist.
    assert len([one for one in told if one.category is UserWarning]) == 2
    assert damaged.damaged == {6: "cannot read 'file6'", 7: "cannot read 'file7'"}
    for images, labels in first:
        assert (images[:, 0, 0, 0] // 5 == labels).all()
        assert not {6, 7} & set(images[:, 0, 0, 0].tolist())
    with pytest.warns(UserWarning, match="takes its place"):
        parts = [epoch(loader(source, augmentation=None, rank=r, world_size=2)) for r in (0, 1)]
    assert torch.equal(torch.cat([parts[0][2][0], parts[1][2][0]]), first[2][0])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_identity_without_a_readable_image_ends_the_run_with_its_name(workers: int) -> None:
    source = Numbered()
    source.damaged = set(range(5, 10))
    with (
        loader(source, workers=workers) as lost,
        pytest.raises(ValueError, match=r"^no image of identity 'p1' can be read; cannot read"),
    ):
        epoch(lost)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_different_sizes_are_named(workers: int) -> None:
    with (
        loader(Uneven(), batch_size=20, augmentation=None, workers=workers) as uneven,
        pytest.raises(ValueError, match="all must have one size"),
    ):
        epoch(uneven)


def test_the_death_of_a_worker_is_an_error_and_no_hang() -> None:
    with (
        loader(Deadly(), workers=1) as deadly,
        pytest.raises(OSError, match="worker process that reads images died"),
    ):
        epoch(deadly)


def test_workers_start_after_this_process_used_opencv() -> None:
    # As most programs with pictures do: its threads do not survive a fork.
    code = """
import cv2, numpy as np
cv2.setNumThreads(4)
cv2.warpAffine(np.zeros((1000, 1000, 3), np.uint8), np.eye(2, 3), (1000, 1000))
from centerarc.data import TrainLoader, create_source
source = create_source("synthetic", num_identities=2, images_per_identity=3)
with TrainLoader(source, batch_size=6, augmentation=None, seed=0, workers=2) as loader:
    loader.set_epoch(0)
    print([len(labels) for _, labels in loader], cv2.getNumThreads())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "[6] 4\n"


def test_closing_ends_the_workers() -> None:
    before = children()
    running = loader(workers=2)
    running.set_epoch(0)
    iterator = iter(running)
    next(iterator)
    assert len(children() - before) >= 2
    del iterator
    running.close()
    assert children() == before
    with pytest.raises(ValueError, match="closed"):
        next(iter(running))


def children() -> set[str]:
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be .*, got 0"),
        ({"batch_size": 5, "world_size": 2}, "batch_size must be .*, got 5"),
        ({"batch_size": 21}, "an epoch has 20 images, too few for one batch of 21"),
        ({"rank": 2, "world_size": 2}, "rank must be .*, got 2"),
        ({"seed": -1}, "seed must be .*, got -1"),
        ({"workers": -1}, "workers must be .* got -1"),
        ({"workers": 100_000}, "workers must be between 0 and .* got 100000"),
        ({"world_size": 2, "drop_last": False}, "drop_last must be .*, got False"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loader(**options)


def test_wrong_epochs_are_named() -> None:
    with pytest.raises(ValueError, match="epoch must be at least 0, got -1"):
        loader().set_epoch(-1)
    with pytest.raises(ValueError, match=r"start_batch must be in \[0, 5\], got 6"):
        loader().set_epoch(0, start_batch=6)


@pytest.mark.parametrize("workers", [0, 2])
def test_images_for_embedding_come_in_the_order_asked_for(workers: int) -> None:
    source = Numbered()
    batches = list(iterate_images(source, [7, 1, 1, 19, 0], 2, workers))
    assert [batch[:, 0, 0, 0].tolist() for batch in batches] == [[7, 1], [1, 19], [0]]
    source.damaged = {1}
    with pytest.raises(ValueError, match=r"^cannot read 'file1'$"):
        list(iterate_images(source, [7, 1], 2, workers))
    assert list(iterate_images(source, [], 2, workers)) == []


def test_input_of_a_model_is_scaled_and_channels_first() -> None:
    images = torch.zeros(2, 4, 5, 3, dtype=torch.uint8)
    images[1, 2, 3, 0] = 255
    scaled = to_input(images)
    assert scaled.shape == (2, 3, 4, 5)
    assert scaled.dtype == torch.float32
    assert scaled.is_contiguous()
    assert scaled[1, 0, 2, 3] == 1
    assert (scaled == -1).sum() == scaled.numel() - 1
    with pytest.raises(ValueError, match=r"must have dtype torch\.uint8, got torch\.float32"):
        to_input(images.float())
    with pytest.raises(ValueError, match=r"must have shape \(N, H, W, 3\)"):
        to_input(images.permute(0, 3, 1, 2))


def test_a_sampler_for_other_batches_is_refused() -> None:
    sampler = Shuffled(Numbered(), distinct=8)
    with pytest.raises(ValueError, match="batch_size is 4, but the sampler was made for batches"):
        loader(sampler=sampler)


@pytest.mark.parametrize(
    "sampler",
    [
        Shuffled(Numbered()),
        Shuffled(Numbered(), distinct=4),
        IdentityBatches(Numbered(), batch_size=4, images_per_identity=2),
        Balanced(Numbered()),
        InBlocks(Numbered(), block=3, pool=2),
    ],
)
def test_every_sampler_is_shared_out_and_taken_up_in_the_middle(sampler: Sampler) -> None:
    whole = epoch(loader(sampler=sampler), 3)
    order = sampler.order(7, 3)
    assert torch.cat([y for _, y in whole]).tolist() == (order // 5).tolist()
    for world in (2, 4):
        parts = [epoch(loader(sampler=sampler, rank=r, world_size=world), 3) for r in range(world)]
        joined = [
            (torch.cat([x for x, _ in rows]), torch.cat([y for _, y in rows]))
            for rows in zip(*parts, strict=True)
        ]
        assert same(joined, whole)
    assert same(epoch(loader(sampler=sampler), 3, start=3), whole[3:])
    with loader(sampler=sampler, workers=2) as parallel:
        assert same(epoch(parallel, 3, start=2), whole[2:])
