"""One run of a study in a process of its own: train or resume, judge, and write its record.

`python -m centerarc.training.study_run CONFIG.yaml EVALUATE.json SCORES` is what a study starts.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from centerarc.io.jobs import DamagedError, read_json, write_json
from centerarc.training.child import exit_code, main, train_or_resume
from centerarc.training.config import TrainConfig
from centerarc.training.judged import EvaluateConfig, StudySet
from centerarc.training.settings import check_config, load_config

RECORD = "record.json"
_FORMAT = 1
# Rows of metrics.jsonl that are kept for the learning curves.
_MOST_ROWS = 200
Status = Literal["done", "diverged", "failed"]


@dataclass(frozen=True)
class JudgedSet:
    """What a run reached on a set.

    Args:
        definition: The set, as `StudySet` has it, and whether mirror images were used.
        measures: By name, such as "tar@0.001".
        facts: People, images and pairs of each kind, by name.
    """

    definition: dict[str, Any]
    measures: dict[str, float]
    facts: dict[str, int]


@dataclass(frozen=True)
class RunRecord:
    """What is kept of a run, apart from its scores.

    Args:
        arm: Name of its arm.
        seed: Its seed.
        status: "done", "diverged" or "failed".
        reason: Why it is not done, in one line.
        settings: The whole configuration.
        sets: What it was judged on, by name.
        weights_sha256: Of the weights that were judged.
        weights: Their file's name.
        seconds: Time that the training took, over all its starts.
        learning: Rows of the training's metrics, at most 200 and all validations.
        facts: `results.json` of the run, without what is here.
    """

    arm: str
    seed: int
    status: Status
    reason: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    sets: dict[str, JudgedSet] = field(default_factory=dict)
    weights_sha256: str = ""
    weights: str = ""
    seconds: float = 0.0
    learning: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def config(self) -> TrainConfig:
        """The run's configuration; settings that are newer than the record have their defaults."""
        return check_config({**self.settings, "plugins": []}, f"the record of {self.arm}")

    def write(self, folder: Path) -> None:
        """Writes the record into its folder, complete or not at all."""
        write_json(folder / RECORD, {"format": _FORMAT, **asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> "RunRecord | None":
        """Reads the record of a folder; None if there is none.

        Raises:
            ValueError: If it is damaged or of another version.
        """
        path = folder / RECORD
        try:
            content = read_json(path)
            if content is None:
                return None
            if content.pop("format", None) != _FORMAT:
                raise ValueError("it is of another version")
            sets = {name: JudgedSet(**one) for name, one in content.pop("sets").items()}
            return cls(**content, sets=sets)
        except (DamagedError, TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{str(path)!r} is not the record of a run ({error}); delete it to judge the run "
                "again"
            ) from error


def definition_of(one: StudySet, *, mirror: bool) -> dict[str, Any]:
    """What tells two sets apart: with another definition a run is judged again."""
    return {**one.model_dump(mode="json", exclude_none=True), "mirror": mirror}


def missing_sets(record: RunRecord | None, evaluate: EvaluateConfig, scores: Path) -> list[str]:
    """Names of the sets that a run has not been judged on, or whose scores are gone."""
    known = {} if record is None else record.sets
    return [
        name
        for name, one in evaluate.sets.items()
        if name not in known
        or known[name].definition != definition_of(one, mirror=evaluate.mirror)
        or not scores_file(scores, name).exists()
    ]


def scores_file(folder: Path, name: str) -> Path:
    """The file with the scores of a set."""
    return folder / f"{name}.npz"


def check_sets(evaluate: EvaluateConfig, config: TrainConfig) -> None:
    """Opens what runs are to be judged on: a wrong path should not cost a training.

    Args:
        evaluate: The sets.
        config: One of the runs.

    Raises:
        ValueError: If a set cannot be opened, or not give the measure that decides.
    """
    from centerarc.training.study_scores import check_set

    for name, one in evaluate.sets.items():
        primary = evaluate.primary_measure if name == evaluate.primary_set else ""
        try:
            check_set(one, config.model.image_size, primary)
        except (ValueError, OSError) as error:
            raise ValueError(f"evaluate.sets.{name}: {error}") from error


def judge_run(config: TrainConfig, evaluate: EvaluateConfig, scores: Path, arm: str) -> RunRecord:
    """Judges a finished run on each set that is missing, and writes its scores and record.

    Args:
        config: The run.
        evaluate: What to judge it on.
        scores: Folder for scores and record.
        arm: Name of its arm.

    Raises:
        ValueError: If a set or the weights cannot be read, or an embedding is of no use.
    """
    from centerarc.evaluation.protocols.subject import ModelSubject
    from centerarc.models.opened import open_model
    from centerarc.training.logging import read_metrics
    from centerarc.training.rundir import read_summary
    from centerarc.training.study_scores import facts_of, measures_of, score_set

    model = open_model(config.run_dir)
    subject = ModelSubject(model, mirror=evaluate.mirror)
    before = RunRecord.read(scores)
    if before is not None and before.weights_sha256 != model.sha256:
        before = None
    judged = dict(before.sets) if before is not None else {}
    for name in missing_sets(before, evaluate, scores):
        found = score_set(evaluate.sets[name], subject)
        found.save(scores_file(scores, name))
        definition = definition_of(evaluate.sets[name], mirror=evaluate.mirror)
        judged[name] = JudgedSet(definition, measures_of(found), facts_of(found))
    summary = read_summary(config.run_dir) or {}
    record = RunRecord(
        arm=arm,
        seed=config.seed,
        status="done",
        settings=config.model_dump(mode="json"),
        sets=judged,
        weights_sha256=model.sha256,
        weights=model.path.name,
        seconds=summary.get("train_seconds", 0.0) + summary.get("validation_seconds", 0.0),
        learning=thinned(read_metrics(config.run_dir)),
        facts={name: value for name, value in summary.items() if name != "best"},
    )
    record.write(scores)
    return record


def thinned(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of metrics for a curve: all validations, and of the others at most 200, evenly spread.

    Example:
        >>> rows = [{"kind": "train", "step": step} for step in range(1, 1001)]
        >>> kept = thinned(rows)
        >>> len(kept), kept[0]["step"], kept[-1]["step"]
        (200, 1, 1000)
    """
    trained = [dict(row) for row in rows if row["kind"] == "train"]
    if len(trained) > _MOST_ROWS:
        last = len(trained) - 1
        trained = [trained[round(i * last / (_MOST_ROWS - 1))] for i in range(_MOST_ROWS)]
    others = [dict(row) for row in rows if row["kind"] != "train"]
    return sorted(trained + others, key=lambda row: row["step"])


def delete_weights(run_dir: Path) -> None:
    """Deletes the weights and the state of a run; its configuration and logs stay."""
    from centerarc.training.checkpoint import delete_states
    from centerarc.training.rundir import BEST, LAST

    for name in (BEST, LAST):
        (run_dir / name).unlink(missing_ok=True)
    delete_states(run_dir)


def write_order(path: Path, evaluate: EvaluateConfig, arm: str, *, keep_weights: bool) -> None:
    """Writes what a process of `run` is told beside the configuration."""
    content = evaluate.model_dump(mode="json", exclude_none=True)
    write_json(path, {"arm": arm, "evaluate": content, "keep_weights": keep_weights})


def run(words: Sequence[str]) -> int:
    """Trains or resumes a run and judges it.

    Args:
        words: The configuration's file, that of `write_order`, and the folder for the scores.

    Returns:
        The exit code, see `centerarc.training.child`.
    """

    def work() -> None:
        config = load_config(words[0])
        order = json.loads(Path(words[1]).read_text(encoding="utf-8"))
        evaluate = EvaluateConfig.model_validate(order["evaluate"])
        train_or_resume(config)
        begun = time.monotonic()
        record = judge_run(config, evaluate, Path(words[2]), order["arm"])
        judged = ", ".join(record.sets)
        print(f"judged on {judged} in {time.monotonic() - begun:.0f} s", flush=True)
        if not order["keep_weights"]:
            delete_weights(config.run_dir)

    return exit_code(work)


if __name__ == "__main__":
    main(run)
