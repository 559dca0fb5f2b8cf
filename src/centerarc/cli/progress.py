"""What commands show of long work on stderr: a bar on a terminal, else lines."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from centerarc.io.progress import Lines, Pace

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


# Called with the steps done so far and all of them.
Show = Callable[[int, int], None]
# The same after the name of a stage, such as "reading".
ShowStage = Callable[[str, int, int], None]
_DRAW_SECONDS = 0.1


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
