"""From the records and scores of a study's runs to its result: means, differences, curves."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from centerarc import __version__
from centerarc.evaluation.all_pairs import AllPairs
from centerarc.evaluation.over_seeds import over_seeds
from centerarc.io.parallel import default_workers
from centerarc.io.tables import counted
from centerarc.report.study_result import (
    Measured,
    StudyArm,
    StudyCurve,
    StudyResult,
    StudyRow,
    StudyRun,
    StudySetFacts,
)
from centerarc.training.study import PlannedRun
from centerarc.training.study_config import StudyConfig, flat
from centerarc.training.study_run import scores_file
from centerarc.training.study_scores import read_scores

_OVER_SEEDS = (
    "95% intervals over seeds alone, by Student's t distribution, for the people that were judged."
)
# Points of a curve, evenly spread over the logarithm of the false accept rate.
_POINTS = 61
_LOWEST_FAR = 1e-5


def summarize(
    study: StudyConfig,
    runs: list[PlannedRun],
    *,
    command: str,
    chosen: Mapping[str, Mapping[str, Any]] | None = None,
    tuning: dict[str, Any] | None = None,
) -> StudyResult:
    """Makes the result of a study of what is there of its runs.

    Means are over the seeds that an arm has, differences over those that it shares with the
    baseline.

    Args:
        study: The study.
        runs: Its runs, from `plan_study`.
        command: What a user types to make it again.
        chosen: Settings that a tuning chose, by arm.
        tuning: What the tuning tried, for the page.

    Raises:
        ValueError: If no run is done, or a file of scores is damaged.
    """
    done = {(run.arm, run.seed): run for run in runs if run.state == "done"}
    if not done:
        reasons = [run.record.reason for run in runs if run.record is not None]
        why = f"; the first says: {reasons[0]}" if reasons else ""
        raise ValueError(f"none of the {len(runs)} runs of the study is done{why}")
    sets, rows, curves = [], [], []
    for name, one in study.evaluate.sets.items():
        first = next(iter(done.values())).record
        assert first is not None
        sets.append(
            StudySetFacts(
                name, one.kind, first.sets[name].definition, first.sets[name].facts, _OVER_SEEDS
            )
        )
        rows += _rows(study, name, done)
        if one.kind == "all_pairs":
            curves += _curves(study, name, done)
    arms = [
        StudyArm(arm, flat(settings), dict((chosen or {}).get(arm, {})))
        for arm, settings in study.arms.items()
    ]
    return StudyResult(
        title=study.study_dir.name,
        baseline=study.baseline_arm,
        primary_set=study.evaluate.primary_set,
        primary_measure=study.evaluate.primary_measure,
        arms=arms,
        seeds=list(study.seeds),
        sets=sets,
        runs=[_run(run) for run in runs],
        rows=rows,
        curves=curves,
        command=command,
        study=study.model_dump(mode="json", exclude_none=True),
        tuning=tuning,
        machine=machine(),
        notes=_notes(study, runs),
    )


def _run(run: PlannedRun) -> StudyRun:
    record = run.record
    if record is None:
        return StudyRun(run.arm, run.seed, "waiting", run.words)
    status = record.status
    reason = record.reason
    if status == "done" and run.state != "done":
        status, reason = "waiting", run.words  # type: ignore[assignment]
    return StudyRun(
        run.arm,
        run.seed,
        status,
        reason,
        measures={name: one.measures for name, one in record.sets.items()},
        settings=record.settings,
        weights_sha256=record.weights_sha256,
        seconds=record.seconds,
        facts=record.facts,
        learning=record.learning,
    )


def _rows(
    study: StudyConfig, name: str, done: Mapping[tuple[str, int], PlannedRun]
) -> list[StudyRow]:
    values: dict[str, dict[str, dict[int, float]]] = {}  # by measure, arm and seed
    for (arm, seed), run in done.items():
        assert run.record is not None
        for measure, value in run.record.sets[name].measures.items():
            values.setdefault(measure, {}).setdefault(arm, {})[seed] = value
    rows = []
    for measure, of_arms in values.items():
        baseline = of_arms.get(study.baseline_arm, {})
        for arm in study.arms:
            if not (of_seeds := of_arms.get(arm)):
                continue
            mean = over_seeds(list(of_seeds.values()))
            row = StudyRow(
                name, measure, arm, len(of_seeds), Measured(mean.mean, mean.low, mean.high)
            )
            shared = [seed for seed in of_seeds if seed in baseline]
            if arm != study.baseline_arm and shared:
                gained = over_seeds([of_seeds[seed] - baseline[seed] for seed in shared])
                row = StudyRow(
                    *(name, measure, arm, len(of_seeds), row.mean),
                    difference=Measured(gained.mean, gained.low, gained.high),
                    pairs=len(shared),
                    doubt=gained.doubt,
                )
            rows.append(row)
    return rows


def _curves(
    study: StudyConfig, name: str, done: Mapping[tuple[str, int], PlannedRun]
) -> list[StudyCurve]:
    far = np.geomspace(_LOWEST_FAR, 1.0, _POINTS)
    curves = []
    for arm in study.arms:
        tars = []
        for (other, _), run in done.items():
            if other == arm:
                scores = read_scores(scores_file(run.scores, name), "all_pairs")
                assert isinstance(scores, AllPairs)
                at = np.searchsorted(scores.curve_far, far, side="right") - 1
                tars.append(np.where(at < 0, 0.0, scores.curve_tar[np.maximum(at, 0)]))
        if tars:
            each = np.array(tars)
            lines = (each.mean(axis=0), each.min(axis=0), each.max(axis=0))
            mean, low, high = (line.tolist() for line in lines)
            curves.append(StudyCurve(name, arm, far.tolist(), mean, low, high))
    return curves


def _notes(study: StudyConfig, runs: list[PlannedRun]) -> list[str]:
    notes = [
        f"{run.name}: {run.record.status}: {run.record.reason}."
        for run in runs
        if run.record is not None and run.record.status != "done"
    ]
    open_runs = [run for run in runs if run.state not in ("done", "diverged")]
    waiting = [run for run in open_runs if run.record is None or run.record.status == "done"]
    if waiting:
        few = counted(len(waiting), "run")
        notes.append(f"{few} of {len(runs)} not done yet, first {waiting[0].name}.")
    if len(study.seeds) < 2:
        notes.append("One seed says nothing about what another would have changed.")
    return notes


def machine() -> dict[str, str]:
    """The processor, its cores, the system and the versions that compute, by name."""
    versions = {name: version(name) for name in ("torch", "numpy")}
    return {
        "processor": _processor(),
        "cores": str(default_workers()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "centerarc": __version__,
        **versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or os.uname().machine)
