"""Checksums of files in the format of `sha256sum`, written beside them."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from centerarc.data.files import atomic_path

_CHUNK = 1 << 22
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")


def write_checksums(path: str | os.PathLike[str], names: Iterable[str]) -> None:
    """Writes the SHA-256 of files, as `sha256sum -c` reads them.

    Args:
        path: The file to write, such as `train.sha256`.
        names: Names of files in the same folder, without line breaks or backslashes.

    Raises:
        OSError: If a file cannot be read or the result not be written.
    """
    target = Path(path)
    lines = [f"{_sha256(target.with_name(name))}  {name}\n" for name in names]
    with atomic_path(target) as temporary:
        temporary.write_bytes("".join(lines).encode("utf-8", "surrogateescape"))


def verify_checksums(
    path: str | os.PathLike[str], progress: Callable[[int, int], Any] | None = None
) -> list[str]:
    """Reads the files that a list of checksums names and compares them with it.

    Args:
        path: The list, as `write_checksums` or `sha256sum` writes it.
        progress: Called with the bytes read so far and the bytes of all files.

    Returns:
        One line for each problem; empty if every file is as it was.

    Raises:
        ValueError: If the list is none.
        OSError: If the list cannot be read.
    """
    source = Path(path)
    wanted: dict[str, str] = {}
    text = source.read_bytes().decode("utf-8", "surrogateescape")
    for number, line in enumerate(text.splitlines(), 1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(
                f"{str(source)!r} is no list of SHA-256 checksums: line {number} is {line[:80]!r}"
            )
        wanted[match[2]] = match[1].lower()
    files = {name: source.with_name(name) for name in wanted if Path(name).name == name}
    if strange := [name for name in wanted if name not in files]:
        raise ValueError(f"{str(source)!r} names {strange[0]!r}, which is not in its folder")
    total = sum(path.stat().st_size for path in files.values() if path.is_file())
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    problems = []
    for name, file in files.items():
        try:
            if _sha256(file, advance) != wanted[name]:
                problems.append(f"{name}: its content changed (SHA-256)")
        except FileNotFoundError:
            problems.append(f"{name}: is missing")
        except OSError as error:
            problems.append(f"{name}: cannot be read: {error.strerror}")
    return problems


def _sha256(path: Path, advance: Callable[[int], None] | None = None) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while data := file.read(_CHUNK):
            digest.update(data)
            if advance is not None:
                advance(len(data))
    return digest.hexdigest()
