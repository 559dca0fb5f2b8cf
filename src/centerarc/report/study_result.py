"""What a study found, as `study.json` has it and its page shows it."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from centerarc.io.files import atomic_path

_FORMAT = 1


@dataclass(frozen=True)
class Measured:
    """A value with its 95% interval, where there is one.

    Args:
        value: Of a rate in [0, 1], or the difference of two.
        low, high: The interval's ends.
    """

    value: float
    low: float | None = None
    high: float | None = None


# Measures that are no rates, but cosines; and those of which less is better.
_COSINES = ("threshold_spread",)
_ERRORS = ("eer", "threshold_spread")


def is_rate(measure: str) -> bool:
    """Whether a measure is shown in percent; else it is a cosine."""
    return measure not in _COSINES


def less_is_better(measure: str) -> bool:
    """Whether a lower value of a measure is the better one."""
    return measure in _ERRORS


def value_words(measure: str, found: Measured, sign: str = "") -> str:
    """A value with its interval, in percent unless the measure is a cosine.

    Args:
        measure: Its name.
        found: The value, or a difference.
        sign: "+" writes the sign of every number.

    Example:
        >>> value_words("tar@0.001", Measured(0.25, 0.2, 0.3))
        '25.00 (20.00 to 30.00)'
        >>> value_words("threshold_spread", Measured(-0.01), "+")
        '-0.0100'
    """
    times, form = (1.0, f"{sign}.4f") if measure in _COSINES else (100.0, f"{sign}.2f")
    words = f"{times * found.value:{form}}"
    if found.low is None or found.high is None:
        return words
    return f"{words} ({times * found.low:{form}} to {times * found.high:{form}})"


@dataclass(frozen=True)
class StudyArm:
    """An arm.

    Args:
        name: Its name.
        settings: What it changes of the common configuration, by dotted name.
        chosen: Settings that a tuning chose for it, by dotted name; these come over `settings`.
    """

    name: str
    settings: dict[str, Any]
    chosen: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyRun:
    """A run.

    Args:
        arm, seed: Which it is.
        status: "done", "diverged", "failed", or "waiting" where it has not been run.
        reason: Why it is not done, in one line.
        measures: By set and measure, such as `["all_pairs"]["tar@0.001"]`.
        settings: The whole configuration; empty for a run that is waiting.
        weights_sha256: Of the weights that were judged.
        seconds: Time that the training took.
        facts: `results.json` of the run: steps, images, threads, torch, ...
        learning: Rows of the training's metrics, thinned, as in `metrics.jsonl`.
    """

    arm: str
    seed: int
    status: str
    reason: str = ""
    measures: dict[str, dict[str, float]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    weights_sha256: str = ""
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    learning: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class StudyRow:
    """A measure of an arm on a set.

    Args:
        set: Name of the set.
        measure: Name of the measure, such as "tar@0.001".
        arm: Name of the arm.
        seeds: Seeds that the mean is over.
        mean: Over these seeds, with an interval.
        difference: Minus the baseline, over the seeds that both have; None for the baseline, or
            where they share none.
        pairs: Seeds that the difference is over.
        doubt: Two-sided p-value of no difference; None where there is no interval.
        by_seed: The value of each seed; of JSON the seeds are texts, here numbers.
    """

    set: str
    measure: str
    arm: str
    seeds: int
    mean: Measured
    difference: Measured | None = None
    pairs: int = 0
    doubt: float | None = None
    by_seed: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyCurve:
    """True against false accept rate of an arm on a set, over its seeds.

    Args:
        set, arm: Which it is.
        far: `K` false accept rates, rising.
        tar: The mean over seeds at each of them.
        low, high: The lowest and highest seed there.
    """

    set: str
    arm: str
    far: list[float]
    tar: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class StudySetFacts:
    """What was judged.

    Args:
        name: Of the set.
        kind: "all_pairs" or "pairs".
        definition: As the study's file has it.
        facts: Images, people and pairs of each kind.
        intervals: How the intervals of its measures were made, in a sentence.
    """

    name: str
    kind: str
    definition: dict[str, Any]
    facts: dict[str, int]
    intervals: str = ""


@dataclass(frozen=True)
class StudyResult:
    """A study.

    Args:
        title: Name of its folder.
        baseline: The arm that others are compared with.
        primary_set, primary_measure: What decides.
        arms: In the order of the file.
        seeds: Likewise.
        sets: Likewise.
        runs: Every arm with every seed, finished or not.
        rows: Measures of each arm on each set.
        curves: Of sets of all pairs.
        command: What a user types to make it again.
        study: The study's file, as its fields in JSON.
        tuning: What a tuning tried and chose; None without one.
        machine: Processor, cores, system and versions, by name.
        notes: What a reader must know, in sentences: runs that failed, seeds that are missing.
    """

    title: str
    baseline: str
    primary_set: str
    primary_measure: str
    arms: list[StudyArm]
    seeds: list[int]
    sets: list[StudySetFacts]
    runs: list[StudyRun]
    rows: list[StudyRow]
    curves: list[StudyCurve]
    command: str
    study: dict[str, Any]
    tuning: dict[str, Any] | None = None
    machine: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def rows_of(self, set_name: str, measure: str) -> list[StudyRow]:
        """The arms' rows of a measure, in the order of the arms."""
        return [row for row in self.rows if (row.set, row.measure) == (set_name, measure)]

    @property
    def complete(self) -> bool:
        """Whether every run is done."""
        return all(run.status == "done" for run in self.runs)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the result as JSON, complete or not at all."""
        text = json.dumps({"format": _FORMAT, **asdict(self)}, indent=1)
        with atomic_path(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "StudyResult":
        """Reads what `write` wrote.

        Raises:
            ValueError: If it is not there, damaged, or of another version.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content.pop("format", None) != _FORMAT:
                raise ValueError("it is of another version")
            return cls._of(content)
        except RecursionError as error:
            raise ValueError(f"{os.fspath(path)!r} is nested too deeply") from error
        except (OSError, TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{os.fspath(path)!r} must be the result of a study: {error}"
            ) from error

    @classmethod
    def _of(cls, content: dict[str, Any]) -> "StudyResult":
        def measured(value: Mapping[str, Any] | None) -> Measured | None:
            return None if value is None else Measured(**value)

        parts: dict[str, Any] = {
            "arms": [StudyArm(**one) for one in content.pop("arms")],
            "sets": [StudySetFacts(**one) for one in content.pop("sets")],
            "runs": [StudyRun(**one) for one in content.pop("runs")],
            "curves": [StudyCurve(**one) for one in content.pop("curves")],
            "rows": [
                StudyRow(
                    **{
                        **one,
                        "mean": Measured(**one["mean"]),
                        "difference": measured(one["difference"]),
                        "by_seed": {int(seed): v for seed, v in one["by_seed"].items()},
                    }
                )
                for one in content.pop("rows")
            ],
        }
        return cls(**content, **parts)
