"""Ctrl-C and SIGTERM as a wish to stop after the current step."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

from centerarc.data.workers import signals_held_back

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(Exception):
    """The run was asked to stop and its state is saved.

    Args:
        message: Where it stopped and how to go on.
    """


class StopRequest:
    """Within the block, the first SIGINT or SIGTERM only sets `requested`; a second one kills.

    Outside the main thread, where Python allows no signal handlers, it does nothing.

    Example:
        >>> with StopRequest() as stop:
        ...     stop.requested
        False
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Lets signals wait until the block ends; processes started in it never get them.

        A terminal and many job systems signal a whole group, and a data loader whose workers die
        takes the training process with it in the middle of a step.
        """
        # Outside the main thread there is nobody to hold them back from.
        with signals_held_back(*(_SIGNALS if self._previous else ())):
            yield

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.requested = True
        if os.environ.get("RANK", "0") == "0":
            # A step may take long. Not print: the signal may have come in the middle of one.
            os.write(2, b"\nstopping after this step; once more stops at once\n")
