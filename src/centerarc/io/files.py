"""Files that are complete or absent, locked folders, reading at any place, and checksums."""

import errno
import hashlib
import json
import os
import re
import secrets
import shlex
import socket
import sys
import time
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# What the system says where a file cannot grow.
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([^}]*)\})", re.ASCII)


def expanded_path(path: str | os.PathLike[str]) -> str:
    """Returns a path of a setting with `~` and environment variables (`$DATA`, `${DATA}`) expanded.

    Raises:
        ValueError: If it is or becomes empty, a variable is not set, or there is no such home.

    Example:
        >>> expanded_path("faces"), expanded_path("~/faces") == os.path.expanduser("~/faces")
        ('faces', True)
    """
    text = os.fspath(path)
    if not text:
        raise ValueError("the path is empty; write . for the current folder")
    if "\0" in text:
        raise ValueError(f"the path must have no null character, got {text!r:.80}")
    for name in map("".join, _VARIABLE.findall(text)):
        if not os.environ.get(name):
            raise ValueError(f"the path is {text!r}, but the variable {name!r} is not set")
    found = os.path.expandvars(os.path.expanduser(text))
    if text.startswith("~") and found.startswith("~"):
        raise ValueError(f"the path is {text!r}, but there is no such home; ./~ is a file's name")
    return found


def require_folder(name: str, path: str | os.PathLike[str]) -> Path:
    """Returns the path of a folder that must be there.

    Args:
        name: What the user calls it.
        path: The folder.

    Raises:
        ValueError: If there is none, or something else; says which.

    Example:
        >>> require_folder("root", "nofaces")
        Traceback (most recent call last):
        ...
        ValueError: root must be a folder, got 'nofaces', which is not there
    """
    folder = Path(path)
    if not folder.is_dir():
        why = "is not a folder" if folder.exists() else "is not there"
        raise ValueError(f"{name} must be a folder, got {str(folder)!r}, which {why}")
    return folder


def check_place(name: str, path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Sees before long work that its result can be written, and is not there already.

    Args:
        name: What the user calls the result.
        path: The file that is to be written.
        overwrite: A file that is there may be replaced.

    Raises:
        ValueError: If something is there that may not be replaced, or its folder is a file.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     check_place("json", file.name, overwrite=True)
        >>> check_place("report", ".", overwrite=True)
        Traceback (most recent call last):
        ...
        ValueError: report is '.', a folder; it must name a file
    """
    place = Path(path)
    if place.is_dir():
        raise ValueError(f"{name} is {str(path)!r}, a folder; it must name a file")
    above = next((folder for folder in place.parents if folder.exists()), place.parent)
    if above.exists() and not above.is_dir():
        raise ValueError(f"{name} is {str(path)!r}, but {str(above)!r} is a file, not a folder")
    if place.exists() and not place.is_file():
        raise ValueError(f"{name} is {str(path)!r}, a device or pipe; it must name a file")
    if not overwrite and os.path.lexists(place):
        raise ValueError(f"{name} is {str(path)!r}, which exists already; --overwrite replaces it")


# Files that are complete or absent.

_writing = True


@contextmanager
def without_writing() -> Iterator[None]:
    """Within the block `atomic_path` raises an `OSError`, as on a file system for reading only."""
    global _writing
    before, _writing = _writing, False
    try:
        yield
    finally:
        _writing = before


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary path whose file becomes `path` when the block ends without an error.

    The file is written next to `path` (folders are made), flushed to the disk and renamed, so a
    reader sees the old file or the new one, never a part. After an error `path` is as it was and
    the temporary file is gone.

    Args:
        path: Where the file shall be.

    Yields:
        A path in the same folder with the same suffix, hidden by a leading dot, to write to.

    Raises:
        ValueError: If `path` is an existing folder, device or pipe.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_path(f"{folder}/note.txt") as temporary:
        ...         written = temporary.write_text("all of it")
        ...     Path(f"{folder}/note.txt").read_text()
        'all of it'
    """
    if not _writing:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fspath(path))
    # A link stays one: what it leads to is replaced.
    target = Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)
    if target.exists() and not target.is_file():
        kind = "a folder" if target.is_dir() else "a device or pipe"
        raise ValueError(f"path is {str(target)!r}, {kind}; it must name a file")
    target.parent.mkdir(parents=True, exist_ok=True)
    unique = f"{os.getpid()}-{secrets.token_hex(4)}"
    temporary = target.with_name(f".{target.stem}.{unique}{target.suffix}")
    try:
        with named_in_errors(target, instead_of=temporary):
            temporary.touch()
            permissions = temporary.stat().st_mode
            yield temporary
            # The usual ones, even where what wrote the file put another in its place.
            temporary.chmod(permissions)
            flush(temporary)
            os.replace(temporary, target)
            flush(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def named_in_errors(
    path: str | os.PathLike[str], *, instead_of: str | os.PathLike[str] | None = None
) -> Iterator[None]:
    """Names the file that is written where the system only says what is wrong, as a full disk.

    Args:
        path: The file, as the user knows it.
        instead_of: Its name while it is not complete.

    Raises:
        OSError: Of the same kind, with the name.
    """
    try:
        yield
    except OSError as error:
        renamed = instead_of is not None and error.filename == os.fspath(instead_of)
        if renamed or (error.filename is None and error.errno in FULL):
            raise type(error)(error.errno, error.strerror, os.fspath(path)) from error
        raise


def flush(path: Path) -> None:
    """Waits until a file, or the list of names in a folder, is on the disk."""
    if path.is_dir() and os.name != "posix":
        return
    # Windows only flushes what is open for writing; folders open for reading only.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


LOCK = ".lock"
# Locks that processes forked from this one must not hold: the system frees a lock when the last
# process that has its file open ends.
_own_locks: set[int] = set()


def _drop_locks() -> None:
    while _own_locks:
        os.close(_own_locks.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_locks)


@contextmanager
def locked_folder(
    folder: Path, taken: str, *, patience: float, name: str = LOCK, inherited: bool = True
) -> Iterator[Callable[[], bool]]:
    """Makes a folder and keeps other processes out of it within the block, where the system can.

    The lock is on a file in the folder, which says who holds it. The system frees it when that
    process ends, however it does. Where the file system has no locks, what the file says counts.
    Who holds it may delete the folder as its last act; whoever waits then makes a new one.

    Args:
        folder: The folder.
        taken: The error's words where another process is in it.
        patience: Seconds to wait for one that is about to end.
        name: The file; others have locks of their own.
        inherited: Whether processes that are forked within the block hold the folder, too.

    Yields:
        A function that says whether the path still leads to the folder that was locked, and no
        other process has locked it since.

    Raises:
        ValueError: If another process holds it; says which, and since when.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.is_dir
        return
    path, end = folder / name, time.monotonic() + patience
    owner, held, place, descriptor = os.getpid(), False, -1, _opened_lock(path, end)
    try:
        while not held:
            remedy = _try_lock(descriptor, path, fcntl.LOCK_EX)
            held = remedy is None
            # Whoever held it may have deleted it, and a third made and locked a new one.
            if held and not is_open_at(descriptor, path):
                os.close(descriptor)
                held, descriptor = False, -1
                descriptor = _opened_lock(path, end)
            elif not held:
                if time.monotonic() > end:
                    raise ValueError(f"{taken}{_words(_holder(path))}{remedy}")
                time.sleep(0.05)
        if not inherited:
            _own_locks.add(descriptor)
        with suppress(OSError):  # a full disk is no reason to refuse
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_this_process()).encode(), 0)
        place = os.open(folder, os.O_RDONLY)  # as long as it is open, no other folder is like it
        lock = descriptor
        yield lambda: is_open_at(place, folder) and (not path.exists() or is_open_at(lock, path))
    finally:
        if os.getpid() == owner:  # and not in a forked process
            with suppress(OSError):
                if held and is_open_at(descriptor, path):
                    path.unlink()
            _own_locks.discard(descriptor)
            for opened in (descriptor, place):
                if opened >= 0:
                    os.close(opened)


def check_unlocked(path: Path, taken: str, *, patience: float) -> None:
    """Refuses a lock that another process holds, as `locked_folder` does, and writes nothing.

    Args:
        path: The lock's file, which need not be there.
        taken: The error's words.
        patience: Seconds to wait for one that is about to end.

    Raises:
        ValueError: If another process holds it; says which, and since when.
        OSError: If it cannot be opened for writing, as `locked_folder` must.
    """
    end = time.monotonic() + patience
    with suppress(ImportError, FileNotFoundError), open(path, "r+b") as file:
        import fcntl

        while (remedy := _try_lock(file.fileno(), path, fcntl.LOCK_SH)) is not None:
            if time.monotonic() > end:
                raise ValueError(f"{taken}{_words(_holder(path))}{remedy}")
            time.sleep(0.05)


def _try_lock(descriptor: int, path: Path, how: int) -> str | None:
    """Locks a file, or returns what to do about the process that holds it."""
    import fcntl

    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return "; end it first, or give another folder"
        if not _has_ended(_holder(path)):  # no locks here
            return f"; if that process has ended, delete {str(path)!r}"
    return None


def _opened_lock(path: Path, end: float) -> int:
    """Makes a file in a folder that others may be deleting, and opens it."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except (FileNotFoundError, FileExistsError):
            if time.monotonic() > end or (path.parent.exists() and not path.parent.is_dir()):
                raise


def is_open_at(descriptor: int, path: Path) -> bool:
    """Whether a path still leads to what was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _this_process() -> dict[str, Any]:
    return {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": shlex.join(sys.orig_argv),
        "life": _life(os.getpid()),
    }


def _life(process: int) -> str:
    """What tells a process from others that had its number, before or after a restart."""
    with suppress(OSError, IndexError):
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {state[19]}" if state[0] != "Z" else "ended"
    return ""


def _holder(path: Path) -> dict[str, Any]:
    """What a lock's file says; empty where it says nothing."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if content.keys() == _this_process().keys() else {}
    except (OSError, ValueError, AttributeError):
        return {}


def _has_ended(holder: Mapping[str, Any]) -> bool:
    """Whether there is no such process any more; of another host no one can know."""
    if not holder or holder["host"] != socket.gethostname():
        return not holder
    if life := _life(holder["process"]):
        return bool(life != holder["life"])
    try:
        os.kill(holder["process"], 0)
    except OSError as error:  # of another user's process, if not that there is none
        return isinstance(error, ProcessLookupError)
    return False


def _words(holder: Mapping[str, Any]) -> str:
    if not holder:
        return ""
    return (
        f" (process {holder['process']} on {holder['host']}, since {holder['since']}: "
        f"{holder['command']:.200})"
    )


# Opening a pipe that took the place of a file would wait for its writer forever.
_READING = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
# Larger than nearly every picture of a face, and small enough to ask for every time.
_AT_ONCE = 1 << 16


def read_file(path: str | os.PathLike[str], *, first: int | None = None) -> bytes:
    """Reads a small file whole: `open` without its buffers, in half its time.

    Args:
        path: The file.
        first: Read no more than so many bytes; None reads all.

    Returns:
        What is in it.

    Raises:
        OSError: If it cannot be read; the message gives the reason alone.
    """
    try:
        descriptor = os.open(path, _READING)
        try:
            data = os.read(descriptor, first or _AT_ONCE)
            if first is not None or len(data) < _AT_ONCE:
                return data
            rest = iter(lambda: os.read(descriptor, 1 << 20), b"")
            return b"".join([data, *rest])
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OSError(error.strerror or str(error)) from error


def asks_for_room(error: BaseException) -> str:
    """Returns the question whether the disk is full, unless the system gives another reason."""
    number = getattr(error, "errno", None)
    return "; is the disk full?" if number in (None, *FULL) else ""


def lacks_descriptors(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is that a process or the system has no file to open."""
    while error is not None and getattr(error, "errno", None) not in (errno.EMFILE, errno.ENFILE):
        error = error.__cause__
    return error is not None


# Files read at any place.


class RandomAccessFile:
    """A file that threads and forked processes read at any place at the same time.

    Reading moves no position. A pickled one opens the file again; it closes with its last user.

    Args:
        path: The file.

    Attributes:
        path: The file.
        size: Its length in bytes when it was opened.

    Raises:
        OSError: If it cannot be opened, or has another size when it is unpickled.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._descriptor = os.open(path, _READING)
        self._closed = weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size

    def __getstate__(self) -> tuple[Path, int]:
        return self.path, self.size

    def __setstate__(self, state: tuple[Path, int]) -> None:
        path, size = state
        RandomAccessFile.__init__(self, path)
        if self.size != size:
            raise OSError(f"{str(path)!r} had {size} bytes and now has {self.size}")

    def bytes_at(self, offset: int, count: int) -> bytes:
        """Returns `count` bytes from byte `offset` on; fewer where the file ends before."""
        if not hasattr(os, "pread"):  # Windows
            with open(self.path, "rb") as file:
                file.seek(offset)
                return file.read(count)
        data = os.pread(self._descriptor, count, offset)
        while len(data) < count:  # network shares and interrupted calls give less at once
            if not (more := os.pread(self._descriptor, count - len(data), offset + len(data))):
                break
            data += more
        return data

    def prefetch(self, offset: int, count: int) -> None:
        """Tells the system that these bytes are wanted soon, so that it fetches many at once."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, offset, count, os.POSIX_FADV_WILLNEED)


def read_arrays(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the arrays of a .npz file; none where it is missing or damaged. Unpickles nothing."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception:  # a damaged zip file can fail in any way, and a .npy file is not a container
        return {}


# Checksums of files.

_CHUNK = 1 << 22


def verify_checksums(
    folder: str | os.PathLike[str],
    wanted: Mapping[str, tuple[int, str]],
    progress: Callable[[int, int], Any] | None = None,
) -> list[str]:
    """Reads files and compares them with their sizes and checksums.

    Args:
        folder: Where they are.
        wanted: Bytes and checksum of each file by its name: what `seal` gives, or a SHA-256 in
            hexadecimal digits.
        progress: Called with the bytes read so far and the bytes of all files.

    Returns:
        One line for each problem; empty if every file is as it was.
    """
    total, before, problems = sum(size for size, _ in wanted.values()), 0, []

    def advance(done: int) -> None:
        if progress is not None:
            progress(min(before + done, total), total)

    for name, (size, checksum) in wanted.items():
        path = Path(folder, name)
        quick = checksum.startswith(_CRC32)
        checksum_of, title = (_crc32, "CRC-32") if quick else (files_sha256, "SHA-256")
        try:
            if (there := path.stat().st_size) != size:
                problems.append(f"{name}: has {there} bytes and should have {size}")
            elif checksum_of(path, advance=advance) != checksum:
                problems.append(f"{name}: its content changed ({title})")
        except FileNotFoundError:
            problems.append(f"{name}: is missing")
        except OSError as error:
            problems.append(f"{name}: cannot be read: {error.strerror}")
        before += size
        advance(0)
    return problems


def seal(*paths: Path) -> dict[str, tuple[int, str]]:
    """Flushes files to the disk and takes their checksums meanwhile.

    Returns:
        Bytes and CRC-32 of each by its name, as `verify_checksums` takes them.

    Raises:
        OSError: If one cannot be read, or not be written to the disk.
    """
    with ThreadPoolExecutor(1) as pool:
        flushed = pool.map(flush, paths)
        sums = {path.name: (path.stat().st_size, _crc32(path)) for path in paths}
        list(flushed)  # raises what went wrong
    return sums


# CRC-32 is for accidents; only an attack needs SHA-256. Training waits for a save to end, and
# SHA-256 takes several times as long.
_CRC32 = "crc32:"


def _crc32(path: Path, *, advance: Callable[[int], Any] | None = None) -> str:
    """Returns the CRC-32 of a file in hexadecimal digits, after the name of the checksum."""
    checksum, done = 0, 0
    for data in _chunks(path):
        checksum, done = zlib.crc32(data, checksum), done + len(data)
        if advance is not None:
            advance(done)
    return f"{_CRC32}{checksum:08x}"


def _chunks(path: str | os.PathLike[str]) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while data := file.read(_CHUNK):
            yield data


def files_sha256(
    *paths: str | os.PathLike[str], advance: Callable[[int], Any] | None = None
) -> str:
    """Returns the SHA-256 of files one after the other, in hexadecimal digits.

    Args:
        *paths: The files.
        advance: Called with the bytes read so far.

    Raises:
        OSError: If one cannot be read.
    """
    digest, done = hashlib.sha256(), 0
    for path in paths:
        for data in _chunks(path):
            digest.update(data)
            done += len(data)
            if advance is not None:
                advance(done)
    return digest.hexdigest()
