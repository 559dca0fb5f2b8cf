"""Files that are complete or absent, locked folders, reading at any place, and checksums."""

import errno
import hashlib
import os
import re
import secrets
import time
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
    # A link stays one: what it leads to is replaced.
    target = Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)
    if target.exists() and not target.is_file():
        kind = "a folder" if target.is_dir() else "a device or pipe"
        raise ValueError(f"path is {str(target)!r}, {kind}; it must name a file")
    target.parent.mkdir(parents=True, exist_ok=True)
    unique = f"{os.getpid()}-{secrets.token_hex(4)}"
    temporary = target.with_name(f".{target.stem}.{unique}{target.suffix}")
    try:
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
def full_disk_explained(out: str | os.PathLike[str]) -> Iterator[None]:
    """Says of a full disk what to do, where the same command resumes with what is there.

    Args:
        out: What is being written.

    Raises:
        OSError: In place of the system's, which names the file that did not fit.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            raise
        raise OSError(
            f"no space is left for {os.fspath(out)!r}; make room and give the same command to "
            "resume"
        ) from error


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


@contextmanager
def locked_folder(folder: Path, taken: str, *, patience: float) -> Iterator[None]:
    """Makes a folder and keeps other processes out of it within the block, where the system can.

    The lock is on the folder itself. Who holds it may delete the folder as its last act; whoever
    waits then makes a new one. Before that, only what is in it may be deleted.

    Args:
        folder: The folder.
        taken: The error's words where another process is in it.
        patience: Seconds to wait for one that is about to end.

    Raises:
        ValueError: If another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        folder.mkdir(parents=True, exist_ok=True)
        yield
        return
    end = time.monotonic() + patience
    descriptor = _opened_folder(folder, end)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    break  # a file system without locks
                if time.monotonic() > end:
                    raise ValueError(taken) from None
                time.sleep(0.05)
                continue
            # Whoever held it may have deleted it, and a third made and locked a new one.
            if _is_at(descriptor, folder):
                break
            os.close(descriptor)
            descriptor = -1
            descriptor = _opened_folder(folder, end)
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _opened_folder(folder: Path, end: float) -> int:
    """Makes a folder that others may be deleting, and opens it."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return os.open(folder, os.O_RDONLY)
        except (FileNotFoundError, FileExistsError):
            if time.monotonic() > end or (folder.exists() and not folder.is_dir()):
                raise


def _is_at(descriptor: int, folder: Path) -> bool:
    """Whether a path still leads to the folder that was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(folder))
    except FileNotFoundError:
        return False


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
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            data = os.read(descriptor, first or _AT_ONCE)
            if first is not None or len(data) < _AT_ONCE:
                return data
            parts = [data]
            while part := os.read(descriptor, 1 << 20):
                parts.append(part)
            return b"".join(parts)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OSError(error.strerror or str(error)) from error


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
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
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


def write_checksums(path: str | os.PathLike[str], names: Iterable[str]) -> None:
    """Writes the SHA-256 of files, as `sha256sum -c` reads them.

    Args:
        path: The file to write, such as `train.sha256`.
        names: Names of files in the same folder, without line breaks or backslashes.

    Raises:
        OSError: If a file cannot be read or the result not be written.
    """
    target = Path(path)
    lines = [f"{files_sha256(target.with_name(name))}  {name}\n" for name in names]
    with atomic_path(target) as temporary:
        temporary.write_bytes("".join(lines).encode("utf-8", "surrogateescape"))


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
