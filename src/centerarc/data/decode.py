"""From the bytes of an image file to pixels."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import IO

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageOps
import simplejpeg

from centerarc.io.files import read_file

# (H, W, 3) uint8 RGB.
Image = npt.NDArray[np.uint8]

# A face picture of more pixels is a mistake or an attack; 64 M pixels are 192 MB when decoded.
MAX_PIXELS = 64_000_000
_ORIENTATION = 0x0112
_EXIF = b"Exif\0\0"
_JPEG = b"\xff\xd8\xff"
# Start of frame: baseline, extended, progressive; the other kinds are rare and left to decoders.
_FRAMES = (0xC0, 0xC1, 0xC2)
_READ_FRAMES = (*_FRAMES, 0xC9, 0xCA)  # the latter with arithmetic coding
_TABLES = (0xC4, 0xC8, 0xCC)  # no frames, between their numbers
_MOST_BLOCKS = 10  # of a scan, of 8 x 8 pixels
_FIRST_SEGMENT, _LAST_FRAME, _APP1 = 0xC0, 0xCF, 0xE1
# Markers without a length, and the start of the scan, before which all that matters must have come.
_NO_SEGMENT = range(0xD0, 0xDB)
_SCAN = b"\xff\xda"
# All that comes before the scan of the last plain JPEG, and its size: faces that one program wrote
# have the same, and comparing takes a tenth of the time of reading it.
_last_plain = (_SCAN, (0, 0))
# Enough for the header of a JPEG without EXIF data.
_HEADER = 8192
# Within so many bytes a JPEG says what kind it is.
_MOST_HEADER = 1 << 20
# What the fast decoder says of damage, which the slow one passes over. Whatever else it refuses is
# rare and not wrong: a sampling of the colors, a revision of JFIF.
_DAMAGE = ("Corrupt", "Premature", "Inconsistent")
# Modes of 32-bit pixels, of which no file says what is black and what is white.
_NO_RANGE = {"I": "32-bit whole-number", "F": "floating-point"}
# What is often found among images, by its first bytes.
_OTHER_FORMATS = {
    b"PK\x03\x04": "a ZIP archive",
    b"%PDF-": "a PDF document",
    b"\x1f\x8b": "a gzip archive",
}
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_BRANDS = {b"avif": "an AVIF picture", b"avis": "an AVIF picture"} | dict.fromkeys(
    _HEIC, "a HEIC picture"
)


def new_pixels(*shape: int) -> npt.NDArray[np.uint8]:
    """Makes an uninitialized uint8 array, at an address that is odd.

    To other addresses libjpeg-turbo writes past the processor's cache, which takes a quarter of the
    time of decoding 112 x 112 pixels, whose rows end within a cache line.
    """
    return np.empty(math.prod(shape) + 1, dtype=np.uint8)[1:].reshape(shape)


class WrongSizeError(ValueError):
    """An image has another size than those before it, and resizing was not asked for."""


def copy_into(image: Image, out: Image) -> None:
    """Copies an image; raises `WrongSizeError` if `out` is of another size."""
    if image.shape != out.shape:
        raise WrongSizeError(
            f"the image has {image.shape[1]} x {image.shape[0]} pixels and others have "
            f"{out.shape[1]} x {out.shape[0]}; all must have one size, so set the source's "
            "image_size"
        )
    np.copyto(out, image)


def decode_image(data: bytes, size: int | None = None) -> Image:
    """Decodes an image file of any common format to upright RGB.

    The orientation of EXIF data is applied, and no other, as browsers and OpenCV have it: one that
    is in XMP data alone does not count. Gray, palette and CMYK become RGB; 16-bit keeps its upper
    bits; transparency is laid on white. The size is read and checked before any pixel is.

    Args:
        data: The whole file.
        size: Side in pixels to which the image is resized; None leaves it as it is.

    Returns:
        `(H, W, 3)` uint8 RGB.

    Raises:
        ValueError: If the data is empty, no image, damaged, cut off, of a kind of JPEG that no
            decoder here reads (12 bits a channel), has over 64 M pixels, or pixels of 32 bits,
            whose range is unknown.
    """
    pixels = _decode(data)
    if size is None or pixels.shape[:2] == (size, size):
        return pixels
    return resized(pixels, size, size)


def decode_into(data: bytes, out: Image, *, resize: bool) -> None:
    """Decodes an image file into an array; see `decode_image`.

    Args:
        data: The whole file.
        out: `(H, W, 3)` uint8, contiguous.
        resize: Bring an image of another size to that of `out`.

    Raises:
        ValueError: As `decode_image`.
        WrongSizeError: If the image has another size and may not be resized.
    """
    pixels = _decode(data, out)
    if pixels is out:
        return
    if resize and pixels.shape != out.shape:
        pixels = resized(pixels, out.shape[1], out.shape[0])
    copy_into(pixels, out)


def resized(image: Image, width: int, height: int) -> Image:
    """Resizes a `(H, W, 3)` uint8 image: bilinear with antialiasing, as Pillow does it."""
    picture = PIL.Image.fromarray(image).resize((width, height), PIL.Image.Resampling.BILINEAR)
    return np.array(picture)


def read_image(path: str | os.PathLike[str], size: int | None = None) -> Image:
    """Reads an image file; see `decode_image`.

    Args:
        path: The file.
        size: Side in pixels to which the image is resized, bilinear with antialiasing; None
            leaves it as it is.

    Returns:
        `(H, W, 3)` uint8 RGB.

    Raises:
        ValueError: If the file cannot be read or decoded; the message names it.
    """
    try:
        with open(path, "rb") as file:
            return decode_image(file.read(), size)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {os.fspath(path)!r}: {error}") from error


def check_image_header(path: str | os.PathLike[str]) -> None:
    """Checks that a file starts like an image of a sensible size, reading only its header.

    Raises:
        ValueError: If it is empty, cannot be opened, is not a known image, or has over 64 M pixels
            or pixels of 32 bits.
    """
    try:
        start = read_file(path, first=_HEADER)
        if start[:3] == _JPEG and (size := plain_jpeg_size(start)) is not None:
            _check_size(size[1], size[0])
            return
        with open(path, "rb") as file, opened_image(file):
            pass
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error


@contextmanager
def opened_image(file: IO[bytes]) -> Iterator[PIL.Image.Image]:
    """Opens an image file by Pillow and reads its header, which says its format, size and mode.

    Raises:
        ValueError: If it is empty, not a known image, has over 64 M pixels or pixels of 32 bits, or
            the block fails at it, which means that it is damaged.
    """
    try:
        with PIL.Image.open(file) as picture:
            _check_size(*picture.size)
            # Pillow gives 16-bit PGM the mode of 32 bits, scaled to 16.
            if picture.mode in _NO_RANGE and picture.format != "PPM":
                raise ValueError(
                    f"the image has {_NO_RANGE[picture.mode]} pixels, whose range is unknown; "
                    "save it with 8 or 16 bits"
                )
            yield picture
    except Exception as error:  # decoders of damaged data raise almost anything
        file.seek(0)
        raise ValueError(_reason(error, file.read(_MOST_HEADER))) from error


def plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Finds the size of a gray or color JPEG that has no EXIF data, and so no orientation.

    This takes less time than asking a decoder.

    Args:
        data: The file, or its beginning.

    Returns:
        Height and width in pixels; None for any other JPEG, what is damaged, and what does not
        reach to the size.

    Example:
        >>> frame = b"\\xff\\xc0\\x00\\x11\\x08\\x00\\x70\\x00\\x60\\x03"
        >>> plain_jpeg_size(b"\\xff\\xd8" + frame)
        (112, 96)
    """
    global _last_plain
    header, size = _last_plain
    if data.startswith(header):
        return size
    frame, exif, end = _frame(data)
    # Four components are CMYK.
    plain = frame and not exif and data[frame] in _FRAMES and data[frame + 3] == 8
    if not plain or data[frame + 8] not in (1, 3):
        return None
    size = data[frame + 4] << 8 | data[frame + 5], data[frame + 6] << 8 | data[frame + 7]
    if data.startswith(_SCAN, end):
        _last_plain = data[: end + len(_SCAN)], size
    return size


def _frame(data: bytes) -> tuple[int, bool, int]:
    """Finds the marker of a JPEG's frame header, 0 if none, if it has EXIF data, and its end."""
    at, frame, exif = 2, 0, False  # after the start of the image
    try:
        while data[at] == 0xFF:
            marker = data[at + 1]
            if marker == _APP1:
                exif = exif or data.startswith(_EXIF, at + 4)
            elif marker not in _TABLES:
                if marker < _FIRST_SEGMENT or marker in _NO_SEGMENT:
                    break
                if marker <= _LAST_FRAME and at + 9 < len(data):
                    frame = at + 1
            at += 2 + (data[at + 2] << 8 | data[at + 3])
    except IndexError:
        pass
    return frame, exif, at


def _decode(data: bytes, out: Image | None = None) -> Image:
    """Decodes; into `out` and returns it where format and size allow that."""
    if not data:
        raise ValueError("the image is empty (0 bytes)")
    if data[:3] == _JPEG and (size := _upright_jpeg_size(data)) is not None:
        _check_size(size[1], size[0])
        pixels = out if out is not None and out.shape[:2] == size else new_pixels(*size, 3)
        try:
            simplejpeg.decode_jpeg(data, "RGB", buffer=pixels)
        except ValueError as error:
            if str(error).startswith(_DAMAGE):
                raise ValueError(f"the JPEG is damaged or cut off: {error}") from error
        else:
            return pixels
    with opened_image(BytesIO(data)) as picture:
        return _to_rgb(picture)


def _upright_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """The size of a JPEG as simplejpeg decodes it; CMYK and rotated ones are left to Pillow."""
    if (size := plain_jpeg_size(data)) is not None:
        return size
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError):  # simplejpeg 1.9 has no name for a sampling of 1 x 4
        return None
    if colorspace not in ("YCbCr", "RGB", "Gray"):
        return None
    _check_size(width, height)
    if data.find(_EXIF) >= 0:
        try:
            with opened_image(BytesIO(data)) as picture:
                exif = PIL.Image.Exif()
                exif.load(picture.info.get("exif", b""))
                if exif.get(_ORIENTATION, 1) != 1:
                    return None
        except ValueError:  # decoding it all says what is wrong
            return None
    return height, width


def _to_rgb(picture: PIL.Image.Image) -> Image:
    # Pillow takes the orientation of XMP data too: of a TIFF when it loads it, of others from notes
    # that may follow the pixels. A copy has not read them yet.
    picture.info.pop("xmp", None)
    picture.load()
    upright = picture.copy()
    for name in ("xmp", "XML:com.adobe.xmp"):
        upright.info.pop(name, None)
    PIL.ImageOps.exif_transpose(upright, in_place=True)
    if upright.mode.startswith("I"):
        # Pillow clips 16-bit gray when it converts; the upper byte is what is meant.
        values = np.asarray(upright).astype(np.int64)
        gray = np.clip(values >> 8, 0, 255).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        upright = PIL.Image.alpha_composite(PIL.Image.new("RGBA", layer.size, "white"), layer)
    return np.array(upright.convert("RGB"))


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"the image says it has {width} x {height} pixels; at most {MAX_PIXELS} are decoded"
        )


def _reason(error: Exception, data: bytes) -> str:
    if not data:
        return "the file is empty"
    if isinstance(error, ValueError):
        return str(error)
    if isinstance(error, PIL.Image.DecompressionBombError):
        return f"the image has too many pixels; at most {MAX_PIXELS} are decoded"
    if unread := _unread_jpeg(data):
        return unread
    if isinstance(error, PIL.UnidentifiedImageError):
        if data[:3] == _JPEG:
            return "the JPEG is damaged or cut off before its pixels"
        found = _other_format(data[:_HEADER])
        return f"this is not an image in a known format{found and f', but {found}'}"
    return f"the image is damaged or cut off: {error}"


def _unread_jpeg(data: bytes) -> str:
    """Why no decoder here reads a JPEG that may well be sound; "" for any other file."""
    at = _frame(data)[0] if data[:3] == _JPEG else 0
    if not at:
        return ""
    if data[at + 3] != 8:
        return f"the JPEG has {data[at + 3]} bits a channel, which are not read; save it with 8"
    if data[at] not in _READ_FRAMES:
        return "the JPEG is lossless or hierarchical, of a kind that is not read, or damaged"
    factors = [divmod(both, 16) for both in data[at + 10 : at + 9 + 3 * data[at + 8] : 3]]
    wide, high = (max(side) for side in zip((1, 1), *factors, strict=True))
    uneven = any(not h or not v or wide % h or high % v for h, v in factors)
    if uneven or sum(h * v for h, v in factors) > _MOST_BLOCKS:
        shown = ", ".join(f"{h}x{v}" for h, v in factors)
        return f"the JPEG samples its colors {shown}, which is not read; save it with 4:2:0"
    return ""


def _other_format(start: bytes) -> str:
    """What a file is that is not an image, from its first bytes; "" where they do not say."""
    if not start.strip(b"\0"):
        return "zero bytes only"
    for magic, name in _OTHER_FORMATS.items():
        if start.startswith(magic):
            return name
    if start[4:8] == b"ftyp":
        return _BRANDS.get(start[8:12], "a video or picture of the MP4 family")
    head = start[:512].removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.lower().startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    # Bytes above 127 are letters of other alphabets; the others that no text has are controls.
    return "" if any(byte < 32 and byte not in b"\t\n\r\f" for byte in head) else "text"
