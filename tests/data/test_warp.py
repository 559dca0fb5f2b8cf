"""What is cut out lies where the transform says, has the right greys, and does not alias."""

import cv2
import numpy as np
import pytest

from centerarc.data.alignment import apply_transform, inverse_transform, warp

SCALES = [1 / 9.4, 1 / 3.3, 1 / 2.0, 0.7, 1.0, 2.5]


def turned(scale: float, degrees: float, size: int, middle: tuple[float, float]) -> np.ndarray:
    """A similarity that brings `middle` of the image to the middle of the square."""
    angle = np.deg2rad(degrees)
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    matrix = np.array([[c, -s, 0], [s, c, 0]])
    matrix[:, 2] = (size - 1) / 2 - matrix[:, :2] @ middle
    return matrix


def grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:height, :width].astype(np.float64)
    return x, y


def rgb(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.clip(values, 0, 255).round().astype(np.uint8)[..., None], 3, axis=2)


def bilinear(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Float64 bilinear interpolation, 0 outside."""
    padded = np.pad(image.astype(np.float64), 2)
    x, y = np.clip(x + 2, 0, padded.shape[1] - 2), np.clip(y + 2, 0, padded.shape[0] - 2)
    i, j = np.floor(x).astype(int), np.floor(y).astype(int)
    u, v = x - i, y - j
    top = padded[j, i] * (1 - u) + padded[j, i + 1] * u
    bottom = padded[j + 1, i] * (1 - u) + padded[j + 1, i + 1] * u
    return top * (1 - v) + bottom * v


def sampled(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """The square by its definition: one bilinear sample of the whole image for each pixel."""
    x, y = grid(size, size)
    points = apply_transform(inverse_transform(matrix), np.stack([x.ravel(), y.ravel()], 1))
    return bilinear(image, points[:, 0], points[:, 1]).reshape(size, size)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("degrees", [0, 40, -170])
def test_dots_land_where_the_transform_says_to_a_twentieth_of_a_pixel(
    scale: float, degrees: float
) -> None:
    size = 112
    side = int(220 / min(scale, 1))
    matrix = turned(scale, degrees, size, (side / 2 + 0.3, side / 2 - 1.7))
    x, y = grid(side, side)
    for goal in [(30.2, 41.7), (56.0, 71.0), (77.4, 36.6)]:
        at = apply_transform(inverse_transform(matrix), [goal])[0]
        spread = max(4 / scale, 1.6)  # a smaller dot is moved by the rounding of its own greys
        dot = 240 * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * spread**2))
        found = warp(rgb(dot), matrix, size)[..., 0].astype(np.float64)
        u, v = grid(size, size)
        centroid = np.array([(u * found).sum(), (v * found).sum()]) / found.sum()
        assert np.abs(centroid - goal).max() < 0.05


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("degrees", [0, 40])
def test_greys_of_a_smooth_picture_are_those_of_float64_sampling(
    scale: float, degrees: float
) -> None:
    size = 64
    side = int(130 / min(scale, 1))
    x, y = grid(side, side)
    period = 40 / min(scale, 1)
    values = 127 + 60 * np.sin(2 * np.pi * x / period) * np.cos(2 * np.pi * y / period)
    values += 60 * (x / side - 0.5) ** 2 - 30 * (y / side)
    image = rgb(values)
    matrix = turned(scale, degrees, size, (side / 2 + 0.4, side / 2 + 0.9))
    expected = sampled(image[..., 0], matrix, size)
    found = warp(image, matrix, size)[..., 0]
    error = np.abs(found - expected)
    assert error.max() <= 2
    assert error.mean() < 0.5


@pytest.mark.parametrize("scale", [1 / 3.3, 1 / 9.4])
def test_fine_stripes_become_grey_where_plain_sampling_shows_false_ones(scale: float) -> None:
    side, size = 1000, 64
    x, y = grid(side, side)
    image = rgb(127.5 + 120 * np.sin(2 * np.pi * (0.31 * x + 0.12 * y)))
    matrix = turned(scale, 40, size, (500.3, 500.7))
    found = warp(image, matrix, size)[..., 0].astype(np.float64)
    plain = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR)[..., 0]
    assert plain.std() > 40
    assert found.std() < 5
    assert abs(found.mean() - 127.5) < 2


def test_channels_keep_their_places() -> None:
    image = np.full((50, 60, 3), (10, 100, 200), np.uint8)
    found = warp(image, turned(0.4, 10, 12, (30, 25)), 12)
    assert np.unique(found.reshape(-1, 3), axis=0).tolist() == [[10, 100, 200]]


@pytest.mark.parametrize("scale", [1 / 3.3, 1.0, 2.5])
def test_outside_the_image_is_black_and_inside_is_whole(scale: float) -> None:
    image = np.full((90, 90, 3), 200, np.uint8)
    size = 60
    matrix = turned(scale, 0, size, (0, 0))  # the corner of the image in the middle
    found = warp(image, matrix, size)[..., 0]
    middle = (size - 1) / 2
    edge = middle - 0.5 * scale  # the image's outer edge, at -0.5, in the square
    before = np.arange(size) < edge - 1.2 * max(1, scale)
    end = middle + 89.5 * scale
    within = (np.arange(size) > edge + 1.2 * max(1, scale)) & (np.arange(size) < end - 1.5)
    assert before.any()
    assert within.any()
    assert (found[before] == 0).all()
    assert (found[:, before] == 0).all()
    assert (found[np.ix_(within, within)] == 200).all()


def test_a_face_far_outside_is_black_and_costs_no_memory() -> None:
    image = np.full((90, 90, 3), 200, np.uint8)
    assert (warp(image, turned(1, 0, 112, (1e6, -1e6)), 112) == 0).all()
    tiny = warp(image, turned(1e-5, 30, 112, (45, 45)), 112)
    assert tiny.shape == (112, 112, 3)


def test_the_image_is_only_read_and_may_be_a_view() -> None:
    image = np.random.default_rng(0).integers(0, 256, (80, 90, 3), dtype=np.uint8)
    matrix = turned(0.3, 20, 16, (40, 40))
    before = image.copy()
    view = np.ascontiguousarray(image[:, ::-1])[:, ::-1]
    np.testing.assert_array_equal(warp(image, matrix, 16), warp(view, matrix, 16))
    np.testing.assert_array_equal(image, before)


def test_wrong_arguments_are_named() -> None:
    image = np.zeros((9, 9, 3), np.uint8)
    good = turned(1, 0, 4, (4, 4))
    with pytest.raises(ValueError, match=r"image is float64 of shape \(9, 9, 3\)"):
        warp(image.astype(float), good, 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"matrix has shape \(3, 3\)"):
        warp(image, np.eye(3), 4)
    with pytest.raises(ValueError, match="size is 0"):
        warp(image, good, 0)
    with pytest.raises(ValueError, match="no inverse"):
        warp(image, np.zeros((2, 3)), 4)
