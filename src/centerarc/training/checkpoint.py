"""The saved states of a run: whole or not used, and of all classes, whatever ranks wrote them.

Each is a folder in `state/`, named by its number and its step. `state.pt` has the backbone, the
added terms, their optimizer and the counters; `torch.distributed.checkpoint` writes the criterion
and its momentum beside it, to which each process adds its own classes. A manifest with the size and
the checksum of every file is written last, and the folder has another name until then.
"""

import hashlib
import json
import pickle
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
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
from centerarc.io.files import atomic_path, flush, seal, verify_checksums
from centerarc.io.tables import counted
from centerarc.losses.center_arcface import CenterArcFaceLoss
from centerarc.losses.head.prototype_sgd import MOMENTUM
from centerarc.losses.head.shards import class_state
from centerarc.models.weights import read_torch_file

_FORMAT = 4
_KEPT = 2
_STATE, _MANIFEST = "state.pt", "manifest"
# A folder of a state. Before the name stands what it is not: finished, or undamaged.
_NAME = re.compile(r"(?P<kind>\.|damaged-|)(?P<number>\d+)-step-(?P<step>\d+)")
_UNFINISHED, _DAMAGED = ".", "damaged-"
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
    """

    folder: Path
    content: dict[str, Any]
    notes: list[str]


def saved_states(run_dir: Path, *kinds: str) -> list[Path]:
    """The folders of a run's states, the last one first; of `kinds`, or else the finished ones."""
    found = []
    for path in (run_dir / "state").glob("*-step-*"):
        match = _NAME.fullmatch(path.name)
        if match is not None and match["kind"] in (kinds or ("",)):
            found.append((int(match["number"]), path))
    return [path for _, path in sorted(found, reverse=True)]


def _part(folder: Path, part: str = "number") -> int:
    match = _NAME.fullmatch(folder.name)
    assert match is not None
    return int(match[part])


def save_state(
    run_dir: Path,
    state: dict[str, Any],
    model: nn.Module,
    terms: nn.Module,
    criterion: CenterArcFaceLoss,
    optimizers: Sequence[Optimizer],
    processes: Processes,
) -> None:
    """Writes the state from all ranks, and keeps the one before it.

    Raises:
        OSError: If it cannot be written, as on a full disk; on all ranks.
    """
    every = ("", _UNFINISHED, _DAMAGED)
    number = 1 + max(map(_part, saved_states(run_dir, *every)), default=0)
    name = processes.gather_objects(f"{number}-step-{state['step']}")[0]
    whole = run_dir / "state" / name
    folder = whole.with_name(_UNFINISHED + name)
    sums: dict[str, tuple[int, str]] = {}

    def write() -> None:
        content = {
            "format": _FORMAT,
            "model": model.state_dict(),
            "terms": terms.state_dict(),
            "optimizer": _kept_of(_named(model, terms), optimizers),
            **state,
        }
        path = folder / _STATE
        try:
            torch.save(content, path)
        except (OSError, RuntimeError) as error:  # torch's archive writer raises the latter
            raise OSError(f"cannot write {str(path)!r}; is the disk full? ({error})") from error

    def seal_own() -> None:
        with ThreadPoolExecutor(1) as pool:
            own = pool.submit(seal, *folder.glob(f"__{processes.rank}_*"))
            if processes.is_main:
                write()  # meanwhile
                sums.update(seal(folder / _STATE, folder / ".metadata"))
            sums.update(own.result())

    def finish() -> None:
        write_manifest(folder, {k: v for part in every_sums for k, v in part.items()})
        folder.rename(whole)
        flush(whole.parent)
        good = saved_states(run_dir)[:_KEPT]
        for old in saved_states(run_dir, *every):
            if old not in good:
                shutil.rmtree(old, ignore_errors=True)

    try:
        with _explained(f"cannot write {str(folder)!r}; is the disk full?"):
            writer = FileSystemWriter(folder, sync_files=False)  # `seal` does that
            alone = processes.world_size == 1
            save(class_state(criterion, *optimizers), storage_writer=writer, no_dist=alone)
        processes.on_all(seal_own)
        every_sums = processes.gather_objects(sums)
        processes.on_main(finish)
    except (OSError, ValueError):
        processes.on_main(lambda: shutil.rmtree(folder, ignore_errors=True))
        raise


def write_manifest(folder: Path, sums: Mapping[str, tuple[int, str]]) -> None:
    """Writes what a state's files must be, bytes and checksum by name, below its own SHA-256."""
    body = json.dumps(sums, indent=0, sort_keys=True).encode()
    with atomic_path(folder / _MANIFEST) as temporary:
        temporary.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def _damage(folder: Path, processes: Processes) -> list[str]:
    """What is wrong with a state, a line for each file; each process looks at some of the files."""
    if folder.name.startswith(_UNFINISHED):
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
            f"nothing to resume: there is no saved state in {str(place)!r}; "
            "start without --resume, or with --overwrite where a run has begun"
        )

    processes.on_all(look)
    there = [path.name for path in saved_states(run_dir, "", _UNFINISHED)]
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
        notes[-1] += f"; that of step {steps[1]:,} is used, so {lost} must be done again"
    return SavedState(folder, content, notes)


def set_aside(run_dir: Path, used: Path) -> None:
    """Renames the damaged states after the one that is used; the next save deletes them."""
    for folder in saved_states(run_dir):
        if _part(folder) > _part(used):
            folder.rename(folder.with_name(_DAMAGED + folder.name))


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
    model.load_state_dict(state["model"])
    terms.load_state_dict(state["terms"])
    _restore_kept(_named(model, terms), optimizers, state["optimizer"])
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


def _named(model: nn.Module, terms: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that every rank has, by the names that they have in the state."""
    added = {f"terms.{name}": parameter for name, parameter in terms.named_parameters()}
    return {**dict(model.named_parameters()), **added}


def _kept_of(
    named: Mapping[str, nn.Parameter], optimizers: Sequence[Optimizer]
) -> dict[str, dict[str, Tensor]]:
    """What the optimizers keep of parameters, by name."""
    kept = {}
    for name, parameter in named.items():
        for optimizer in optimizers:
            if parameter in optimizer.state:
                kept[name] = dict(optimizer.state[parameter])
    return kept


def _restore_kept(
    named: Mapping[str, nn.Parameter],
    optimizers: Sequence[Optimizer],
    kept: dict[str, dict[str, Tensor]],
) -> None:
    names = {parameter: name for name, parameter in named.items()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                values = kept.get(names.get(parameter, ""), {})
                for key, value in values.items():  # counts of steps stay on the CPU
                    if key == MOMENTUM and not group["momentum"]:
                        continue  # which would come back, old, with a momentum
                    optimizer.state[parameter][key] = (
                        value.to(parameter.device) if value.dim() else value
                    )


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turns what torch raises for a failed save or load, on all ranks, into one line."""
    try:
        with warnings.catch_warnings():
            # Said of every checkpoint of a single process.
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            yield
    except CheckpointException as error:
        reason = next(str(problem) for problem, _ in error.failures.values())
        raise OSError(f"{what} ({reason.splitlines()[0]})") from error
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise OSError(f"{what} ({str(error).splitlines()[0]})") from error


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
