"""Everything that one image alone tells: whether it decodes, what is odd, its fingerprints."""

from dataclasses import dataclass, field
from hashlib import blake2b
from io import BytesIO
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
import PIL.Image

from centerarc.data import source as sources
from centerarc.data.decode import decode_image
from centerarc.data.inspection.perceptual import SIDE
from centerarc.data.processes import Tick
from centerarc.data.source import FaceSource, Image

# JPEG rounds: a picture of one colour, or of no colour, may be a few levels off it.
_ROUNDING = 3
_EXTENSIONS = {
    "JPEG": {"jpg", "jpeg", "jpe", "jfif"},
    "MPO": {"jpg", "jpeg", "jpe", "mpo"},
    "PNG": {"png", "apng"},
    "WEBP": {"webp"},
    "BMP": {"bmp", "dib"},
    "DIB": {"bmp", "dib"},
    "TIFF": {"tif", "tiff"},
    "GIF": {"gif"},
}
_ANY = frozenset().union(*_EXTENSIONS.values())


@dataclass
class Examined:
    """What some images of a source showed; row r belongs to the r-th of them.

    Attributes:
        files: `(n, 2)` uint64, hash of each file; 0 where there is none.
        pixels: `(n, 2)` uint64, hash of each decoded image.
        thumbnails: `(n, 16, 16)` uint8 luma.
        readable: `(n,)` bool.
        blank: `(n,)` bool.
        found: (row, kind of problem, detail).
    """

    files: npt.NDArray[np.uint64]
    pixels: npt.NDArray[np.uint64]
    thumbnails: npt.NDArray[np.uint8]
    readable: npt.NDArray[np.bool_]
    blank: npt.NDArray[np.bool_]
    found: list[tuple[int, str, str]] = field(default_factory=list)

    @classmethod
    def empty(cls, size: int) -> "Examined":
        """Returns room for `size` images."""
        return cls(
            files=np.zeros((size, 2), dtype=np.uint64),
            pixels=np.zeros((size, 2), dtype=np.uint64),
            thumbnails=np.zeros((size, SIDE, SIDE), dtype=np.uint8),
            readable=np.zeros(size, dtype=bool),
            blank=np.zeros(size, dtype=bool),
        )

    def put(self, start: int, part: "Examined") -> None:
        """Puts what a part of the images showed where these images are."""
        rows = slice(start, start + len(part.readable))
        for name in ("files", "pixels", "thumbnails", "readable", "blank"):
            getattr(self, name)[rows] = getattr(part, name)
        self.found += [(start + row, kind, detail) for row, kind, detail in part.found]


def examine(source: FaceSource, numbers: range, tick: Tick, *, min_side: int) -> Examined:
    """Decodes some images of a source and notes what is wrong or odd with each.

    Args:
        source: The source.
        numbers: Numbers of the images.
        tick: Called once for each image.
        min_side: Images whose shorter side has fewer pixels are tiny.

    Returns:
        What was found, by the row in `numbers`.
    """
    result = Examined.empty(len(numbers))
    for row, number in enumerate(numbers):
        tick()
        data = None
        try:
            data = sources.encoded(source, number)
            if data is not None:
                result.files[row] = _hash(data)
                result.found += [(row, *odd) for odd in _file_oddities(data, source, number)]
            image = source.image(number) if data is None else decode_image(data)
        except ValueError as error:
            kind = "unreadable" if data is None else damage(data)
            reason = " ".join(str(error).split())
            result.found.append((row, kind, reason))
            continue
        result.readable[row] = True
        shape = np.array(image.shape, dtype="<i8").tobytes()
        result.pixels[row] = _hash(image.tobytes(), shape)
        result.thumbnails[row] = thumbnail(image)
        odd = list(_pixel_oddities(image, min_side))
        result.blank[row] = any(kind == "blank" for kind, _ in odd)
        result.found += [(row, kind, detail) for kind, detail in odd]
    return result


def damage(data: bytes) -> str:
    """Returns the kind of problem of a file that does not decode."""
    if not data:
        return "empty"
    if data[:3] == b"\xff\xd8\xff":
        # Within its pixels a JPEG has no such bytes; a preview in front of them ends before them.
        complete = data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        complete = b"IEND" in data
    elif data[:4] == b"RIFF":
        complete = len(data) >= 8 + int.from_bytes(data[4:8], "little")
    else:
        return "unreadable"
    return "unreadable" if complete else "truncated"


def thumbnail(image: Image) -> npt.NDArray[np.uint8]:
    """Returns `(16, 16)` uint8, the mean luma of each part of an image."""
    luma = PIL.Image.fromarray(image).convert("L")
    return np.asarray(luma.resize((SIDE, SIDE), PIL.Image.Resampling.BOX))


def _hash(*parts: bytes) -> npt.NDArray[np.uint64]:
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return np.frombuffer(digest.digest(), dtype=np.uint64)


def _file_oddities(data: bytes, source: FaceSource, number: int) -> list[tuple[str, str]]:
    """What the header of a file that may be trained on shows."""
    suffix = PurePosixPath(sources.place(source, number)).suffix.lower().removeprefix(".")
    if data[:3] == b"\xff\xd8\xff" and suffix in _EXTENSIONS["JPEG"]:
        return []
    try:
        with PIL.Image.open(BytesIO(data)) as picture:
            format_, frames = picture.format or "", getattr(picture, "n_frames", 1)
    except Exception:  # decoding says what is wrong with it
        return []
    odd = []
    if suffix in _ANY and suffix not in _EXTENSIONS.get(format_, {suffix}):
        odd.append(("wrong extension", f"{format_} named .{suffix}"))
    # The second picture of an MPO is a camera's preview.
    if frames > 1 and format_ != "MPO":
        odd.append(("animated", f"{frames} pictures in one {format_}"))
    return odd


def _pixel_oddities(image: Image, min_side: int) -> list[tuple[str, str]]:
    odd = []
    height, width = image.shape[:2]
    if min(height, width) < min_side:
        odd.append(("tiny", f"{width} x {height} pixels"))
    if _is_blank(image):
        middle = ", ".join(str(int(value)) for value in image[height // 2, width // 2])
        odd.append(("blank", f"every pixel is RGB ({middle})"))
    elif _is_grey(image):
        odd.append(("grey", ""))
    return odd


def _is_blank(image: Image) -> bool:
    # A few pixels settle it for nearly every image.
    for part in (image[::16, ::16], image):
        if (part.max(axis=(0, 1)) - part.min(axis=(0, 1)) > _ROUNDING).any():
            return False
    return True


def _is_grey(image: Image) -> bool:
    # Most images have colour in their first rows, which settles it.
    for part in (image[:4], image):
        red, green, blue = (part[..., channel].astype(np.int16) for channel in range(3))
        if max(np.abs(red - green).max(), np.abs(green - blue).max()) > _ROUNDING:
            return False
    return True
