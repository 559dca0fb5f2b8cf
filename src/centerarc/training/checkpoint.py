"""The saved states of a run: whole or not used, and of all classes, whatever ranks wrote them.

Each is a folder in `state/`, named by its number and its step. `state.pt` has the backbone, the
added terms, their optimizer and the counters; `torch.distributed.checkpoint` writes the criterion
and its momentum beside it, to which each process adds its own classes. A manifest with the size and
the checksum of every file is written last, and the folder has another name until then.
"""

import concurrent.futures
import hashlib
import json
import pickle
import re
import shutil
import warnings
from collections import ChainMap, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer

from centerarc.distributed.process import Processes
from centerarc.io.files import asks_for_room, atomic_path, flush, seal, verify_checksums
from centerarc.io.tables import counted
from centerarc.losses.center_arcface import CenterArcFaceLoss
from centerarc.losses.head.products import local
from centerarc.losses.head.shards import class_state
from centerarc.models.weights import read_torch_file
from centerarc.training.optimizer import kept_of, restore_kept

_FORMAT = 5
_STATE, _MANIFEST = "state.pt", "manifest"
# An empty file in the folder of a state that may be of no use: see `Setbacks.is_sound`.
UNSOUND = "unsound"
# A folder of a state. Before the name stands what it is not: finished, or undamaged.
_NAME = re.compile(r"(?P<kind>\.|damaged-|)(?P<number>\d+)-step-(?P<step>\d+)")
UNFINISHED, _DAMAGED = ".", "damaged-"
# What a criterion has of each class, by the names in its state.
ROWS = ("arcface.prototypes", "center.centers")
COUNTS = "center.counts"  # of the images that means are from


@dataclass(frozen=True)
class SavedState:
    """A state that was read.

    Args:
        folder: Where it is.
        content: All but the criterion.
        notes: What is wrong with later states, a line each.
        seen: `fingerprint` of the states before it was read.
    """

    folder: Path
    content: dict[str, Any]
    notes: list[str]
    seen: dict[str, int]


def fingerprint(run_dir: Path) -> dict[str, int]:
    """The states and when each became what it is: others if a process wrote one since."""
    return {path.name: path.stat().st_ctime_ns for path in saved_states(run_dir)}


def saved_states(run_dir: Path, *kinds: str) -> list[Path]:
    """The folders of a run's states, the last one first; of `kinds`, or else the finished ones."""
    found = []
    for path in (run_dir / "state").glob("*-step-*"):
        match = _NAME.fullmatch(path.name)
        if match is not None and match["kind"] in (kinds or ("",)):
            found.append((int(match["number"]), path))
    return [path for _, path in sorted(found, reverse=True)]


def has_state(run_dir: Path) -> bool:
    """Whether a run has a state that was saved whole, be it damaged or of another version."""
    return bool(saved_states(run_dir, "", _DAMAGED)) or (run_dir / "state" / _STATE).exists()


def check_deletable(run_dir: Path) -> None:
    """Refuses states that are elsewhere: what is behind a link may be another run's.

    Raises:
        ValueError: If `state` is a link, and there is a state behind it.
    """
    place = run_dir / "state"
    if place.is_symlink() and has_state(run_dir):
        raise ValueError(
            f"{str(place)!r} is a link to {str(place.resolve())!r}, where nothing is deleted; "
            "delete the link, or the states there, and give the same command again"
        )


def delete_states(run_dir: Path) -> None:
    """Deletes the states of a run, and nothing else in their folder; of links the link alone.

    Whenever it is killed, no state is left that could be resumed, except while it renames them.

    Raises:
        ValueError: As `check_deletable`.
        OSError: If one cannot be deleted.
    """
    check_deletable(run_dir)
    place = run_dir / "state"
    if place.is_symlink():
        return
    for folder in saved_states(run_dir, "", _DAMAGED):
        hidden = f"{UNFINISHED}{_part(folder)}-step-{_part(folder, 'step')}"
        if folder.is_symlink():
            folder.unlink()
        else:
            _delete(folder.with_name(hidden), ignore_errors=False)
            folder.rename(folder.with_name(hidden))
    for folder in saved_states(run_dir, UNFINISHED):
        _delete(folder, ignore_errors=False)
    for name in (_STATE, ".metadata", _MANIFEST):  # of another version
        (place / name).unlink(missing_ok=True)
    with suppress(OSError):  # what else is there stays
        place.rmdir()


def _delete(folder: Path, *, ignore_errors: bool = True) -> None:
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder, ignore_errors=ignore_errors)


def _part(folder: Path, part: str = "number") -> int:
    match = _NAME.fullmatch(folder.name)
    assert match is not None
    return int(match[part])


class StateWriter:
    """Writes the states of a run while it trains on.

    A save waits while what is to be written is copied; a thread writes the copy, whose memory is
    kept for the next one. All processes of the run must call `save` and `wait` together.

    Args:
        run_dir: The folder of the run.
        processes: Its processes.
        background: Whether to; else `save` returns when the state is written, and copies nothing.
        check: Raises `ValueError` where `run_dir` is not the run's folder any more.
        saved: Steps of the state that is resumed.

    Attributes:
        needs_room: Whether `make_room` would be of use, and was not called.
    """

    def __init__(
        self,
        run_dir: Path,
        processes: Processes,
        *,
        background: bool = True,
        check: Callable[[], None] = lambda: None,
        saved: int | None = None,
    ) -> None:
        self._run_dir = run_dir.absolute()  # whatever the current folder of the process becomes
        self._saved = saved
        self._check = check
        self._background = background
        self._processes = processes.for_thread() if background else processes
        self._pool = ThreadPoolExecutor(1, "state-writer")
        self._written: Future[None] | None = None
        self._copies: Any = None
        self._room: Future[Any] | None = None  # for them
        self.needs_room = background

    @property
    def saved(self) -> int | None:
        """Steps of the last state on disk, with the one that is being written; None for none."""
        if self._written is not None:
            concurrent.futures.wait([self._written])
        return self._saved

    @property
    def failed(self) -> bool:
        """Whether this process knows that a state could not be written; `wait` raises why."""
        return bool((one := self._written) and one.done() and one.exception())

    def make_room(self, *state: Any) -> None:
        """Makes the memory of the copies in the background, so that the next save only copies.

        Takes what `save` takes, once there is all of it: without a step, there is no momentum.
        """
        self._room = self._pool.submit(_copied, _content(*state), self._copies)
        self.needs_room = False

    def save(self, *state: Any) -> None:
        """Writes a state (see `_content`) from all processes; keeps an earlier and a sound one.

        Raises:
            OSError: If this one or the one before cannot be written, as on a full disk; in all
                processes, of this one only without `background`.
        """
        self.wait()
        content = _content(*state)
        if self._background:
            if self._room is not None:
                self._copies, self._room = self._room.result(), None
            self._copies = content = _copied(content, self._copies)
            self._written = self._pool.submit(self._write, *content)
        else:
            self._write(*content)

    def _write(self, content: dict[str, Any], classes: dict[str, Tensor]) -> None:
        _write(self._run_dir, content, classes, self._processes, self._check)
        self._saved = content["step"]

    def wait(self) -> None:
        """Waits for the last state to be on disk.

        Raises:
            OSError: If it could not be written; in all processes.
        """
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def close(self) -> None:
        """Waits for the last state; that it failed is not raised."""
        self._pool.shutdown()


def _content(
    state: dict[str, Any],
    model: nn.Module,
    terms: nn.Module,
    criterion: CenterArcFaceLoss,
    optimizers: Sequence[Optimizer],
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What is saved, and the classes' part of it. `state["sound"]` says whether it is sound."""
    content = {
        "format": _FORMAT,
        "model": model.state_dict(),
        "terms": terms.state_dict(),
        "optimizer": kept_of(optimizers, model, terms),
        **state,
    }
    return content, class_state(criterion, *optimizers)


def _copied(value: Any, room: Any) -> Any:
    """A copy on the CPU of what is in a state, in the memory of an earlier copy where it fits."""
    if isinstance(value, Tensor):
        if isinstance(room, Tensor) and room.shape == value.shape and room.dtype == value.dtype:
            local(room).copy_(local(value.detach()))
            return room
        copy = value.detach().to("cpu")
        return copy.clone() if value.device.type == "cpu" else copy
    if isinstance(value, dict):
        named = room if isinstance(room, dict) else {}
        copies = {key: _copied(inner, named.get(key)) for key, inner in value.items()}
        if hasattr(value, "_metadata"):  # versions of modules, see nn.Module.state_dict
            copies = OrderedDict(copies)
            copies._metadata = value._metadata  # type: ignore[attr-defined]
        return copies
    if isinstance(value, (list, tuple)):
        rooms = room if isinstance(room, (list, tuple)) else ()
        return type(value)(map(_copied, value, chain(rooms, repeat(None))))
    return value


def _write(
    run_dir: Path,
    content: dict[str, Any],
    classes: dict[str, Tensor],
    processes: Processes,
    check: Callable[[], None],
) -> None:
    processes.on_main(check)
    every = ("", UNFINISHED, _DAMAGED)
    number = 1 + max(map(_part, saved_states(run_dir, *every)), default=0)
    name = processes.gather_objects(f"{number}-step-{content['step']}")[0]
    whole = run_dir / "state" / name
    folder = whole.with_name(UNFINISHED + name)
    sums: dict[str, tuple[int, str]] = {}

    def write() -> None:
        path = folder / _STATE
        try:
            torch.save(content, path)
        except (OSError, RuntimeError) as error:  # torch's archive writer raises the latter
            raise OSError(f"cannot write {str(path)!r}{asks_for_room(error)} ({error})") from error

    def seal_own() -> None:
        with ThreadPoolExecutor(1) as pool:
            own = pool.submit(seal, *folder.glob(f"__{processes.rank}_*"))
            if processes.is_main:
                write()  # meanwhile
                sums.update(seal(folder / _STATE, folder / ".metadata"))
            sums.update(own.result())

    def finish() -> None:
        check()
        write_manifest(folder, dict(ChainMap(*every_sums)))
        if not content["sound"]:
            (folder / UNSOUND).touch()
        folder.rename(whole)
        flush(whole.parent)
        good = saved_states(run_dir)
        sound = [path for path in good if is_sound(path)]
        # Of one step there may be two, before and after its validation.
        earlier = [path for path in good if step_of(path) < step_of(good[0])] or good[1:]
        kept = {*good[:1], *earlier[:1], *sound[:1]}
        if sound and content["settings"]["on_nonfinite"] == "rewind":
            kept.update([path for path in sound if step_of(path) < step_of(sound[0])][:1])
        for old in {*saved_states(run_dir, *every)} - kept:
            _delete(old)

    try:
        with _explained(f"cannot write {str(folder)!r}", asks_for_room):
            writer = FileSystemWriter(folder, sync_files=False)  # `seal` does that
            alone, group = processes.world_size == 1, processes.group
            save(classes, storage_writer=writer, process_group=group, no_dist=alone)
        processes.on_all(seal_own)
        every_sums = processes.gather_objects(sums)
        processes.on_main(finish)
    except (OSError, ValueError):
        processes.on_main(check)  # the reason, if so: then what is there now is not the run's
        processes.on_main(lambda: shutil.rmtree(folder, ignore_errors=True))
        raise


def write_manifest(folder: Path, sums: Mapping[str, tuple[int, str]]) -> None:
    """Writes what a state's files must be, bytes and checksum by name, below its own SHA-256."""
    body = json.dumps(sums, indent=0, sort_keys=True).encode()
    with atomic_path(folder / _MANIFEST) as temporary:
        temporary.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def _damage(folder: Path, processes: Processes) -> list[str]:
    """What is wrong with a state, a line for each file; each process looks at some of the files."""
    if folder.name.startswith(UNFINISHED):
        return ["its save did not end"]
    try:
        digest, _, body = (folder / _MANIFEST).read_bytes().partition(b"\n")
    except FileNotFoundError:
        return [f"{_MANIFEST}: is missing"]
    except OSError as error:
        return [f"{_MANIFEST}: cannot be read: {error.strerror}"]
    if hashlib.sha256(body).hexdigest().encode() != digest:
        return [
            f"{_MANIFEST}: its content changed (SHA-256)" if digest else f"{_MANIFEST}: is empty"
        ]
    wanted = sorted(json.loads(body).items())
    own = wanted[processes.rank :: processes.world_size]
    return verify_checksums(folder, {name: (size, checksum) for name, (size, checksum) in own})


_ALONE = Processes(0, 1, torch.device("cpu"))


def load_state(run_dir: Path, processes: Processes = _ALONE) -> SavedState:
    """Reads all but the criterion of the last undamaged state, on the CPU.

    Every file is compared with its checksum before anything is read from it, and nothing in it is
    executed.

    Raises:
        ValueError: If there is none, all are damaged, or it is of another version; on all ranks.
    """
    place = run_dir / "state"

    def look() -> None:
        if saved_states(run_dir):
            return
        if (place / _STATE).exists():
            raise ValueError(f"{str(place)!r} was not written by this version of centerarc")
        raise ValueError(
            f"nothing to resume: there is no undamaged state in {str(place)!r}; restore one from a "
            "backup, or give --overwrite to start again"
        )

    processes.on_all(look)
    seen = fingerprint(run_dir)
    there = [path.name for path in saved_states(run_dir, "", UNFINISHED)]
    folders = [place / name for name in processes.gather_objects(there)[0]]
    damaged: list[str] = []
    for folder in folders:
        parts = processes.gather_objects(_damage(folder, processes))
        if not (lines := dict.fromkeys(line for part in parts for line in part)):
            break
        damaged.append(f"{str(folder)!r} is damaged ({', '.join(lines)})")
    else:
        raise ValueError(
            f"cannot resume: {'; '.join(damaged)}; restore one of them from a backup, or give "
            "--overwrite to start again"
        )
    content: dict[str, Any] = {}

    def read() -> None:
        path = folder / _STATE
        try:
            state = read_torch_file(path)
        except ValueError as error:
            raise ValueError(f"cannot read the state {str(path)!r}: {error}") from error
        if not isinstance(state, dict) or state.get("format") != _FORMAT:
            raise ValueError(f"{str(path)!r} was not written by this version of centerarc")
        content.update(state)

    processes.on_all(read)
    notes = [f"the state {line}" for line in damaged]
    if notes:
        steps = [_part(path, "step") for path in (folders[0], folder)]
        lost = counted(steps[0] - steps[1], "step")
        again = f", so {lost} must be done again" if steps[0] > steps[1] else ""
        notes[-1] += f"; that of step {steps[1]:,} is used{again}"
    return SavedState(folder, content, notes, seen)


def set_aside(run_dir: Path, used: Path) -> None:
    """Renames the damaged states after the one that is used; the next save deletes them."""
    for folder in saved_states(run_dir):
        if _part(folder) > _part(used):
            folder.rename(folder.with_name(_DAMAGED + folder.name))


def is_sound(folder: Path) -> bool:
    """Whether a state is worth resuming from, see `Setbacks.is_sound`."""
    return not (folder / UNSOUND).exists()


def step_of(folder: Path) -> int:
    """Optimizer steps that a state is after."""
    return _part(folder, "step")


def check_state(
    saved: SavedState,
    model: nn.Module,
    criterion: CenterArcFaceLoss,
    optimizers: Sequence[Optimizer],
) -> None:
    """Checks that what `load_state` read fits what is trained, and that this process sees the head.

    Raises:
        ValueError: If the state is of another model.
        OSError: If the head is missing, or its table of contents is damaged.
    """
    held = saved.content["model"]
    try:
        expected = model.state_dict()
        for name in sorted(expected.keys() | held.keys()):
            sizes = [tuple(d[name].shape) if name in d else None for d in (expected, held)]
            if sizes[0] != sizes[1]:
                raise ValueError(f"{name} must be {sizes[0]}, got {sizes[1]}")
        with _explained(f"cannot resume: the state {str(saved.folder)!r} cannot be read"):
            classes = _Reader(saved.folder).read_metadata().state_dict_metadata
        for name, tensor in _wanted(classes, criterion, optimizers).items():
            size = getattr(classes.get(name), "size", None)
            if size != tensor.shape:
                found = None if size is None else tuple(size)
                raise ValueError(f"{name} must be {tuple(tensor.shape)}, got {found}")
    except ValueError as error:  # a config.yaml changed by hand
        raise ValueError(f"cannot resume: the state is of another model: {error}") from error


def restore(
    saved: SavedState,
    model: nn.Module,
    terms: nn.Module,
    criterion: CenterArcFaceLoss,
    optimizers: Sequence[Optimizer],
    processes: Processes,
) -> None:
    """Puts a state that was checked, and the classes that this rank holds, into what is trained.

    Raises:
        OSError: If a part of the head is missing or damaged; on all ranks.
    """
    state = saved.content
    try:
        model.load_state_dict(state["model"])
        terms.load_state_dict(state["terms"])
    except RuntimeError as error:
        first = " ".join(str(error).split())
        raise ValueError(f"cannot resume: the state is of another model: {first}") from error
    restore_kept(optimizers, model, terms, state["optimizer"])
    reader = _Reader(saved.folder)
    with _explained(f"cannot resume: the state {str(saved.folder)!r} cannot be read"):
        wanted = _wanted(reader.read_metadata().state_dict_metadata, criterion, optimizers)
        load(wanted, storage_reader=reader, no_dist=processes.world_size == 1)


def load_rows(folder: Path) -> dict[str, Tensor]:
    """Reads the tensors of all classes in a state's criterion, without what optimizers keep.

    Raises:
        OSError: If it is missing or damaged.
    """
    reader = _Reader(folder)
    with _explained(f"the state {str(folder)!r} cannot be read"):
        saved = reader.read_metadata().state_dict_metadata
        rows = {
            name: torch.empty(item.size, dtype=item.properties.dtype)
            for name, item in saved.items()
            if name in (*ROWS, COUNTS) and isinstance(item, TensorStorageMetadata)
        }
        load(rows, storage_reader=reader, no_dist=True)
    return rows


def _wanted(
    saved: Mapping[str, Any], criterion: CenterArcFaceLoss, optimizers: Sequence[Optimizer]
) -> dict[str, Tensor]:
    """What is to be read of a head.

    An optimizer with other settings may not have kept all that this one wants: that starts from
    zeros, as in a new run.
    """
    needed = criterion.state_dict().keys()
    state = class_state(criterion, *optimizers)
    return {name: rows for name, rows in state.items() if name in saved or name in needed}


@contextmanager
def _explained(what: str, asks: Callable[[BaseException], str] = lambda _: "") -> Iterator[None]:
    """Turns what torch raises for a failed save or load, on all ranks, into one line."""
    try:
        # Said of every checkpoint of one process. Threads share the filters, so for good.
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield
    except (CheckpointException, OSError, RuntimeError, pickle.UnpicklingError) as error:
        failures = error.failures if isinstance(error, CheckpointException) else {}
        reason = next((problem for problem, _ in failures.values()), error)
        raise OSError(f"{what}{asks(reason)} ({str(reason).splitlines()[0]})") from error


# All that the metadata of tensors is made of.
_PLAIN = {
    ("torch.distributed.checkpoint.metadata", name)
    for name in (
        "Metadata",
        "MetadataIndex",
        "TensorStorageMetadata",
        "TensorProperties",
        "ChunkStorageMetadata",
        "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    )
} | {
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or (module, name) in _PLAIN:
            return super().find_class(module, name)
        if module.partition(".")[0] == "pathlib":  # where it was written, which does not matter
            return lambda *parts: "/".join(parts)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not of tensors; refused")


class _Reader(FileSystemReader):
    """Reads tensors only: PyTorch's own unpickles whatever is in the metadata."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata: Metadata = _PlainUnpickler(file).load()
        return metadata
