"""Files that are complete or absent."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
        ValueError: If `path` is an existing folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_path(f"{folder}/note.txt") as temporary:
        ...         written = temporary.write_text("all of it")
        ...     Path(f"{folder}/note.txt").read_text()
        'all of it'
    """
    target = Path(path)
    if target.is_dir():
        raise ValueError(f"path is {str(target)!r}, a folder; it must name a file")
    target.parent.mkdir(parents=True, exist_ok=True)
    unique = f"{os.getpid()}-{secrets.token_hex(4)}"
    temporary = target.with_name(f".{target.stem}.{unique}{target.suffix}")
    try:
        temporary.touch()  # so that it gets the usual permissions, whoever writes it
        yield temporary
        _flush(temporary)
        os.replace(temporary, target)
        if os.name == "posix":
            _flush(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _flush(path: Path) -> None:
    # Windows only flushes what is open for writing; folders open for reading only.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Reads a small file whole: `open` without its buffers, half the time of it.

    Args:
        path: The file.

    Returns:
        What is in it.

    Raises:
        OSError: If it cannot be read; the message gives the reason alone.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            size = os.fstat(descriptor).st_size
            data = os.read(descriptor, size)
            while len(data) < size:  # one call reads at most 2 GiB, and less when interrupted
                if not (more := os.read(descriptor, size - len(data))):
                    break
                data += more
            return data
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OSError(error.strerror or str(error)) from error
