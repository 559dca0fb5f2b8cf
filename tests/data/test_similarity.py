"""The similarity transform is the least-squares one, of every row, and says when there is none."""

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
    with pytest.raises(ValueError, match=r"source has shape \(5, 2\)"):
        similarity_transform(arcface_template(), arcface_template())
    with pytest.raises(ValueError, match=r"K >= 2"):
        similarity_transform(np.zeros((1, 1, 2)), np.zeros((1, 2)))
    with pytest.raises(ValueError, match=r"target has shape \(4, 2\)"):
        similarity_transform(arcface_template()[None], arcface_template()[:4])
    with pytest.raises(ValueError, match="row 0: all points of target are the same"):
        similarity_transform(arcface_template()[None], np.ones((5, 2)))
    with pytest.raises(ValueError, match="row 0: target holds a value that is not finite"):
        similarity_transform(arcface_template()[None], np.full((5, 2), np.inf))
    assert similarity_transform(np.empty((0, 5, 2)), arcface_template()).shape == (0, 2, 3)
