"""What a run reports: metrics.jsonl, TensorBoard, and the terminal."""

import json
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from centerarc.distributed.process import Processes
from centerarc.io.files import atomic_path, is_open_at, named_in_errors
from centerarc.io.progress import duration
from centerarc.io.tables import counted
from centerarc.training.config import TrainConfig
from centerarc.training.loss_config import LossConfig
from centerarc.training.step import Diverged, StepReport, refuse_nonfinite

METRICS, _BOARD = "metrics.jsonl", "tensorboard"
# The kind of a row that says what became of numbers that were not finite.
NONFINITE = "nonfinite"

# Of the gradient at the embedding.
_SHARES = ("arcface_share", "center_share", "threshold_share")
# What a row has of its last step, and not as a mean over the window.
_LAST = (*_SHARES, "center_weight", "threshold_weight", "threshold", "margin_threshold")
# Below this share of the gradient a loss moves nothing that a validation could show.
_IDLE = 1e-3

# Times the norms before the first step: what backbone and prototypes, which start short, reach only
# where a training diverges.
_GROWTH = (1e3, 1e5)


def headline(
    config: TrainConfig, identity: dict[str, Any], processes: Processes, step: int, total: int
) -> str:
    """The first line of a run: what is trained, on what, for how long, on how many processes."""
    return (
        f"{config.model.name}, {identity['identities']} people, "
        f"{identity['images']} images, {counted(total, 'step')} of "
        f"{config.batch_size} on {processes.world_size} x {processes.device}"
        + (f", from step {step}" if step else "")
    )


class Meter:
    """Collects the reports of steps and the time that they took.

    Args:
        scaled: Whether a gradient scaler leaves out the steps whose gradient is not finite.

    Attributes:
        window: Sums since the last row, by name.
    """

    def __init__(self, *, scaled: bool = False) -> None:
        self.window: dict[str, float] = {}
        self._scaled = scaled
        self._last: dict[str, float] = {}  # of the last step, shares of the last with any
        self._unread: list[tuple[int, StepReport]] = []
        self._start = 0.0

    def state_dict(self) -> dict[str, Any]:
        """What a saved run needs to log the same rows."""
        return {"sums": {**self.window}, "last": {**self._last}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what `state_dict` gave."""
        self.window, self._last = {**state["sums"]}, {**state["last"]}

    def start_clock(self) -> None:
        """Counts time from now on, and not what went before."""
        self._start = time.perf_counter()

    def take_time(self) -> float:
        """Adds the time since the last call to the window and returns it, in seconds."""
        now = time.perf_counter()
        elapsed, self._start = now - self._start, now
        self._add("seconds", elapsed)
        return elapsed

    def add(self, step: int, report: StepReport) -> None:
        """Takes a report without reading it, which would wait for the device."""
        self._unread.append((step, report))

    @property
    def is_empty(self) -> bool:
        """Whether no step was read since the last row."""
        return "count" not in self.window

    def read(self) -> bool:
        """Reads the reports that are not read yet.

        Returns:
            Whether a rank wants to stop.

        Raises:
            Diverged: If a loss or the norm of the gradients is not finite. Every rank reads the
                same sums, so all of them raise.
        """
        wanted = False
        for step, report in self._unread:
            values = report.read()
            wanted = wanted or values.pop("stop") > 0
            # A gradient scaler leaves out the steps whose gradient is not finite.
            looked_at = {k: v for k, v in values.items() if not (self._scaled and k == "grad_norm")}
            refuse_nonfinite(looked_at, step)
            count = values.pop("count")
            values["added"] = _added(values)
            self._last |= {k: values.pop(k) for k in _LAST if k in values}
            for name, value in values.items():
                self._add(name, value * count)
            self._add("count", count)
            self._add("steps", 1.0)
        self._unread.clear()
        return wanted

    def flush(self, config: TrainConfig) -> tuple[dict[str, float], float]:
        """Empties the window; returns its means over samples, as rows have them, and s a step."""
        window, self.window = self.window, {}
        count, steps, seconds = (window.pop(name) for name in ("count", "steps", "seconds"))
        means = {name: value / max(count, 1.0) for name, value in window.items()} | self._last
        row = {"loss": total_loss(means, config.loss), **means}
        row["images_per_second"] = steps * config.batch_size / max(seconds, 1e-9)
        return row, seconds / max(steps, 1.0)

    def _add(self, name: str, value: float) -> None:
        self.window[name] = self.window.get(name, 0.0) + value


def total_loss(means: dict[str, float], config: LossConfig) -> float:
    """The loss of a window from the means of its terms; takes `added` out of them.

    Where weights change from step to step, that is the mean of what the terms came to in each.
    """
    added = means.pop("added", 0.0)
    if not config.scheduled:
        added = _added(means)
    return means["arcface_loss"] + added + config.separation_weight * means["separation"]


def _added(values: dict[str, float]) -> float:
    """What the terms beside ArcFace come to, with the weights in force."""
    total = values["center_weight"] * values["center_loss"]
    if "threshold_loss" in values:
        total += values["threshold_weight"] * values["threshold_loss"]
    return total


class Setbacks:
    """What was not finite in a run so far, and what was done about it.

    Args:
        config: The run.

    Attributes:
        events: A row of the log for each: `step`, after which it stands, `action`, `reason`, and of
            a rewind `from_step` and `rate`. The order is that in which they came.
        rate: Times the learning rate of the settings, after rewinds.
        start: Norms of the backbone's weights and of the prototypes before the first step.
    """

    def __init__(self, config: TrainConfig, start: Sequence[float]) -> None:
        self.start = [*start]
        self.events: list[dict[str, Any]] = []
        self.rate = 1.0
        self._action, self._budget = config.on_nonfinite, config.nonfinite_budget

    @property
    def _done(self) -> int:
        return sum(event["action"] == self._action for event in self.events)

    @property
    def spent(self) -> str:
        """How often the run did what it does now, and may do it."""
        return f"{self._done} of {self._budget} times"

    @property
    def said(self) -> str:
        """What the learning rate is from now on, in words."""
        return f"the learning rate is {self.rate:g} times that of the settings, after rewinds"

    @property
    def rewound_to(self) -> int | None:
        """The step that the last rewind went to; None if there was none."""
        steps = [event["step"] for event in self.events if event["action"] == "rewind"]
        return steps[-1] if steps else None

    def is_sound(self, norms: Sequence[float]) -> bool:
        """Whether weights of these norms are worth training on.

        A rate that is much too high makes weights so large, before anything is infinite, that no
        lower rate moves them any more.
        """
        return all(n <= most * s for n, most, s in zip(norms, _GROWTH, self.start, strict=True))

    def spend(self, problem: Diverged) -> None:
        """Raises the problem where the budget is spent."""
        if self._done >= self._budget:
            spent = f"{problem}, and nonfinite_budget, {self._budget}, is spent"
            raise Diverged(spent, problem.step) from problem

    def add(self, step: int, reason: str, **more: float) -> dict[str, Any]:
        """Adds an event, and returns it."""
        self.events.append({"step": step, "action": self._action, "reason": reason, **more})
        return self.events[-1]

    def state_dict(self) -> dict[str, Any]:
        """What a saved run needs to resume."""
        return {"events": [*self.events], "rate": self.rate, "start": self.start}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what `state_dict` gave."""
        self.events, self.rate = [*state["events"]], state["rate"]
        self.start = state["start"]


class MetricsLog:
    """Appends rows to `<run>/metrics.jsonl`, one JSON object a line, flushed at once.

    Args:
        run_dir: Folder of the run.
        keep_steps: Rows of later steps are dropped: a resumed run writes them again.
        keep_validations: Validation rows of later steps are dropped likewise.
        keep_events: What rows of kind `nonfinite` there are; others are dropped.
        tensorboard: Also write TensorBoard files to `<run>/tensorboard`.
        check: Raises `ValueError` where `run_dir` is not the run's folder any more.

    Raises:
        ValueError: If TensorBoard is asked for and not installed.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        keep_steps: int,
        keep_validations: int,
        keep_events: Sequence[Mapping[str, Any]] = (),
        tensorboard: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._check = check
        path = run_dir / METRICS
        writer = require_tensorboard(tensorboard)
        self._board, self._hook = None, threading.excepthook
        if writer is not None:
            threading.excepthook = self._said_by_writer
            with named_in_errors(run_dir / _BOARD):
                self._board = writer(run_dir / _BOARD, purge_step=keep_steps + 1)
        if path.exists():
            _drop_later(path, keep_steps, keep_validations, keep_events)
        self._file, self._path = path.open("a", encoding="utf-8"), path

    def _said_by_writer(self, failed: threading.ExceptHookArgs) -> None:
        # What waits for TensorBoard's thread raises what it fails at, as of a full disk.
        if type(failed.thread).__name__ != "_AsyncWriterThread":
            self._hook(failed)

    @staticmethod
    def size(run_dir: Path) -> int:
        """The bytes of the rows that are there; part of a run's state, see `lost`."""
        path = run_dir / METRICS
        return path.stat().st_size if path.exists() else 0

    @staticmethod
    def lost(run_dir: Path, state: Mapping[str, Any]) -> list[str]:
        """Says, for the terminal, that rows from before a state was saved are gone."""
        path, rows = run_dir / METRICS, ""
        if path.exists():
            events = state["nonfinite"]["events"]
            rows = _rows_until(path, state["step"], state["validated"], events)
        gone = state["log_size"] - len(rows.encode())
        return (
            [f"{METRICS}: {counted(gone, 'byte')} of earlier rows are missing"] if gone > 0 else []
        )

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Writes a row of kind `train`, `validation` or `nonfinite` after `step` optimizer steps.

        TensorBoard has its numbers as `train/loss`, or with a `set` as `validation/lfw/auc`.

        Raises:
            ValueError: From `check`.
        """
        self._check()
        row = {"kind": kind, "step": step, **values}
        # JSON has no nan and infinity; null is what every reader takes.
        row = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()
        }
        with named_in_errors(self._path):
            if not is_open_at(self._file.fileno(), self._path):  # deleted or replaced meanwhile
                self._file.close()
                self._file = self._path.open("a", encoding="utf-8")
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        if self._board is None:
            return
        with named_in_errors(self._path.with_name(_BOARD)):
            group = f"{kind}/{values['set']}" if "set" in values else kind
            for name, value in row.items():
                if isinstance(value, (int, float)) and name != "step":
                    self._board.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        """Closes the files, on the disk."""
        threading.excepthook = self._hook
        with named_in_errors(self._path), self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        if self._board is not None:
            with named_in_errors(self._path.with_name(_BOARD)):
                self._board.close()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Reads the rows that a run has logged, as far as they are whole."""
    text = (run_dir / METRICS).read_text(encoding="utf-8", errors="replace")
    return [row for line in text.splitlines() if (row := _row(line)) is not None]


def _row(line: str) -> dict[str, Any] | None:
    """A row of the log; None for what is none, as the last line of a run that was killed."""
    try:
        row = json.loads(line)
        return row if {"kind", "step"} <= row.keys() else None
    except (ValueError, AttributeError, RecursionError):
        return None


def require_tensorboard(wanted: bool = True) -> Any:
    """Returns the writer of TensorBoard files, or None if it is not wanted.

    Raises:
        ValueError: If it is, and tensorboard is not installed.
    """
    if not wanted:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            "log.tensorboard is true, but tensorboard is not installed; "
            "install it with pip install 'centerarc[log]'"
        ) from error
    return SummaryWriter


def _drop_later(
    path: Path, keep_steps: int, keep_validations: int, keep_events: Sequence[Mapping[str, Any]]
) -> None:
    kept = _rows_until(path, keep_steps, keep_validations, keep_events)
    with atomic_path(path) as temporary:
        temporary.write_text(kept, encoding="utf-8")


def _rows_until(
    path: Path, steps: int, validations: int, events: Sequence[Mapping[str, Any]]
) -> str:
    last = {"train": steps, "validation": validations}
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        row = _row(line) or {"kind": None}
        kind = row.pop("kind")
        if row in events if kind == NONFINITE else row.get("step", 0) <= last.get(kind, -1):
            kept.append(f"{line}\n")
    return "".join(kept)


def _of_gradient(share: float | None) -> str:
    return "" if share is None else f" ({100 * share:.2g}% of the gradient)"


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Whoever read the log is gone, as with `| head`; rich would end the training for it."""
        self.quiet = True


class Display:
    """A progress bar on a terminal, a line a logged step elsewhere.

    Args:
        total_steps: Optimizer steps in the run.
        done_steps: Those done before this start.
        epochs: Epochs in the run.
        console: Where to write; rich's own on stderr by default.
        quiet: Show nothing (ranks other than 0).
    """

    def __init__(
        self,
        total_steps: int,
        done_steps: int,
        epochs: int,
        *,
        console: Console | None = None,
        quiet: bool = False,
    ) -> None:
        self.console = console or _Console(stderr=True, quiet=quiet, highlight=False)
        self.total_steps = total_steps
        self.epochs = epochs
        self._done = done_steps
        self._told = False
        self._task: TaskID | None = None
        self._progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            speed_estimate_period=120,
        )

    def __enter__(self) -> Self:
        if self.console.is_terminal and not self.console.quiet:
            self._progress.start()
            self._task = self._progress.add_task(
                "train", total=self.total_steps, completed=self._done, epoch="", text=""
            )
        return self

    def __exit__(self, *error: object) -> None:
        if self._task is not None:
            self._progress.stop()

    def advance(self, step: int) -> None:
        """Moves the bar to `step` steps done."""
        if self._task is not None:
            self._progress.update(self._task, completed=step)

    def train_row(self, step: int, row: dict[str, Any], seconds_left: float) -> None:
        """Shows a logged step."""
        share = row.get("center_share")
        text = (
            f"{row['images_per_second']:.0f} images/s  arcface {row['arcface_loss']:.3f}  "
            f"center {row['center_loss']:.3f}{_of_gradient(share)}  "
        )
        if "threshold" in row:
            text += (
                f"threshold {row['threshold_loss']:.3f}{_of_gradient(row.get('threshold_share'))} "
                f"at {row['threshold']:.3f}  "
            )
        text += f"cosine {row['target_cosine']:.3f}  accuracy {100 * row['accuracy']:.1f}%"
        # 0 is a term that has not started, or means of which none is known yet.
        if share is not None and 0 < share < _IDLE and not self._told:
            self._told = True
            self.say(
                f"the center loss is {100 * share:.2g}% of the gradient at the embedding and does "
                "nothing visible: raise loss.center_weight (in unit space to about s / 30 to s / "
                "5), or set it to 0"
            )
        epoch = f"{row['epoch']}/{self.epochs}"
        if self._task is not None:
            self._progress.update(self._task, completed=step, epoch=epoch, text=text)
        else:
            self.say(
                f"epoch {epoch}  step {step}/{self.total_steps}  {text}  "
                f"left {duration(seconds_left)}"
            )

    def validation_rows(
        self, epoch: int, results: dict[str, dict[str, Any]], best: str | None
    ) -> None:
        """Shows the numbers of each set in a line, in columns; `best` is marked as such."""
        cells: dict[str, dict[str, str]] = {}  # by column and set
        for set_name, result in results.items():
            for name, value in result.items():
                if isinstance(value, float):
                    column = name.removeprefix("best_")  # either kind of accuracy
                    number = f"{100 * value:.2f}%" if name != "auc" else f"{value:.4f}"
                    shown = f"{name.replace('_at_far_', '@').replace('_', ' ')} {number}"
                    cells.setdefault(column, {})[set_name] = shown
        width = max(map(len, results))
        for set_name in results:
            line = f"epoch {epoch}  {set_name:<{width}}"
            for shown_of in cells.values():
                line += f"  {shown_of.get(set_name, ''):>{max(map(len, shown_of.values()))}}"
            self.say(f"{line}  best" if set_name == best else line.rstrip())

    def say(self, text: str) -> None:
        """Writes a line, above the bar if there is one."""
        self.console.print(text, markup=False, soft_wrap=True)
