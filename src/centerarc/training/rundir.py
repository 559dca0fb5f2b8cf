"""The folder of a run: its saved state, its files and its summary."""

import json
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from centerarc.data.views import write_identities
from centerarc.distributed.process import Processes
from centerarc.io.files import atomic_path, locked_folder, verify_checksums
from centerarc.models.weights import PEOPLE_FILE
from centerarc.training.checkpoint import saved_states
from centerarc.training.config import TrainConfig
from centerarc.training.logging import METRICS
from centerarc.training.settings import check_config, dump_config, load_config

# Seconds that a file written by one machine may take to appear on another.
_PATIENCE = 10.0
CONFIG = "config.yaml"
RESULTS = "results.json"
BEST, LAST = "best.safetensors", "last.safetensors"
_FILES = (CONFIG, PEOPLE_FILE, METRICS, RESULTS, BEST, LAST)
_FOLDERS = ("state", "tensorboard")
# What a saved state depends on: with another value it would be another run. The people that the
# validation holds out by number are taken out of the training.
_FIXED = (
    *("seed", "model", "data", "loss", "batch_size", "optimizer.name", "ema_decay"),
    "validation.identities",
)
_FREE = ("data.cache_gb",)
# What changes neither the weights nor what is judged, or only where they are.
_HARMLESS = ("run_dir", "plugins", "workers", "log", "save_every", "data.cache_gb")
# What acts after the last step too, where its validation is still to come.
_OF_VALIDATION = ("validation", "workers", "device", "log", "callbacks")


@dataclass(frozen=True)
class RunResult:
    """What a finished run leaves.

    Args:
        run_dir: Folder with `config.yaml`, `people.txt`, `metrics.jsonl`, `results.json`,
            `last.safetensors` and, with validation, `best.safetensors`.
        best: The validation row that chose the best weights; None without validation.
        summary: What `results.json` holds.
    """

    run_dir: Path
    best: dict[str, Any] | None
    summary: dict[str, Any]


def check_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuses a folder that a run must not start in.

    Raises:
        ValueError: If it holds a run and neither is asked for, or both are, or it is a file.
    """
    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other; give one of them")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"run_dir is {str(folder)!r}, a file; it must be a folder")
    found = [name for name in (*_FILES, *_FOLDERS) if (folder / name).exists()]
    if found and not (resume or overwrite):
        raise ValueError(
            f"run_dir {str(folder)!r} already holds a run ({', '.join(found)}); "
            "give --resume to resume it, --overwrite to start again, or another --run-dir"
        )


def prepare(
    config: TrainConfig,
    people: Collection[str],
    *,
    resume: bool,
    overwrite: bool,
    history: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Makes the folder of a run ready: its configuration, and who is trained on.

    Args:
        config: The run.
        people: Names of the people that are trained on.
        resume: The run that is there is resumed.
        overwrite: The run that is there is deleted, but only files that a run writes.
        history: Settings that earlier steps were trained with, see `Trainer.history`.

    Raises:
        ValueError: As `check_folder`.
    """
    folder = config.run_dir
    check_folder(folder, resume=resume, overwrite=overwrite)
    if overwrite:
        clear(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Also where nothing has changed: the file that is there may have been edited.
    with atomic_path(folder / CONFIG) as temporary:
        lines = [f"# from step {h['step'] + 1}: {said_changes(h['changes'])}\n" for h in history]
        temporary.write_text("".join(lines) + dump_config(config), encoding="utf-8")
    # A name with a line break cannot be listed, which is no reason to refuse the training.
    write_identities(folder / PEOPLE_FILE, (name for name in people if name.splitlines() == [name]))


def clear(folder: Path) -> None:
    """Deletes the run in a folder, but only files that a run writes."""
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
    for name in _FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)


def locked(folder: Path) -> AbstractContextManager[None]:
    """Keeps other runs out of a run's folder within the block.

    Raises:
        ValueError: If another process trains there.
    """
    taken = f"run_dir {str(folder)!r} is in use: another process trains there"
    return locked_folder(folder, taken, patience=2.0)


def check_shared(folder: Path, processes: Processes) -> None:
    """Checks that every process sees the folder, to which each adds its part of the state.

    Raises:
        ValueError: On every process, if one does not see what the first one writes.
    """
    if processes.world_size == 1:
        return
    token = processes.gather_objects(secrets.token_hex(8))[0]
    marker = folder / f".shared-{token}"

    def look() -> None:
        end = time.monotonic() + _PATIENCE
        while marker.name not in (os.listdir(folder) if folder.is_dir() else ()):
            if time.monotonic() > end:
                raise ValueError(
                    f"run_dir {str(folder.absolute())!r} must be in storage that all processes "
                    "share, and this process does not see what the first one writes there"
                )
            time.sleep(0.1)

    try:
        processes.on_main(marker.touch)
        processes.on_all(look)
    finally:
        if processes.is_main:
            marker.unlink(missing_ok=True)


def progress_of(config: TrainConfig) -> Literal["none", "begun", "saved", "finished", "other"]:
    """How far the folder's run of this very configuration is; "other" if it holds another run.

    "begun" has no saved state yet, so nothing is lost if it starts again. Where the run is, and
    settings that change no number of it, may differ.
    """
    folder = config.run_dir
    if not any((folder / name).exists() for name in (*_FILES, *_FOLDERS)):
        return "none"
    if not (folder / CONFIG).exists() or setting_differences(load_config(folder / CONFIG), config):
        return "other"
    if (folder / RESULTS).exists():
        return "finished"
    return "saved" if saved_states(folder) else "begun"


def changed_settings(config: TrainConfig, saved: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Compares a configuration with the one that a saved state was trained with.

    Schedule, optimizer settings, precision, device and the like may differ; what the saved weights
    depend on may not. The file in the run's folder is not asked: it may have been edited.

    Args:
        config: The run that is to be resumed.
        saved: The settings in its state.

    Returns:
        Name -> old and new value of what differs.

    Raises:
        ValueError: If a field differs that must not.
    """
    # Its plugins may be elsewhere now; those that register the names are imported already.
    before = check_config({**saved, "plugins": []}, "the saved settings").model_dump(mode="json")
    now = config.model_dump(mode="json")
    for name in _FIXED:
        for where, old, new in _differences(name, _value(before, name), _value(now, name)):
            if where not in _FREE:
                raise ValueError(
                    f"cannot resume with another {where}: it was {old!r}, now it is {new!r}; "
                    "start a new run with another run_dir"
                )
    return {
        where: (old, new)
        for name in now
        if name not in ("run_dir", "plugins")
        for where, old, new in _differences(name, before.get(name), now[name])
    }


def setting_differences(old: TrainConfig, new: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Returns the innermost settings by which two runs differ, with both values.

    Where they are (`run_dir`, `plugins`) and what changes no number of theirs (`workers`, `log`,
    `save_every`, `data.cache_gb`) may differ.
    """
    before, now = old.model_dump(mode="json"), new.model_dump(mode="json")
    return {
        where: (a, b)
        for name in now
        for where, a, b in _differences(name, before.get(name), now[name])
        if not any(f"{where}.".startswith(f"{harmless}.") for harmless in _HARMLESS)
    }


def check_steps_left(
    step: int, total_steps: int, changes: Mapping[str, tuple[Any, Any]], *, ended: bool
) -> None:
    """Refuses to resume where the schedule is over, or other settings would train nothing.

    Args:
        step: Steps that are done.
        total_steps: Where the schedule ends.
        changes: From `changed_settings`.
        ended: Whether the validation after the last step is done too.

    Raises:
        ValueError: If so; it says what to change.
    """
    more = "raise schedule.epochs or schedule.max_steps, or start a new run with another run_dir"
    if step > total_steps:
        raise ValueError(
            f"cannot resume: {step} steps are done, and the schedule ends after "
            f"{total_steps}; {more}"
        )
    acting = () if ended else _OF_VALIDATION
    idle = {k: v for k, v in changes.items() if not k.startswith(acting)}
    if step == total_steps and idle:
        raise ValueError(
            f"cannot resume: all {step} steps are done, and nothing would be trained with "
            f"{said_changes(idle)}; {more}"
        )


def said_changes(changes: Mapping[str, Sequence[Any]]) -> str:
    """Settings with their old and new values, in words."""
    return ", ".join(
        f"{name} {' -> '.join(_as_written(value) for value in values)}"
        for name, values in changes.items()
    )


def _as_written(value: Any) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _value(content: Any, name: str) -> Any:
    for part in name.split("."):
        content = (content or {}).get(part)
    return content


def _differences(name: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yields the innermost fields that differ, with both their values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(f"{name}.{key}", old.get(key), new.get(key))
    elif old != new:
        yield name, old, new


def read_summary(run_dir: Path) -> dict[str, Any] | None:
    """Reads `results.json`; None if it or the last weights are not there, or are damaged."""
    try:
        content: dict[str, Any] = json.loads((run_dir / RESULTS).read_text(encoding="utf-8"))
        size, checksum = content["files"][LAST]
    except (OSError, ValueError, KeyError):
        return None
    return None if verify_checksums(run_dir, {LAST: (size, checksum)}) else content


def lost_best(run_dir: Path, state: Mapping[str, Any], processes: Processes) -> str:
    """Says that the best weights of a state are not in the folder any more; empty if they are."""
    lines = verify_checksums(run_dir, {BEST: state["files"][BEST]}) if processes.is_main else []
    said = [f"{line}; the best so far, of step {state['best']['step']}, is lost" for line in lines]
    return "".join(processes.gather_objects(said)[0])


def moved(config: TrainConfig, saved: Mapping[str, Any]) -> list[str]:
    """Says where a run was trained before, if its folder was moved or copied since."""
    before = saved["run_dir"]
    same = Path(before).resolve() == config.run_dir.resolve()
    return [] if same else [f"the run in {str(config.run_dir)!r} was in {before!r} before"]


def write_summary(run_dir: Path, content: dict[str, Any]) -> None:
    """Writes `results.json`, complete or not at all."""
    with atomic_path(run_dir / RESULTS) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def resuming(run_dir: Path, processes: int) -> str:
    """The command that resumes a run on as many processes."""
    under = f"torchrun --nproc-per-node {processes} -m " if processes > 1 else ""
    return f"{under}centerarc train {run_dir / CONFIG} --resume"


def peak_memory(device: torch.device) -> int | None:
    """Returns the most memory held by this process, in MB (10^6 bytes); on a GPU, of the GPU's."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6)
    status = Path("/proc/self/status")  # getrusage also counts what started this process
    if not status.exists():
        return None
    lines = (line.split() for line in status.read_text().splitlines())
    return next((round(int(line[1]) * 1024 / 1e6) for line in lines if line[0] == "VmHWM:"), None)
