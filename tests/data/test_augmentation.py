"""Augmentation: each change does what it says, within its range, and repeats by its seed."""

from typing import Any

import numpy as np
import PIL.Image
import pytest
from pydantic import ValidationError

from centerarc.data import Augmentation, AugmentationConfig
from centerarc.data.augmentation import DRAWS, LUMA, Changes, color_maps, movements, recolor

NONE = AugmentationConfig.none().model_dump()


def picture() -> np.ndarray:
    """A smooth picture without symmetry."""
    y, x = np.mgrid[0:112, 0:112] / 111
    return np.stack([60 + 120 * x, 40 + 150 * y, 200 - 90 * x * y], axis=2).astype(np.uint8)


def change(image: np.ndarray, seed: int = 0, **settings: Any) -> np.ndarray:
    images = image[None].copy()
    Augmentation(AugmentationConfig(**(NONE | settings)))(images, key=(seed,))
    return images[0].astype(int)


def test_none_changes_nothing() -> None:
    assert (change(picture()) == picture()).all()


ALL = {"flip": 1, "move": 1, "light": 1, "grey": 0.5, "low_resolution": 1, "occlusion": 1}


def test_a_batch_may_be_cut_anywhere_and_the_seed_decides() -> None:
    augment = Augmentation(AugmentationConfig(**ALL))
    whole = np.stack([picture()] * 7)
    augment(whole, key=(5, 0))
    assert len(np.unique(whole.reshape(7, -1), axis=0)) == 7
    for cut in range(1, 7):
        parts = np.stack([picture()] * 7)
        augment(parts[:cut], key=(5, 0))
        augment(parts[cut:], key=(5, 0), first_position=cut)
        assert (parts == whole).all()
    for key in ((6, 0), (5, 1)):
        other = np.stack([picture()] * 7)
        augment(other, key=key)
        assert (other != whole).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (31, 64), (113, 97)])
def test_any_size_goes(height: int, width: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, height, width, 3), dtype=np.uint8)
    Augmentation(AugmentationConfig(**ALL))(images, key=(0,))


def test_flip_mirrors_left_and_right() -> None:
    assert (change(picture(), flip=1) == picture()[:, ::-1]).all()
    flipped = sum((change(picture(), seed, flip=0.5) != picture()).any() for seed in range(200))
    assert 70 < flipped < 130


def test_a_move_of_size_zero_is_none() -> None:
    moved = change(picture(), move=1, rotation=0, shift=0, zoom=0)
    assert np.abs(moved - picture()).max() <= 1


@pytest.mark.parametrize("seed", range(5))
def test_a_shift_stays_in_its_range(seed: int) -> None:
    image = np.zeros((100, 100, 3), dtype=np.uint8)
    image[50, 50] = 255
    moved = change(image, seed, move=1, rotation=0, zoom=0, shift=0.1)[10:90, 10:90, 0]
    weight = moved / moved.sum()
    y, x = (weight.sum(axis) @ np.arange(80) + 10 for axis in (1, 0))
    assert abs(y - 50) <= 10.1
    assert abs(x - 50) <= 10.1
    assert abs(y - 50) + abs(x - 50) > 0.1


@pytest.mark.parametrize("seed", range(5))
def test_a_rotation_keeps_the_center_and_distances(seed: int) -> None:
    image = np.zeros((101, 101, 3), dtype=np.uint8)
    image[48:53, 78:83] = 255
    moved = change(image, seed, move=1, rotation=30, zoom=0, shift=0)[:, :, 0]
    inner = np.zeros_like(moved)
    inner[15:86, 15:86] = moved[15:86, 15:86]
    y, x = (inner.sum(axis) @ np.arange(101) / inner.sum() - 50 for axis in (1, 0))
    assert np.hypot(y, x) == pytest.approx(30, abs=0.5)
    assert abs(np.rad2deg(np.arctan2(y, x))) <= 31


@pytest.mark.parametrize("seed", range(5))
def test_a_zoom_stays_in_its_range(seed: int) -> None:
    image = np.zeros((100, 100, 3), dtype=np.uint8)
    image[30:70, 30:70] = 255
    zoomed = change(image, seed, move=1, rotation=0, shift=0, zoom=0.2)[20:80, 20:80, 0]
    side = np.sqrt(zoomed.sum() / 255)
    assert 40 / 1.21 <= side <= 40 * 1.21
    assert abs(side - 40) > 0.05


def test_brightness_multiplies() -> None:
    image = np.full((4, 4, 3), 100, dtype=np.uint8)
    values = [
        change(image, seed, light=1, brightness=0.2, contrast=0, saturation=0).mean()
        for seed in range(50)
    ]
    assert 79 <= min(values) < 90
    assert 110 < max(values) <= 120


def test_contrast_keeps_the_mean_and_saturation_the_gray() -> None:
    image = picture()
    for seed in range(5):
        lit = change(image, seed, light=1, brightness=0, contrast=0.2, saturation=0)
        gray = [
            np.asarray(PIL.Image.fromarray(i.astype(np.uint8)).convert("L")) for i in (image, lit)
        ]
        assert gray[0].mean() == pytest.approx(gray[1].mean(), abs=1.5)
        assert abs(lit.std() / image.std() - 1) <= 0.22
        vivid = change(image, seed, light=1, brightness=0, contrast=0, saturation=0.3)
        gray[1] = np.asarray(PIL.Image.fromarray(vivid.astype(np.uint8)).convert("L"))
        assert np.abs(gray[0].astype(int) - gray[1]).max() <= 2


def test_gray_is_the_luma_in_all_channels() -> None:
    gray = change(picture(), grey=1)
    assert (gray == gray[:, :, :1]).all()
    reference = np.asarray(PIL.Image.fromarray(picture()).convert("L")).astype(int)
    assert np.abs(gray[:, :, 0] - reference).max() <= 1


def test_low_resolution_takes_away_fine_detail_only() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    assert change(noise, low_resolution=1, low_resolution_scale=0.2).std() < 0.8 * noise.std()
    smooth = change(picture(), low_resolution=1, low_resolution_scale=0.2)
    assert np.abs(smooth - picture()).max() <= 8


def test_occlusion_covers_a_part_of_limited_size_with_one_color() -> None:
    areas = []
    for seed in range(40):
        covered = change(picture(), seed, occlusion=1, occlusion_size=0.5)
        changed = (covered != picture()).any(axis=2)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        assert np.ptp(rows) < 56
        assert np.ptp(columns) < 56
        assert len(np.unique(covered[changed], axis=0)) == 1
        areas.append(changed.sum() / ((np.ptp(rows) + 1) * (np.ptp(columns) + 1)))
    assert max(areas) > 0.95  # rectangles
    assert min(areas) < 0.85  # ellipses


@pytest.mark.parametrize(
    "wrong", [{"flip": 1.1}, {"rotation": -1}, {"low_resolution_scale": 0}, {"flipp": 0.5}]
)
def test_a_wrong_setting_is_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        AugmentationConfig(**wrong)  # type: ignore[arg-type]


def bilinear(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """The value between pixel centers, in float64; gray 127 outside."""
    height, width = image.shape[:2]
    left, top = int(np.floor(x)), int(np.floor(y))
    value = np.zeros(3)
    for row in (top, top + 1):
        for column in (left, left + 1):
            inside = 0 <= row < height and 0 <= column < width
            pixel = image[row, column] if inside else np.full(3, 127.0)
            value += pixel * (1 - abs(y - row)) * (1 - abs(x - column))
    return value


@pytest.mark.parametrize("flip", [False, True])
def test_a_move_is_the_similarity_that_was_drawn(flip: bool) -> None:
    config = AugmentationConfig(rotation=20, zoom=0.3, shift=0.1)
    draws = np.array([[0.9, 0.2, 0.7, 0.4]])
    image = picture()[:40, :60].copy()
    moved = np.empty_like(image)
    settings = NONE | {"move": 1, "flip": float(flip), "rotation": 20, "zoom": 0.3, "shift": 0.1}
    drawn = np.zeros((1, DRAWS))
    drawn[0, 6:10] = draws[0]
    Changes(drawn, AugmentationConfig(**settings), 40, 60).apply(0, image, moved)
    # From the definition: rotate and scale about the middle, shift, mirror.
    angle, scale = np.deg2rad(0.8 * 20), 1.3 ** (2 * 0.2 - 1)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.array([59 / 2, 39 / 2])
    shift = np.array([0.4 * 0.1 * 60, -0.2 * 0.1 * 40])
    for x, y in [(5, 7), (30, 20), (59, 39), (0, 0), (44, 3)]:
        seen = np.array([59 - x if flip else x, y], dtype=float)
        origin = np.linalg.solve(turn, seen - middle - shift) + middle
        expected = bilinear(image, *origin)
        assert np.abs(moved[y, x] - expected).max() <= 2.5, (x, y)  # 1/32 pixel in OpenCV
    maps = movements(draws, np.array([flip]), config, 40, 60)
    assert abs(np.linalg.det(maps[0, :, :2])) == pytest.approx(scale**-2)


def test_light_is_the_formula() -> None:
    config = AugmentationConfig(brightness=0.3, contrast=0.4, saturation=0.5)
    image = np.random.default_rng(1).integers(60, 180, (32, 32, 3), dtype=np.uint8)
    image[1::4] = image[::4]  # rows that are alike, so that a mean of some is that of all
    image[2::4] = image[::4]
    image[3::4] = image[::4]
    for seed in range(10):
        draws = np.random.default_rng(seed).random((1, 3))
        for light, gray in ((True, False), (True, True), (False, True)):
            got = np.empty_like(image)
            maps = color_maps(draws, np.array([light]), np.array([gray]), config)
            recolor(image, maps[0], got)
            b, c, s = 1 + (2 * draws[0] - 1) * (0.3, 0.4, 0.5) if light else (1, 1, 1)
            wanted = image.astype(np.float64) * b
            mean = (wanted @ LUMA).mean()
            wanted = mean + (wanted - mean) * c
            luma = (wanted @ LUMA)[:, :, None]
            wanted = luma + (wanted - luma) * (0 if gray else s)
            assert np.abs(got - np.clip(wanted, 0, 255)).max() <= 1
