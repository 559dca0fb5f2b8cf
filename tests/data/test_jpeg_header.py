"""The size of a JPEG from its first bytes: what a decoder says, or nothing."""

from io import BytesIO
from typing import Any

import numpy as np
import PIL.Image
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from centerarc.data.decode import plain_jpeg_size


def jpeg(width: int, height: int, mode: str = "RGB", **options: Any) -> bytes:
    buffer = BytesIO()
    PIL.Image.new(mode, (width, height)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


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
