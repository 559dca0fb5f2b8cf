"""A dry run: it starts as a run does, takes a few steps, says what all take, and writes nothing."""

import errno
import itertools
import os
import shutil
import statistics
import textwrap
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from centerarc.data.views import CachedSource
from centerarc.distributed.process import Processes, joined
from centerarc.io.files import without_writing
from centerarc.io.parallel import StopRequest, default_workers, explain_dead_workers
from centerarc.io.progress import duration
from centerarc.io.tables import counted
from centerarc.losses.head.products import local
from centerarc.training import rundir
from centerarc.training.checkpoint import StateWriter, saved_states
from centerarc.training.config import TrainConfig
from centerarc.training.logging import headline
from centerarc.training.run import Run
from centerarc.training.step import Diverged, advice
from centerarc.training.validation import ValidationPairs, embed_batches, measured

# Steps before time is taken, and those of which it is taken at least and at most.
_WARM, _LEAST, _MOST = 2, 3, 40
_TIMES = ("step_seconds", "wait_seconds", "batch_seconds", "first_seconds")
_WIDTH, _LABEL = 80, 12


@dataclass(frozen=True)
class DryRun:
    """What a run would take, in seconds and bytes; `print` shows it.

    Args:
        config: The run.
        title: What is trained, on what, for how long, on how many processes.
        notes: What a user should know, a line each; a run begins with the same.
        start: How it would start: `new`, `resume`, `overwrite`, or `again` where a run had begun
            and saved nothing.
        step: Steps that are done, where it resumes.
        total_steps: Those of the whole run.
        steps_per_epoch: Those of an epoch.
        parameters: Numbers in the backbone that are learned.
        first_loss: Of the first step; None if no step is left or it is not finite.
        step_seconds: A step, without reading its batch: the median of those that were timed.
        wait_seconds: What it waits for its batch.
        batch_seconds: Reading a batch while nothing else is done, with all workers.
        first_seconds: What a step takes longer in the first epoch, as long as `data.cache_gb` has
            not kept the images.
        judged: Images that a validation embeds; 0 without one.
        validation_seconds: A validation, on all sets.
        validations: Those that are left.
        save_seconds: What saving a state adds.
        saves: States that are left to save.
        opening_seconds: Until the first step, once the program is loaded.
        peak_memory: Of the process that takes most, on a GPU there; 0 where the system does not
            say.
        memory: What takes it; the last is the rest, mostly activations.
        state_bytes: A saved state.
        weights_bytes: A file of weights.
        needed_bytes: What the disk must have free, a state that is being written included.
        free_bytes: What it has free.
    """

    config: TrainConfig
    title: str
    notes: list[str]
    start: rundir.Start
    step: int
    total_steps: int
    steps_per_epoch: int
    parameters: int
    first_loss: float | None
    step_seconds: float
    wait_seconds: float
    batch_seconds: float
    first_seconds: float
    judged: int
    validation_seconds: float
    validations: int
    save_seconds: float
    saves: int
    opening_seconds: float
    peak_memory: int
    memory: dict[str, int]
    state_bytes: int
    weights_bytes: int
    needed_bytes: int
    free_bytes: int

    @property
    def epoch_seconds(self) -> float:
        """An epoch, without its validation, once images are in the cache."""
        return self.steps_per_epoch * (self.step_seconds + self.wait_seconds)

    @property
    def seconds(self) -> float:
        """All that is left to do after `opening_seconds`."""
        left = self.total_steps - self.step
        return (
            left * (self.step_seconds + self.wait_seconds)
            + min(left, self.steps_per_epoch) * self.first_seconds
            + self.validations * self.validation_seconds
            + self.saves * self.save_seconds
        )

    @property
    def advice(self) -> str:
        """Whether steps or images take the time, and what to change."""
        config, waits = self.config, self.wait_seconds / (self.step_seconds + self.wait_seconds)
        if waits < 0.1:
            return "the steps take the time; reading keeps up"
        workers, cores = config.workers, default_workers()
        wanted = -(-self.batch_seconds * max(workers, 1) // self.step_seconds)
        said = f"{waits:.0%} of the time waits for images: "
        if workers < (most := min(int(wanted), cores)):
            return f"{said}try workers: {most} instead of {workers}"
        also = "" if config.data.source == "synthetic" else ", or images of the model's size"
        return f"{said}try data.cache_gb{also}"

    def check_disk(self) -> None:
        """Raises an `OSError` if the disk cannot hold what the run keeps."""
        if self.needed_bytes > self.free_bytes:
            needed, free = f"{self.needed_bytes / 1e6:,.0f} MB", f"{self.free_bytes / 1e6:,.0f} MB"
            raise OSError(
                f"run_dir {str(self.config.run_dir)!r} needs {needed} on a disk with {free} free; "
                "make room, or give another --run-dir"
            )

    @property
    def heading(self) -> str:
        """What is known before the first step: title and notes."""
        return _heading(self.title, self.notes)

    @property
    def table(self) -> str:
        """What was measured."""
        config, left = self.config, self.total_steps - self.step
        rows = [
            ("start", self._start()),
            ("model", f"{self.parameters:,} parameters in the backbone"),
            ("steps", f"{left:,} left, {self.steps_per_epoch:,} an epoch"),
        ]
        if left:
            loss = f"not finite; on_nonfinite is {config.on_nonfinite}"
            if self.first_loss is not None:
                loss = f"{self.first_loss:.4f} in step {self.step + 1:,}"
            images, total = config.batch_size, self.step_seconds + self.wait_seconds
            rows += [
                ("loss", loss),
                (
                    "step",
                    f"{_time(self.step_seconds)} and {_time(self.wait_seconds)} for its images: "
                    f"{images / total:,.0f} images/s",
                ),
                (
                    "reading",
                    f"{images / self.batch_seconds:,.0f} images/s alone, with workers: "
                    f"{config.workers}",
                ),
                ("", self.advice),
                ("epoch", _time(self.epoch_seconds)),
            ]
        if self.validations:
            each = f"{_time(self.validation_seconds)} for {counted(self.judged, 'image')}"
            rows.append(("validation", f"{each}, {counted(self.validations, 'time')}"))
        if self.saves:
            run = f"{_time(self.seconds)} after {_time(self.opening_seconds)} of opening; "
            rows.append(
                ("run", run + f"{counted(self.saves, 'state')} of {_time(self.save_seconds)}")
            )
        if self.peak_memory and left:
            parts = (
                f"{name} {size / 1e6:,.0f}" for name, size in self.memory.items() if size >= 5e5
            )
            memory = f"{self.peak_memory / 1e6:,.0f} MB at the peak of a process: "
            rows.append(("memory", memory + ", ".join(parts)))
        state, weights = f"{self.state_bytes / 1e6:,.1f}", f"{self.weights_bytes / 1e6:,.1f}"
        if self.saves:
            needed, free = f"{self.needed_bytes / 1e6:,.0f}", f"{self.free_bytes / 1e6:,.0f}"
            disk = f"{needed} MB needed, {free} free; a state {state}, weights {weights}"
            rows.append(("disk", disk))
        files = [rundir.BEST, rundir.LAST] if self.judged else [rundir.LAST]
        rows.append(("weights", ", ".join(str(config.run_dir / name) for name in files)))
        lines = [_wrapped(text, f"{label:<{_LABEL}}") for label, text in rows]
        return "\n".join([*lines, "nothing was written"])

    def __str__(self) -> str:
        return f"{self.heading}\n{self.table}"

    def _start(self) -> str:
        folder = str(self.config.run_dir)
        return {
            "new": f"a new run in {folder}",
            "again": f"would start again in {folder}",
            "resume": f"would resume {folder} from step {self.step:,} of {self.total_steps:,}",
            "overwrite": f"would delete the run in {folder}, if there is one, and start",
        }[self.start]


def _wrapped(text: str, label: str = "  ") -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=label if len(label) > 2 else "",
        subsequent_indent=" " * len(label),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _heading(title: str, notes: Sequence[str]) -> str:
    return "\n".join(map(_wrapped, (title, *notes)))


def _time(seconds: float) -> str:
    """A time with no more digits than a busy machine gives twice."""
    if seconds >= 100:
        return duration(seconds)
    return f"{1000 * seconds:,.3g} ms" if seconds < 0.9995 else f"{seconds:,.3g} s"


def dry_run(
    config: TrainConfig,
    *,
    resume: rundir.Resume = False,
    overwrite: bool = False,
    say: Callable[[str], Any] | None = None,
    seconds: float = 4.0,
) -> DryRun:
    """Does what `train` does up to its first steps, times them, and writes nothing.

    What `train` refuses is refused in the same words, but that another process may take the folder
    meanwhile. Of several processes, as torchrun starts them, each does its part. Callbacks are made
    and get their state where the run resumes; none of their hooks is called.

    Args:
        config: The run.
        resume: As for `train`.
        overwrite: As for `train`; nothing is deleted.
        say: Called by the first process with `DryRun.heading` before the first, maybe long, step.
        seconds: After which no further step or batch is timed; with less, numbers are rougher.

    Returns:
        What the run would take, the same on every process.

    Raises:
        ValueError: As `train`, also if one of the first steps is not finite and `on_nonfinite` is
            `stop`.
        OSError: If the run folder could not be written to.
        KeyboardInterrupt: After SIGINT or SIGTERM.
    """
    begun = time.perf_counter()
    with without_writing(), joined(config.device, config.timeout_minutes) as processes:
        held = _held(processes)
        run = Run(config, processes, resume=resume, overwrite=overwrite)
        opening = time.perf_counter() - begun
        processes.on_main(lambda: _check_place(config.run_dir))
        with StopRequest() as stop, closing(run.parts.loader):
            title = headline(config, run.identity, processes, run.step, run.total_steps)
            if say is not None:
                processes.on_main(lambda: say(_heading(title, run.notes)))
            found = _Rehearsal(run, stop, seconds).result(title, held, opening)
            first: DryRun = processes.gather_objects(found)[0]
            return first


def _held(processes: Processes) -> int:
    """Bytes that this process holds, on a GPU there; 0 where the system does not say."""
    status = Path("/proc/self/statm")
    if processes.device.type == "cuda" or not status.exists():
        return 0
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _there(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _check_place(folder: Path) -> None:
    """Refuses a run folder in which the system lets this user write no file, in its words."""
    there = _there(folder)
    problem = 0 if os.access(there, os.W_OK | os.X_OK) else errno.EACCES
    if not there.is_dir():
        problem = errno.ENOTDIR
    if problem:
        raise OSError(problem, os.strerror(problem), str(folder))


class _Weighed(StateWriter):
    """Makes a state as ever, and only counts what it would write."""

    size = classes = 0

    def _write(self, content: dict[str, Any], classes: dict[str, Tensor]) -> None:
        torch.save(content, self)  # type: ignore[arg-type]
        self.classes = _bytes(*classes.values())
        for rows in map(local, classes.values()):
            zlib.crc32(rows.detach().cpu().contiguous().numpy().data)

    def write(self, data: bytes) -> int:
        """Counts the bytes of a file, and takes their checksum, as a state's writer does."""
        zlib.crc32(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """As files have it."""


def _bytes(*tensors: Any) -> int:
    return sum(local(one).nbytes for one in tensors if isinstance(one, Tensor))


def _of(*modules: nn.Module | None) -> int:
    return sum(_bytes(*m.parameters(), *m.buffers()) for m in modules if m is not None)


class _Rehearsal:
    """The first steps of a run, some batches of its validation, and a state that is not kept."""

    def __init__(self, run: Run, stop: StopRequest, seconds: float) -> None:
        self.run, self.stop, self.config, self.seconds = run, stop, run.config, seconds
        self.processes, self.first = run.processes, run.step
        self.first_loss: float | None = None
        self.own = 0  # steps that are the run's own, with its batches
        self.together = max(run.config.workers, 1)  # batches that come at about the same time
        train = run.parts.sources.train
        self.cache = train if isinstance(train, CachedSource) else None

    def result(self, title: str, held: int, opening: float) -> DryRun:
        """Does all of it, given the bytes held before a start and the seconds that it took."""
        run, config, validation = self.run, self.config, self.run.validation
        left = run.total_steps - self.first
        epochs = range(run.epochs_done + 1, (0 if run.ended else run.epochs) + 1)
        training = self._training(left) if left else (0.0, 0.0, 0.0, 0.0)
        every = 0 if validation is None else validation.every_epochs
        judging = [e for e in epochs if every and (e % every == 0 or e == run.epochs)]
        judged = sum(len(pairs.source) for pairs in validation.sets) if validation else 0
        judging_seconds = self._judging() if judging else 0.0
        state, saving = self._saving()
        saves = len(epochs) + len(epochs if run.callbacks else judging)
        if config.save_every:
            saves += run.total_steps // config.save_every - self.first // config.save_every
        rewinds = config.on_nonfinite == "rewind"
        saves += self.first == 0 and bool(run.callbacks or rewinds)
        weights = _of(run.judged)
        folder = config.run_dir
        # Of those that are there, the last is written beside.
        states = min(3 + rewinds, saves + len(saved_states(folder))) if saves else 0
        kept = states * state + (2 if judged else 1) * weights * bool(saves)
        files = [*folder.glob("state/*/*"), folder / rundir.BEST, folder / rundir.LAST]
        there = sum(path.stat().st_size for path in files if path.is_file())
        memory = max(self.processes.gather_objects(self._memory(held)), key=lambda one: one[0])
        return DryRun(
            config=config,
            title=title,
            notes=run.notes,
            start=run.start,
            step=self.first,
            total_steps=run.total_steps,
            steps_per_epoch=run.steps_per_epoch,
            parameters=sum(p.numel() for p in run.model.parameters() if p.requires_grad),
            first_loss=self.first_loss,
            **dict(zip(_TIMES, training, strict=True)),
            judged=judged,
            validation_seconds=judging_seconds,
            validations=len(judging),
            save_seconds=saving,
            saves=saves,
            opening_seconds=opening,
            peak_memory=memory[0],
            memory=memory[1],
            state_bytes=state,
            weights_bytes=weights,
            needed_bytes=max(0, kept - there),
            free_bytes=shutil.disk_usage(_there(folder)).free,
        )

    def _passed(self, begun: float) -> float:
        """Seconds since then, as the first process has it; raises where a signal came."""
        passed = time.perf_counter() - begun
        answers = self.processes.gather_objects((passed, self.stop.requested))
        if any(requested for _, requested in answers):
            raise KeyboardInterrupt
        return float(answers[0][0])

    def _goes_on(self, count: int, begun: float) -> bool:
        """Whether one more is timed: one in any case, and few where each takes long."""
        passed = self._passed(begun)
        many = count >= _LEAST or passed > 3 * self.seconds
        return count < 1 or (count < _MOST and not (many and passed > self.seconds))

    def _batches(self, number: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches from the first step on; of a `number`, these again and again."""
        loader = self.run.parts.loader
        epoch, start = divmod(self.first, self.run.steps_per_epoch)
        while True:
            loader.set_epoch(epoch, start)
            with explain_dead_workers(self.config.workers):
                batches = self.processes.in_step(itertools.islice(loader, number))
                with self.stop.held_back():  # the loader's workers start with the first batch
                    first = next(batches)
                yield first
                yield from batches
            if number is None:
                epoch, start = epoch + 1, 0

    def _reading(self, batches: Iterator[Any]) -> tuple[float, int]:
        """Seconds for a batch that is waited for at once, and how many were read."""
        next(batches)
        seconds: list[float] = []
        begun = end = time.perf_counter()
        while self._goes_on(len(seconds), begun):
            for _ in range(self.together):
                next(batches)
            before, end = end, time.perf_counter()
            seconds.append(end - before)
        return statistics.median(seconds) / self.together, 1 + self.together * len(seconds)

    def _training(self, left: int) -> tuple[float, float, float, float]:
        """Seconds of a step, of waiting for its batch, of a batch alone, and longer at first."""
        if self.cache is None:
            batches = self._batches()
            step, wait = self._all_steps(batches, left, left)
            batch = first = self._reading(batches)[0]
        else:
            first, number = self._reading(self._batches())
            number = min(number, self.run.steps_per_epoch)  # are in it now, and come again
            batch = self._reading(self._batches(number))[0]
            step, wait = self._all_steps(self._batches(number), left, number)
        if self.config.workers:  # some of the batches may have been there already
            wait = max(wait, batch - step)
        longer = first - batch if self.config.workers == 0 else max(0.0, first - step - wait)
        return step, wait, batch, longer if self.cache is not None else 0.0

    def _all_steps(
        self, batches: Iterator[tuple[Tensor, Tensor]], left: int, own: int
    ) -> tuple[float, float]:
        """Seconds of a step and of waiting for its batch, of which the first are the run's own."""
        self.own = own
        frozen = self.config.schedule.freeze_epochs * self.run.steps_per_epoch - self.first
        frozen = max(0, min(left, frozen))
        step = wait = 0.0
        for is_frozen, steps in ((True, frozen), (False, left - frozen)):
            if steps:
                self.run.parts.train_step.freeze(is_frozen)
                seconds, waited = self._steps(batches, steps)
                step, wait = step + seconds * steps / left, wait + waited * steps / left
                self.own = min(own, self.run.step - self.first)  # the next are from later on
        return step, wait

    def _steps(self, batches: Iterator[tuple[Tensor, Tensor]], most: int) -> tuple[float, float]:
        """Seconds of a step, and of waiting for its batch; takes `most` steps at most."""
        waits: list[float] = []
        steps: list[float] = []
        warm = 0
        begun = time.perf_counter()
        while len(steps) < most and (not warm or self._goes_on(len(steps) - warm, begun)):
            for _ in range(min(self.together, most - len(steps))):
                start = time.perf_counter()
                images, labels = next(batches)
                there = time.perf_counter()
                self._step(images, labels)
                waits.append(there - start)
                steps.append(time.perf_counter() - there)
            if not warm and (self._passed(begun) > self.seconds or len(steps) >= _WARM):
                warm, begun = len(steps), time.perf_counter()
        timed = slice(warm if warm < len(steps) else 0, None)  # of few steps all are
        usual = statistics.fmean if self.config.workers else statistics.median
        return statistics.median(steps[timed]), usual(waits[timed])

    def _step(self, images: Tensor, labels: Tensor) -> None:
        run, meter = self.run, self.run.new_meter()
        try:
            meter.add(run.step + 1, run.take_step(images, labels))
            meter.read()
        except Diverged as problem:
            if self._refuses(run.step + 1):
                raise self._diverged(problem) from problem
        except ValueError as problem:
            raise ValueError(f"step {run.step + 1}: {problem}") from problem
        else:
            if run.step == self.first:
                meter.take_time()
                self.first_loss = meter.flush(self.config)[0]["loss"]
        if self.processes.device.type == "cuda":
            torch.cuda.synchronize(self.processes.device)
        run.step += 1

    def _refuses(self, step: int) -> bool:
        """Whether numbers that are not finite after a step would end the run, too."""
        return self.config.on_nonfinite == "stop" and step - self.first <= self.own

    def _diverged(self, problem: Diverged) -> ValueError:
        return ValueError(f"{self.run.said(problem)}; {advice(self.config)}")

    def _judging(self) -> float:
        """Seconds of a validation, from some batches of each set."""
        validation, config = self.run.validation, self.config
        assert validation is not None
        own: list[float] = []

        def judge(pairs: ValidationPairs) -> float:
            device, size = self.processes.device, config.batch_size
            args = (self.run.judged, pairs.source, device, size, config.workers)
            begun = time.perf_counter()
            ends: list[float] = []
            with closing(embed_batches(*args, config.read_timeout)) as batches:
                for _ in batches:
                    ends.append(time.perf_counter() - begun)
                    if len(ends) > _LEAST + 2 * config.workers and ends[-1] > self.seconds / 2:
                        break
            rest = -(-len(pairs.source) // size) - len(ends)
            pace = (ends[-1] - ends[0]) / max(len(ends) - 1, 1)
            begun = time.perf_counter()
            measured(
                pairs, np.random.default_rng(0).uniform(-1, 1, len(pairs.same)), validation.far
            )
            return ends[-1] + rest * pace + time.perf_counter() - begun

        def judge_own() -> None:
            for pairs in validation.sets[self.processes.rank :: self.processes.world_size]:
                try:
                    with self.stop.held_back(), explain_dead_workers(config.workers):
                        own.append(judge(pairs))
                except (ValueError, OSError) as problem:
                    raise ValueError(f"validation: {pairs.name}: {problem}") from problem

        self.processes.on_all(judge_own)
        self._goes_on(0, 0.0)
        seconds: float = max(self.processes.gather_objects(sum(own)))
        return seconds

    def _saving(self) -> tuple[int, float]:
        """Bytes of a state, and what making one adds to the time of a run."""
        config, parts = self.config, self.run.parts
        alone = config.save_in_background and self.processes.device.type != "cpu"
        seconds: list[float] = []
        start = time.perf_counter()
        while not seconds or (len(seconds) < _LEAST and self._passed(start) < self.seconds):
            writer = _Weighed(config.run_dir, self.processes, background=config.save_in_background)
            begun = time.perf_counter()
            try:
                writer.save(self.run.state(checked=self._refuses(self.run.step)), *parts.trained)
                waited = time.perf_counter() - begun
                writer.wait()
            except Diverged as problem:
                raise self._diverged(problem) from problem
            finally:
                writer.close()
            # On a CPU what writes takes the time of what trains.
            seconds.append(waited if alone else time.perf_counter() - begun)
        sizes = self.processes.gather_objects((writer.size, writer.classes))
        classes = [own for _, own in sizes] if parts.train_step.sharded else [sizes[0][1]]
        return sizes[0][0] + sum(classes), statistics.median(seconds)

    def _memory(self, held: int) -> tuple[int, dict[str, int]]:
        """Bytes at the peak of this process, and what they are for."""
        run, config, parts = self.run, self.config, self.run.parts
        peak = round(1e6 * (self.processes.peak_memory() or 0))
        if not peak:
            return 0, {}
        cpu = self.processes.device.type == "cpu"
        trained = [*run.model.parameters(), *run.terms.parameters()]
        trained += [] if config.head.fused else [*run.criterion.parameters()]
        kept = [values for one in run.optimizers for values in one.state.values()]
        pixels = 3 * config.model.image_size**2 * config.batch_size // self.processes.world_size
        cache = 0
        if self.cache is not None and cpu and config.workers == 0:
            cache = self.cache.room
            peak += cache - self.cache.used  # images come, until it is full
        copied = cpu and config.save_in_background
        memory = {
            "program": held,
            "image cache": cache,
            "backbone": _of(run.model, None if parts.average is None else parts.average.module),
            "head": _of(run.criterion, run.terms),
            "gradients": _bytes(*(one for one in trained if one.requires_grad)),
            "momentum": _bytes(*itertools.chain(*(values.values() for values in kept))),
            "images": pixels * (1 + 4 // config.accumulate),
        }
        if copied:
            memory["copy to save"] = memory["backbone"] + memory["head"] + memory["momentum"]
        memory["the rest"] = max(0, peak - sum(memory.values()))
        return peak, memory
