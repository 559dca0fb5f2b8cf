"""Small image files that can be told apart, and tar files by hand."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import PIL.Image


def picture(value: int, kind: str = "png", size: int = 8) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (size, size), (value, value, value)).save(file, kind)
    return file.getvalue()


def put(path: Path, value: int = 0, size: int = 8) -> Path:
    """Writes a picture of one gray, whatever its name says, and the folders that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(value, "jpeg" if path.suffix == ".jpg" else "png", size))
    return path


def tar(
    path: Path, members: Iterable[tuple[str, bytes]], tar_format: int = tarfile.GNU_FORMAT
) -> Path:
    with tarfile.open(path, "w", format=tar_format) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path
