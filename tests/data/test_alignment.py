"""Similarities are least-squares ones; what is cut out is where they say, without aliasing."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from centerarc.data.alignment import (
    apply_transform,
    arcface_template,
    inverse_transform,
    similarity_transform,
    transform_scale,
    warp,
)


def by_lstsq(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The same four numbers as a plain linear least-squares problem."""
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        values += [u, v]
    a, b, tx, ty = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    return np.array([[a, -b, tx], [b, a, ty]])


def by_umeyama(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Equations 40 to 43 of the paper with its singular values."""
    x, y = source - source.mean(0), target - target.mean(0)
    covariance = y.T @ x / len(x)
    u, d, vt = np.linalg.svd(covariance)
    s = np.diag([1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ s @ vt
    scale = np.trace(np.diag(d) @ s) / x.var(0).sum()
    return np.column_stack([scale * rotation, target.mean(0) - scale * rotation @ source.mean(0)])


@pytest.mark.parametrize("points", [2, 3, 5, 68])
@pytest.mark.parametrize("solve", [by_lstsq, by_umeyama])
def test_every_row_is_the_least_squares_solution(points: int, solve: object) -> None:
    rng = np.random.default_rng(points)
    target = rng.uniform(0, 112, (points, 2))
    source = rng.uniform(-50, 2000, (40, points, 2))
    found = similarity_transform(source, target)
    assert found.shape == (40, 2, 3)
    assert found.dtype == np.float64
    for row in range(40):
        expected = solve(source[row], target)  # type: ignore[operator]
        np.testing.assert_allclose(found[row], expected, rtol=1e-9, atol=1e-9)


def test_scikit_image_agrees_where_it_is_installed() -> None:
    transform = pytest.importorskip("skimage.transform")
    rng = np.random.default_rng(0)
    source = arcface_template() * 3 + rng.normal(0, 9, (5, 2))
    reference = transform.SimilarityTransform()
    reference.estimate(source, arcface_template())
    found = similarity_transform(source[None], arcface_template())[0]
    np.testing.assert_allclose(found, reference.params[:2], rtol=1e-9, atol=1e-9)


angles = st.floats(-np.pi, np.pi)
scales = st.floats(0.01, 100)
shifts = st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
noises = st.integers(0, 10_000)


def similarity(angle: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, shift[0]], [s, c, shift[1]]])


def face(seed: int) -> np.ndarray:
    return arcface_template() + np.random.default_rng(seed).normal(0, 5, (5, 2))


@given(angles, scales, shifts)
def test_a_similarity_is_recovered(angle: float, scale: float, shift: tuple[float, float]) -> None:
    moved = apply_transform(similarity(angle, scale, shift), arcface_template())
    found = similarity_transform(moved[None], arcface_template())[0]
    np.testing.assert_allclose(apply_transform(found, moved), arcface_template(), atol=1e-6)
    np.testing.assert_allclose(transform_scale(found), 1 / scale, rtol=1e-7)


@given(noises, angles, scales, shifts)
@settings(max_examples=50)
def test_moving_the_photo_moves_the_transform_with_it(
    seed: int, angle: float, scale: float, shift: tuple[float, float]
) -> None:
    points = face(seed)
    motion = similarity(angle, scale, shift)
    still = similarity_transform(points[None], arcface_template())[0]
    moved = similarity_transform(apply_transform(motion, points)[None], arcface_template())[0]
    np.testing.assert_allclose(
        apply_transform(moved, apply_transform(motion, points)),
        apply_transform(still, points),
        atol=1e-6,
    )


@given(noises, angles, scales, shifts)
@settings(max_examples=50)
def test_the_inverse_undoes(
    seed: int, angle: float, scale: float, shift: tuple[float, float]
) -> None:
    matrix = similarity(angle, scale, shift)
    there = apply_transform(matrix, face(seed))
    np.testing.assert_allclose(
        apply_transform(inverse_transform(matrix), there), face(seed), atol=1e-5
    )


def test_mirrored_points_are_never_reflected() -> None:
    mirrored = arcface_template() * [-1, 1]
    found = similarity_transform(mirrored[None], arcface_template())[0]
    assert np.linalg.det(found[:, :2]) > 0


def test_points_on_a_line_have_a_transform() -> None:
    line = np.stack([np.arange(5.0), 2 * np.arange(5.0)], axis=1)
    matrix = similarity(0.7, 3, (4, 5))
    found = similarity_transform(line[None], apply_transform(matrix, line))[0]
    np.testing.assert_allclose(found, matrix, atol=1e-12)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nan", "row 2: source holds a value that is not finite"),
        ("same", "row 2: all points of source are the same"),
        ("mirrored", "row 2: source fits target in no rotation"),
    ],
)
def test_a_row_without_a_transform_is_named(value: str, message: str) -> None:
    square = np.array([(0.0, 0), (1, 0), (1, 1), (0, 1)])
    source = np.stack([square] * 4)
    source[2] = {
        "nan": np.where(square == 0, np.nan, square),
        "same": np.full((4, 2), 1234.567),
        "mirrored": square[[0, 3, 2, 1]],
    }[value]
    with pytest.raises(ValueError, match=message):
        similarity_transform(source, square)


def test_wrong_shapes_and_targets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"source must .*, got \(5, 2\)"):
        similarity_transform(arcface_template(), arcface_template())
    with pytest.raises(ValueError, match=r"K >= 2"):
        similarity_transform(np.zeros((1, 1, 2)), np.zeros((1, 2)))
    with pytest.raises(ValueError, match=r"target must .*, got \(4, 2\)"):
        similarity_transform(arcface_template()[None], arcface_template()[:4])
    with pytest.raises(ValueError, match="row 0: all points of target are the same"):
        similarity_transform(arcface_template()[None], np.ones((5, 2)))
    with pytest.raises(ValueError, match="row 0: target holds a value that is not finite"):
        similarity_transform(arcface_template()[None], np.full((5, 2), np.inf))
    assert similarity_transform(np.empty((0, 5, 2)), arcface_template()).shape == (0, 2, 3)


# The template: where the public models expect eyes, nose and mouth.


def test_points_are_those_of_the_public_models_and_cannot_be_changed() -> None:
    points = [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366]]  # eyes, nose
    points += [[41.5493, 92.3655], [70.7299, 92.2041]]  # mouth
    for _ in range(2):
        template = arcface_template()
        assert template.tolist() == points
        template[:] = 0


def test_other_sizes_scale_about_the_center_of_the_first_pixel() -> None:
    np.testing.assert_allclose(arcface_template(224), 2 * arcface_template(112), rtol=1e-15)
    assert arcface_template(56)[0].tolist() == [38.2946 / 2, 51.6963 / 2]
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        arcface_template(0)


# What is cut out lies where the transform says, has the right grays, and does not alias.


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
        spread = max(4 / scale, 1.6)  # a smaller dot is moved by the rounding of its own grays
        dot = 240 * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * spread**2))
        found = warp(rgb(dot), matrix, size)[..., 0].astype(np.float64)
        u, v = grid(size, size)
        centroid = np.array([(u * found).sum(), (v * found).sum()]) / found.sum()
        assert np.abs(centroid - goal).max() < 0.05


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("degrees", [0, 40])
def test_grays_of_a_smooth_picture_are_those_of_float64_sampling(
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
def test_fine_stripes_become_gray_where_plain_sampling_shows_false_ones(scale: float) -> None:
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
    with pytest.raises(ValueError, match=r"image must .*, got float64 of shape \(9, 9, 3\)"):
        warp(image.astype(float), good, 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"matrix must .*, got \(3, 3\)"):
        warp(image, np.eye(3), 4)
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        warp(image, good, 0)
    with pytest.raises(ValueError, match="have an inverse"):
        warp(image, np.zeros((2, 3)), 4)
