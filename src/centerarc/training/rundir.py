"""The folder of a run: its saved state, its files and its summary."""

import json
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from centerarc.data.views import write_identities
from centerarc.io.files import atomic_path
from centerarc.models.weights import PEOPLE_FILE
from centerarc.training.checkpoint import check_saved, state_path
from centerarc.training.config import TrainConfig
from centerarc.training.logging import METRICS
from centerarc.training.settings import dump_config, load_config

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


def prepare(config: TrainConfig, people: Collection[str], *, resume: bool, overwrite: bool) -> None:
    """Makes the folder of a run ready: its configuration, and who is trained on.

    Args:
        config: The run.
        people: Names of the people that are trained on.
        resume: The run that is there is resumed.
        overwrite: The run that is there is deleted, but only files that a run writes.

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
    with atomic_path(folder / CONFIG) as temporary:
        temporary.write_text(dump_config(config), encoding="utf-8")
    # A name with a line break cannot be listed, which is no reason to refuse the training.
    write_identities(folder / PEOPLE_FILE, (name for name in people if name.splitlines() == [name]))


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
    # Its plugins may be elsewhere now; those that register the names are imported already.
    before = load_config(config.run_dir / CONFIG, ["--plugins", "[]"])
    old, new = before.model_dump(mode="json"), config.model_dump(mode="json")
    for name in _FIXED:
        where, was, now = _difference(name, _value(old, name), _value(new, name))
        if was != now:
            raise ValueError(
                f"cannot resume with another {where}: it was {was!r}, now it is {now!r}"
            )


def _value(content: Any, name: str) -> Any:
    for part in name.split("."):
        content = (content or {}).get(part)
    return content


def _difference(name: str, old: Any, new: Any) -> tuple[str, Any, Any]:
    """Returns the innermost field that differs, and both its values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *new]:
            if old.get(key) != new.get(key):
                return _difference(f"{name}.{key}", old.get(key), new.get(key))
    return name, old, new


def write_summary(run_dir: Path, content: dict[str, Any]) -> None:
    """Writes `results.json`, complete or not at all."""
    with atomic_path(run_dir / RESULTS) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
