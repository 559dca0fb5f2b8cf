"""The file that a pack holds of one image: the original's bytes wherever that is possible."""

from dataclasses import dataclass
from io import BytesIO

import PIL.Image
import simplejpeg

from centerarc.data import source as sources
from centerarc.data.decode import decode_image, resized
from centerarc.data.source import FaceSource, Image

DEFAULT_QUALITY = 95
_JPEG = b"\xff\xd8\xff"
# What other readers of packed faces know too.
_COMMON = (b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*", b"GIF8")


# Faces are far smaller; 4096 x 4096 pixels are 50 MB.
_LARGEST = 4096


@dataclass(frozen=True)
class Encoding:
    """How images are written; what needs no change keeps its bytes.

    A JPEG, PNG, WebP, BMP, TIFF or GIF of the wanted size stays as it is. What is resized becomes a
    JPEG. Another format, and pixels that come without a file, become a PNG, so nothing is lost
    unasked. With `quality` given, whatever is no JPEG becomes one.

    Args:
        size: Side in pixels of every image; None leaves each as it is.
        quality: Of new JPEGs, 1 to 100; None is 95, for resized images only. Colour keeps its
            full resolution (4:4:4).

    Raises:
        ValueError: If a number is out of range.
    """

    size: int | None = None
    quality: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None and not 1 <= self.size <= _LARGEST:
            raise ValueError(f"size is {self.size}; it must be in [1, {_LARGEST}] or None")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"quality is {self.quality}; it must be in [1, 100] or None")


@dataclass(frozen=True)
class PackedImage:
    """The file of one image.

    Args:
        data: The whole file.
        width: In pixels, upright.
        height: In pixels, upright.
        anew: Whether it was encoded anew.
    """

    data: bytes
    width: int
    height: int
    anew: bool


def packed_image(source: FaceSource, index: int, encoding: Encoding) -> PackedImage:
    """Reads and decodes an image once, and encodes it anew only where it must.

    Args:
        source: Where it comes from.
        index: Its number.
        encoding: What is wanted.

    Returns:
        The file, whose pixels were seen.

    Raises:
        ValueError: If the image is damaged; the message says why, without the place.
        OSError: If it cannot be read: not the image's fault, so nobody should leave it out.
    """
    try:
        data = sources.encoded(source, index)
    except ValueError as error:
        if isinstance(error.__cause__, OSError):
            place = sources.place(source, index)
            raise OSError(f"cannot read {place!r}: {error}") from error
        raise
    pixels = source.image(index) if data is None else decode_image(data)
    height, width = pixels.shape[:2]
    size = encoding.size
    if size is not None and (height, width) != (size, size):
        pixels = resized(pixels, size, size)
        jpeg = _jpeg(pixels, encoding.quality or DEFAULT_QUALITY)
        return PackedImage(jpeg, size, size, anew=True)
    if data is not None and data.startswith(_JPEG):
        return PackedImage(data, width, height, anew=False)
    if encoding.quality is not None:
        return PackedImage(_jpeg(pixels, encoding.quality), width, height, anew=True)
    if data is None or not _is_common(data):
        return PackedImage(_png(pixels), width, height, anew=True)
    return PackedImage(data, width, height, anew=False)


def _is_common(data: bytes) -> bool:
    return data.startswith(_COMMON) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def _jpeg(pixels: Image, quality: int) -> bytes:
    data: bytes = simplejpeg.encode_jpeg(
        pixels, quality=quality, colorspace="RGB", colorsubsampling="444", fastdct=False
    )
    return data


def _png(pixels: Image) -> bytes:
    file = BytesIO()
    PIL.Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()
