"""Long jobs that stop at any time and resume: a folder of work, and Ctrl-C between two batches."""

import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from centerarc.io.files import LOCK, atomic_path, locked_folder

_REQUEST, _DONE = "request.json", "done.json"
_DIGEST = re.compile(r"[0-9a-f]{64}")
# How long processes of a killed run may take to notice and end.
_LOCK_SECONDS = 12.0


class DamagedError(OSError):
    """A file of unfinished work that cannot be read."""

    def __init__(self, path: Path, error: object) -> None:
        super().__init__(f"cannot read {str(path)!r}: {error}; --overwrite starts over")


@contextmanager
def locked_job(folder: Path, out: Path) -> Iterator[None]:
    """Makes a folder of work and keeps other processes out of it, where the system can.

    At the end of the block the folder is removed if it is empty.

    Raises:
        ValueError: If another process holds it.
    """
    taken = f"out is {str(out)!r}, which another process is writing"
    try:
        with locked_folder(folder, taken, patience=_LOCK_SECONDS):
            yield
    finally:
        with suppress(OSError):  # it is not empty, or another process is in it
            folder.rmdir()


class Job:
    """What is done of a result, kept in a folder until all of it is.

    Files in the folder are complete or absent, so a job that was killed resumes with what it has,
    and half a result never looks like a whole one. The files of the result are made in `final`;
    `publish` moves them, and a run that is killed while it moves them is finished by the next.

    Args:
        folder: The folder, held by `locked_job`.
        request: What was asked for, by the words a user knows it by; JSON. Only the same request
            resumes.
        out: The result, for messages.
        overwrite: Delete unfinished work that is damaged or of another request.

    Attributes:
        folder: The folder.
        final: Folder for the files of the result.
        facts: What `publish` was given, if moving the files is all that is left to do.

    Raises:
        ValueError: If the folder holds unfinished work of another request.
        DamagedError: If its notes cannot be read.
    """

    def __init__(
        self, folder: Path, request: Mapping[str, Any], *, out: Path, overwrite: bool
    ) -> None:
        self.folder, self.final = folder, folder / "final"
        self._request = json.loads(json.dumps(request))
        try:
            done = read_json(folder / _DONE)
            known = read_json(folder / _REQUEST) if done is None else done["request"]
        except DamagedError:
            if not overwrite:
                raise
            done = known = None
        if known != self._request:
            if known is not None and not overwrite:
                raise ValueError(
                    f"out is {str(out)!r}, which holds unfinished work with another "
                    f"{changed(known, self._request)}; the same command resumes it, --overwrite "
                    "starts over"
                )
            self.discard()
            done = None
        self.facts: dict[str, Any] | None = None if done is None else done["facts"]
        for path in folder.rglob(".*"):  # files that a killed run was writing
            if path != folder / LOCK:
                path.unlink()
        self.final.mkdir(exist_ok=True)
        write_json(folder / _REQUEST, self._request)

    @staticmethod
    def publishing(folder: Path) -> bool:
        """Returns whether the job of a folder was killed while it moved its files."""
        return (folder / _DONE).exists()

    def discard(self) -> None:
        """Deletes all work. The folder stays: the lock is on it."""
        # First, so that what a kill leaves of the rest belongs to no request.
        for name in (_DONE, _REQUEST):
            (self.folder / name).unlink(missing_ok=True)
        self._empty()

    def publish(self, place: Path, facts: Mapping[str, Any]) -> None:
        """Moves the files of the result to their folder and deletes the rest.

        Args:
            place: The folder.
            facts: What the next run must know if this one is killed here; JSON.
        """
        write_json(self.folder / _DONE, {"request": self._request, "facts": facts})
        for path in sorted(self.final.iterdir()):
            os.replace(path, place / path.name)
        self._empty(_DONE)  # as long as it is there, a later run knows the result as its own
        (self.folder / _DONE).unlink()

    def _empty(self, *kept: str) -> None:
        for path in list(self.folder.iterdir()):
            if path.name in (LOCK, *kept):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def changed(known: Mapping[str, Any], request: Mapping[str, Any]) -> str:
    """Returns the first thing in which two requests differ.

    Example:
        >>> changed({"format": "rec", "size": 112}, {"format": "rec", "size": 224})
        'size (112, now 224)'
    """
    names = dict.fromkeys([*known, *request])
    name = next(name for name in names if known.get(name) != request.get(name))
    before, now = known.get(name), request.get(name)
    # A digest tells a reader nothing.
    return name if _DIGEST.search(f"{before} {now}") else f"{name} ({before}, now {now})"


def read_json(path: Path) -> dict[str, Any] | None:
    """Reads a JSON object; None if there is no such file. Raises `DamagedError`."""
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it must be a JSON object")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(path, error) from error
    return found


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object, complete or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


@contextmanager
def stopped_between_batches() -> Iterator[Callable[[], None]]:
    """Lets Ctrl-C wait for the function that it yields; a second one does not wait.

    In the middle of a batch it would stop a worker process that hands its images over, which
    prints a long report.
    """
    requested = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        if requested:
            raise KeyboardInterrupt
        requested = True

    def check() -> None:
        if requested:
            raise KeyboardInterrupt

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield check
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
