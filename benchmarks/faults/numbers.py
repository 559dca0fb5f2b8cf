"""Runs whose numbers stop being finite."""

import shutil
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from benchmarks.faults.runs import (
    LOST,
    SAID,
    SURVIVED,
    UNCLEAR,
    VARIANTS,
    Ended,
    Fault,
    Lab,
    Outcome,
    drawn,
)
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

KIND = "diverging runs"
_NAMES = ("finite", "nan", "inf", "overflow")
# What goes wrong in the backbone, see `runs.PLUGIN`.
_WRONG = {
    "output": "the embeddings are nan",
    "overflow": "the embeddings overflow",
    "half": "the embeddings overflow half precision",
    "gradient": "the gradient is infinite",
    "one gradient": "the gradient is nan",
    "weight": "a weight is infinite",
    "running_mean": "a running mean is nan",
    "running_var": "a running variance is infinite",
}


_HANDLED = ("output", "gradient", "running_var")


def faults(seed: int, amount: int | None = None) -> list[Fault]:
    """Each of them, or so many, evenly spread."""
    rng = drawn(seed, KIND)
    every = [_wrong(rng, what) for what in _WRONG for _ in range(2)]
    every += [
        _absurd("lr: 1e6", optimizer={"lr": 1e6}),
        _absurd("lr: 1e6 with AdamW", optimizer={"name": "adamw", "lr": 1e6}),
        _absurd(
            "lr: 1e6 for a backbone of 1000 times that",
            optimizer={"lr": 1e6, "backbone_lr_scale": 1000.0},
        ),
        _absurd("weight_decay: 1e6", optimizer={"lr": 1e3, "weight_decay": 1e6}),
        *(_weights(value) for value in (float("inf"), float("nan"), 3e38)),
        *(_handled(rng, what, policy) for what in _HANDLED for policy in ("skip", "rewind")),
    ]
    if amount is None:
        return every
    return [every[number * len(every) // amount] for number in range(amount)]


def _wrong(rng: Random, what: str) -> Fault:
    variant, call = rng.choice(sorted(VARIANTS)), rng.randrange(2, 12)

    def act(lab: Lab) -> Outcome:
        lab.reference(variant)
        lab.fresh(variant)
        ended = lab.train(environment={"WRONG_NUMBERS": f"{what}@{call}"})
        # What was saved is from before, so that the same run without the fault is the right one.
        return lab.ended_or_said(ended, _NAMES)

    return Fault(KIND, f"{_WRONG[what]}, from a step on", act)


def _handled(rng: Random, what: str, policy: str) -> Fault:
    """Goes on after it, where the build can: without the step, or from the last state."""
    call = rng.randrange(6, 12)

    def act(lab: Lab) -> Outcome:
        for changes in ({"on_nonfinite": policy}, {}):  # which older builds do not have
            lab.fresh("plain", **changes)
            ended = lab.train(environment={"WRONG_NUMBERS": f"{what}@{call}"})
            if "on_nonfinite" not in ended.error:
                break
        return _finite(lab, ended)

    return Fault(KIND, f"{_WRONG[what]}, with on_nonfinite: {policy}", act)


def _absurd(words: str, **changes: Any) -> Fault:
    def act(lab: Lab) -> Outcome:
        lab.fresh("plain", **changes)
        return _finite(lab, lab.train())

    return Fault(KIND, words, act)


def _weights(value: float) -> Fault:
    def act(lab: Lab) -> Outcome:
        reference, _ = lab.reference("plain")
        lab.fresh("plain")
        start = lab.place / "before"
        start.mkdir()
        for name in ("config.yaml", "people.txt"):
            shutil.copyfile(reference / name, start / name)
        _spoil(reference / "last.safetensors", start / "last.safetensors", value)
        lab.write_config("plain", model={"weights": str(start)})
        return _finite(lab, lab.train())

    return Fault(KIND, f"a weight to start from is {value:g}", act)


def _spoil(source: Path, target: Path, value: float) -> None:
    """Copies weights with another value, as if they had been written so."""
    with safe_open(source, "np") as file:
        metadata = file.metadata()
    metadata.pop("crc32", None)
    tensors = load_file(source)
    name = next(name for name in sorted(tensors) if name.endswith("5.weight"))
    tensors[name] = tensors[name].copy()
    tensors[name][0, 0] = value
    save_file(tensors, target, metadata)


def _finite(lab: Lab, ended: Ended) -> Outcome:
    """A run has ended with an error, or with numbers that are finite and a line of what was not."""
    if not ended.codes:
        return Outcome(LOST, "hung")
    if not ended.done:
        unclear = ended.unclear(_NAMES)
        return Outcome(UNCLEAR if unclear else SAID, unclear or ended.error)
    for name, tensor in load_file(lab.run / "last.safetensors").items():
        if not np.isfinite(tensor).all():
            return Outcome(LOST, f"last.safetensors: {name} is not finite")
    lines = [line for line in ended.said.splitlines() if "not finite" in line]
    if lines:
        return Outcome(SAID, lines[0])
    if "null" in (lab.run / "metrics.jsonl").read_text():
        return Outcome(LOST, "metrics.jsonl: a number is not finite")
    return Outcome(SURVIVED, "")
