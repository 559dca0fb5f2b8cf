"""Decoding: every common kind of file comes out as upright RGB, a bad one says what is wrong."""

import base64
import re
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from centerarc.curate import inspect_source
from centerarc.data import FolderSource, decode_image
from centerarc.data.decode import check_image_header, decode_into, plain_jpeg_size
from tests.data.pictures import sampled_jpeg

# Four flat quarters: red, green / blue, white; JPEG keeps their insides nearly exact.
QUARTERS = np.zeros((32, 48, 3), dtype=np.uint8)
QUARTERS[:16, :24] = (250, 10, 10)
QUARTERS[:16, 24:] = (10, 250, 10)
QUARTERS[16:, :24] = (10, 10, 250)
QUARTERS[16:, 24:] = (250, 250, 250)


def encoded(picture: PIL.Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(width: int, height: int, mode: str = "RGB", **options: Any) -> bytes:
    return encoded(PIL.Image.new(mode, (width, height)), "JPEG", **options)


def centers(image: np.ndarray) -> np.ndarray:
    """The colors in the middle of the four quarters."""
    h, w = image.shape[:2]
    return image[[h // 4, h // 4, 3 * h // 4, 3 * h // 4], [w // 4, 3 * w // 4] * 2].astype(int)


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("TIFF", {}, 0),
        ("JPEG", {"quality": 95}, 6),
        ("JPEG", {"quality": 95, "progressive": True}, 6),
    ],
)
def test_common_formats(kind: str, options: dict[str, Any], tolerance: int) -> None:
    image = decode_image(encoded(PIL.Image.fromarray(QUARTERS), kind, **options))
    assert image.shape == (32, 48, 3)
    assert image.dtype == np.uint8
    assert np.abs(centers(image) - centers(QUARTERS)).max() <= tolerance


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    # What a camera held that way stores, so that the upright picture is QUARTERS.
    stored = {
        1: QUARTERS,
        2: QUARTERS[:, ::-1],
        3: QUARTERS[::-1, ::-1],
        4: QUARTERS[::-1],
        5: QUARTERS.transpose(1, 0, 2),
        6: np.rot90(QUARTERS, 1),
        7: QUARTERS[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(QUARTERS, -1),
    }[orientation]
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    picture = PIL.Image.fromarray(np.ascontiguousarray(stored))
    image = decode_image(encoded(picture, kind, exif=exif.tobytes()))
    assert image.shape == QUARTERS.shape
    assert np.abs(centers(image) - centers(QUARTERS)).max() <= 70  # chroma is stored coarsely
    assert (np.argmax(centers(image)[:3], axis=1) == [0, 1, 2]).all()


XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    "</rdf:RDF></x:xmpmeta>"
)


def app1(content: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", 2 + len(content)) + content


def exif_of(tag: int, value: int | str) -> bytes:
    exif = PIL.Image.Exif()
    exif[tag] = value
    return exif.tobytes()


def with_xmp(kind: str, exif: bytes) -> bytes:
    """QUARTERS with an orientation in its XMP data."""
    container, _, place = kind.partition(" ")
    picture = PIL.Image.fromarray(QUARTERS)
    options: dict[str, Any] = {"exif": exif} if exif else {}
    if container == "JPEG":
        picture = picture.convert({"gray": "L", "CMYK": "CMYK"}.get(place, "RGB"))
        data = encoded(picture, "JPEG", progressive=place == "progressive", **options)
        segment = app1(b"http://ns.adobe.com/xap/1.0/\0" + XMP.encode())
        at = data.index(b"\xff\xc4") if place == "late" else 2
        return data[:at] + segment + data[at:]
    if container == "PNG":
        notes = PIL.PngImagePlugin.PngInfo()
        notes.add_itxt("XML:com.adobe.xmp", XMP)
        data = encoded(picture, "PNG", pnginfo=notes, **options)
        if place == "late":
            at = data.index(b"iTXt") - 4
            end = at + 12 + int.from_bytes(data[at : at + 4], "big")
            data = data[:at] + data[end:-12] + data[at:end] + data[-12:]
        return data
    if container == "TIFF":
        tags = PIL.Image.Exif()
        tags.load(exif)
        return encoded(picture, "TIFF", tiffinfo={**tags, 700: XMP.encode()})
    return encoded(picture, container, xmp=XMP.encode(), **options)


KINDS = [
    *("JPEG", "JPEG late", "JPEG progressive", "JPEG gray", "JPEG CMYK"),
    *("PNG", "PNG late", "WEBP", "TIFF"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_orientation_is_that_of_exif_in_every_container(kind: str) -> None:
    stored = (32, 48, 3)
    assert decode_image(with_xmp(kind, b"")).shape == stored
    assert decode_image(with_xmp(kind, exif_of(0x010F, "camera"))).shape == stored
    assert decode_image(with_xmp(kind, exif_of(0x0112, 1))).shape == stored
    assert decode_image(with_xmp(kind, exif_of(0x0112, 8))).shape == (48, 32, 3)


def test_exif_data_of_a_jpeg_may_stand_anywhere_before_its_pixels() -> None:
    plain, exif = jpeg(8, 6), app1(exif_of(0x0112, 6))
    for mark in (b"\xff\xdb", b"\xff\xc0", b"\xff\xc4", b"\xff\xda"):
        at = plain.index(mark)
        assert decode_image(plain[:at] + exif + plain[at:]).shape == (8, 6, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_gray_becomes_three_equal_channels(kind: str) -> None:
    image = decode_image(encoded(PIL.Image.new("L", (20, 10), 77), kind))
    assert image.shape == (10, 20, 3)
    assert np.abs(image.astype(int) - 77).max() <= 1


def test_cmyk_jpeg() -> None:
    picture = PIL.Image.fromarray(QUARTERS).convert("CMYK")
    image = decode_image(encoded(picture, "JPEG", quality=95))
    assert np.abs(centers(image) - centers(QUARTERS)).max() <= 12


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_keep_their_upper_byte(kind: str) -> None:
    values = np.array([[0, 255, 256, 0x7FFF], [0x8000, 0xABCD, 0xFF00, 0xFFFF]], dtype=np.uint16)
    image = decode_image(encoded(PIL.Image.fromarray(values), kind))
    assert (image == (values >> 8)[:, :, None]).all()


def test_transparency_is_laid_on_white() -> None:
    rgba = np.zeros((2, 1, 4), dtype=np.uint8)
    rgba[0] = (10, 20, 30, 255)
    rgba[1] = (10, 20, 30, 0)
    image = decode_image(encoded(PIL.Image.fromarray(rgba), "PNG"))
    assert image[:, 0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_palette_with_and_without_a_transparent_color() -> None:
    picture = PIL.Image.new("P", (2, 1))
    picture.putpalette([200, 100, 50, 1, 2, 3])
    picture.putpixel((1, 0), 1)
    assert decode_image(encoded(picture, "PNG"))[0].tolist() == [[200, 100, 50], [1, 2, 3]]
    transparent = decode_image(encoded(picture, "PNG", transparency=1))
    assert transparent[0].tolist() == [[200, 100, 50], [255, 255, 255]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_file_cut_off_is_refused(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(PIL.Image.fromarray(noise), kind)
    for keep in (len(data) // 2, 12):
        with pytest.raises(ValueError):
            decode_image(data[:keep])


@pytest.mark.parametrize("side", [9_000, 60_000])
def test_a_huge_size_in_the_header_is_refused_before_memory_is_taken(
    tmp_path: Path, side: int
) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    png += struct.pack(">I", zlib.crc32(chunk))
    body = b"IDAT" + zlib.compress(bytes(100))
    png += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    jpeg = bytearray(encoded(PIL.Image.new("RGB", (16, 16)), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    for data in (png, bytes(jpeg)):
        with pytest.raises(ValueError, match=r"pixels; at most|too many pixels"):
            decode_image(data)
        path = tmp_path / "bomb"
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"pixels; at most|too many pixels"):
            check_image_header(path)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_of_unknown_range_are_refused_and_not_black(tmp_path: Path, kind: type) -> None:
    data = encoded(PIL.Image.fromarray(np.full((4, 4), 200, dtype=kind)), "TIFF")
    with pytest.raises(ValueError, match="pixels, whose range is unknown; save it with 8 or 16"):
        decode_image(data)
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(ValueError, match="range is unknown"):
        check_image_header(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bytes(500), "zero bytes only"),
        (b"PK\x03\x04\x14\0\0\0\0\0", "a ZIP archive"),
        (b"\xef\xbb\xbf\r\n<!DOCTYPE html><title>404</title>", "an HTML page"),
        (b"<HTML>", "an HTML page"),
        ("keine Gesichter, nur Wörter\n".encode(), "text"),
        (b"%PDF-1.7\n\x00\x01", "a PDF document"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC picture"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", "a video or picture of the MP4 family"),
    ],
)
def test_what_is_no_image_is_called_what_it_is(tmp_path: Path, data: bytes, words: str) -> None:
    said = re.escape(f"this is not an image in a known format, but {words}") + "$"
    with pytest.raises(ValueError, match=said):
        decode_image(data)
    (tmp_path / "face.jpg").write_bytes(data)
    with pytest.raises(ValueError, match=said):
        check_image_header(tmp_path / "face.jpg")


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "0 bytes"), (bytes(range(1, 200)), "in a known format$")]
)
def test_nothing_and_unknown_bytes_are_not_guessed_at(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_image(data)


def test_a_rotation_behind_long_segments_is_applied_and_a_bomb_with_exif_refused() -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    plain = encoded(PIL.Image.fromarray(QUARTERS), "JPEG", quality=95, exif=exif)
    comment = b"\xff\xfe" + struct.pack(">H", 65535) + b"x" * 65533
    late = plain[:2] + comment * 2 + plain[2:]
    assert decode_image(late).shape == decode_image(plain).shape == (48, 32, 3)
    frame = plain.index(b"\xff\xc0")
    bomb = plain[: frame + 5] + struct.pack(">HH", 65500, 65500) + plain[frame + 9 :]
    with pytest.raises(ValueError, match="65500 x 65500 pixels; at most"):
        decode_image(bomb)


# Rare kinds of JPEG: what any decoder reads is read, what none reads is not called damaged.

EVEN = (1, 1), (1, 1)
SAMPLINGS = [
    *(((h, v), *EVEN) for h, v in ((4, 2), (2, 4), (3, 1), (1, 3), (3, 2), (2, 3), (4, 1), (1, 4))),
    ((2, 2), (1, 2), (2, 1)),
    ((2, 2), (2, 1), (1, 1)),
    ((1, 1), (2, 2), (2, 2)),
    ((1, 1), (1, 1), (2, 2)),
]


@pytest.mark.parametrize("exif", [b"", app1(exif_of(0x010F, "camera"))])
@pytest.mark.parametrize("factors", SAMPLINGS)
def test_any_sampling_of_the_colors(
    tmp_path: Path, factors: list[tuple[int, int]], exif: bytes
) -> None:
    data = sampled_jpeg(50, 37, factors, exif)
    image = decode_image(data)
    assert image.std() > 20
    np.testing.assert_array_equal(image, np.asarray(PIL.Image.open(BytesIO(data))))
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(image, np.asarray(bgr)[:, :, ::-1])
    row = np.zeros_like(image)
    decode_into(data, row, resize=False)
    np.testing.assert_array_equal(row, image)
    with pytest.raises(ValueError, match="damaged or cut off"):
        decode_image(data[: len(data) // 2])


def test_a_later_revision_of_jfif_and_a_lossless_picture() -> None:
    data = jpeg(8, 6)
    at = data.index(b"JFIF") + 5
    assert decode_image(data[:at] + b"\x03\x00" + data[at + 2 :]).shape == (6, 8, 3)
    lossless = base64.b64decode(
        "/9j/xAAXAAEBAQEAAAAAAAAAAAAAAAAABgEH/8MACwgAEAAQAQARAP/aAAgBAAAGAACeAd6AAAAAAAAAAAAAAAAA"
        "AABy+Xl5eXl5eXpszMzMAAAAAAAAAAAAAAAAAAD/2Q=="
    )
    assert len(np.unique(decode_image(lossless))) == 4


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (sampled_jpeg(16, 16, ((1, 1), *EVEN)).replace(b"\x11\x08\0", b"\x11\x0c\0"), "12 bits a"),
        (sampled_jpeg(16, 16, ((3, 1), (2, 1), (1, 1))), "samples its colors 3x1, 2x1, 1x1, which"),
        (sampled_jpeg(16, 16, ((4, 3), *EVEN)), "samples its colors 4x3, 1x1, 1x1, which"),
        (jpeg(8, 8).replace(b"\xff\xc0", b"\xff\xc5"), "lossless or hierarchical"),
    ],
)
def test_what_no_decoder_reads_is_not_called_damaged(
    tmp_path: Path, data: bytes, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        decode_image(data)
    for name, content in (("1.jpg", jpeg(8, 8)), ("2.jpg", data)):
        (tmp_path / "Ann").mkdir(exist_ok=True)
        (tmp_path / "Ann" / name).write_bytes(content)
    source = FolderSource(tmp_path)
    said = [str(item) for item in source.skipped]
    said += [reason for _, reason in inspect_source(source, workers=0).unreadable]
    assert said or "12 bits" not in words
    assert all(words in line for line in said)


def test_damaged_pixels_are_refused_though_the_slow_decoder_passes_over_them() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = bytearray(simplejpeg.encode_jpeg(noise))
    data[-3000:-2000] = bytes(range(250)) * 4
    PIL.Image.open(BytesIO(data)).load()
    with pytest.raises(ValueError, match="damaged or cut off"):
        decode_image(bytes(data))


# The size of a JPEG from its first bytes: what a decoder says, or nothing.


@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    mode=st.sampled_from(["RGB", "L"]),
    progressive=st.booleans(),
    comment=st.binary(max_size=300),
    subsampling=st.sampled_from([0, 1, 2]),
)
def test_the_size_is_that_of_the_decoder(
    width: int, height: int, mode: str, progressive: bool, comment: bytes, subsampling: int
) -> None:
    options = {"progressive": progressive, "comment": comment, "subsampling": subsampling}
    data = jpeg(width, height, mode, icc_profile=b"\xff\xc0" * 50, **options)
    assert plain_jpeg_size(data) == (height, width)
    assert simplejpeg.decode_jpeg_header(data)[:2] == (height, width)
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert plain_jpeg_size(simplejpeg.encode_jpeg(noise)) == (height, width)


def test_a_size_is_not_taken_for_that_of_the_image_before() -> None:
    sizes = [(48, 32), (48, 32), (32, 48), (48, 33), (48, 32), (48, 32)]
    for width, height in sizes:
        data = jpeg(width, height)
        assert plain_jpeg_size(data) == decode_image(data).shape[:2] == (height, width)
        # What ends before the scan, is of another kind, or has EXIF data after the same beginning.
        scan = data.index(b"\xff\xda")
        assert plain_jpeg_size(data[:scan]) == (height, width)
        assert plain_jpeg_size(jpeg(width, height, mode="CMYK")) is None
        exif = b"\xff\xe1\x00\x10Exif\0\0" + bytes(8)
        assert plain_jpeg_size(data[:scan] + exif + data[scan:]) is None


def test_what_needs_more_than_the_size_is_left_to_others() -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    assert plain_jpeg_size(jpeg(8, 6, exif=exif)) is None
    assert plain_jpeg_size(jpeg(8, 6, "CMYK")) is None


@given(data=st.binary(max_size=60))
def test_anything_may_come(data: bytes) -> None:
    plain_jpeg_size(b"\xff\xd8" + data)


@pytest.mark.parametrize("part", [0.0, 0.02, 0.1, 0.2])
def test_a_beginning_without_the_size_says_nothing(part: float) -> None:
    data = jpeg(8, 6)
    frame = data.index(b"\xff\xc0")
    assert plain_jpeg_size(data[: int(part * frame)]) is None
    assert plain_jpeg_size(data[: frame + 9]) is None
    assert plain_jpeg_size(data[: frame + 10]) == (6, 8)
