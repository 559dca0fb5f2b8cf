"""The search for the best settings of a run: trials, each a run in a process of its own."""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from centerarc import __version__
from centerarc.evaluation.intervals import rate_key
from centerarc.io.children import Children, Ended
from centerarc.io.files import atomic_path, locked_folder
from centerarc.io.jobs import DamagedError, changed, read_json, write_json
from centerarc.io.progress import duration, waiting
from centerarc.training.child import child_words, status_of
from centerarc.training.config import TrainConfig
from centerarc.training.judged import EvaluateConfig
from centerarc.training.proposals import Proposals, Status, Trial, require_tune_extra
from centerarc.training.search import (
    TuneConfig,
    given_values,
    label_of,
    whole_settings,
    with_values,
    written,
)
from centerarc.training.settings import dump_config
from centerarc.training.study import fraction_done
from centerarc.training.study_run import RunRecord, check_sets, write_order

FOLDER = "tuning"
TRIALS, TUNED = "trials.json", "tuned.yaml"
_REQUEST, _STORAGE, _RUNS = "request.json", "trials.db", "trials"
_LOOK_SECONDS = 2.0
# Parts of a trial that a bar counts.
_PARTS = 1000
# A trial's folder with what it was judged by, next to its run.
_SCORES = ".scores"
# Trials that fail, none of them by diverging, before any has a number: what is wrong is not chance.
_HOPELESS = 3
# Files of a trial that was not the best, which would fill a disk.
_HEAVY = ("state", "tensorboard", "best.safetensors", "last.safetensors")


@dataclass(frozen=True)
class Objective:
    """What judges a trial.

    Args:
        words: What it is called, such as `auc of held_out`.
        start: Gives, for the file of a trial's configuration, what follows `python` to run it.
        read: Gives the number of a run that is finished, the higher the better.
        key: What else tells it from another, as JSON.
    """

    words: str
    start: Callable[[Path], list[str]]
    read: Callable[[TrainConfig], float]
    key: Mapping[str, Any] = field(default_factory=dict)


def objective_of(config: TrainConfig, tune: TuneConfig) -> Objective:
    """What judges the trials of a search: its section `evaluate`, or the validation of the run.

    Raises:
        ValueError: If there is neither, or the sets to be judged on cannot be opened.
    """
    if tune.evaluate is not None:
        check_sets(tune.evaluate, config)
        return _judged(tune.evaluate)
    validation = config.validation
    if validation is None:
        raise ValueError(
            "tuning needs a section validation, which judges the trials, such as "
            "validation: {identities: 0.1}, or tune.evaluate"
        )
    measure = (
        f"tar@{rate_key(validation.far)}" if validation.measure == "tar" else validation.measure
    )
    return Objective(f"{measure} of {validation.deciding_set}", child_words, _best_validation)


def _best_validation(config: TrainConfig) -> float:
    """The number by which a run's validation chose its best weights."""
    from centerarc.training.rundir import read_summary
    from centerarc.training.validation import deciding_number

    summary = read_summary(config.run_dir)
    best = None if summary is None else summary["best"]
    if best is None or config.validation is None:
        raise ValueError(f"{str(config.run_dir)!r} has no validation")
    value = deciding_number(config.validation, best["sets"])
    if value is None:
        raise ValueError(f"{str(config.run_dir)!r} has no {config.validation.measure}")
    return value


def _judged(evaluate: EvaluateConfig) -> Objective:
    """The measure that decides in a study, of runs that are judged as those of a study."""
    name, measure = evaluate.primary_set, evaluate.primary_measure

    def start(config: Path) -> list[str]:
        order, place = config.with_suffix(".json"), config.with_suffix(_SCORES)
        write_order(order, evaluate, config.stem, keep_weights=True)
        return ["-m", "centerarc.training.study_run", str(config), str(order), str(place)]

    def read(config: TrainConfig) -> float:
        scores = config.run_dir.with_suffix(_SCORES)
        record = RunRecord.read(scores)
        value = None if record is None else record.sets[name].measures.get(measure)
        if value is None:
            raise ValueError(f"the trial has no {measure} of {name}")
        for path in scores.glob("*.npz"):
            path.unlink()  # the number is all that is needed of them
        return value

    key = {**evaluate.model_dump(mode="json", exclude_unset=True), "mirror": evaluate.mirror}
    return Objective(f"{measure} of {name}", start, read, key)


class Tuning:
    """A search in its folder, which resumes what is there.

    Args:
        config: The run; settings that are not searched stay as they are.
        tune: What is searched, and for how long; from `check_search`.
        folder: Where trials and results are kept.
        objective: What judges a trial.
        at_once: How many of its trials may run at a time. With 1, the trials depend on the seed
            alone; with more also on the order in which they end.
        overwrite: Delete a search that is there; "changed" does so if it is another one.

    Raises:
        ImportError: Optuna is not installed.
        ValueError: If the folder holds another search; the message says what differs.
    """

    def __init__(
        self,
        config: TrainConfig,
        tune: TuneConfig,
        folder: Path,
        *,
        objective: Objective,
        at_once: int = 1,
        overwrite: bool | Literal["changed"] = False,
    ) -> None:
        self.config, self.tune, self.folder = config, tune, folder
        self.objective, self.at_once = objective, at_once
        self._begun: dict[int, float] = {}
        require_tune_extra()
        self._prepare(overwrite)
        try:
            self._proposals = self._opened()
        except ValueError:  # the file is damaged
            if not overwrite:
                raise
            self._prepare(True)
            self._proposals = self._opened()
        # What an earlier process left running, to be resumed.
        self._left = [trial.number for trial in self.trials if trial.status == "running"]

    @property
    def trials(self) -> list[Trial]:
        """All trials so far, in the order of their numbers."""
        return self._proposals.trials

    @property
    def best(self) -> Trial | None:
        """The trial with the highest number, of equals the earliest; None before the first."""
        done = [trial for trial in self.trials if trial.value is not None]
        return max(done, key=lambda trial: trial.value or 0.0, default=None)

    @property
    def seconds(self) -> float:
        """How long the trials have run, all together."""
        now = time.monotonic()
        running = sum(now - begun for begun in self._begun.values())
        return running + sum(trial.seconds for trial in self.trials)

    @property
    def seconds_left(self) -> float | None:
        """How long the other trials will run, one after the other; None before the first ends."""
        ended = [trial.seconds for trial in self.trials if trial.status == "done"]
        if not ended:
            return None
        left = (self.tune.trials - len(self.trials) + len(self._left)) * float(np.mean(ended))
        if self.tune.hours is not None:
            left = min(left, max(0.0, 3600 * self.tune.hours - self.seconds))
        return left

    @property
    def hopeless(self) -> str:
        """Why no further trial is worth its time; empty as long as one is."""
        trials = [trial for trial in self.trials if trial.status != "running"]
        failed = [trial for trial in trials if trial.status == "failed"]
        if len(failed) < _HOPELESS or len(failed) < len(trials):
            return ""
        return f"all of the first {len(failed)} trials failed, the last with: {failed[-1].reason}"

    @property
    def running(self) -> int:
        """How many trials run in this process's children."""
        return len(self._begun)

    def next(self) -> tuple[Trial, Path] | None:
        """Starts a trial, or one that was stopped.

        Returns:
            The trial and the file of its configuration; None where the budget is used up, or as
            many run as may.
        """
        while self.running < self.at_once:
            if self._left:
                trial = self.trials[self._left.pop(0)]
            elif self._over():
                return None
            else:
                trial = self._proposals.propose()
            try:
                config = self.config_of(trial)
            except ValueError as error:
                self._proposals.end(trial.number, "failed", None, str(error))
                continue
            path = self.folder / _RUNS / f"{trial.number:04d}.yaml"
            with atomic_path(path) as temporary:
                temporary.write_text(dump_config(config), encoding="utf-8")
            self._begun[trial.number] = time.monotonic()
            return trial, path
        return None

    def config_of(self, trial: Trial) -> TrainConfig:
        """The configuration of a trial.

        Raises:
            ValueError: If its settings do not fit each other.
        """
        return with_values(self.config, trial.settings, self._place(trial.number))

    def log_of(self, trial: Trial) -> Path:
        """The file with what a trial's process said."""
        return self.folder / _RUNS / f"{trial.number:04d}.log"

    def end(self, number: int, ended: Ended) -> Trial:
        """Records how a trial ended, and deletes the weights of all but the best."""
        self._proposals.add_seconds(number, time.monotonic() - self._begun.pop(number))
        value, reason, best = None, ended.reason, self.best
        status: Status = "diverged" if status_of(ended) == "diverged" else "failed"
        if status_of(ended) == "finished":
            try:
                value = self.objective.read(self.config_of(self.trials[number]))
                status = "done"
            except (ValueError, OSError) as error:
                reason = str(error)
        trial = self._proposals.end(number, status, value, reason)
        for other in {number, *(() if best is None else (best.number,))}:
            if self.best is None or other != self.best.number:
                self._lighten(other)
        self.write()
        return trial

    def stopped(self) -> None:
        """Records what has run of trials that were stopped, before the process ends."""
        now = time.monotonic()
        for number, begun in self._begun.items():
            self._proposals.add_seconds(number, now - begun)
        self._begun.clear()
        self.write()

    def write(self) -> None:
        """Writes `trials.json`, and `tuned.yaml` as soon as there is a best trial."""
        best = self.best
        write_json(self.folder / TRIALS, self.to_dict())
        if best is None:
            return
        tuned = with_values(self.config, best.settings, self.config.run_dir)
        settings = "".join(f"#   {name}: {label_of(v)}\n" for name, v in best.settings.items())
        with atomic_path(self.folder / TUNED) as temporary:
            temporary.write_text(
                f"# Chosen among {len(self.trials)} trials by {self.objective.words}, which is "
                f"{best.value:.4f} here\n# and optimistic for having chosen:\n{settings}"
                + dump_config(tuned),
                encoding="utf-8",
            )

    def to_dict(self) -> dict[str, Any]:
        """All that is known of the search, as JSON."""
        best = self.best
        return {
            "kind": "tuning",
            "measure": self.objective.words,
            "budget": {"trials": self.tune.trials, "hours": self.tune.hours},
            "seed": self.tune.seed,
            "search": {name: space.said() for name, space in self.tune.search.items()},
            "given": given_values(self.config, self.tune),
            "finished": best is not None and not self._left and not self._begun and self._over(),
            "best": None if best is None else best.number,
            "chosen": None if best is None else best.settings,
            "seconds": self.seconds,
            "trials": [asdict(trial) for trial in self.trials],
            "versions": {"centerarc": __version__, "optuna": version("optuna")},
        }

    # What is in the folder.

    def _opened(self) -> Proposals:
        return Proposals(
            self.folder / _STORAGE,
            self.tune.search,
            seed=self.tune.seed,
            first=given_values(self.config, self.tune),
            whole=whole_settings(self.config, self.tune),
            parallel=self.at_once > 1,
        )

    def _place(self, number: int) -> Path:
        return self.folder / _RUNS / f"{number:04d}"

    def _lighten(self, number: int) -> None:
        for name in _HEAVY:
            path = self._place(number) / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _prepare(self, overwrite: bool | Literal["changed"]) -> None:
        request = _flat(
            {
                **{k: v for k, v in written(self.config).items() if k != "run_dir"},
                "tune": {
                    "search": {n: s.model_dump() for n, s in self.tune.search.items()},
                    "seed": self.tune.seed,
                    "measure": self.objective.words,
                    "evaluate": self.objective.key,
                },
            }
        )
        try:
            known = read_json(self.folder / _REQUEST)
        except DamagedError:
            if not overwrite:
                raise
            known = None
        if overwrite is True or (overwrite and known != request):
            for name in (_REQUEST, _STORAGE, TRIALS, TUNED):
                (self.folder / name).unlink(missing_ok=True)
            shutil.rmtree(self.folder / _RUNS, ignore_errors=True)
        elif known not in (None, request):
            raise ValueError(
                f"{str(self.folder)!r} holds a search with another {changed(known, request)}; "
                "change it back, give --overwrite to start again, or another run_dir"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / _REQUEST, request)

    def _over(self) -> bool:
        hours = self.tune.hours
        return (
            len(self.trials) >= self.tune.trials
            or (hours is not None and self.seconds >= 3600 * hours)
            or bool(self.hopeless)
        )


def tune_run(
    train: TrainConfig,
    tune: TuneConfig,
    *,
    jobs: int = 1,
    threads: int | None = None,
    overwrite: bool = False,
    say: Callable[[str], Any] = print,
) -> Tuning:
    """Searches for the best settings of a run, or resumes the search.

    Args:
        train: The run; trials and results go into `tuning/` in its folder.
        tune: What is searched, and for how long.
        jobs: Trials at a time.
        threads: CPU threads of each; None divides the cores.
        overwrite: Delete another search that is there.
        say: Called with a line for each trial that ends.

    Returns:
        The search, whose `best` trial is not None.

    Raises:
        ImportError: If Optuna is not installed.
        ValueError: If the folder holds another search, or no trial has a number.
        ChildrenStopped: If a signal asked to stop; the same call resumes.
    """
    require_tune_extra()
    folder = train.run_dir / FOLDER
    objective = objective_of(train, tune)
    taken = f"{str(folder)!r} is in use: another process tunes there"
    with Children(jobs, threads) as children, locked_folder(folder, taken, patience=2.0):
        tuning = Tuning(train, tune, folder, objective=objective, at_once=jobs, overwrite=overwrite)
        run_tunings({"": tuning}, children, say)
        tuning.write()
    if tuning.best is None:
        trials = tuning.trials
        why = tuning.hopeless or f"none of {len(trials)} trials has a number"
        raise ValueError(f"{why}; see {str(folder / _RUNS)!r}")
    return tuning


def run_tunings(
    tunings: Mapping[str, Tuning],
    children: Children,
    say: Callable[[str], Any] = print,
) -> None:
    """Runs searches to the ends of their budgets, several trials at a time.

    Args:
        tunings: The searches by name; a single one needs none.
        children: What runs the trials.
        say: Called with a line for each trial that starts or ends.

    Raises:
        ChildrenStopped: If a signal asked to stop; the same searches resume.
    """
    running: dict[str, tuple[str, Trial]] = {}
    try:
        with waiting("trials") as show:
            while True:
                _start_trials(tunings, children, running)
                ended = children.wait(_LOOK_SECONDS)
                if ended is not None:
                    name, trial = running.pop(ended.name)
                    trial = tunings[name].end(trial.number, ended)
                    say(_said(name, tunings[name], trial, _left(tunings, children.most)))
                elif not running:
                    return
                show(*_progress(tunings, running))
    finally:
        for tuning in tunings.values():
            tuning.stopped()


def _start_trials(
    tunings: Mapping[str, Tuning], children: Children, running: dict[str, tuple[str, Trial]]
) -> None:
    """Starts trials until as many run as may, of the searches with the fewest first."""
    while not children.full:
        for name in sorted(tunings, key=lambda name: len(tunings[name].trials)):
            if (found := tunings[name].next()) is not None:
                break
        else:
            return
        trial, path = found
        key = f"{name}/{trial.number}"
        running[key] = name, trial
        children.start(key, tunings[name].objective.start(path), tunings[name].log_of(trial))


def _progress(
    tunings: Mapping[str, Tuning], running: Mapping[str, tuple[str, Trial]]
) -> tuple[int, int]:
    """Parts of the trials that are done, and of all."""
    done = sum(len(tuning.trials) for tuning in tunings.values()) - len(running)
    share = sum(fraction_done(tunings[name].config_of(trial)) for name, trial in running.values())
    total = sum(tuning.tune.trials for tuning in tunings.values())
    return round(_PARTS * (done + share)), _PARTS * total


def _left(tunings: Mapping[str, Tuning], most: int) -> float | None:
    known = [tuning.seconds_left for tuning in tunings.values()]
    seconds = [one for one in known if one is not None]
    if not seconds:
        return None
    return sum(seconds) * len(known) / len(seconds) / most


def _said(name: str, tuning: Tuning, trial: Trial, left: float | None) -> str:
    """A line about a trial that ended."""
    settings = ", ".join(f"{key} {shown(value)}" for key, value in trial.settings.items())
    number: str = trial.status
    if trial.value is not None:
        number = f"{tuning.objective.words} {trial.value:.4f}"
    which = f"{name}: trial" if name else "trial"
    line = f"{which} {trial.number + 1} of {tuning.tune.trials}: {number} with {settings}"
    if trial.reason:
        line += f" ({trial.reason.partition(';')[0]})"
    best = tuning.best
    if best is not None and best.number != trial.number:
        line += f"; best {best.value:.4f} in trial {best.number + 1}"
    elif best is not None:
        line += ", the best so far"
    return line if left is None else f"{line}; {duration(left)} left"


def shown(value: Any) -> str:
    """A setting as people read it: no more than four digits of a number.

    Example:
        >>> shown(31.23456), shown(0.001), shown("shared"), shown(True)
        ('31.23', '0.001', 'shared', 'true')
    """
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else label_of(value)


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping by dotted names, as JSON reads it back."""
    found: dict[str, Any] = {}
    for name, value in json.loads(json.dumps(content, default=str)).items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
