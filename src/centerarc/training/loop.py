"""The training loop."""

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from centerarc.distributed.process import Processes, joined
from centerarc.io.files import seal
from centerarc.io.parallel import StopRequest, explain_dead_workers
from centerarc.models.weights import save_weights
from centerarc.training import checkpoint, rundir
from centerarc.training.callbacks import Callback
from centerarc.training.config import TrainConfig
from centerarc.training.logging import (
    NONFINITE,
    Display,
    MetricsLog,
    headline,
)
from centerarc.training.run import Run
from centerarc.training.rundir import RunResult
from centerarc.training.step import Diverged, advice


class TrainingInterrupted(Exception):
    """The run was asked to stop, and its state is saved; the message says how to resume."""


def train(
    config: TrainConfig,
    *,
    resume: rundir.Resume = False,
    overwrite: bool = False,
    callbacks: Sequence[Callback] = (),
) -> RunResult:
    """Trains a model as configured, in as many processes as torchrun started.

    SIGINT (Ctrl-C) and SIGTERM end the current step, save the state and raise
    `TrainingInterrupted`; a second one kills.

    Args:
        config: The run.
        resume: Resume from the state in `run_dir`. On one device and with the same number of CPU
            threads the result is that of an uninterrupted run, to the last bit. "auto" also
            starts it where there is no state.
        overwrite: Delete a run that `run_dir` holds.
        callbacks: Called while it trains, after those of the configuration; the same on every
            process.

    Returns:
        Where the weights are and how good they are.

    Raises:
        ValueError: If data, device or run folder do not fit the configuration, the loss is not
            finite, a callback fails, or another process is lost; the message says where.
        TrainingInterrupted: If asked to stop; the state is saved.
    """
    with joined(config.device, config.timeout_minutes) as processes:
        trainer = Trainer(
            config, processes, resume=resume, overwrite=overwrite, callbacks=callbacks
        )
        return trainer.run()


class Trainer(Run):
    """One process's part in a run; `train`, which takes the same arguments, starts it."""

    def __init__(
        self,
        config: TrainConfig,
        processes: Processes,
        *,
        resume: rundir.Resume,
        overwrite: bool,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        # Nothing is written before all is checked: a refused start leaves the folder as it was.
        super().__init__(config, processes, resume=resume, overwrite=overwrite, callbacks=callbacks)
        self._held = ExitStack()  # the run folder, while this process writes to it
        self.processes.on_main(self._prepare_folder)
        rundir.check_shared(config.run_dir, processes)
        self.processes.on_all(self._hold if processes.rank else lambda: None)
        self.states = checkpoint.StateWriter(
            config.run_dir,
            processes,
            background=config.save_in_background,
            check=self._check_folder,
            saved=None if self.saved is None else self.step,
        )
        self.saved = None  # its tensors are in the parts

    def _hold(self) -> None:
        lock = rundir.locked(self.config.run_dir, self.processes.rank)
        self._check_folder = self._held.enter_context(lock)

    def _prepare_folder(self) -> None:
        self._hold()
        rundir.prepare(
            self.config,
            self.parts.sources,
            start=self.start,
            saved=self.saved,
            ended=self.ended,
            history=self.history,
        )

    def request_stop(self, reason: str) -> None:
        """Ends the run after this step or epoch, as if it were the last; for callbacks.

        Weights and results are written, and the state, which can be resumed. With several
        processes one that asks is enough; in the middle of an epoch the others learn of it when
        the next metrics are read.

        Args:
            reason: A line that the terminal and `results.json` say.
        """
        self.callbacks.reason = reason

    def run(self) -> RunResult:
        """Trains to the end of the schedule, or until a callback asks to stop."""
        with self._held:
            try:
                return self._run()
            except Diverged as problem:
                said = f"{self._explained(problem)}; {advice(self.config)}"
                if self.processes.is_main:
                    said += rundir.outlook(self.config.run_dir)
                raise ValueError(said) from problem

    def _explained(self, problem: Diverged) -> str:
        """Says at which step what was not finite, with its learning rate and its images."""
        step, said = self.step + 1 if problem.step is None else problem.step, self.said(problem)
        if step > 0 and self.processes.is_main:
            places = self.parts.places(step)
            said += f", with {rundir.listed(self.config.run_dir, step, places)}"
        return said

    def _run(self) -> RunResult:
        main = self.processes.is_main
        display = Display(self.total_steps, self.step, self.epochs, quiet=not main)
        summary = rundir.read_summary(self.config.run_dir, self.step) if self.ended else None
        if summary is not None:
            for line in self.notes:
                display.say(line)
            return RunResult(self.config.run_dir, self.best, summary)
        log = self._open_log(self.setbacks.events) if main else None
        try:
            with StopRequest() as stop, display:
                first = headline(
                    self.config, self.identity, self.processes, self.step, self.total_steps
                )
                for line in (first, *self.notes):
                    display.say(line)
                if self.step == 0 and (self.callbacks or self.config.on_nonfinite == "rewind"):
                    self._write_state()  # whichever hook fails, there is a run to resume
                while True:
                    try:
                        self._train_epochs(stop, log, display)
                        break
                    except Diverged as problem:
                        log = self._rewind(problem, log, display)
        finally:
            self.states.close()
            self.parts.loader.close()
            if log is not None:
                log.close()
        return self._finish(display)

    def _open_log(self, events: Sequence[dict[str, Any]]) -> MetricsLog:
        return MetricsLog(
            self.config.run_dir,
            keep_steps=self.step,
            keep_validations=self.validated,
            keep_events=events,
            tensorboard=self.config.log.tensorboard,
            check=self._check_folder,
        )

    def _train_epochs(self, stop: StopRequest, log: MetricsLog | None, display: Display) -> None:
        self.callbacks.everywhere("on_train_start", self)
        for epoch in range(self.epochs_done, 0 if self.ended else self.epochs):
            # Between epochs all processes know of a reason to stop.
            if self.callbacks.reason is not None:
                break
            if self._train_epoch(epoch, stop, log, display):
                break
            self._validate(epoch, log, display)
            self.epochs_done = self.step // self.steps_per_epoch  # not one cut short
            self.callbacks.everywhere("on_epoch_end", self)
            self.ended = self.step == self.total_steps
            self._save_state()

    def _skips(self, problem: Diverged, log: MetricsLog | None, display: Display) -> bool:
        """Whether the present step, which changed nothing, is left out; says so."""
        if self.config.on_nonfinite != "skip":
            return False
        self.setbacks.spend(problem)
        row = self.setbacks.add(self.step + 1, str(problem))
        if log is not None:
            log.write(NONFINITE, self.step + 1, row)
        display.say(f"{self._explained(problem)}; skipped, {self.setbacks.spent}")
        return True

    def _rewind(
        self, problem: Diverged, log: MetricsLog | None, display: Display
    ) -> MetricsLog | None:
        """Resumes from the last state with a lower learning rate, says so, and opens the log again.

        Raises:
            Diverged: The problem, where that is not wanted, or was done too often.
        """
        config, setbacks = self.config, self.setbacks
        if config.on_nonfinite != "rewind":
            raise problem
        setbacks.spend(problem)
        said = self._explained(problem)
        from_step = self.step + 1 if problem.step is None else problem.step
        self.states.wait()
        self.processes.on_main(lambda: rundir.back_to_sound(config.run_dir, setbacks.rewound_to))
        saved = checkpoint.load_state(config.run_dir, self.processes)
        self._changes = rundir.changed_settings(config, saved.content["settings"])
        for optimizer in self.optimizers:
            optimizer.state.clear()  # the state may be from before there was a momentum
        self.notes, self.meter = [], self.new_meter()
        kept = setbacks.state_dict()
        self._load(saved)
        setbacks.load_state_dict(kept)  # the state may be from before another rewind
        self.processes.on_main(lambda: checkpoint.set_aside(config.run_dir, saved.folder))
        setbacks.rate *= config.rewind_factor
        row = setbacks.add(self.step, str(problem), from_step=from_step, rate=setbacks.rate)
        if log is not None:
            log.close()
            log = self._open_log(setbacks.events[:-1])
            log.write(NONFINITE, self.step, row)
        self._write_state()  # which knows of the rate
        now = f"rewound to step {self.step}, {setbacks.spent}"
        for line in (f"{said}; {now}", setbacks.said, *self.notes):
            display.say(line)
        return log

    def _train_epoch(
        self, epoch: int, stop: StopRequest, log: MetricsLog | None, display: Display
    ) -> bool:
        """Trains to the end of an epoch, or returns True where a callback asked to stop."""
        config, callbacks = self.config, self.callbacks
        # A state saved after an epoch's last step but before its validation has nothing left.
        self.parts.train_step.freeze(epoch < config.schedule.freeze_epochs)
        self.parts.loader.set_epoch(epoch, start_batch=self.step - epoch * self.steps_per_epoch)
        self.meter.start_clock()
        batches = self._batches()
        with stop.held_back():  # the loader's workers start with the first batch
            first = next(batches, None)
        for images, labels in itertools.chain([] if first is None else [first], batches):
            lr, logged = self.lr, self.is_logged()
            failed = callbacks.stopping or self.states.failed
            try:
                report = self.take_step(images, labels, stop=stop.requested or failed)
            except Diverged as problem:
                self.meter.read()  # on a GPU an earlier step may be the reason
                self.parts.check_finite(self.processes, self.step)  # likewise
                if not self._skips(problem, log, display):
                    raise
                report = None
            except ValueError as problem:
                self.meter.read()
                raise ValueError(f"step {self.step + 1}: {problem}") from problem
            self.step += 1
            if report is not None:
                self.meter.add(self.step, report)
            saved = config.save_every > 0 and self.step % config.save_every == 0
            wanted = False
            # Reading waits for the device: at once on the CPU, on a GPU only now and then.
            # A lone process on a GPU still sees its own signal at once.
            alone = stop.requested and self.processes.world_size == 1
            if self.processes.device.type == "cpu" or logged or saved or alone:
                wanted = self.meter.read()
            row = None
            if logged and not self.meter.is_empty:
                row = self._log_train(epoch, lr, log, display)
            display.advance(self.step)
            callbacks.after_step(self, row)
            failed = callbacks.stopping or self.states.failed
            if failed and self.processes.world_size == 1:
                wanted = True  # there is no one to agree with
                self.meter.read()
            if saved or wanted:
                self.seconds["train"] += self.meter.take_time()
                self._save_state()
            elif self.states.needs_room:
                self.states.make_room(self.averaged(), *self.parts.trained)
            if wanted:
                self._check_interrupted(stop)
                if self.step < min((epoch + 1) * self.steps_per_epoch, self.total_steps):
                    return True
        self.meter.read()
        self.seconds["train"] += self.meter.take_time()
        return False

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch; where one cannot be read, what was trained is saved first."""
        processes = self.processes
        try:
            left = itertools.islice(self.parts.loader, self.total_steps - self.step)
            with explain_dead_workers(self.config.workers):
                yield from processes.in_step(left)
        except Exception as problem:
            plain = isinstance(problem, ValueError | OSError)
            lines = [str(problem)]
            # Several processes save together, so only after what all know of.
            together = processes.world_size == 1 or (plain and processes.agrees_quickly)
            if together and self.step > (self.states.saved or 0):
                try:
                    self.meter.read()
                    self.seconds["train"] += self.meter.take_time()
                    self._write_state()
                    self.states.wait()
                except (ValueError, OSError) as other:
                    lines.append(f"the state after step {self.step} cannot be saved ({other})")
            said = "; ".join([*lines, self._saved_so_far()])
            if plain:
                raise ValueError(said) from problem
            problem.add_note(said)
            raise

    def _saved_so_far(self) -> str:
        processes = self.processes.world_size
        return rundir.saved_so_far(self.config.run_dir, processes, self.step, self.states.saved)

    def _check_interrupted(self, stop: StopRequest) -> None:
        """Ends the run where a stop was wanted by a signal, not only by a callback."""
        if any(self.processes.gather_objects(stop.requested)) or self.callbacks.reason is None:
            self.states.wait()
            self.callbacks.everywhere("on_interrupt", self)
            raise TrainingInterrupted(
                f"stopped after step {self.step} of {self.total_steps}; the state is saved, "
                f"resume with: {rundir.resuming(self.config.run_dir, self.processes.world_size)}"
            )

    def _log_train(
        self, epoch: int, lr: float, log: MetricsLog | None, display: Display
    ) -> dict[str, Any]:
        self.seconds["train"] += self.meter.take_time()
        means, seconds_a_step = self.meter.flush(self.config)
        row = {"epoch": epoch + 1, "lr": lr, **means}
        if self.parts.precision.scaler.is_enabled():
            row["gradient_scale"] = self.parts.precision.scaler.get_scale()
        if log is not None:
            log.write("train", self.step, row)
        display.train_row(self.step, row, (self.total_steps - self.step) * seconds_a_step)
        return row

    def _validate(self, epoch: int, log: MetricsLog | None, display: Display) -> None:
        """Validates on all sets, which the ranks share, and keeps the best weights."""
        validation, config, done = self.validation, self.config, epoch + 1
        last = done == self.epochs
        judging = validation is not None and (last or done % validation.every_epochs == 0)
        if judging or self.callbacks:
            self._write_state()  # whatever becomes of validation and hooks, the epoch is not lost
        if validation is None or not judging:
            return
        start = time.perf_counter()
        try:
            results = validation.judge(
                self.judged, self.processes, config.batch_size, config.workers, config.read_timeout
            )
        except ValueError as problem:
            said = f"validation after epoch {done}: {problem}"
            if isinstance(problem, Diverged):
                self.states.wait()
                if self.processes.is_main:
                    rundir.mark_unsound(config.run_dir, self.step)
                raise Diverged(said, self.step) from problem
            raise ValueError(f"{said}; {self._saved_so_far()}") from problem
        self.seconds["validation"] += time.perf_counter() - start
        self.validated = self.step
        decides = validation.decides
        best = validation.is_better(results, self.best["sets"] if self.best else {})
        if best:
            where = {"step": self.step, "epoch": done, "set": decides}
            self.best = {**where, **results[decides], "sets": results}
            validation.best_scores = validation.scores

        def write() -> None:
            assert log is not None
            for name, result in results.items():
                row = {"epoch": done, "set": name, **result, "best": best}
                log.write("validation", self.step, row)
            if best:
                self._save_weights(rundir.BEST, results)
            display.validation_rows(done, results, decides if best else None)

        self.processes.on_main(write)
        self.callbacks.everywhere("on_validation_end", self, results, best)

    def _save_weights(self, name: str, metrics: dict[str, Any]) -> None:
        metadata = self.parts.metadata(self.step, metrics)
        self._check_folder()
        path = self.config.run_dir / name
        save_weights(path, self.judged, metadata=metadata)
        self._files |= seal(path)

    def _save_state(self) -> None:
        self._write_state()
        if self.callbacks.has("on_save"):
            self.states.wait()
        self.callbacks.everywhere("on_save", self)

    def _write_state(self) -> None:
        self.states.save(self.state(), *self.parts.trained)

    def _finish(self, display: Display) -> RunResult:
        self.states.wait()
        images = self.step * self.config.batch_size
        memory = self.processes.peak_memory()
        summary = {
            "best": self.best,
            "steps": self.step,
            "images": images,
            "train_seconds": self.seconds["train"],
            "validation_seconds": self.seconds["validation"],
            "images_per_second": images / max(self.seconds["train"], 1e-9),
            "processes": self.processes.world_size,
            "device": str(self.processes.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "train_identities": self.identity["identities"],
            "train_images": self.identity["images"],
            "resumed_with_changes": self.history,
            "nonfinite": self.setbacks.events,
            "stopped": self.callbacks.reason if self.step < self.total_steps else None,
            "peak_memory_mb": self.processes.gather_objects(memory),
        }
        self.parts.check_finite(self.processes, self.step)
        self.processes.on_main(lambda: self._save_weights(rundir.LAST, {}))
        summary["files"] = self.processes.gather_objects(self._files)[0]
        # No rank returns before the files are there.
        self.processes.on_main(lambda: rundir.write_summary(self.config.run_dir, summary))
        why = f" after step {self.step}: {summary['stopped']}" if summary["stopped"] else ""
        line = f"done{why}: {self.config.run_dir}"
        if self.validation is not None and self.best is not None:
            line += f"; best {self.validation.said(self.best['sets'])}"
        display.say(line)
        result = RunResult(self.config.run_dir, self.best, summary)
        self.callbacks.everywhere("on_train_end", self, result)
        return result
