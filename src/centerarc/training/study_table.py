"""From the records and scores of a study's runs to its result: means, differences, curves."""

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from centerarc import __version__
from centerarc.evaluation.all_pairs import AllPairs
from centerarc.evaluation.intervals import Interval
from centerarc.evaluation.over_seeds import over_seeds
from centerarc.evaluation.seeds import measure_names, summarize_arms
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
from centerarc.training.study_run import definition_of, scores_file
from centerarc.training.study_scores import Scores, facts_of, measures_of, read_scores

_OVER_SEEDS = (
    "95% intervals over seeds alone, by Student's t distribution, for the people that were judged."
)
# Points of a curve, evenly spread over the logarithm of the false accept rate.
_POINTS = 61
_LOWEST_FAR = 1e-5
# An AUC that is computed again, perhaps on another machine.
_SAME = 1e-6


def summarize_study(
    study: StudyConfig,
    runs: list[PlannedRun],
    *,
    command: str,
    chosen: Mapping[str, Mapping[str, Any]] | None = None,
    tuning: dict[str, Any] | None = None,
    say: Callable[[str], Any] | None = None,
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
        say: Called with a line before what may take a minute.

    Raises:
        ValueError: If no run is done, or a file of scores is damaged.
    """
    done = {(run.arm, run.seed): run for run in runs if run.state == "done"}
    if not done:
        reasons = [run.record.reason for run in runs if run.record is not None]
        why = f"; the first says: {reasons[0]}" if reasons else ""
        raise ValueError(f"none of the {len(runs)} runs of the study is done{why}")
    sets: list[StudySetFacts] = []
    rows: list[StudyRow] = []
    curves: list[StudyCurve] = []
    for name, one in study.evaluate.sets.items():
        if say is not None:
            say(f"comparing the arms on {name}")
        scores = {
            arm: {
                seed: _scores_of(run, name, one.kind)
                for (other, seed), run in done.items()
                if other == arm
            }
            for arm in study.arms
        }
        judge = _all_pairs if one.kind == "all_pairs" else _listed
        found, method = judge(study, name, scores)
        rows += found
        if one.kind == "all_pairs":
            curves += _curves(name, scores)
        definition = definition_of(one, mirror=study.evaluate.mirror)
        some = next(each for of_arm in scores.values() for each in of_arm.values())
        sets.append(StudySetFacts(name, one.kind, definition, facts_of(some), method))
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
        runs=[_run(run, rows) for run in runs],
        rows=rows,
        curves=curves,
        command=command,
        study=study.model_dump(mode="json", exclude_none=True),
        tuning=tuning,
        machine=machine(),
        notes=_notes(study, runs),
    )


def _scores_of(run: PlannedRun, name: str, kind: str) -> Scores:
    """The scores of a run on a set, if they are those that its record speaks of."""
    path = scores_file(run.scores, name)
    try:
        found = read_scores(path, kind)
    except ValueError as error:
        raise ValueError(f"{error}; delete it to judge {run.name} again") from error
    assert run.record is not None
    known, now = run.record.sets[name].measures.get("auc"), measures_of(found).get("auc")
    if known is not None and now is not None and abs(known - now) > _SAME:
        raise ValueError(
            f"{str(path)!r} has other scores than its record says, auc {now:.4f} and not "
            f"{known:.4f}; delete it to judge {run.name} again"
        )
    return found


def _run(run: PlannedRun, rows: list[StudyRow]) -> StudyRun:
    record = run.record
    if record is None:
        return StudyRun(run.arm, run.seed, "waiting", run.words)
    status: str = record.status
    reason = record.reason
    if status == "done" and run.state != "done":
        status, reason = "waiting", run.words
    measures: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.arm == run.arm and run.seed in row.by_seed:
            measures.setdefault(row.set, {})[row.measure] = row.by_seed[run.seed]
    return StudyRun(
        run.arm,
        run.seed,
        status,
        reason,
        measures=measures,
        settings=record.settings,
        weights_sha256=record.weights_sha256,
        seconds=record.seconds,
        facts=record.facts,
        learning=record.learning,
    )


# Scores of a set by arm and seed; an arm may have none.
_Scores = Mapping[str, Mapping[int, Scores]]


def _all_pairs(study: StudyConfig, name: str, scores: _Scores) -> tuple[list[StudyRow], str]:
    """The rows of a set of all pairs, and how their intervals were made."""
    baseline = study.baseline_arm
    order = sorted((arm for arm in scores if scores[arm]), key=lambda arm: arm != baseline)
    records: dict[str, dict[int, AllPairs]] = {arm: {} for arm in order}
    for arm in order:
        for seed, each in scores[arm].items():
            assert isinstance(each, AllPairs)
            records[arm][seed] = each
    evaluate = study.evaluate
    try:
        found = summarize_arms(records, resamples=evaluate.resamples, seed=evaluate.seed)
    except ValueError as error:
        raise ValueError(f"evaluate.sets.{name}: {error}") from error
    rows = []
    for measure in measure_names():
        for arm in study.arms:
            if arm not in found.arms or (mean := found.arms[arm].means[measure]).value is None:
                continue
            row = StudyRow(
                *(name, measure, arm, len(found.arms[arm].seeds)),
                _measured(mean.value, mean.interval),
                by_seed=dict(mean.by_seed or {}),
            )
            gains = found.arms[arm].differences if order[0] == baseline else None
            if gains is not None and (gain := gains[measure]).value is not None:
                row = replace(
                    row,
                    difference=_measured(gain.value, gain.interval),
                    pairs=len(gain.by_seed or {}),
                    doubt=gain.doubt,
                )
            rows.append(row)
    return rows, found.interval_method


def _measured(value: float, interval: Interval | None) -> Measured:
    if interval is None:
        return Measured(value)
    return Measured(value, interval.low, interval.high)


def _listed(study: StudyConfig, name: str, scores: _Scores) -> tuple[list[StudyRow], str]:
    """The rows of a set of listed pairs, and how their intervals were made."""
    values: dict[str, dict[str, dict[int, float]]] = {}  # by measure, arm and seed
    for arm, of_seeds in scores.items():
        for seed, each in of_seeds.items():
            for measure, value in measures_of(each).items():
                values.setdefault(measure, {}).setdefault(arm, {})[seed] = value
    rows = []
    for measure, of_arms in values.items():
        baseline = of_arms.get(study.baseline_arm, {})
        for arm, by_seed in of_arms.items():
            mean = over_seeds(list(by_seed.values()))
            row = StudyRow(
                *(name, measure, arm, len(by_seed)),
                Measured(mean.mean, mean.low, mean.high),
                by_seed=by_seed,
            )
            shared = [seed for seed in by_seed if seed in baseline]
            if arm != study.baseline_arm and shared:
                gain = over_seeds([by_seed[seed] - baseline[seed] for seed in shared])
                row = replace(
                    row,
                    difference=Measured(gain.mean, gain.low, gain.high),
                    pairs=len(shared),
                    doubt=gain.doubt,
                )
            rows.append(row)
    return rows, _OVER_SEEDS


def _curves(name: str, scores: _Scores) -> list[StudyCurve]:
    far = np.geomspace(_LOWEST_FAR, 1.0, _POINTS)
    curves = []
    for arm, of_seeds in scores.items():
        tars = []
        for each in of_seeds.values():
            assert isinstance(each, AllPairs)
            at = np.searchsorted(each.curve_far, far, side="right") - 1
            tars.append(np.where(at < 0, 0.0, each.curve_tar[np.maximum(at, 0)]))
        if tars:
            drawn = np.array(tars)
            lines = (drawn.mean(axis=0), drawn.min(axis=0), drawn.max(axis=0))
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
