"""How far a run is: from what it starts, what its states keep of it, and one step further."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from centerarc.distributed.process import Processes
from centerarc.training import checkpoint, rundir
from centerarc.training.assembly import make_parts, refuse_at_once
from centerarc.training.callbacks import Callback, Callbacks
from centerarc.training.config import TrainConfig
from centerarc.training.head import check_weights, weights_digest
from centerarc.training.logging import Meter, MetricsLog, Setbacks
from centerarc.training.optimizer import set_rate
from centerarc.training.sources import check_same
from centerarc.training.step import Diverged, StepReport, seed_step


def _check_writable(folder: Path) -> None:
    """Refuses a folder in which the system lets this user write no file, if it is there."""
    if folder.exists() and not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


class Run:
    """One process's part in a run, ready for its next step; it writes nothing.

    All that a start refuses is refused here, except that another process may take the folder
    afterwards.

    Args:
        config: The configuration.
        processes: The processes of the run, and this one's rank and device.
        resume: Resume from the state in `run_dir`; "auto" also starts where there is none.
        overwrite: Start, whatever `run_dir` holds.
        callbacks: Called after those of the configuration.

    Attributes:
        config: The configuration.
        processes: The processes of the run, and this one's rank and device.
        start: How it starts.
        saved: The state that it resumes from, or None.
        parts: What it trains with.
        model: The backbone.
        judged: What is validated and saved: the backbone, or the average of its weights.
        criterion: The joint loss.
        terms: What is added to ArcFace, and its weights.
        optimizers: Of the parameters of both.
        notes: What a user should know, a line each.
        step: Optimizer steps done.
        total_steps: Those of the whole run.
        steps_per_epoch: Those of an epoch.
        epochs_done: Epochs that are over, validation included.
        best: The best validation so far; None before the first.

    Raises:
        ValueError: If data, device or run folder do not fit the configuration.
    """

    def __init__(
        self,
        config: TrainConfig,
        processes: Processes,
        *,
        resume: rundir.Resume,
        overwrite: bool,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.config = config
        self.processes = processes
        # What can be refused at once is, before images are looked for, which may take minutes.
        refuse_at_once(config)
        self.callbacks = Callbacks(config.callbacks, callbacks, processes)
        self.start = rundir.how_to_start(config, processes, resume=resume, overwrite=overwrite)
        processes.on_all(lambda: _check_writable(config.run_dir / "state"))
        self.saved: checkpoint.SavedState | None = None
        drawn_before = None
        self._changes: dict[str, tuple[Any, Any]] = {}
        if self.start == "resume":
            self.saved = checkpoint.load_state(config.run_dir, processes)
            rundir.check_content(self.saved)
            self._changes = rundir.changed_settings(config, self.saved.content["settings"])
            if "validation.num_pairs" not in self._changes:
                drawn_before = self.saved.content["drawn"]
        self.parts = parts = make_parts(
            config,
            processes,
            saved=self.saved.content if self.saved else None,
            drawn_before=drawn_before,
        )
        self.model, self.judged, self.criterion = parts.model, parts.judged, parts.criterion
        self.terms, self.optimizers = parts.terms, parts.optimizers
        self.notes = [*parts.notes]
        if self.start == "again":
            self.notes.append(f"starts again: the run in {config.run_dir} had saved no state")
        sources = parts.sources
        # The first process writes the state; the sizes of all images may take long to look up.
        self.identity = sources.identity_with_sizes if processes.is_main else sources.identity
        self.validation = sources.validation
        self.steps_per_epoch, self.total_steps = len(parts.loader), parts.total_steps
        self.epochs = -(-self.total_steps // self.steps_per_epoch)  # the last may be cut short
        self.step = 0
        self.best: dict[str, Any] | None = None
        self.seconds = {"train": 0.0, "validation": 0.0}
        self.epochs_done = 0
        self.ended = False  # whether nothing is left to do, the last validation included
        self.validated = 0  # the step of the last validation
        # Settings that a resumed run changed, with the step from which on.
        self.history: list[dict[str, Any]] = []
        self.setbacks = Setbacks(config, parts.norms(processes))
        self._files: dict[str, tuple[int, str]] = {}  # checksums of the weights that were written
        self.meter = self.new_meter()
        if self.saved is not None:
            with rundir.read_as_ours(self.saved):
                self._load(self.saved)
            if self.setbacks.rate != 1.0:
                self.notes.append(self.setbacks.said)

    def new_meter(self) -> Meter:
        """What collects the reports of its steps."""
        return Meter(scaled=self.parts.precision.scaler.is_enabled())

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.parts.lr(self.step, self.setbacks.rate)

    def is_logged(self) -> bool:
        """Whether the next step is one of those that are logged."""
        done = self.step + 1
        return done % self.config.log.every == 0 or done == self.total_steps

    def take_step(self, images: Tensor, labels: Tensor, *, stop: bool = False) -> StepReport:
        """Does the next step, which `step` does not count; takes what `TrainStep` does."""
        set_rate(self.optimizers, self.lr)
        seed_step(self.config.seed, self.processes.rank, self.step)
        train_step = self.parts.train_step
        train_step.measures = self.is_logged()
        train_step.balances = self.terms.measures_at(self.step)
        return train_step(images, labels, stop=stop)

    def said(self, problem: Diverged) -> str:
        """Says at which step what was not finite, and with which learning rate."""
        step = self.step + 1 if problem.step is None else problem.step
        lr = self.parts.lr(max(step, 1) - 1, self.setbacks.rate)
        return f"step {step}: {problem} at a learning rate of {lr:.3g}"

    def averaged(self) -> dict[str, Any]:
        """The part of a state that has the average of the weights, where there is one."""
        average = self.parts.average
        return {"average": None if average is None else average.state_dict()}

    def state(self, *, checked: bool = True) -> dict[str, Any]:
        """What a state keeps beside the tensors, which must be finite; on all processes."""
        if checked:
            self.parts.check_finite(self.processes, self.step)
        return {
            "settings": self.config.model_dump(mode="json"),
            "step": self.step,
            "epochs_done": self.epochs_done,
            "ended": self.ended,
            "validated": self.validated,
            "log_size": MetricsLog.size(self.config.run_dir),
            "identity": self.identity,
            "class_weights": weights_digest(self.criterion),
            **self.averaged(),
            "scaler": self.parts.precision.scaler.state_dict(),
            "best": self.best,
            "files": self._files,
            "drawn": self.validation and self.validation.drawn,
            "judged_on": self.validation and self.validation.fingerprint(),
            "best_scores": self.validation and self.validation.best_scores,
            "window": self.meter.state_dict(),
            "seconds": dict(self.seconds),
            "history": self.history,
            "nonfinite": self.setbacks.state_dict(),
            "sound": self.setbacks.is_sound(self.parts.norms(self.processes)),
            "callbacks": self.callbacks.state(),
            "processes": self.processes.world_size,
        }

    def _load(self, saved: checkpoint.SavedState) -> None:
        state = saved.content
        # Whatever one process cannot read ends them all, before they read the head together.
        self.processes.on_all(lambda: self._check_state(saved))
        checkpoint.restore(saved, *self.parts.trained, self.processes)
        self.notes += [*saved.notes, *rundir.moved(self.config, state["settings"])]
        self.notes += MetricsLog.lost(self.config.run_dir, state)
        if self.parts.average is not None:
            self.parts.average.load_state_dict(state["average"])
        if state["scaler"]:  # of fp16, which the run may not have had before
            self.parts.precision.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        # An epoch that was cut short, and is not now, is not over.
        self.epochs_done = min(state["epochs_done"], self.step // self.steps_per_epoch)
        self.ended = state["ended"] and self.step == self.total_steps
        self.validated = state["validated"]
        self.best = state["best"]
        self.meter.load_state_dict(state["window"])
        self.seconds = state["seconds"]
        self.history = state["history"]
        self.setbacks.load_state_dict(state["nonfinite"])
        if "optimizer.lr" in self._changes:
            self.setbacks.rate = 1.0  # the new one is what is wanted
        self.notes += self.callbacks.load(state["callbacks"])
        self._files = state["files"]
        if self.best and (lost := rundir.lost_best(self.config.run_dir, state, self.processes)):
            self.notes.append(lost)
            self.best = self.best if self.ended else None
        if self.step == self.total_steps:
            by = self.parts.ended_by
            self.notes.append(f"all {self.total_steps} steps are done; raise {by} to go on")
        before, now = state["processes"], self.processes.world_size
        if before != now:
            self.notes.append(f"processes: {before} -> {now}; results are the same up to rounding")
        if self._changes:
            self.notes.append(f"changed from now on: {rundir.said_changes(self._changes)}")
            self.history = [*self.history, {"step": self.step, "changes": self._changes}]
        if self.best and self.validation and state["judged_on"] != self.validation.fingerprint():
            self.notes.append("other pairs choose the best now: the best so far is forgotten")
            self.best = None
        if self.best and self.validation:
            self.validation.best_scores = state["best_scores"] or {}

    def _check_state(self, saved: checkpoint.SavedState) -> None:
        state = saved.content
        check_same(state["identity"], self.parts.sources)
        check_weights(state["class_weights"], self.criterion, self.config.loss)
        ended = state["ended"]
        rundir.check_steps_left(state["step"], self.total_steps, self._changes, ended=ended)
        checkpoint.check_state(saved, self.model, self.criterion, self.optimizers)
