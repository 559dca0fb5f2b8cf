"""The folder of a run: its saved state, its files and its summary."""

import json
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from centerarc.data.views import write_identities
from centerarc.distributed.process import Processes
from centerarc.io.files import atomic_path, locked_folder
from centerarc.models.weights import PEOPLE_FILE
from centerarc.training.checkpoint import check_saved, state_path
from centerarc.training.config import TrainConfig
from centerarc.training.logging import METRICS
from centerarc.training.settings import dump_config, load_config

# Seconds that a file written by one machine may take to appear on another.
_PATIENCE = 10.0
CONFIG = "config.yaml"
RESULTS = "results.json"
_FILES = (CONFIG, PEOPLE_FILE, METRICS, RESULTS, "best.safetensors", "last.safetensors")
_FOLDERS = ("state", "tensorboard")
# What a saved state depends on: with another value it would be another run. The people that the
# validation holds out by number are taken out of the training.
_FIXED = (
    *("seed", "model", "data", "loss", "batch_size", "optimizer.name", "ema_decay"),
    "validation.identities",
)


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
    keep_config: bool = False,
) -> None:
    """Makes the folder of a run ready: its configuration, and who is trained on.

    Args:
        config: The run.
        people: Names of the people that are trained on.
        resume: The run that is there is resumed.
        overwrite: The run that is there is deleted, but only files that a run writes.
        keep_config: The configuration that is there stays.

    Raises:
        ValueError: As `check_folder`.
    """
    folder = config.run_dir
    check_folder(folder, resume=resume, overwrite=overwrite)
    if overwrite:
        for name in _FILES:
            (folder / name).unlink(missing_ok=True)
        for name in _FOLDERS:
            shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    if not keep_config:
        with atomic_path(folder / CONFIG) as temporary:
            temporary.write_text(dump_config(config), encoding="utf-8")
    # A name with a line break cannot be listed, which is no reason to refuse the training.
    write_identities(folder / PEOPLE_FILE, (name for name in people if name.splitlines() == [name]))


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


def unfinished(config: TrainConfig) -> bool:
    """Whether the folder holds an unfinished run of this very configuration."""
    folder = config.run_dir
    if not state_path(folder).exists() or (folder / RESULTS).exists():
        return False
    return (folder / CONFIG).exists() and load_config(folder / CONFIG) == config


def check_resumable(config: TrainConfig) -> None:
    """Checks that the run in the folder can be resumed with a configuration.

    Schedule, optimizer settings, precision, device and the like may differ from before; what the
    saved weights depend on may not.

    Raises:
        ValueError: If there is no state, or a field differs that must not.
    """
    check_saved(config.run_dir)
    old, new = _before(config), config.model_dump(mode="json")
    for name in _FIXED:
        for where, was, now in _differences(name, _value(old, name), _value(new, name)):
            raise ValueError(
                f"cannot resume with another {where}: it was {was!r}, now it is {now!r}"
            )


def changes(config: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Returns what a configuration changes of the one in its folder: name -> old and new value."""
    old, new = _before(config), config.model_dump(mode="json")
    left_out = ("run_dir", "plugins")
    return {
        where: (was, now)
        for name in new
        if name not in left_out
        for where, was, now in _differences(name, old.get(name), new[name])
    }


def _before(config: TrainConfig) -> dict[str, Any]:
    # Its plugins may be elsewhere now; those that register the names are imported already.
    before = load_config(config.run_dir / CONFIG, ["--plugins", "[]"])
    return before.model_dump(mode="json")


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
    """Reads `results.json`; None if it is not there, or damaged."""
    try:
        content: dict[str, Any] = json.loads((run_dir / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content


def write_summary(run_dir: Path, content: dict[str, Any]) -> None:
    """Writes `results.json`, complete or not at all."""
    with atomic_path(run_dir / RESULTS) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
