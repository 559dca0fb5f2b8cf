"""How the commands on data open a source and show what is left to wait for, on stderr."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from centerarc.data import FaceSource

# Seconds between two lines where nobody watches, such as in the log of a job.
_LINE_SECONDS = 30.0
_DRAW_SECONDS = 0.1


# Called with the steps done so far and all of them.
Progress = Callable[[int, int], None]


def opened(path: Path, image_size: int | None = None) -> "FaceSource":
    """Opens the source at a path, with progress where that takes a pass over it.

    Args:
        path: What the user named.
        image_size: Side in pixels to which images are resized; None leaves them as they are.
    """
    from centerarc.data.sources import open_source

    with waiting("opening") as progress:
        return open_source(path, image_size=image_size, progress=progress)


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """As `waiting`, for work that tells how many steps were done since its last call."""
    with waiting(what) as progress:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress(done, total)

        yield advance


@contextmanager
def waiting(what: str) -> Iterator[Progress]:
    """Shows a bar to somebody who watches, and a line now and then where nobody does.

    No thread draws it, so that processes may be forked meanwhile.

    Args:
        what: What is done, such as "decoding".

    Yields:
        To be called with the steps done so far and all of them.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(what)
        return
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, transient=True, auto_refresh=False) as bar:
        task = bar.add_task(what, total=1)
        drawn = 0.0

        def show(done: int, total: int) -> None:
            nonlocal drawn
            if (now := time.monotonic()) - drawn >= _DRAW_SECONDS:
                drawn = now
                bar.update(task, completed=done, total=total, refresh=True)

        yield show


def _lines(what: str) -> Progress:
    """Writes `decoding: 12,000 of 50,000, 0:00:09 left` to stderr."""
    begun = written = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal written
        now = time.monotonic()
        if now - written < _LINE_SECONDS or not done:
            return
        written = now
        minutes, seconds = divmod(round((now - begun) * (total - done) / done), 60)
        left = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"
        print(f"{what}: {done:,} of {total:,}, {left}", file=sys.stderr, flush=True)

    return show
