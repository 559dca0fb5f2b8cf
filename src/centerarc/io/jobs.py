"""Long jobs that can be interrupted and resumed."""

import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from centerarc.io.files import atomic_path, locked_folder

# The folder of a pack under way: whose it is, what is done, and how it becomes the result.

WORK = ".centerarc-pack"
_REQUEST, _DONE = "request.json", "done.json"
_DIGEST = re.compile(r"[0-9a-f]{64}")
# How long processes of a killed run may take to notice and end.
_LOCK_SECONDS = 5.0


class Job:
    """What is kept in `<out>/.centerarc-pack` until everything is there.

    Nothing else appears in `out` before the end, so half a pack never looks like one. The final
    files are made in `final`, then `publish` moves them out; a run that is killed while it moves
    is finished by the next.

    Args:
        out: Folder of the result.
        request: What was asked for, by the words a user knows it by. A job goes on only for the
            request that began it.
        own_file: Whether a name is that of a file which a pack writes.
        mark: A file that every pack has, so that nobody else's is taken for one.
        overwrite: Delete what an earlier pack left in `out`, unless it is this one, unfinished.

    Attributes:
        spool: Folder for images that were read.
        parts: Folder for parts of the result.
        final: Folder for the files of the result.

    Raises:
        ValueError: If `out` holds something else, a finished pack, or a pack of another request.
    """

    def __init__(
        self,
        out: Path,
        request: Mapping[str, Any],
        *,
        own_file: Callable[[str], bool],
        mark: str,
        overwrite: bool,
    ) -> None:
        self.out = out
        self.folder = out / WORK
        self.spool, self.parts, self.final = (
            self.folder / name for name in ("spool", "parts", "final")
        )
        present = sorted(path.name for path in out.iterdir() if path.name != WORK)
        self.request = json.loads(json.dumps(request))
        try:
            for name in (_DONE, _REQUEST):
                read_json(self.folder / name)
        except ValueError:
            if not overwrite:
                raise
            self._discard()  # nobody can tell any more what it was
        done = read_json(self.folder / _DONE)
        known = read_json(self.folder / _REQUEST) if done is None else done["request"]
        strange = [name for name in present if not own_file(name)]
        if present and mark not in present and done is None:
            strange = present
        if strange:
            raise ValueError(f"out is {str(out)!r}, which holds something else: {strange[0]!r}")
        if overwrite and known != self.request:
            self._discard()
            known = done = None
        if present and done is None:
            if not overwrite:
                raise ValueError(
                    f"out is {str(out)!r}, which holds a pack already: {present[0]!r}; "
                    "--overwrite replaces it"
                )
            for name in sorted(present, key=lambda name: name == mark):
                (out / name).unlink()
        if known is None:
            self._discard()
        elif known != self.request:
            raise ValueError(self._difference(known))
        for path in self.folder.rglob(".*"):  # files that a killed run was writing
            path.unlink()
        for folder in (self.spool, self.parts, self.final):
            folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / _REQUEST, self.request)

    def _discard(self) -> None:
        # What a kill leaves of the rest then belongs to no request.
        for name in (_DONE, _REQUEST):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _difference(self, known: Mapping[str, Any]) -> str:
        names = dict.fromkeys([*known, *self.request])
        name = next(name for name in names if known.get(name) != self.request.get(name))
        before, now = known.get(name), self.request.get(name)
        # A digest says nothing to anybody.
        change = "" if _DIGEST.fullmatch(str(before)) else f" ({before}, now {now})"
        return (
            f"out is {str(self.out)!r}, which holds an unfinished pack with another {name}"
            f"{change}; give the same command to go on, or --overwrite to start anew"
        )

    def done(self) -> dict[str, Any] | None:
        """Returns the facts given to `publish`, where all that is left is to move the files."""
        found = read_json(self.folder / _DONE)
        return None if found is None else found["facts"]

    def publish(self, facts: Mapping[str, Any]) -> None:
        """Moves the final files to `out` and deletes the rest.

        Args:
            facts: What the next run shall know should this one be killed here; JSON.
        """
        write_json(self.folder / _DONE, {"request": self.request, "facts": facts})
        for path in sorted(self.final.iterdir()):
            os.replace(path, self.out / path.name)
        for folder in (self.spool, self.parts, self.final):
            shutil.rmtree(folder)
        # As long as the last file is there, a later run knows that the pack is its own.
        for name in (_REQUEST, _DONE):
            (self.folder / name).unlink()
        self.folder.rmdir()


def read_json(path: Path) -> dict[str, Any] | None:
    """Returns what is in a file of ours, or None if there is none.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{str(path)!r} is damaged; --overwrite starts anew")
    return found


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a file of ours, complete or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes a folder and keeps other packs out of it within the block, where the system can.

    Raises:
        ValueError: If it is a file, or another process is packing into it.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out is {str(folder)!r}, which is a file; it must be a folder")
    taken = f"out is {str(folder)!r}, into which another process is packing"
    with locked_folder(folder, taken, patience=_LOCK_SECONDS):
        yield


# Ctrl-C that waits until it does no harm.


@contextmanager
def stopped_between_batches() -> Iterator[Callable[[], None]]:
    """Lets Ctrl-C wait for the function that it yields; a second one does not wait.

    In the middle of a batch it would cut a worker off while it hands its images over, which that
    reports at length.
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
