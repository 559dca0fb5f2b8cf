"""Batches: the same whatever reads them, and no file or worker can hang a run."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data._utils import signal_handling

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
    create_source,
    iterate_images,
    to_input,
    write_list,
)
from centerarc.data import loader as data_loader
from centerarc.io import parallel
from centerarc.io.parallel import _HeldBack
from tests.data.pictures import put

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


@pytest.fixture
def running() -> Iterator[TrainLoader]:
    with loader(workers=2, timeout=1) as made:
        made.set_epoch(0)
        yield made


def pids(running: TrainLoader) -> list[int]:
    assert running._loader is not None
    iterator: Any = running._loader._iterator
    return [worker.pid for worker in iterator._workers]


def test_a_death_between_two_batches_is_told_where_the_next_is_waited_for(
    running: TrainLoader,
) -> None:
    batches = iter(running)
    next(batches)
    for pid in pids(running):
        os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 0.3
    while time.monotonic() < end:  # an optimizer step, which PyTorch's handler would break into
        time.sleep(0.01)
    with pytest.raises(OSError, match="worker process that reads images died"):
        list(batches)


def test_a_death_is_told_at_once_in_the_wait_for_a_batch() -> None:
    start = time.monotonic()
    with (
        loader(Slow(), workers=1) as slow,
        pytest.raises(OSError, match="worker process that reads images died"),
    ):
        epoch(slow)
    assert time.monotonic() - start < 60  # where a batch may take 300 seconds


def test_a_death_that_no_signal_tells_is_found_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_HeldBack, "__call__", lambda *_: None)
    start = time.monotonic()
    with (
        loader(Slow(), workers=1) as slow,
        pytest.raises(OSError, match="worker process that reads images died"),
    ):
        epoch(slow)
    assert time.monotonic() - start < 60  # where a batch may take 300 seconds


class Slow(Numbered):
    """Dies in the middle of a batch, some time after it was asked for."""

    def image(self, index: int) -> np.ndarray:
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_pytorch_imports_nothing_while_a_death_may_be_told(
    running: TrainLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiler, seen = torch.autograd.profiler, []
    if not hasattr(profiler, "_cupti_monitor_checked"):
        pytest.skip("this version imports nothing")
    monkeypatch.setattr(profiler, "_cupti_monitor_checked", False)
    told = lambda _: seen.append(profiler._cupti_monitor_checked)  # noqa: E731
    monkeypatch.setattr(data_loader, "hold_back_deaths", told)
    next(iter(running))
    assert seen == [True]


def test_stopped_workers_end_in_an_error_and_are_gone(running: TrainLoader) -> None:
    batches = iter(running)
    next(batches)
    stopped = pids(running)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    with pytest.raises(TimeoutError, match=r"within 1 seconds \(read_timeout\)"):
        list(batches)
    running.close()
    assert not children() & set(map(str, stopped))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGKILL, "worker process that reads images died"),
        (signal.SIGSTOP, "within 1 seconds"),
    ],
)
def test_workers_that_are_killed_or_stopped_while_they_start_are_gone(
    number: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = children()
    start = signal_handling._set_worker_pids

    def slow(*known: Any) -> None:
        for pid in children() - before:
            os.kill(int(pid), number)
        time.sleep(1.5)
        start(*known)

    monkeypatch.setattr(signal_handling, "_set_worker_pids", slow)
    began = time.monotonic()
    with pytest.raises(OSError, match=said):
        list(iterate_images(Numbered(), range(8), 4, workers=2, timeout=1 if "1" in said else 300))
    assert time.monotonic() - began < 60
    assert children() == before


@pytest.mark.parametrize("holds", [False, True])
def test_closing_waits_neither_for_stopped_workers_nor_for_what_they_hold(
    holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "_PATIENCE", 1.0)
    before = children()
    with loader(workers=2) as running:
        running.set_epoch(0)
        next(iter(running))
        for pid in pids(running):
            os.kill(pid, signal.SIGSTOP)
        if holds:
            running._loader._iterator._workers_done_event._cond.acquire()  # type: ignore[union-attr]
        start = time.monotonic()
    assert time.monotonic() - start < 4  # PyTorch waits for each 5 seconds, and 5 after SIGTERM
    multiprocessing.active_children()  # takes note of their end
    assert children() == before


class Stuck(Numbered):
    """Image 3 waits for a share that hangs: a pipe to which no one writes."""

    def image(self, index: int) -> np.ndarray:
        if index == 3:
            reading, _writing = os.pipe()
            try:
                os.read(reading, 1)
            except Exception as error:  # as decoders of damaged data
                raise ValueError("damaged") from error
        return super().image(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_never_comes_ends_in_an_error(workers: int) -> None:
    before = children()
    with (
        loader(Stuck(), workers=workers, timeout=0.5) as stuck,
        pytest.raises(TimeoutError, match=r"no batch of images came within 0\.5 seconds"),
    ):
        epoch(stuck)
    with pytest.raises(TimeoutError, match=r"no batch of images came within 0\.5 seconds"):
        list(iterate_images(Stuck(), range(8), 4, workers, timeout=0.5))
    assert children() == before
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


def huge(path: Path) -> None:
    """A header that promises 20,000 x 20,000 pixels."""
    path.unlink()
    good = (path.parent / "0.png").read_bytes()
    size = good[:16] + (20_000).to_bytes(4, "big") * 2 + good[24:29]
    path.write_bytes(size + zlib.crc32(size[12:]).to_bytes(4, "big") + good[33:])


CHANGES: dict[str, Callable[[Path], object]] = {
    "No such file": Path.unlink,
    "is empty": lambda path: path.write_bytes(b""),
    "Is a directory": lambda path: (path.unlink(), path.mkdir()),
    "empty (0 bytes)": lambda path: (path.unlink(), os.mkfifo(path)),  # a reader of which waits
    "too many pixels": huge,
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "Too many levels": lambda path: (path.unlink(), path.symlink_to(path)),
}


@pytest.mark.parametrize("reason", CHANGES)
@pytest.mark.parametrize("kind", ["folder", "list"])
def test_images_that_change_while_they_are_read_are_replaced(
    tmp_path: Path, reason: str, kind: str
) -> None:
    for person in range(2):
        for number in range(4):
            path = tmp_path / f"p{person}" / f"{number}.png"
            put(path, 10 * person + number)
    rows = [(str(path.relative_to(tmp_path)), path.parent.name) for path in tmp_path.rglob("*.png")]
    write_list(tmp_path / "list.csv", rows)
    place = {"folder": {"root": tmp_path}, "list": {"path": tmp_path / "list.csv"}}[kind]
    source = create_source(kind, image_size=SIZE, **place)
    CHANGES[reason](tmp_path / "p1" / "3.png")
    with (
        TrainLoader(source, batch_size=8, augmentation=None, seed=0, timeout=5) as made,
        pytest.warns(UserWarning, match=r"p1/3\.png.*takes its place") as told,
    ):
        ((images, labels),) = epoch(made)
    assert len(told) == 1
    assert reason in str(told[0].message)
    assert (images[:, 0, 0, 0] // 10 == labels).all()


class Starved(Numbered):
    def image(self, index: int) -> np.ndarray:
        if index != 3:
            return super().image(index)
        cause = OSError(errno.EMFILE, "Too many open files")
        raise ValueError(f"cannot read 'file{index}': {cause.strerror}") from cause


class Broken(Numbered):
    def image(self, index: int) -> np.ndarray:
        raise RuntimeError("a mistake in this source")


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_wrong_with_the_process_is_not_taken_for_a_damaged_image(workers: int) -> None:
    with (
        loader(Starved(), workers=workers) as starved,
        pytest.raises(OSError, match=r"Too many open files; raise the limit .*ulimit -n"),
    ):
        epoch(starved)
    assert not starved.damaged
    with loader(Broken(), workers=workers) as broken, pytest.raises(RuntimeError, match="mistake"):
        epoch(broken)


def test_a_lack_of_descriptors_is_an_error_and_no_hang() -> None:
    code = """
import resource
from centerarc.data import TrainLoader, create_source
source = create_source("synthetic", num_identities=2, images_per_identity=40, image_size=16)
loader = TrainLoader(source, batch_size=4, augmentation=None, seed=0, workers=2, timeout=30)
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
loader.set_epoch(0)
try:
    kept = list(loader)
except OSError as error:
    print(type(error).__name__)
loader.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "OSError\n", done.stderr


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
    source.damaged, before = {1}, children()
    with pytest.raises(ValueError, match=r"^cannot read 'file1'$") as caught:
        list(iterate_images(source, [7, 1], 2, workers))
    assert children() == before, caught  # which would hold them
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
