"""A study as a page gets it, drawn at random: five arms, five seeds, one run that diverged."""

from typing import Any

import numpy as np

from centerarc.report.study_result import (
    Measured,
    StudyArm,
    StudyCurve,
    StudyResult,
    StudyRow,
    StudyRun,
    StudySetFacts,
)

GAINS = {"softmax": 0.0, "arcface": 0.05, "shared centers": 0.045, "mean": 0.1, "unified": 0.13}
MEASURES = {
    "tar@0.01": 0.38,
    "tar@0.001": 0.17,
    "tar@0.0001": 0.07,
    "auc": 0.7,
    "eer": 0.3,
    "tpir@0.01": 0.2,
    "threshold_spread": 0.06,
}
SEEDS = [0, 1, 2, 3, 4]
LOST = ("mean", 3)


def _interval(values: np.ndarray[Any, Any], around: float) -> Measured:
    return Measured(
        float(values.mean()), float(values.mean() - around), float(values.mean()) + around
    )


def drawn_study(seeds: int = 5, arms: int = 5) -> StudyResult:
    """A study whose arms reach what `GAINS` says, and some noise for each seed."""
    rng = np.random.default_rng(0)
    names = list(GAINS)[:arms]
    values: dict[tuple[str, str], dict[int, float]] = {}
    noise = rng.normal(0, 0.01, seeds)
    for name in names:
        for measure, level in MEASURES.items():
            sign = -0.3 if measure in ("eer", "threshold_spread") else 1.0
            each = level + sign * level * 3 * GAINS[name] + noise + rng.normal(0, 0.008, seeds)
            values[name, measure] = {
                seed: float(v) for seed, v in enumerate(each) if (name, seed) != LOST
            }
    rows = []
    for (name, measure), of in values.items():
        base = values["softmax", measure]
        shared = np.array([of[s] - base[s] for s in of if s in base])
        known = len(of) > 1
        mean = _interval(np.array([*of.values()]), 0.02) if known else Measured(of[0])
        row = StudyRow("clean", measure, name, len(of), mean, by_seed=of)
        if name != "softmax":
            gained = _interval(shared, 0.025) if known else Measured(float(shared[0]))
            doubt = 0.0002 if abs(gained.value) > 0.03 else 0.21
            row = StudyRow(
                *("clean", measure, name, len(of), mean, gained, len(shared)),
                doubt=doubt if known else None,
                by_seed=of,
            )
        rows.append(row)
    far = np.geomspace(1e-5, 1, 61)
    curves = []
    for name in names:
        tar = far ** (0.35 - 0.8 * GAINS[name])
        low, high = np.clip(tar * 0.93, 0, 1), np.clip(tar * 1.07, 0, 1)
        sides = (tar, low if seeds > 1 else tar, high if seeds > 1 else tar)
        curves.append(StudyCurve("clean", name, far.tolist(), *(side.tolist() for side in sides)))
    return StudyResult(
        title="joint losses on faces",
        baseline="softmax",
        primary_set="clean",
        primary_measure="tar@0.001",
        arms=[
            StudyArm("softmax", {"loss.m": 0, "loss.center_weight": 0}),
            StudyArm("arcface", {"loss.center_weight": 0}, {"loss.s": 21.43, "loss.m": 0.31}),
            StudyArm("shared centers", {"loss.centers": "shared"}, {"loss.center_weight": 0.52}),
            StudyArm("mean", {"loss.centers": "mean"}),
            StudyArm("unified", {"loss.unified_weight": 1.0}),
        ][:arms],
        seeds=SEEDS[:seeds],
        sets=[
            StudySetFacts(
                "clean",
                "all_pairs",
                {"all_pairs": "data/lfw112", "pairs": "data/pairs.txt", "folds": [7, 8]},
                {"people": 1000, "images": 2585, "genuine_pairs": 21878, "impostor_pairs": 3317942},
                "95% intervals over people and seeds together.",
            )
        ],
        runs=[_run(name, seed, values) for seed in range(seeds) for name in names],
        rows=rows,
        curves=curves,
        command="centerarc study studies/joint.yaml --jobs 2",
        study={"study_dir": "runs/joint", "seeds": SEEDS[:seeds], "arms": {n: {} for n in names}},
        tuning=_tuning(rng),
        machine={"processor": "Xeon", "cores": "2", "torch": "2.13.0", "numpy": "2.4.6"},
        notes=[],
    )


def _run(name: str, seed: int, values: dict[tuple[str, str], dict[int, float]]) -> StudyRun:
    if (name, seed) == LOST:
        reason = "step 812: the loss is not finite at a learning rate of 0.1; try a lower one"
        return StudyRun(name, seed, "diverged", reason)
    steps = np.arange(10, 1001, 10)
    rise = 1 - np.exp(-steps / 300)
    learning: list[dict[str, Any]] = [
        {
            "kind": "train",
            "step": int(step),
            "target_cosine": float(0.7 * r + GAINS[name]),
            "accuracy": float(0.9 * r + GAINS[name] / 2),
            "arcface_loss": float(12 - 9 * r),
        }
        for step, r in zip(steps, rise, strict=True)
    ]
    learning += [
        {"kind": "validation", "step": int(step), "set": "fold", "auc": float(0.6 + 0.3 * r)}
        for step, r in zip(steps[9::10], rise[9::10], strict=True)
    ]
    measures = {measure: values[name, measure][seed] for measure in MEASURES}
    return StudyRun(
        name, seed, "done", measures={"clean": measures}, seconds=150, learning=learning
    )


def _tuning(rng: np.random.Generator) -> dict[str, Any]:
    found = {}
    for name, searched in (("arcface", "loss.s"), ("shared centers", "loss.center_weight")):
        trials = [
            {
                "number": number,
                "settings": {searched: 16.0 + number},
                "status": "diverged" if number == 4 else "done",
                "value": None if number == 4 else float(rng.normal(0.2, 0.02)),
                "reason": "the loss is not finite" if number == 4 else "",
                "seconds": 120.0,
            }
            for number in range(12)
        ]
        found[name] = {
            "measure": "tar@0.001 of fold 6",
            "search": {searched: "16 to 64, logarithmic"},
            "given": {searched: 16.0},
            "seconds": 1440.0,
            "trials": trials,
        }
    return found
