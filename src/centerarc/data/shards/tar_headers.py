"""The members of a tar file by `tarfile`, guarded against headers that no tar would write."""

import os
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from centerarc.data.shards.index import BLOCK

# Headers that `tarfile` reads into memory whole: long names, long links and PAX records.
_READ_WHOLE = frozenset(
    {
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
    }
)
_TYPE = 156  # byte of a header that tells its type
_MOST_HEADER = 1 << 20

# `tarfile` raises all of these on damaged headers.
_DAMAGE = (
    tarfile.TarError,
    EOFError,
    IndexError,
    MemoryError,
    OverflowError,
    RecursionError,
    ValueError,
)


def tar_members(shard: str | os.PathLike[str], file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yields the members of an uncompressed tar file, none of negative size.

    Args:
        shard: What a message calls the file.
        file: The file; what takes the members may move it.

    Raises:
        ValueError: If a header is damaged, tells a negative size, or a name or PAX record of more
            than 1 MiB; the message names the shard and the byte.
    """
    name, at = os.fspath(shard), 0
    tar: tarfile.TarFile | None = None
    while True:
        _check_headers(name, file, at)
        try:
            if tar is None:
                file.seek(0)
                tar = tarfile.open(  # noqa: SIM115  # closing it would do nothing: the file is given
                    fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape"
                )
            info = tar.next()
        except _DAMAGE as error:
            reason = str(error) or type(error).__name__
            raise ValueError(
                f"{name!r} is cut off or no tar file: {reason} after byte {at}"
            ) from error
        if info is None:
            return
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
        if info.size < 0:  # going on there could come back here for ever
            raise ValueError(_wrong_size(name, repr(info.name), info.offset, info.size))
        yield info
        at = tar.offset


def _check_headers(shard: str, file: BinaryIO, at: int) -> None:
    """Refuses headers of absurd size at a byte, before `tarfile` reads them into memory."""
    while True:
        file.seek(at)
        header = file.read(BLOCK)
        if header[_TYPE : _TYPE + 1] not in _READ_WHOLE:
            return
        try:
            size = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").size
        except _DAMAGE:
            return  # `tarfile` tells what is wrong
        if not 0 <= size <= _MOST_HEADER:
            raise ValueError(_wrong_size(shard, "the long name or PAX record", at, size))
        at += BLOCK + -(-size // BLOCK) * BLOCK


def _wrong_size(shard: str, what: str, at: int, size: int) -> str:
    allowed = "at least 0" if size < 0 else f"at most {_MOST_HEADER}"
    return f"{shard!r} is damaged: {what} at byte {at} has {size} bytes; it must be {allowed}"
