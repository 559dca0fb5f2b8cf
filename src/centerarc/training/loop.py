"""The training loop."""

import itertools
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from centerarc.data.augmentation import Augmentation
from centerarc.data.loader import TrainLoader
from centerarc.distributed.process import Processes, init_from_env
from centerarc.io.files import seal
from centerarc.io.parallel import StopRequest, explain_dead_workers
from centerarc.losses.center_arcface import CenterArcFaceLoss
from centerarc.models.weights import load_start, save_weights
from centerarc.training import checkpoint, rundir
from centerarc.training.callbacks import Callback, Callbacks, check_callbacks
from centerarc.training.config import TrainConfig
from centerarc.training.head import (
    check_weights,
    class_sizes,
    class_weights,
    describe_head,
    make_criterion,
    make_margin,
    make_shards,
    make_terms,
    start_head,
    weights_digest,
)
from centerarc.training.logging import (
    Display,
    Meter,
    MetricsLog,
    headline,
    require_tensorboard,
    total_loss,
)
from centerarc.training.optimizer import WeightAverage, lr_factor, make_optimizers, set_rate
from centerarc.training.rundir import RunResult
from centerarc.training.sources import check_same, make_sampler, make_sources, pairs_note
from centerarc.training.step import (
    Diverged,
    Precision,
    TrainStep,
    advice,
    check_finite,
    check_parts,
    in_parallel,
    make_model,
    seed_step,
)


class TrainingInterrupted(Exception):
    """The run was asked to stop, and its state is saved; the message says how to resume."""


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[Callback] = (),
) -> RunResult:
    """Trains a model as configured, in as many processes as torchrun started.

    SIGINT (Ctrl-C) and SIGTERM end the current step, save the state and raise
    `TrainingInterrupted`; a second one kills.

    Args:
        config: The run.
        resume: Resume from the state in `run_dir`. On one device and with the same number of CPU
            threads the result is that of an uninterrupted run, to the last bit.
        overwrite: Delete a run that `run_dir` holds.
        callbacks: Called while it trains, after those of the configuration; the same on every
            process.

    Returns:
        Where the weights are and how good they are.

    Raises:
        ValueError: If data, device or run folder do not fit the configuration, the loss is not
            finite, or a callback fails; the message says where.
        TrainingInterrupted: If asked to stop; the state is saved.
    """
    processes = init_from_env(config.device)
    try:
        trainer = Trainer(
            config, processes, resume=resume, overwrite=overwrite, callbacks=callbacks
        )
        return trainer.run()
    except (RuntimeError, dist.DistError) as error:
        if processes.world_size == 1 or (
            not isinstance(error, dist.DistError)
            and ("gloo" not in str(error) and "NCCL" not in str(error))
        ):
            raise
        raise ValueError(
            f"process {processes.rank} lost another one, which says why it ended "
            f"({str(error).splitlines()[0]})"
        ) from error
    finally:
        processes.close()


def refuse_at_once(config: TrainConfig) -> None:
    """Refuses a margin, a callback or an extra that is not there; a `ValueError` says what."""
    make_margin(config.loss)
    check_callbacks(config.callbacks)
    require_tensorboard(config.log.tensorboard)


class Trainer:
    """One process's part in a run; `train`, which takes the same arguments, starts it.

    Attributes:
        config: The configuration.
        processes: The processes of the run, and this one's rank and device.
        model: The backbone.
        judged: What is validated and saved: the backbone, or the average of its weights.
        criterion: The joint loss.
        terms: What is added to ArcFace, and its weights.
        optimizers: Of the parameters of both.
        step: Optimizer steps done.
        total_steps: Those of the whole run.
        steps_per_epoch: Those of an epoch.
        epochs_done: Epochs that are over, validation included.
        best: The best validation so far; None before the first.
    """

    def __init__(
        self,
        config: TrainConfig,
        processes: Processes,
        *,
        resume: bool,
        overwrite: bool,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.config = config
        self.processes = processes
        sharded = config.head.sharded and processes.world_size > 1
        self.precision = Precision(config.precision, processes.device, sharded=sharded)
        # What can be refused at once is, before images are looked for, which may take minutes.
        refuse_at_once(config)
        self.callbacks = Callbacks(config.callbacks, callbacks, processes)
        processes.on_main(
            lambda: rundir.check_folder(config.run_dir, resume=resume, overwrite=overwrite)
        )
        saved: checkpoint.SavedState | None = None
        drawn_before = None
        self._changes: dict[str, tuple[Any, Any]] = {}
        if resume:
            saved = checkpoint.load_state(config.run_dir, processes)
            self._changes = rundir.changed_settings(config, saved.content["settings"])
            if "validation.num_pairs" not in self._changes:
                drawn_before = saved.content["drawn"]
        # The same first weights on every rank.
        generator = torch.Generator().manual_seed(config.seed)
        model = make_model(config, generator)
        start: list[Path] = []
        if config.model.weights is not None and not resume:
            name = config.model.weights
            try:
                processes.on_all(lambda: start.append(load_start(model, name)))
            except ValueError as error:
                raise ValueError(f"model.weights: {error}") from error
        check_parts(model, config.batch_size, config.accumulate, processes.world_size)
        sources = make_sources(config, quiet=not processes.is_main, drawn_before=drawn_before)
        source, self.validation = sources.train, sources.validation
        sampler = make_sampler(config, source)
        notes = (sampler.note, self.precision.note, pairs_note(config, source))
        self.notes = [*sources.notes, *(note for note in notes if note)]
        self.identity = sources.identity
        people = len(source.identities)
        criterion = make_criterion(
            config.loss,
            people,
            config.model.embedding_size,
            generator,
            head=config.head,
            weight=class_weights(config.loss, source),
            sizes=class_sizes(source),
            seed=config.seed,
            shards=make_shards(config, people, processes),
        )
        self.notes.insert(0, describe_head(config, people, processes))
        self.loader = TrainLoader(
            source,
            batch_size=config.batch_size,
            augmentation=Augmentation(config.data.augmentation),
            seed=config.seed,
            sampler=sampler,
            workers=config.workers,
            rank=processes.rank,
            world_size=processes.world_size,
        )
        self.steps_per_epoch = len(self.loader)
        steps = self.steps_per_epoch * config.schedule.epochs
        self.total_steps = min(steps, config.schedule.max_steps or steps)
        self.epochs = -(-self.total_steps // self.steps_per_epoch)  # the last may be cut short
        device = processes.device
        layout = torch.channels_last if device.type in ("cpu", "cuda") else torch.preserve_format
        self.model = model.to(device)
        nn.Module.to(self.model, memory_format=layout)  # type: ignore[call-overload]
        self.criterion = criterion.to(device)
        self.terms = make_terms(config, criterion.arcface.shards).to(device)
        # Validation and the saved weights use the plain model; it shares the parameters.
        parallel = in_parallel(self.model, processes, compiled=config.compile)
        self.optimizers = make_optimizers(
            self.model, self.criterion, config.optimizer, self.terms, fused=config.head.fused
        )
        if start:
            self.notes.append(f"weights: {start[0]}")
            self.notes.append(
                start_head(self.criterion, self.model, source, config, start[0], processes)
            )
        decay = config.ema_decay
        self.average = WeightAverage(self.model, self.optimizers[0], decay) if decay else None
        self.judged = self.model if self.average is None else self.average.module
        self.train_step = TrainStep(
            parallel,
            self.criterion,
            self.optimizers,
            self.terms,
            self.precision,
            processes,
            accumulate=config.accumulate,
            clip_norm=config.clip_norm,
        )
        self.step = 0
        self.best: dict[str, Any] | None = None
        self.seconds = {"train": 0.0, "validation": 0.0}
        self.epochs_done = 0
        self.ended = False  # whether nothing is left to do, the last validation included
        self.validated = 0  # the step of the last validation
        self._held = ExitStack()  # the run folder, while this process writes to it
        # Settings that a resumed run changed, with the step from which on.
        self.history: list[dict[str, Any]] = []
        self._files: dict[str, tuple[int, str]] = {}  # checksums of the weights that were written
        self.meter = Meter(scaled=self.precision.scaler.is_enabled())
        self._prepare_folder(source.identities, saved, overwrite)

    def _prepare_folder(
        self, people: list[str], saved: checkpoint.SavedState | None, overwrite: bool
    ) -> None:
        # Nothing is written before all is checked: a refused start leaves the folder as it was.
        if saved is not None:
            self._load_state(saved)

        def prepare() -> None:
            self._held.enter_context(rundir.locked(self.config.run_dir))
            if saved is not None:
                checkpoint.set_aside(self.config.run_dir, saved.folder)
            rundir.prepare(
                self.config,
                people,
                resume=saved is not None,
                overwrite=overwrite,
                history=self.history,
            )

        self.processes.on_main(prepare)
        rundir.check_shared(self.config.run_dir, self.processes)

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
                step = self.step + 1 if problem.step is None else problem.step
                raise ValueError(f"step {step}: {problem}{self._advice(step)}") from problem

    def _lr(self, done: int) -> float:
        """The learning rate of the step after `done` ones."""
        schedule = self.config.schedule
        factor = lr_factor(done, self.total_steps, self.steps_per_epoch, schedule)
        return self.config.optimizer.lr * factor

    def _advice(self, step: int) -> str:
        """What to say where the numbers after a step are not finite."""
        return advice(self.config, self._lr(max(step, 1) - 1))

    def _run(self) -> RunResult:
        main = self.processes.is_main
        display = Display(self.total_steps, self.step, self.epochs, quiet=not main)
        if self.ended and (summary := rundir.read_summary(self.config.run_dir)) is not None:
            for line in self.notes:
                display.say(line)
            return RunResult(self.config.run_dir, self.best, summary)
        log = None
        if main:
            log = MetricsLog(
                self.config.run_dir,
                keep_steps=self.step,
                keep_validations=self.validated,
                tensorboard=self.config.log.tensorboard,
            )
        try:
            # PyTorch reports a dead worker in whatever the main process is doing.
            with StopRequest() as stop, display, explain_dead_workers(self.config.workers):
                first = headline(
                    self.config, self.identity, self.processes, self.step, self.total_steps
                )
                for line in (first, *self.notes):
                    display.say(line)
                if self.callbacks and self.step == 0:
                    self._write_state()  # whichever hook fails, there is a run to resume
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
        finally:
            self.loader.close()
            if log is not None:
                log.close()
        return self._finish(display)

    def _train_epoch(
        self, epoch: int, stop: StopRequest, log: MetricsLog | None, display: Display
    ) -> bool:
        """Trains to the end of an epoch, or returns True where a callback asked to stop."""
        config, callbacks = self.config, self.callbacks
        # A state saved after an epoch's last step but before its validation has nothing left.
        self.train_step.freeze(epoch < config.schedule.freeze_epochs)
        self.loader.set_epoch(epoch, start_batch=self.step - epoch * self.steps_per_epoch)
        self.meter.start_clock()
        batches = itertools.islice(self.loader, self.total_steps - self.step)
        with stop.held_back():  # the loader's workers start with the first batch
            first = next(batches, None)
        for images, labels in itertools.chain([] if first is None else [first], batches):
            lr = self._lr(self.step)
            set_rate(self.optimizers, lr)
            seed_step(config.seed, self.processes.rank, self.step)
            logged = (self.step + 1) % config.log.every == 0 or self.step + 1 == self.total_steps
            self.train_step.measures = logged
            self.train_step.balances = self.terms.measures_at(self.step)
            try:
                report = self.train_step(images, labels, stop=stop.requested or callbacks.stopping)
            except ValueError as problem:
                self.meter.read()  # on a GPU an earlier step may be the reason
                if isinstance(problem, Diverged):
                    raise
                raise ValueError(f"step {self.step + 1}: {problem}") from problem
            self.step += 1
            self.meter.add(self.step, report)
            saved = config.save_every > 0 and self.step % config.save_every == 0
            wanted = False
            # Reading waits for the device: at once on the CPU, on a GPU only now and then.
            # A lone process on a GPU still sees its own signal at once.
            alone = stop.requested and self.processes.world_size == 1
            if self.processes.device.type == "cpu" or logged or saved or alone:
                wanted = self.meter.read()
            row = self._log_train(epoch, lr, log, display) if logged else None
            display.advance(self.step)
            callbacks.after_step(self, row)
            if callbacks.stopping and self.processes.world_size == 1:
                wanted = True  # there is no one to agree with
                self.meter.read()
            if saved or wanted:
                self.seconds["train"] += self.meter.take_time()
                self._save_state()
            if wanted:
                self._check_interrupted(stop)
                if self.step < min((epoch + 1) * self.steps_per_epoch, self.total_steps):
                    return True
        self.meter.read()
        self.seconds["train"] += self.meter.take_time()
        return False

    def _check_interrupted(self, stop: StopRequest) -> None:
        """Ends the run where a stop was wanted by a signal, not only by a callback."""
        if any(self.processes.gather_objects(stop.requested)) or self.callbacks.reason is None:
            self.callbacks.everywhere("on_interrupt", self)
            raise TrainingInterrupted(
                f"stopped after step {self.step} of {self.total_steps}; the state is saved, "
                f"resume with: {rundir.resuming(self.config.run_dir, self.processes.world_size)}"
            )

    def _log_train(
        self, epoch: int, lr: float, log: MetricsLog | None, display: Display
    ) -> dict[str, Any]:
        self.seconds["train"] += self.meter.take_time()
        means, steps, elapsed = self.meter.flush()
        row = {
            "epoch": epoch + 1,
            "lr": lr,
            "loss": total_loss(means, self.config.loss),
            **means,
            "images_per_second": steps * self.config.batch_size / max(elapsed, 1e-9),
        }
        if self.precision.scaler.is_enabled():
            row["gradient_scale"] = self.precision.scaler.get_scale()
        if log is not None:
            log.write("train", self.step, row)
        left = (self.total_steps - self.step) * elapsed / max(steps, 1.0)
        display.train_row(self.step, row, left)
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
                self.judged,
                self.processes,
                config.batch_size,
                config.workers,
                f" after step {self.step},{self._advice(self.step)}",
            )
        except ValueError as problem:
            raise ValueError(f"validation after epoch {done}: {problem}") from problem
        self.seconds["validation"] += time.perf_counter() - start
        self.validated = self.step
        decides = validation.decides
        best = validation.is_better(results, self.best["sets"] if self.best else {})
        if best:
            where = {"step": self.step, "epoch": done, "set": decides}
            self.best = {**where, **results[decides], "sets": results}

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
        metadata = {
            "epoch": -(-self.step // self.steps_per_epoch),  # which the last one may be within
            "step": self.step,
            "metrics": metrics,
            "ema_decay": self.config.ema_decay,
            "loss": self.config.loss.model_dump(mode="json"),
        }
        if self.terms.threshold is not None:
            metadata["threshold"] = self.terms.threshold.threshold
        if self.criterion.arcface.threshold is not None:
            metadata["margin_threshold"] = self.criterion.arcface.threshold
        path = self.config.run_dir / name
        save_weights(path, self.judged, metadata=metadata)
        self._files |= seal(path)

    def _save_state(self) -> None:
        self._write_state()
        self.callbacks.everywhere("on_save", self)

    def _write_state(self) -> None:
        try:  # weights that are of no use do not replace what was saved before
            check_finite(self.processes, self.model, self.criterion, self.terms)
        except Diverged as problem:
            raise Diverged(str(problem), self.step) from problem
        state = {
            "settings": self.config.model_dump(mode="json"),
            "step": self.step,
            "epochs_done": self.epochs_done,
            "ended": self.ended,
            "validated": self.validated,
            "identity": self.identity,
            "class_weights": weights_digest(self.criterion),
            "average": None if self.average is None else self.average.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
            "best": self.best,
            "files": self._files,
            "drawn": self.validation and self.validation.drawn,
            "judged_on": self.validation and self.validation.fingerprint(),
            "window": dict(self.meter.window),
            "seconds": dict(self.seconds),
            "history": self.history,
            "callbacks": self.callbacks.state(),
        }
        checkpoint.save_state(self.config.run_dir, state, *self._trained())

    def _trained(
        self,
    ) -> tuple[nn.Module, nn.Module, CenterArcFaceLoss, list[Optimizer], Processes]:
        return self.model, self.terms, self.criterion, self.optimizers, self.processes

    def _load_state(self, saved: checkpoint.SavedState) -> None:
        state = saved.content
        # Whatever one process cannot read ends them all, before they read the head together.
        self.processes.on_all(lambda: self._check_state(saved))
        checkpoint.restore(saved, *self._trained())
        self.notes += [*saved.notes, *rundir.moved(self.config, state["settings"])]
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if state["scaler"]:  # of fp16, which the run may not have had before
            self.precision.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        # An epoch that was cut short, and is not now, is not over.
        self.epochs_done = min(state["epochs_done"], self.step // self.steps_per_epoch)
        self.ended = state["ended"] and self.step == self.total_steps
        self.validated = state["validated"]
        self.best = state["best"]
        self.meter.window = state["window"]
        self.seconds = state["seconds"]
        self.history = state["history"]
        self.notes += self.callbacks.load(state["callbacks"])
        self._files = state["files"]
        if self.best and (lost := rundir.lost_best(self.config.run_dir, state, self.processes)):
            self.notes.append(lost)
            self.best = self.best if self.ended else None
        if self.step == self.total_steps:
            self.notes.append(f"all {self.total_steps} steps are done; raise schedule.epochs")
        if self._changes:
            self.notes.append(f"changed from now on: {rundir.said_changes(self._changes)}")
            self.history = [*self.history, {"step": self.step, "changes": self._changes}]
        if self.best and self.validation and state["judged_on"] != self.validation.fingerprint():
            self.notes.append(
                "other pairs choose the best weights now: the best so far is forgotten"
            )
            self.best = None

    def _check_state(self, saved: checkpoint.SavedState) -> None:
        state = saved.content
        check_same(state["identity"], self.identity)
        check_weights(state["class_weights"], self.criterion, self.config.loss)
        ended = state["ended"]
        rundir.check_steps_left(state["step"], self.total_steps, self._changes, ended=ended)
        checkpoint.check_state(saved, self.model, self.criterion, self.optimizers)

    def _finish(self, display: Display) -> RunResult:
        images = self.step * self.config.batch_size
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
            "stopped": self.callbacks.reason if self.step < self.total_steps else None,
            "peak_memory_mb": self.processes.gather_objects(
                rundir.peak_memory(self.processes.device)
            ),
        }

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
