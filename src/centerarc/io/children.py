"""Commands of ours in processes of their own: a few at a time, and none outlives this one."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from centerarc.io.parallel import StopRequest, default_workers

_LOOK_SECONDS = 0.1
_PARENT = "CENTERARC_PARENT"
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# How much of a log is read for what a process said last.
_TAIL = 1 << 16


class ChildrenStopped(Exception):
    """A signal asked to stop; every child has ended, those that can have saved their state."""


@dataclass(frozen=True)
class Ended:
    """A child that has ended.

    Attributes:
        name: What it was started as.
        code: Its exit code; of one that a signal killed, the signal's number below 0.
        seconds: How long it ran.
        reason: What its log says last, without the leading `error:`; empty for code 0.
    """

    name: str
    code: int
    seconds: float
    reason: str


@dataclass
class _Child:
    process: "subprocess.Popen[bytes]"
    log: Path
    begun: float


class Children:
    """Processes that run modules of ours; a context, at whose end none is left.

    Each is in a session of its own, so that Ctrl-C reaches this process alone. The first SIGINT or
    SIGTERM asks every child to end, and `wait` raises `ChildrenStopped` when all have; a second one
    kills this process. Children whose module calls `end_with_parent` are asked to end then too.

    Args:
        most: How many run at a time, at least 1.
        threads: Threads of each child; None divides the cores among them.

    Attributes:
        threads: Threads of each child.

    Raises:
        ValueError: If a number is below 1.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, Children(2) as children:
        ...     children.start("one", ["-c", "print(40 + 2)"], Path(folder, "one.log"))
        ...     ended = children.wait()
        ...     print(ended.name, ended.code, Path(folder, "one.log").read_text().strip())
        one 0 42
    """

    def __init__(self, most: int = 1, threads: int | None = None) -> None:
        for name, number in (("jobs", most), ("threads", 1 if threads is None else threads)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        self.most = most
        self.threads = max(1, default_workers() // most) if threads is None else threads
        self._running: dict[str, _Child] = {}
        self._stop = StopRequest()

    def __enter__(self) -> Self:
        self._stop.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._end_all()
        finally:
            self._stop.__exit__(*error)

    @property
    def running(self) -> list[str]:
        """The names of the children that run, in the order of their starts."""
        return list(self._running)

    @property
    def full(self) -> bool:
        """Whether as many run as may."""
        return len(self._running) >= self.most

    @property
    def stopping(self) -> bool:
        """Whether a signal asked to stop, so that no more should be started."""
        return self._stop.requested

    def start(self, name: str, words: Sequence[str], log: Path) -> None:
        """Starts Python with such words, such as `["-m", "centerarc.training.child", ...]`.

        Args:
            name: What `wait` calls it; no other that runs may have it.
            words: What follows `python`.
            log: The file to which its output is added.
        """
        assert name not in self._running, name
        assert not self.full, "wait for one to end first"
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            **dict.fromkeys(_THREADS, str(self.threads)),
            "PYTHONUNBUFFERED": "1",
            _PARENT: str(os.getpid()),
        }
        with log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        self._running[name] = _Child(process, log, time.monotonic())

    def wait(self, seconds: float | None = None) -> Ended | None:
        """Waits until a child ends.

        Args:
            seconds: How long at most; None for as long as it takes.

        Returns:
            Which one and how, or None where the time is over or no child runs.

        Raises:
            ChildrenStopped: If a signal asked to stop, when all children have ended.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            if self._stop.requested:
                self._end_all()
                raise ChildrenStopped
            for name, child in self._running.items():
                code = child.process.poll()
                if code is not None:
                    del self._running[name]
                    reason = _last_words(child.log, code) if code else ""
                    return Ended(name, code, time.monotonic() - child.begun, reason)
            if not self._running or (end is not None and time.monotonic() >= end):
                return None
            time.sleep(_LOOK_SECONDS)

    def _end_all(self) -> None:
        """Asks every child to end, and waits until it has."""
        for child in self._running.values():
            child.process.terminate()
        for child in self._running.values():
            child.process.wait()
        self._running.clear()


def end_with_parent() -> None:
    """Lets a process that `Children` started get SIGTERM when its parent dies, however it dies.

    In a process that was started otherwise it does nothing. On Linux the kernel sends the signal;
    elsewhere a thread looks for the parent every second.
    """
    parent = int(os.environ.pop(_PARENT, "0"))
    if not parent:
        return
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it died before it could be watched
        sys.exit(128 + signal.SIGTERM)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)


def _last_words(log: Path, code: int) -> str:
    """The last error in a log, else its last line, else what the exit code means."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        text = file.read().decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    if code < 0:
        return f"it was killed by signal {-code}"
    found = errors[-1:] or lines[-1:] or [f"it ended with exit code {code}"]
    return found[0].removeprefix("error: ")
