"""What the first bytes of an image file say: format, size and colour."""

import os
from dataclasses import dataclass
from io import BytesIO
from typing import IO

import PIL.Image

from centerarc.data import source as sources
from centerarc.data.folder import FolderSource
from centerarc.data.processes import Tick
from centerarc.data.source import FaceSource

_COLOURS = {
    "1": "grey",
    "L": "grey",
    "LA": "grey",
    "I;16": "grey, 16 bits",
    "I;16B": "grey, 16 bits",
    "I": "grey, 16 bits",
    "P": "palette",
    "CMYK": "CMYK",
    "RGBA": "colour with transparency",
}


@dataclass(frozen=True)
class Header:
    """What a file says of its image before any pixel is decoded.

    Args:
        format: Such as "JPEG"; "pixels" for a source that has no files.
        width: In pixels, as stored.
        height: In pixels, as stored.
        colour: "colour", "grey", "CMYK", ...
        size: Bytes of the file, or of the pixels.
        error: Why it cannot be read; the rest is empty then.
    """

    format: str = ""
    width: int = 0
    height: int = 0
    colour: str = ""
    size: int = 0
    error: str = ""


def read_headers(source: FaceSource, numbers: range, tick: Tick) -> list[Header]:
    """Reads the headers of some images of a source; what cannot be read says why."""
    headers = []
    for number in numbers:
        tick()
        headers.append(_read_header(source, number))
    return headers


def _read_header(source: FaceSource, number: int) -> Header:
    try:
        # Large photographs in a folder need not be read whole.
        if isinstance(source, FolderSource):
            with (source.root / source.place(number)).open("rb") as file:
                return _parse(file, os.fstat(file.fileno()).st_size)
        data = sources.encoded(source, number)
        if data is None:
            height, width, _ = source.image(number).shape
            return Header("pixels", width, height, "colour", 3 * height * width)
        return _parse(BytesIO(data), len(data))
    except Exception as error:  # decoders of damaged data raise almost anything
        return Header(error=" ".join(str(error).split()) or type(error).__name__)


def _parse(file: IO[bytes], size: int) -> Header:
    if size == 0:
        raise ValueError("the file is empty")
    with PIL.Image.open(file) as picture:
        colour = _COLOURS.get(picture.mode, "colour")
        return Header(picture.format or "", *picture.size, colour, size)
