"""Large text files in pieces of whole lines."""

from collections.abc import Iterator
from pathlib import Path

_PIECE = 1 << 22


def line_blocks(path: Path) -> Iterator[bytes]:
    """Reads a text file without holding it.

    Args:
        path: The file.

    Yields:
        Some megabytes of whole lines at a time; the last line gets a newline if it has none.

    Raises:
        OSError: If the file cannot be read.
    """
    with open(path, "rb") as file:
        rest = b""
        while piece := file.read(_PIECE):
            rest += piece
            end = rest.rfind(b"\n") + 1
            if end:
                yield rest[:end]
                rest = rest[end:]
        if rest:
            yield rest + b"\n"
