"""How far long work is: in words, as lines of a log, and as bars on a terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# Seconds between two lines where no one watches, such as in the log of a job.
_LINE_SECONDS = 30.0
# Called with the steps done so far and all of them.
Show = Callable[[int, int], None]
# The same after the name of a stage, such as "reading".
ShowStage = Callable[[str, int, int], None]
_DRAW_SECONDS = 0.1


class Pace:
    """Tells how far work is: `12,000 of 50,000, 410 images/s, 0:01:33 left`.

    What was done before the first call, by an earlier run, does not count for the rate. Where the
    total changes, such as from bytes to records, the rate is measured again.

    Args:
        unit: What is counted, such as "images"; empty where the number would tell nothing, such as
            that of bytes: then it is `24%, 0:01:33 left`.
    """

    def __init__(self, unit: str = "") -> None:
        self.unit = unit
        self._begun = 0.0
        self._first: tuple[int, int] | None = None

    def tell(self, done: int, total: int) -> str:
        """Returns how far it is.

        Args:
            done: Steps done so far.
            total: All of them; 0 as long as it is not known.
        """
        now = time.monotonic()
        if self._first is None or total != self._first[1] or done < self._first[0]:
            self._begun, self._first = now, (done, total)
        if not total:
            return ""
        parts = [f"{done:,} of {total:,}" if self.unit else f"{done / total:.0%}"]
        steps, seconds = done - self._first[0], now - self._begun
        if steps and seconds:
            if self.unit:
                parts.append(f"{steps / seconds:,.0f} {self.unit}/s")
            parts.append(f"{duration((total - done) * seconds / steps)} left")
        return ", ".join(parts)


class Lines:
    """Writes `embedding: 12,000 of 50,000, 410 images/s, 0:01:33 left` to stderr every 30 seconds.

    Call it with the steps done so far and all of them, as often as you like.

    Args:
        what: What is done, such as "embedding".
        unit: What is counted; see `Pace`.
    """

    def __init__(self, what: str, unit: str = "") -> None:
        self.what = what
        self._pace = Pace(unit)
        self._written = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Writes a line if it is time for one."""
        text = self._pace.tell(done, total)
        if text and (now := time.monotonic()) - self._written >= _LINE_SECONDS:
            self._written = now
            print(f"{self.what}: {text}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Returns a time as h:mm:ss.

    Example:
        >>> duration(3725.4)
        '1:02:05'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


@contextmanager
def stages(unit: str = "") -> Iterator[ShowStage]:
    """Shows work that has several stages, one after the other.

    On a terminal each has a bar, elsewhere a line every 30 seconds says how far it is. No thread
    draws, so that processes may be forked meanwhile.

    Args:
        unit: What is counted, such as "images"; empty where the number would tell nothing, such as
            that of bytes.

    Yields:
        To be called with the name of the stage, the steps done so far and all of them.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        lines: dict[str, Lines] = {}

        def write(stage: str, done: int, total: int) -> None:
            if stage not in lines:
                lines[stage] = Lines(stage, unit)
            lines[stage](done, total)

        yield write
        return
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[pace]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as bar:
        yield _Bars(bar, unit)


@contextmanager
def waiting(what: str, unit: str = "") -> Iterator[Show]:
    """Shows work of one stage; see `stages`.

    Args:
        what: What is done, such as "decoding".
        unit: What is counted.

    Yields:
        To be called with the steps done so far and all of them.
    """
    with stages(unit) as show:
        show(what, 0, 0)
        yield partial(show, what)


@contextmanager
def counting(what: str, unit: str, total: int) -> Iterator[Callable[[int], None]]:
    """As `waiting`, for work that tells how many steps were done since its last call."""
    with waiting(what, unit) as show:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            show(done, total)

        show(0, total)
        yield advance


class _Bars:
    """A bar for each stage, drawn when something changes and not too often."""

    def __init__(self, progress: "Progress", unit: str) -> None:
        self._progress, self._unit = progress, unit
        self._stages: dict[str, tuple[TaskID, Pace]] = {}
        self._drawn = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        new = stage not in self._stages
        if new:
            task = self._progress.add_task(stage, total=None, pace="")
            self._stages[stage] = task, Pace(self._unit)
        task, pace = self._stages[stage]
        text = pace.tell(done, total)
        if new or done >= total or time.monotonic() - self._drawn >= _DRAW_SECONDS:
            self._progress.update(task, total=total or None, completed=done, pace=text)
            self._progress.refresh()
            self._drawn = time.monotonic()
