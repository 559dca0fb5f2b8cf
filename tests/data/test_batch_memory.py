"""Batches come in memory that is used again, but not while anything is left of the batch in it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from centerarc.data import FaceSource, TrainLoader
from centerarc.data import loader as loading
from centerarc.data.decode import new_pixels
from centerarc.data.loader import Batch, BatchMemory
from centerarc.io import parallel

SIZE = 16
COUNT = 96


class Numbered(FaceSource):
    """Image i is filled with i."""

    def __init__(self) -> None:
        self.identities = ["p"]
        self.labels = np.zeros(COUNT, dtype=np.int64)

    def image(self, index: int) -> np.ndarray:
        return np.full((SIZE, SIZE, 3), index, dtype=np.uint8)


def loader(workers: int, batch_size: int = 4, **options: Any) -> TrainLoader:
    return TrainLoader(
        Numbered(), batch_size=batch_size, augmentation=None, seed=0, workers=workers, **options
    )


def right(images: torch.Tensor, epoch: int, batch: int, made: TrainLoader) -> bool:
    wanted = torch.from_numpy(made.images_of(epoch, batch)).to(torch.uint8)
    return torch.equal(images, wanted[:, None, None, None].expand_as(images))


@pytest.fixture
def one() -> Iterator[TrainLoader]:
    with loader(1) as made:
        yield made


def test_memory_is_used_again_over_epochs_also_ones_that_are_left(one: TrainLoader) -> None:
    places = set()
    for epoch in range(12):
        one.set_epoch(epoch)
        for number, (images, _) in enumerate(one):
            assert right(images, epoch, number, one)
            places.add(images.data_ptr())
            if epoch % 2 and number == epoch % 5:
                break
    assert len(places) == 4


KEPT: dict[str, Callable[[torch.Tensor], Any]] = {
    "the batch": lambda images: images,
    "a part": lambda images: images[1:2, 3],
    "an array": lambda images: images.numpy()[2],
    "a gradient's input": lambda images: images.float().requires_grad_() * images,
}


@pytest.mark.parametrize("kept", KEPT)
def test_what_is_kept_of_a_batch_does_not_change(one: TrainLoader, kept: str) -> None:
    seen: list[tuple[Any, np.ndarray]] = []
    one.set_epoch(0)
    for images, _ in one:
        part = KEPT[kept](images)
        value = part if isinstance(part, np.ndarray) else part.detach().numpy()
        seen.append((part, value.copy()))
        del images, value
    for part, before in seen:
        value = part if isinstance(part, np.ndarray) else part.detach().numpy()
        assert (value == before).all()


def test_batches_outlive_the_workers_and_their_memory() -> None:
    with loader(2) as made:
        made.set_epoch(0)
        batches = [images for images, _ in made]
    assert all(right(images, 0, number, made) for number, images in enumerate(batches))


def test_a_smaller_batch_comes_in_the_same_memory() -> None:
    with loader(1, batch_size=40, drop_last=False) as made:
        for epoch in range(3):
            made.set_epoch(epoch)
            shapes = []
            for number, (images, _) in enumerate(made):
                assert right(images, epoch, number, made)
                shapes.append(len(images))
            assert shapes == [40, 40, 16]


def lent(memory: BatchMemory, *shape: int) -> Batch:
    """A batch that went from a worker to where it is received, within one process."""
    images = memory.room(shape)
    sent = memory.handed_over(Batch(images, torch.arange(shape[0]), {}))
    build, fields = sent.__reduce__()
    arrived: Batch = build(*fields)
    assert arrived.images.shape == shape
    assert arrived.images.data_ptr() == images.data_ptr()
    return arrived


@pytest.fixture
def memory() -> BatchMemory:
    made = BatchMemory(1)
    made._worker = 0
    return made


def test_more_batches_than_slots_get_memory_of_their_own(memory: BatchMemory) -> None:
    held = [lent(memory, 2, 3) for _ in range(4)]
    alone = memory.room((2, 3))
    assert alone.data_ptr() not in {batch.images.data_ptr() for batch in held}
    batch = Batch(alone, torch.arange(2), {})
    assert memory.handed_over(batch) is batch
    place = held[2].images.data_ptr()
    del held[2]
    assert memory.room((2, 3)).data_ptr() == place
    # What failed to be read was not handed over, so its place is the next batch's.
    assert memory.room((2, 3)).data_ptr() == place


def test_a_slot_that_is_too_small_is_made_again(memory: BatchMemory) -> None:
    small = lent(memory, 2, 3)
    place = small.images.data_ptr()
    del small
    large = lent(memory, 50, 300)
    assert large.images.data_ptr() != place
    place = large.images.data_ptr()
    del large
    assert lent(memory, 2, 3).images.data_ptr() == place


def test_another_process_does_not_take_a_batch_away(memory: BatchMemory) -> None:
    batch = lent(memory, 2, 3)
    if not (child := os.fork()):
        del batch
        os._exit(0)
    os.waitpid(child, 0)
    assert memory.room((2, 3)).data_ptr() != batch.images.data_ptr()


@pytest.mark.parametrize("slots", [-1, 0, 1, 3])  # -1: not even for what tells free ones
def test_where_shared_memory_is_used_up_batches_are_sent_through_a_pipe(
    monkeypatch: pytest.MonkeyPatch, slots: int
) -> None:
    new, left = torch.UntypedStorage._new_shared, [slots]

    def limited(size: int, device: str) -> torch.UntypedStorage:
        if left[0] < 0 or (size > 100 and not left[0]):
            raise RuntimeError("unable to allocate shared memory(shm): No space left")
        left[0] -= size > 100
        return new(size, device=device)

    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", limited)
    with loader(2) as made:
        kept = []
        for number, (images, _) in enumerate(made):
            assert right(images, 0, number, made)
            images[0, 0, 0, 0] = 0  # may be written to
            kept.append((images, images.clone()))
        assert number == COUNT // 4 - 1
        assert all(torch.equal(*both) for both in kept)


def test_shared_memory_is_asked_for_only_where_there_is_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", lambda size, **_: asked.append(size))
    monkeypatch.setattr(loading, "shared_memory_left", lambda: 100)
    assert not loading._shared_bytes(100).is_shared()  # type: ignore[no-untyped-call]
    assert not asked  # which would leave an empty file
    monkeypatch.undo()
    assert loading._shared_bytes(100).is_shared()  # type: ignore[no-untyped-call]
    assert parallel.shared_memory_left() > 100

    def nowhere(_: str) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(os, "statvfs", nowhere)
    assert parallel.shared_memory_left() == float("inf")


ORPHANS = """
import os, signal
import numpy as np
from torch.utils.data._utils import worker
from centerarc.data import FaceSource, TrainLoader
from centerarc.data import loader

class Large(FaceSource):
    def __init__(self):
        self.identities, self.labels = ["p"], np.zeros(64, dtype=np.int64)
    def image(self, index):
        return np.zeros((64, 64, 3), dtype=np.uint8)

loader.shared_memory_left = lambda: 0
worker.MP_STATUS_CHECK_INTERVAL = 0.2  # seconds after which a worker looks for its parent
made = TrainLoader(Large(), batch_size=16, augmentation=None, seed=0, workers=2)
next(iter(made))
print(*(one.pid for one in made._loader._iterator._workers), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_that_send_through_pipes_end_with_whom_they_send_to() -> None:
    words = [sys.executable, "-c", ORPHANS]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        workers = [psutil.Process(int(number)) for number in process.stdout.readline().split()]
        assert len(workers) == 2
    end = time.monotonic() + 30
    for worker in workers:
        with suppress(psutil.NoSuchProcess):
            while worker.status() != psutil.STATUS_ZOMBIE:
                assert time.monotonic() < end
                time.sleep(0.05)


def test_pixels_are_where_the_decoder_writes_them_fast() -> None:
    for shape in ((112, 112, 3), (4, 112, 112, 3), (1, 1, 3)):
        pixels = new_pixels(*shape)
        assert pixels.shape == shape
        assert pixels.flags.c_contiguous
        assert pixels.ctypes.data % 2 == 1
    for workers in (0, 1):
        with loader(workers) as made:
            images, _ = next(iter(made))
            assert images.data_ptr() % 2 == 1
