"""The folder of a run: its saved state, its files and its summary."""

import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from centerarc.data.views import write_identities
from centerarc.distributed.process import Processes, launcher
from centerarc.io.files import LOCK, atomic_path, check_unlocked, locked_folder, verify_checksums
from centerarc.io.tables import counted
from centerarc.io.yaml_file import read_yaml
from centerarc.models.weights import PEOPLE_FILE
from centerarc.training.checkpoint import (
    UNSOUND,
    SavedState,
    check_deletable,
    delete_states,
    fingerprint,
    has_state,
    is_sound,
    saved_states,
    set_aside,
    step_of,
)
from centerarc.training.config import TrainConfig
from centerarc.training.logging import METRICS, NONFINITE
from centerarc.training.settings import TUNE, check_config, dump_config, load_config
from centerarc.training.sources import IMAGES, RunSources

# Seconds that a file may take to appear on another machine, and a process to leave a folder.
_PATIENCE, _WAIT = 10.0, 2.0
_TAKEN = "run_dir {!r} is in use: another process trains there"
CONFIG = "config.yaml"
RESULTS = "results.json"
BEST, LAST = "best.safetensors", "last.safetensors"
_FILES = (CONFIG, PEOPLE_FILE, IMAGES, METRICS, RESULTS, BEST, LAST)
# Its folders but for that of states, and what it writes there.
_FOLDERS = {"tensorboard": "events.out.tfevents.*", NONFINITE: "step-*.txt"}
# Images that a message names; a file in the run's folder names all.
_NAMED = 3
# What a saved state depends on: with another value it would be another run. The people that the
# validation holds out by number are taken out of the training.
_FIXED = (
    *("seed", "model", "data", "loss", "batch_size", "optimizer.name", "ema_decay"),
    "validation.identities",
)
_FREE = ("data.cache_gb", "data.on_change")
# Where the images are, and the lists that choose among them: they may move, and what they then
# leave must be the same, see `check_same`.
_PLACES = ("root", "path", "leave_out", "identities", "exclude_pairs")
# Whether a run is resumed; "auto" starts it where it has no state.
Resume = bool | Literal["auto"]
# How it starts: "again" deletes one that had begun and has no state.
Start = Literal["new", "again", "resume", "overwrite"]
Stage = Literal["none", "begun", "saved", "lost"]
# What changes neither the weights nor what is judged, or only where they are.
_HARMLESS = (
    *("run_dir", "plugins", "workers", "read_timeout", "timeout_minutes", "log", "save_every"),
    *("save_in_background", *_FREE),
)
# What acts after the last step too, where its validation is still to come.
_OF_VALIDATION = (
    *("validation", "workers", "read_timeout", "timeout_minutes", "device", "log", "callbacks"),
)


@dataclass(frozen=True)
class RunResult:
    """What a finished run leaves.

    Args:
        run_dir: Folder with `config.yaml`, `people.txt`, `training-images.npz`, `metrics.jsonl`,
            `results.json`, `last.safetensors` and, with validation, `best.safetensors`.
        best: The validation row that chose the best weights; None without validation.
        summary: What `results.json` holds.
    """

    run_dir: Path
    best: dict[str, Any] | None
    summary: dict[str, Any]


def stage_of(folder: Path) -> Stage:
    """How far the run in a folder is.

    Returns:
        "none" without any file of a run; "begun" before its first state, where nothing is lost if
        it starts again; "saved" with states, damaged ones included; "lost" where there are weights
        or results and no state.
    """
    if has_state(folder):
        return "saved"
    if any((folder / name).exists() for name in (RESULTS, BEST, LAST)):
        return "lost"
    return "begun" if any((folder / name).exists() for name in _FILES) else "none"


def how_to_start(
    config: TrainConfig, processes: Processes, *, resume: Resume, overwrite: bool
) -> Start:
    """Decides whether a run starts or resumes; the first process looks and tells the others.

    Args:
        config: The run.
        processes: Those of the run.
        resume: Resume it; "auto" also starts it where there is no saved state.
        overwrite: Start, whatever is there.

    Raises:
        ValueError: On every process, if the folder holds a run and neither is asked for, nothing
            that can be resumed or started is there, both are asked for, or it is a file.
    """
    found: list[Start] = []
    processes.on_main(
        lambda: found.append(_how_to_start(config, resume=resume, overwrite=overwrite))
    )
    start: Start = processes.gather_objects(found)[0][0]
    return start


def _how_to_start(config: TrainConfig, *, resume: Resume, overwrite: bool) -> Start:
    folder = config.run_dir
    if resume not in (True, False, "auto"):
        raise ValueError(f"resume must be True, False or 'auto', got {resume!r}")
    if resume and overwrite:
        raise ValueError("--resume and --overwrite exclude each other; give one of them")
    for name, place in (("run_dir", folder), ("state", folder / "state")):
        if os.path.lexists(place) and not place.is_dir():
            kind = "a file" if place.exists() else "a link to nothing"
            raise ValueError(f"{name} is {str(place)!r}, {kind}; it must be a folder")
    for path in sorted(folder.glob(f"{LOCK}*")):
        check_unlocked(path, _TAKEN.format(str(folder)), patience=_WAIT)
    if overwrite:
        check_deletable(folder)
        return "overwrite"
    stage = stage_of(folder)
    if stage == "saved" and resume:
        return "resume"
    if stage == "none" and resume is not True:
        return "new"
    if stage == "begun" and resume == "auto":
        _check_begun(config)
        return "again"
    if stage == "none":
        raise ValueError(
            f"nothing to resume: there is no run in {str(folder)!r}; start without --resume, or "
            "with --resume auto, which does either"
        )
    again = "--overwrite"
    if stage == "begun":
        with suppress(ValueError, OSError):
            _check_begun(config)
            again = "--resume auto"
    if resume:
        raise ValueError(
            f"nothing to resume: the run in {str(folder)!r} has no saved state"
            f"{' yet' if stage == 'begun' else ' any more'}; {again} starts it again"
        )
    there = ", ".join(name for name in (*_FILES, "state") if (folder / name).exists())
    ways = f"{again} to start again"
    if stage == "saved":
        ways = f"--resume to resume it, {ways}"
    without = "" if stage == "saved" else " without a saved state"
    raise ValueError(
        f"run_dir {str(folder)!r} already holds a run{without} ({there}); give {ways}, or another "
        "--run-dir"
    )


def _check_begun(config: TrainConfig) -> None:
    """Refuses to start a run again that was another one.

    Raises:
        ValueError: If it has other settings of those that cannot change on resume.
    """
    path = config.run_dir / CONFIG
    if not path.exists():
        raise ValueError(
            f"run_dir {str(config.run_dir)!r} holds files of a run, but no {CONFIG}; give "
            "--overwrite to start again, or another --run-dir"
        )
    changed_settings(config, {k: v for k, v in read_yaml(path).items() if k != TUNE})


def prepare(
    config: TrainConfig,
    sources: RunSources,
    *,
    start: Start,
    saved: SavedState | None = None,
    ended: bool = False,
    history: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Makes the folder of a run ready: its configuration, and who and what is trained on.

    Args:
        config: The run.
        sources: What is trained on.
        start: From `how_to_start`. A run that is there and not resumed is deleted, but only files
            that a run writes.
        saved: The state that is resumed; results of another step are deleted, unless it `ended`.
        ended: Whether nothing is left to train.
        history: Settings that earlier steps were trained with, see `Trainer.history`.

    Raises:
        ValueError: If another process wrote to the folder since.
    """
    folder = config.run_dir
    expected = {"new": "none", "again": "begun"}.get(start)
    as_read = saved is None or fingerprint(folder) == saved.seen
    if (expected is not None and stage_of(folder) != expected) or not as_read:
        raise ValueError(
            f"run_dir is {str(folder)!r}, where another process trained meanwhile; give the same "
            "command again"
        )
    if saved is not None:
        set_aside(folder, saved.folder)
        if not ended:
            (folder / RESULTS).unlink(missing_ok=True)
    if start in ("again", "overwrite"):
        clear(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / CONFIG).is_symlink():  # what it leads to is not this run's
        (folder / CONFIG).unlink()
    # Also where nothing has changed: the file that is there may have been edited.
    with atomic_path(folder / CONFIG) as temporary:
        lines = [f"# from step {h['step'] + 1}: {said_changes(h['changes'])}\n" for h in history]
        temporary.write_text("".join(lines) + dump_config(config), encoding="utf-8")
    sources.keep(folder)
    people = sources.train.identities
    # A name with a line break cannot be listed, which is no reason to refuse the training.
    write_identities(folder / PEOPLE_FILE, (name for name in people if name.splitlines() == [name]))


def clear(folder: Path) -> None:
    """Deletes the run in a folder, and no file that a run does not write.

    Of links the link is deleted and not what it leads to; a folder that is one stays.

    Raises:
        ValueError: If `state` is a link to states.
        OSError: If something cannot be deleted.
    """
    delete_states(folder)
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
    for name, written in _FOLDERS.items():
        if not (place := folder / name).is_symlink():
            for path in place.glob(written):
                path.unlink()
            with suppress(OSError):  # what else is there stays
                place.rmdir()


@contextmanager
def locked(folder: Path, rank: int = 0, *, patience: float = _WAIT) -> Iterator[Callable[[], None]]:
    """Keeps other runs out of a run's folder within the block; every rank of a run holds it.

    Args:
        folder: The run's.
        rank: Which rank holds it; the first also sees that no rank of another run is left.
        patience: Seconds to wait for one that is about to end.

    Yields:
        What raises `ValueError` if the folder was removed, moved or replaced.

    Raises:
        ValueError: If another process trains there.
    """
    # The workers that read images may outlive a killed process a little; they write nothing.
    taken = _TAKEN.format(str(folder))
    lock = partial(locked_folder, folder, taken, patience=patience, inherited=False)
    with lock(name=f"{LOCK}-{rank}" if rank else LOCK) as is_there:
        for path in () if rank else sorted(folder.glob(f"{LOCK}-*")):
            with lock(name=path.name):
                pass

        def check() -> None:
            if not is_there():
                raise ValueError(
                    f"run_dir {str(folder)!r} was removed, moved or replaced during the run, which "
                    f"cannot write there any more; if it was moved, resume it where it is now: "
                    f"centerarc train <folder>/{CONFIG} --resume"
                )

        yield check


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
    stage = stage_of(folder)
    if stage == "none":
        return "none"
    if not (folder / CONFIG).exists() or setting_differences(load_config(folder / CONFIG), config):
        return "other"
    if (folder / RESULTS).exists():
        return "finished"
    return "saved" if stage == "saved" else "begun"


# What a state holds, beside the format.
_DICTS = "model terms optimizer scaler settings identity files window seconds callbacks"
_PARTS: dict[str, Any] = {
    **dict.fromkeys(_DICTS.split(), dict),
    **dict.fromkeys(("average", "best", "drawn"), dict | None),
    **dict.fromkeys(("class_weights", "judged_on"), str | None),
    **{"step": int, "epochs_done": int, "validated": int, "ended": bool, "history": list},
}


def check_content(saved: SavedState) -> None:
    """Refuses a state that lacks a part or has one of another kind; a `ValueError` names it."""
    for part, kind in _PARTS.items():
        if not isinstance(found := saved.content.get(part, ...), kind):
            said = f"{part} must be of type {getattr(kind, '__name__', kind)}, got {type(found)}"
            said = said if part in saved.content else f"it lacks {part!r}"
            raise ValueError(f"cannot resume: in the state {str(saved.folder)!r}, {said}")


@contextmanager
def read_as_ours(saved: SavedState) -> Iterator[None]:
    """Says of a state what it lacks, as one written by hand, in a `ValueError`."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"cannot resume: the state {str(saved.folder)!r} is not as this version writes it "
            f"({type(error).__name__}: {error})"
        ) from error


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
            if where not in _FREE and not _is_place(where, old, new):
                raise ValueError(
                    f"cannot resume with another {where}: it was {old!r}, now it is {new!r}; "
                    "start a new run with another run_dir"
                )
    return {
        where: (old, new)
        for name in now
        if name not in ("run_dir", "plugins")
        for where, old, new in _differences(name, before.get(name), now[name])
        if not _is_place(where, old, new)
    }


def _is_place(where: str, old: Any, new: Any) -> bool:
    """Whether a setting names where images are, and did so before; not an option of a plugin."""
    sections, _, name = where.rpartition(".")
    of_data = sections == "data" or sections.startswith("data.parts.")
    own = sections.endswith(".options")
    return of_data and not own and name in _PLACES and None not in (old, new)


def setting_differences(old: TrainConfig, new: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Returns the innermost settings by which two runs differ, with both values.

    Where they are (`run_dir`, `plugins`) and what changes no number of theirs (`workers`, `log`,
    `save_every`, `timeout_minutes`, `data.cache_gb`) may differ.
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
    acting = _FREE if ended else (*_FREE, *_OF_VALIDATION)
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
    elif name == "data.parts" and old is not None and len(old) == len(new):
        for number, values in enumerate(zip(old, new, strict=True)):
            yield from _differences(f"{name}.{number}", *values)
    elif old != new:
        yield name, old, new


def read_summary(run_dir: Path, step: int | None = None) -> dict[str, Any] | None:
    """Reads `results.json`; None if it or the last weights are not there, or are damaged.

    Also None where `step` is given and they are of another one.
    """
    try:
        content: dict[str, Any] = json.loads((run_dir / RESULTS).read_text(encoding="utf-8"))
        size, checksum = content["files"][LAST]
        if step not in (None, content["steps"]):
            return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return None if verify_checksums(run_dir, {LAST: (size, checksum)}) else content


def lost_best(run_dir: Path, state: Mapping[str, Any], processes: Processes) -> str:
    """Says that the best weights of a state are not in the folder any more; empty if they are."""
    lines = verify_checksums(run_dir, {BEST: state["files"][BEST]}) if processes.is_main else []
    said = [f"{line}; the best so far, of step {state['best']['step']}, is lost" for line in lines]
    return "".join(processes.gather_objects(said)[0])


def moved(config: TrainConfig, saved: Mapping[str, Any]) -> list[str]:
    """Says where a run and its images were before, if they were moved or copied since."""
    before = saved["run_dir"]
    same = Path(before).resolve() == config.run_dir.resolve()
    notes = [] if same else [f"the run in {str(config.run_dir)!r} was in {before!r} before"]
    data = config.model_dump(mode="json")["data"]
    same_images = ": the same images" if config.data.on_change == "refuse" else ""
    return notes + [
        f"{where} is {new!r}, and was {old!r}{same_images}"
        for where, old, new in _differences("data", saved["data"], data)
        if _is_place(where, old, new)
    ]


def write_summary(run_dir: Path, content: dict[str, Any]) -> None:
    """Writes `results.json`, complete or not at all."""
    with atomic_path(run_dir / RESULTS) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def resuming(run_dir: Path, processes: int) -> str:
    """The command that resumes a run on as many processes."""
    return f"{launcher(processes)}centerarc train {run_dir / CONFIG} --resume"


def listed(run_dir: Path, step: int, places: Sequence[str]) -> str:
    """Lists the images of a step in `nonfinite/step-<step>.txt`, and names the first ones.

    The file has one line an image; where it cannot be written, it is left out.
    """
    path = run_dir / NONFINITE / f"step-{step}.txt"
    said = ", ".join(repr(place) for place in places[:_NAMED])
    if len(places) > _NAMED:
        said += f" and {len(places) - _NAMED} more"
    with suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        with atomic_path(path) as temporary:
            lines = (" ".join(place.splitlines()) for place in places)
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        said += f" (all are in {str(path)!r})"
    return said


def saved_so_far(run_dir: Path, processes: int, step: int, saved: int | None) -> str:
    """Says which step's state a run that ends after another has, what is lost, and how to resume.

    Args:
        run_dir: Its folder.
        processes: Their number.
        step: Steps that were done.
        saved: Those of the last state; None without one.
    """
    if saved is None:
        return "no state is saved yet"
    again = f", so {counted(step - saved, 'step')} must be done again" if step > saved else ""
    how = resuming(run_dir, processes)
    return f"the state after step {saved} is saved{again}; resume with: {how}"


def mark_unsound(run_dir: Path, step: int) -> None:
    """Marks the states of this step as not worth resuming from."""
    for folder in saved_states(run_dir):
        if step_of(folder) == step:
            (folder / UNSOUND).touch()


def back_to_sound(run_dir: Path, stuck: int | None = None) -> None:
    """Sets the states after the last sound one aside, if there is one.

    If that is of step `stuck`, from which a run has diverged again, one of an earlier step is
    preferred.
    """
    sound = list(filter(is_sound, saved_states(run_dir)))
    if sound and step_of(sound[0]) == stuck:
        sound = [folder for folder in sound if step_of(folder) < stuck] or sound
    if sound:
        set_aside(run_dir, sound[0])


def outlook(run_dir: Path) -> str:
    """`back_to_sound`, and says what a run that diverged has to resume from."""
    back_to_sound(run_dir)
    last = next(iter(saved_states(run_dir)), None)
    if last is None:
        return ""
    if is_sound(last):
        return f"; --resume starts from step {step_of(last)}"
    return "; the saved states are of no use either: start again with --overwrite"
