"""Studies: every arm with every seed in processes of their own, resumable, and their result."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from centerarc.io.children import Children, Ended
from centerarc.io.files import atomic_path, locked_folder
from centerarc.io.parallel import default_workers
from centerarc.io.progress import duration, waiting
from centerarc.io.tables import counted
from centerarc.report.study_result import Measured, value_words
from centerarc.training.assembly import check_parts, make_model, refuse_at_once
from centerarc.training.checkpoint import saved_states
from centerarc.training.child import status_of
from centerarc.training.config import TrainConfig
from centerarc.training.logging import read_metrics
from centerarc.training.rundir import (
    CONFIG,
    RESULTS,
    clear,
    locked,
    progress_of,
    said_changes,
    setting_differences,
)
from centerarc.training.settings import dump_config, load_config
from centerarc.training.study_config import StudyConfig
from centerarc.training.study_run import RunRecord, check_sets, missing_sets, write_order

RESULT, PAGE, LOG = "study.json", "study.html", "train.log"
# Settings that a tuning chose, by arm.
Chosen = Mapping[str, Mapping[str, Any]]
State = Literal["done", "diverged", "judge", "resume", "start", "again"]
_WORDS = {
    "done": "done",
    "diverged": "diverged; --overwrite trains it again",
    "judge": "trained; to be judged",
    "resume": "stopped; resumes",
    "start": "to be trained",
    "again": "has other settings; to be trained again",
}
_LOOK_SECONDS = 2.0
# Parts of a run that a bar counts.
_PARTS = 1000


@dataclass(frozen=True)
class PlannedRun:
    """A run of a study, and what is there of it.

    Args:
        arm, seed: Which it is.
        config: Its configuration.
        scores: Folder of its record and scores.
        state: What is to be done: nothing where it is "done" or "diverged".
        record: What an earlier start found.
        changes: Settings that differ in the run that is there, with old and new values.
    """

    arm: str
    seed: int
    config: TrainConfig
    scores: Path
    state: State
    record: RunRecord | None
    changes: dict[str, tuple[Any, Any]]

    @property
    def name(self) -> str:
        """What it is called."""
        return f"{self.arm}, seed {self.seed}"

    @property
    def to_do(self) -> bool:
        """Whether a process must be started for it."""
        return self.state not in ("done", "diverged")

    @property
    def has_result(self) -> bool:
        """Whether something would be lost if it started again: a result, or a saved state."""
        if self.record is not None:
            return self.record.status == "done"
        folder = self.config.run_dir
        return bool(saved_states(folder)) or (folder / RESULTS).exists()

    @property
    def words(self) -> str:
        """Its state in words."""
        return _WORDS[self.state]


def check_arms(study: StudyConfig) -> None:
    """Refuses what the runs of an arm would refuse at their start.

    Raises:
        ValueError: As the run, with the name of the arm.
    """
    base = study.base()
    for arm in study.arms:
        config = study.config_of(arm, study.seeds[0], base=base)
        try:
            refuse_at_once(config)
            with torch.device("meta"):
                model = make_model(config)
            check_parts(model, config.batch_size, config.accumulate, 1)
        except ValueError as error:
            raise ValueError(f"arm {arm!r}: {error}") from error


def plan_study(
    study: StudyConfig, *, chosen: Chosen | None = None, overwrite: bool = False
) -> list[PlannedRun]:
    """Lists the runs of a study in their order, all arms of a seed together.

    Args:
        study: The study.
        chosen: Settings that a tuning chose, by arm.
        overwrite: Runs that have other settings, that diverged, or whose weights are deleted while
            a set is missing are trained again. Those with other settings that failed or diverged,
            or have saved nothing yet, are in any case.

    Raises:
        ValueError: If there are such runs with other settings and `overwrite` is False; names the
            settings.
    """
    base = study.base()
    found = [
        _planned(study, arm, seed, (chosen or {}).get(arm), base, overwrite)
        for seed in study.seeds
        for arm in study.arms
    ]
    changed = [run for run in found if run.state == "again" and run.has_result]
    if changed and not overwrite:
        first, *others = changed
        more = f", and {counted(len(others), 'more run')} with other settings" if others else ""
        what = said_changes(first.changes) or "it must be judged, but its weights are gone"
        raise ValueError(
            f"study_dir {str(study.study_dir)!r} has a run of arm {first.arm!r}, seed "
            f"{first.seed}, that differs: {what}{more}; --overwrite trains it again, another "
            "study_dir keeps it"
        )
    return found


def _planned(
    study: StudyConfig,
    arm: str,
    seed: int,
    chosen: Mapping[str, Any] | None,
    base: Mapping[str, Any],
    overwrite: bool,
) -> PlannedRun:
    config = study.config_of(arm, seed, chosen=chosen, base=base)
    scores = study.scores_dir(arm, seed)
    record = RunRecord.read(scores)
    there = config.run_dir / CONFIG
    changes: dict[str, tuple[Any, Any]] = {}
    if record is not None and record.settings:
        changes = setting_differences(record.config(), config)
    elif there.exists():
        changes = setting_differences(load_config(there), config)
    state: State
    if changes:
        state = "again"
    elif record is not None and record.status == "done":
        state = "judge" if missing_sets(record, study.evaluate, scores) else "done"
    elif record is not None and record.status == "diverged":
        state = "again" if overwrite else "diverged"
    else:
        stage = progress_of(config)
        state = {"finished": "judge", "saved": "resume"}.get(stage, "start")  # type: ignore[assignment]
    if state == "judge" and not any(config.run_dir.glob("[!.]*.safetensors")):
        state = "again"
    return PlannedRun(arm, seed, config, scores, state, record, changes)


def run_study(
    study: StudyConfig,
    *,
    chosen: Chosen | None = None,
    overwrite: bool = False,
    say: Callable[[str], Any] = print,
) -> list[PlannedRun]:
    """Trains and judges what is missing of a study, and returns its runs as they are then.

    A run that fails or diverges is recorded, and the others go on. One that failed is tried again
    by the next start; one that diverged only with `overwrite`.

    Args:
        study: The study.
        chosen: Settings that a tuning chose, by arm.
        overwrite: See `plan_study`.
        say: Called with a line for each run that ends.

    Raises:
        ValueError: If another process runs the study, a run that is there has other settings, or a
            set cannot be opened.
        ChildrenStopped: If a signal asked to stop; all runs have saved their states.
    """
    check_arms(study)
    folder = study.study_dir
    taken = f"study_dir {str(folder)!r} is in use: another process runs this study"
    with locked_folder(folder, taken, patience=2.0):
        runs = plan_study(study, chosen=chosen, overwrite=overwrite)
        waiting_runs = [run for run in runs if run.to_do]
        if waiting_runs:
            check_sets(study.evaluate, waiting_runs[0].config)
            for run in waiting_runs:
                if run.state == "again":
                    with locked(run.config.run_dir):
                        clear(run.config.run_dir)
                    shutil.rmtree(run.scores, ignore_errors=True)
            _work(study, runs, waiting_runs, say)
        return plan_study(study, chosen=chosen)


def _work(
    study: StudyConfig,
    runs: list[PlannedRun],
    queue: list[PlannedRun],
    say: Callable[[str], Any],
) -> None:
    """Runs processes until all of the queue have ended."""
    done, total = len(runs) - len(queue), len(runs)
    left, running = list(queue), dict[str, PlannedRun]()
    most = min(study.jobs, len(queue))
    looked = 0.0
    # Of all jobs, also where fewer runs are left: other threads would give other numbers.
    threads = study.threads or max(1, default_workers() // study.jobs)
    with Children(most, threads) as children, waiting("runs") as show:
        say(
            f"{counted(len(queue), 'run')} of {total} to do, {most} at once with "
            f"{counted(children.threads, 'thread')} each; logs: {study.study_dir / 'runs'}"
        )
        while left or running:
            while left and not children.full and not children.stopping:
                run = left.pop(0)
                running[run.name] = run
                children.start(run.name, _words(study, run), run.config.run_dir / LOG)
            if ended := children.wait(_LOOK_SECONDS):
                run = running.pop(ended.name)
                done += 1
                say(f"{_concluded(study, run, ended)} ({done} of {total})")
            if time.monotonic() - looked > _LOOK_SECONDS:
                looked = time.monotonic()
                share = sum(fraction_done(run.config) for run in running.values())
                show(round(_PARTS * (done + share)), _PARTS * total)


def _words(study: StudyConfig, run: PlannedRun) -> list[str]:
    """Writes what the process of a run reads; returns what follows `python` to start it."""
    place = study.study_dir / "orders" / run.arm / f"seed-{run.seed}"
    config, order = place.with_suffix(".yaml"), place.with_suffix(".json")
    with atomic_path(config) as temporary:
        temporary.write_text(dump_config(run.config), encoding="utf-8")
    write_order(order, study.evaluate, run.arm, keep_weights=study.keep_weights)
    return ["-m", "centerarc.training.study_run", str(config), str(order), str(run.scores)]


def _concluded(study: StudyConfig, run: PlannedRun, ended: Ended) -> str:
    """Records how a run ended, where it has not done so itself; returns a line about it."""
    status = status_of(ended)
    if status == "finished":
        record = RunRecord.read(run.scores)
        name, measure = study.evaluate.primary_set, study.evaluate.primary_measure
        value = None
        if record is not None and name in record.sets:
            value = record.sets[name].measures.get(measure)
        unit = "" if measure == "threshold_spread" else "%"
        shown = "no value" if value is None else value_words(measure, Measured(value)) + unit
        return f"{run.name}: {measure} {shown} in {duration(ended.seconds)}"
    if status == "stopped":
        return f"{run.name}: stopped; the same command resumes it"
    # What it was judged on before stays, such as where another set was added that has no use.
    before = run.record if run.state == "judge" else None
    if before is None:
        before = RunRecord(run.arm, run.seed, "failed", seconds=ended.seconds)
    replace(
        before,
        status="diverged" if status == "diverged" else "failed",
        reason=ended.reason,
        settings=run.config.model_dump(mode="json"),
    ).write(run.scores)
    return f"{run.name}: {status}: {ended.reason}"


def fraction_done(config: TrainConfig) -> float:
    """Estimates the share of a run that is done, in [0, 1], from its metrics."""
    rows = list(_trained_rows(config.run_dir))
    if not rows:
        return 0.0
    last = rows[-1]
    if config.schedule.max_steps is not None:
        return float(min(last["step"] / config.schedule.max_steps, 1.0))
    # How many steps an epoch has is known once a second one has begun.
    before = [row for row in rows if row["epoch"] < last["epoch"]]
    epochs = last["epoch"] - 0.5
    if before:
        epochs = min(last["step"] * before[-1]["epoch"] / before[-1]["step"], last["epoch"])
    return float(min(epochs / config.schedule.epochs, 1.0))


def _trained_rows(run_dir: Path) -> Iterator[dict[str, Any]]:
    with suppress(OSError):  # it is about to begin
        yield from (row for row in read_metrics(run_dir) if row["kind"] == "train")
