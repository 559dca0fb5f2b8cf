"""The saved state of a run: whole or absent, and of all classes, whatever ranks wrote it.

`state/state.pt` has the backbone, the added terms, their optimizer and the counters; it names a
folder beside it that `torch.distributed.checkpoint` wrote with the criterion and its momentum, to
which each process added its own classes.
"""

import pickle
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer

from centerarc.distributed.process import Processes
from centerarc.io.files import atomic_path
from centerarc.losses.center_arcface import CenterArcFaceLoss
from centerarc.losses.head.prototype_sgd import MOMENTUM
from centerarc.losses.head.shards import class_state
from centerarc.models.weights import read_torch_file

_FORMAT = 3
_HEAD = "head-"
# What a criterion has of each class, by the names in its state.
ROWS = ("arcface.prototypes", "center.centers")
COUNTS = "center.counts"  # of the images that means are from


def state_path(run_dir: Path) -> Path:
    """Where the state of a run is, if there is one."""
    return run_dir / "state" / "state.pt"


def save_state(
    run_dir: Path,
    state: dict[str, Any],
    model: nn.Module,
    terms: nn.Module,
    criterion: CenterArcFaceLoss,
    optimizers: Sequence[Optimizer],
    processes: Processes,
) -> None:
    """Writes the state from all ranks; the old one stays until the new one is complete.

    Raises:
        OSError: If it cannot be written, as on a full disk; on all ranks.
    """
    path = state_path(run_dir)
    there = processes.gather_objects([old.name for old in _heads(path)])[0]
    numbers = [int(name.removeprefix(_HEAD)) for name in there]
    folder = path.parent / f"{_HEAD}{max(numbers, default=0) + 1}"  # one that no state names
    alone = processes.world_size == 1
    try:
        with _explained(f"cannot write {str(folder)!r}; is the disk full?"):
            save(class_state(criterion, *optimizers), checkpoint_id=str(folder), no_dist=alone)
    except OSError:
        processes.on_main(lambda: shutil.rmtree(folder, ignore_errors=True))
        raise

    def write() -> None:
        content = {
            "format": _FORMAT,
            "head": folder.name,
            "model": model.state_dict(),
            "terms": terms.state_dict(),
            "optimizer": _kept_of(_named(model, terms), optimizers),
            **state,
        }
        with atomic_path(path) as temporary:
            try:
                torch.save(content, temporary)
            except (OSError, RuntimeError) as error:  # torch's archive writer raises the latter
                shutil.rmtree(folder, ignore_errors=True)
                raise OSError(f"cannot write {str(path)!r}; is the disk full? ({error})") from error
        for old in _heads(path):
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)
        for part in path.parent.glob(f".{path.stem}.*{path.suffix}"):  # of a save that was killed
            part.unlink(missing_ok=True)

    processes.on_main(write)


def _heads(path: Path) -> list[Path]:
    folders = path.parent.glob(f"{_HEAD}*")
    return [folder for folder in folders if folder.name.removeprefix(_HEAD).isdecimal()]


def load_state(run_dir: Path) -> dict[str, Any]:
    """Reads all but the criterion, on the CPU, without executing anything in it.

    Raises:
        ValueError: If there is none, or it is damaged, or of another version.
    """
    path = state_path(run_dir)
    if not path.exists():
        raise ValueError(
            f"nothing to resume: there is no {str(path)!r}; "
            "start without --resume, or with --overwrite where a run has begun"
        )
    try:
        state: dict[str, Any] = read_torch_file(path)
    except ValueError as error:
        raise ValueError(f"cannot read the state {str(path)!r}: {error}") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise ValueError(f"{str(path)!r} was not written by this version of centerarc")
    return state


def check_state(
    run_dir: Path,
    state: dict[str, Any],
    model: nn.Module,
    criterion: CenterArcFaceLoss,
    optimizers: Sequence[Optimizer],
) -> None:
    """Checks that what `load_state` read fits what is trained, and that this process sees the head.

    Raises:
        ValueError: If the state is of another model.
        OSError: If the head is missing, or its table of contents is damaged.
    """
    try:
        expected = model.state_dict()
        for name in sorted(expected.keys() | state["model"].keys()):
            sizes = [
                tuple(d[name].shape) if name in d else None for d in (expected, state["model"])
            ]
            if sizes[0] != sizes[1]:
                raise ValueError(f"{name} must be {sizes[0]}, got {sizes[1]}")
        folder = _head_of(run_dir, state)
        with _explained(f"cannot resume: the state {str(folder)!r} cannot be read"):
            saved = _Reader(folder).read_metadata().state_dict_metadata
        for name, tensor in _wanted(saved, criterion, optimizers).items():
            size = getattr(saved.get(name), "size", None)
            if size != tensor.shape:
                found = None if size is None else tuple(size)
                raise ValueError(f"{name} must be {tuple(tensor.shape)}, got {found}")
    except ValueError as error:  # a config.yaml changed by hand
        raise ValueError(f"cannot resume: the state is of another model: {error}") from error


def restore(
    run_dir: Path,
    state: dict[str, Any],
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
    model.load_state_dict(state["model"])
    if "terms" in state:  # which older states do not have
        terms.load_state_dict(state["terms"])
    _restore_kept(_named(model, terms), optimizers, state["optimizer"])
    folder = _head_of(run_dir, state)
    reader = _Reader(folder)
    with _explained(f"cannot resume: the state {str(folder)!r} cannot be read"):
        wanted = _wanted(reader.read_metadata().state_dict_metadata, criterion, optimizers)
        load(wanted, storage_reader=reader, no_dist=processes.world_size == 1)


def load_rows(run_dir: Path, state: dict[str, Any]) -> dict[str, Tensor]:
    """Reads the tensors of all classes in a state's criterion, without what optimizers keep.

    Raises:
        OSError: If it is missing or damaged.
    """
    reader = _Reader(_head_of(run_dir, state))
    with _explained(f"the state {str(reader.path)!r} cannot be read"):
        saved = reader.read_metadata().state_dict_metadata
        rows = {
            name: torch.empty(item.size, dtype=item.properties.dtype)
            for name, item in saved.items()
            if name in (*ROWS, COUNTS) and isinstance(item, TensorStorageMetadata)
        }
        load(rows, storage_reader=reader, no_dist=True)
    return rows


def _head_of(run_dir: Path, state: dict[str, Any]) -> Path:
    return state_path(run_dir).parent / Path(state["head"]).name


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
