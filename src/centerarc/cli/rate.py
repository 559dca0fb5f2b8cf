"""How far long work is, how fast it goes and when it will be done."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_BAR_SECONDS = 0.1
# Seconds between two lines where nobody watches, such as in the log of a job.
_LINE_SECONDS = 30.0


@contextmanager
def rated(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Shows a bar to somebody who watches, and a line now and then where nobody does.

    No thread draws it, so that processes may be forked meanwhile. What was done before the first
    call, by an earlier run, does not count for the rate.

    Args:
        what: What is done, such as "embedding".
        unit: What is counted, such as "images".

    Yields:
        To be called with the steps done so far and all of them, first at the start.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(what, unit)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as bar:
        tasks: list[int] = []
        drawn = 0.0

        def show(done: int, total: int) -> None:
            nonlocal drawn
            if not tasks:
                tasks.append(bar.add_task(what, total=total, completed=done, rate=""))
            elif done < total and time.monotonic() - drawn < _BAR_SECONDS:
                return
            drawn = time.monotonic()
            (task,) = bar.tasks
            rate = "" if task.speed is None else f"{task.speed:,.0f} {unit}/s"
            bar.update(task.id, completed=done, rate=rate, refresh=True)

        yield show


class _Lines:
    """Writes `embedding: 12,000 of 50,000, 410 images/s, 0:01:33 left` to stderr."""

    def __init__(self, what: str, unit: str) -> None:
        self.what, self.unit = what, unit
        self._begun = self._written = 0.0
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._begun, self._written, self._first = now, now, done
            return
        if now - self._written < _LINE_SECONDS:
            return
        self._written = now
        rate = (done - self._first) / (now - self._begun)
        left = f"{duration((total - done) / rate)} left" if rate else "time left unknown"
        print(
            f"{self.what}: {done:,} of {total:,}, {rate:,.0f} {self.unit}/s, {left}",
            file=sys.stderr,
            flush=True,
        )


def duration(seconds: float) -> str:
    """Returns a time as h:mm:ss.

    Example:
        >>> duration(3725.4)
        '1:02:05'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
