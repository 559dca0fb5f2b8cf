"""Images keep their bytes unless something else was asked for; nothing is lost unasked."""

from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from centerarc.curate.pack_parts import Encoding, PackedImage, packed_image
from centerarc.data import FolderSource, create_source
from tests.curate.pictures import faces, picture

SUFFIXES = [".jpg", ".png", ".webp", ".bmp", ".tif"]


def packed(path: Path, encoding: Encoding) -> PackedImage:
    return packed_image(FolderSource(path.parent.parent), 0, encoding)


def opened(image: PackedImage) -> PIL.Image.Image:
    return PIL.Image.open(BytesIO(image.data))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("size", [None, 32])
def test_an_image_of_the_right_size_keeps_its_bytes(
    tmp_path: Path, suffix: str, size: int | None
) -> None:
    path = faces(tmp_path, {"ann": [f"1{suffix}"]}) / "ann" / f"1{suffix}"
    image = packed(path, Encoding(size=size))
    assert image == PackedImage(path.read_bytes(), 32, 32, reencoded=False)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_with_a_quality_other_formats_become_jpegs(tmp_path: Path, suffix: str) -> None:
    path = faces(tmp_path, {"ann": [f"1{suffix}"]}) / "ann" / f"1{suffix}"
    image = packed(path, Encoding(quality=80))
    assert opened(image).format == "JPEG"
    assert image.reencoded == (suffix != ".jpg")


def test_a_resized_image_is_a_jpeg_of_pillows_pixels_with_full_color(tmp_path: Path) -> None:
    path = tmp_path / "ann" / "1.png"
    path.parent.mkdir()
    small = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    picture = PIL.Image.fromarray(small).resize((60, 40), PIL.Image.Resampling.BICUBIC)
    picture.save(path)
    expected = np.array(picture.resize((24, 24), PIL.Image.Resampling.BILINEAR), dtype=float)
    errors = []
    for quality in (None, 95, 30):
        image = packed(path, Encoding(size=24, quality=quality))
        assert (image.width, image.height, image.reencoded) == (24, 24, True)
        jpeg = opened(image)
        assert jpeg.format == "JPEG"
        # 4:4:4: every component has the same sampling.
        assert {layer[1:3] for layer in jpeg.layer} == {(1, 1)}  # type: ignore[attr-defined]
        errors.append(np.abs(np.array(jpeg, dtype=float) - expected).mean())
    assert errors[0] == errors[1] < 3
    assert errors[2] > 2 * errors[0]


def test_a_format_that_few_readers_know_becomes_a_png_without_loss(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    path = tmp_path / "ann" / "1.bmp"  # by its name; read by what it is
    path.parent.mkdir()
    PIL.Image.fromarray(pixels).save(path, format="PPM")
    image = packed(path, Encoding())
    assert (opened(image).format, image.reencoded) == ("PNG", True)
    np.testing.assert_array_equal(np.array(opened(image)), pixels)


def test_pixels_without_a_file_become_a_png_unless_a_quality_is_given() -> None:
    source = create_source("synthetic", num_identities=2, images_per_identity=2)
    image = packed_image(source, 1, Encoding())
    assert (opened(image).format, image.reencoded) == ("PNG", True)
    np.testing.assert_array_equal(np.array(opened(image)), source.image(1))
    assert opened(packed_image(source, 1, Encoding(quality=95))).format == "JPEG"


def test_damage_is_the_images_and_an_absent_file_is_not(tmp_path: Path) -> None:
    path = faces(tmp_path, {"ann": ["1.jpg"]}) / "ann" / "1.jpg"
    source = FolderSource(tmp_path)
    path.write_bytes(picture(0)[:-100])
    with pytest.raises(ValueError, match="damaged or cut off"):
        packed_image(source, 0, Encoding())
    path.unlink()
    with pytest.raises(OSError, match=r"cannot read 'ann/1\.jpg': No such file"):
        packed_image(source, 0, Encoding())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 0}, r"size must be in \[1, 4096\] or None, got 0"),
        ({"quality": 0}, r"quality must be in \[1, 100\] or None, got 0"),
        ({"quality": 101}, r"quality must be in \[1, 100\] or None, got 101"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Encoding(**options)
