"""From the bytes of an image file to pixels."""

import os
from io import BytesIO

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
_FIRST_SEGMENT, _APP1 = 0xC0, 0xE1
# Markers without a length, and the start of the scan, before which a frame must have come.
_NO_SEGMENT = range(0xD0, 0xDB)
# Enough for the header of a JPEG without EXIF data.
_HEADER = 8192
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

    EXIF orientation is applied; gray, palette and CMYK become RGB; 16-bit keeps its upper
    bits; transparency is laid on white. The size is read and checked before any pixel is.

    Args:
        data: The whole file.
        size: Side in pixels to which the image is resized; None leaves it as it is.

    Returns:
        `(H, W, 3)` uint8 RGB.

    Raises:
        ValueError: If the data is empty, no image, damaged, cut off, has over 64 M pixels,
            or pixels of 32 bits, whose range is unknown.
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
    start = b""
    try:
        start = read_file(path, first=_HEADER)
        if not start:
            raise ValueError("the file is empty")
        if start[:3] == _JPEG and (size := plain_jpeg_size(start)) is not None:
            _check_size(size[1], size[0])
            return
        with PIL.Image.open(path) as picture:
            _check_header(picture)
    except Exception as error:  # decoders of damaged data raise almost anything
        raise ValueError(_reason(error, start)) from error


def plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Finds the size of a gray or color JPEG that has no EXIF data, and so no orientation.

    This takes a quarter of the time that asking a decoder takes.

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
    at = 2  # after the start of the image
    try:
        while data[at] == 0xFF:
            marker = data[at + 1]
            if marker in _FRAMES:
                height, width = data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8]
                # Four components are CMYK.
                return (height, width) if data[at + 9] in (1, 3) else None
            if marker < _FIRST_SEGMENT or marker in _NO_SEGMENT:
                return None
            if marker == _APP1 and data.startswith(_EXIF, at + 4):
                return None
            at += 2 + (data[at + 2] << 8 | data[at + 3])
    except IndexError:
        pass
    return None


def _decode(data: bytes, out: Image | None = None) -> Image:
    """Decodes; into `out` and returns it where format and size allow that."""
    if not data:
        raise ValueError("the image is empty (0 bytes)")
    if data[:3] == _JPEG and (size := _upright_jpeg_size(data)) is not None:
        _check_size(size[1], size[0])
        buffer = out if out is not None and out.shape[:2] == size else None
        try:
            pixels: Image = simplejpeg.decode_jpeg(data, "RGB", buffer=buffer)
        except ValueError as error:
            raise ValueError(f"the JPEG is damaged or cut off: {error}") from error
        return pixels if buffer is None else buffer
    try:
        with PIL.Image.open(BytesIO(data)) as picture:
            _check_header(picture)
            return _to_rgb(picture)
    except Exception as error:  # decoders of damaged data raise almost anything
        raise ValueError(_reason(error, data)) from error


def _upright_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """The size of a JPEG as simplejpeg decodes it; CMYK and rotated ones are left to Pillow."""
    if (size := plain_jpeg_size(data)) is not None:
        return size
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if colorspace not in ("YCbCr", "RGB", "Gray"):
        return None
    _check_size(width, height)
    if data.find(_EXIF) >= 0:
        try:
            with PIL.Image.open(BytesIO(data)) as picture:
                if picture.getexif().get(_ORIENTATION, 1) != 1:
                    return None
        except Exception:  # as above; decoding it all says what is wrong
            return None
    return height, width


def _to_rgb(picture: PIL.Image.Image) -> Image:
    picture.load()
    upright = PIL.ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I"):
        # Pillow clips 16-bit gray when it converts; the upper byte is what is meant.
        values = np.asarray(upright).astype(np.int64)
        gray = np.clip(values >> 8, 0, 255).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        upright = PIL.Image.alpha_composite(PIL.Image.new("RGBA", layer.size, "white"), layer)
    return np.array(upright.convert("RGB"))


def _check_header(picture: PIL.Image.Image) -> None:
    _check_size(*picture.size)
    # Pillow gives 16-bit PGM the mode of 32 bits, scaled to 16.
    if picture.mode in _NO_RANGE and picture.format != "PPM":
        raise ValueError(
            f"the image has {_NO_RANGE[picture.mode]} pixels, whose range is unknown; "
            "save it with 8 or 16 bits"
        )


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"the image says it has {width} x {height} pixels; at most {MAX_PIXELS} are decoded"
        )


def _reason(error: Exception, start: bytes) -> str:
    if isinstance(error, ValueError):
        return str(error)
    if isinstance(error, PIL.UnidentifiedImageError):
        found = _other_format(start)
        return f"this is not an image in a known format{found and f', but {found}'}"
    if isinstance(error, PIL.Image.DecompressionBombError):
        return f"the image has too many pixels; at most {MAX_PIXELS} are decoded"
    return f"the image is damaged or cut off: {error}"


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
