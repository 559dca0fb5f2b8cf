"""Near duplicates are found, and different pictures are not taken for them."""

import io

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest

from centerarc.curate.duplicates import (
    MOST_DIFFERENCE,
    SURE_BITS,
    close_pairs,
    differences,
    perceptual_hashes,
    thumbnail,
)
from tests.curate.pictures import scene

Images = npt.NDArray[np.uint8]


def test_all_pairs_within_six_bits_are_found_once_and_none_beyond_ten() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 1 << 63, 300, dtype=np.uint64)
    flipped = base.copy()
    for row in range(len(base)):
        for bit in rng.choice(63, row % 16, replace=False):
            flipped[row] ^= np.uint64(1) << np.uint64(bit)
    hashes = rng.permutation(np.concatenate([base, flipped, base[:5]]))
    found = [tuple(pair) for pair in close_pairs(hashes).tolist()]
    assert found == sorted(set(found))
    distance = np.bitwise_count(hashes[:, None] ^ hashes)
    first, second = np.nonzero(np.triu(distance <= SURE_BITS, 1))
    assert set(zip(first.tolist(), second.tolist(), strict=True)) <= set(found)
    assert len(first) > 100
    assert all(a < b and distance[a, b] <= 10 for a, b in found)


def test_a_crowd_with_one_hash_is_not_compared_each_with_each() -> None:
    pairs = close_pairs(np.full(1000, 5, dtype=np.uint64))
    assert set(pairs.ravel().tolist()) == set(range(1000))
    assert len(pairs) == len(np.unique(pairs, axis=0)) < 10 * 1000


@pytest.mark.parametrize("number", [0, 1])
def test_fewer_than_two_images_have_no_pairs(number: int) -> None:
    thumbnails = np.zeros((number, 16, 16), dtype=np.uint8)
    assert close_pairs(perceptual_hashes(thumbnails)).shape == (0, 2)
    assert differences(thumbnails, np.zeros((0, 2), dtype=np.int64)).shape == (0,)


def saved_again(image: Images) -> Images:
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, "JPEG", quality=30)
    return np.asarray(PIL.Image.open(buffer))


def smaller(image: Images) -> Images:
    return np.asarray(PIL.Image.fromarray(image).resize((60, 60)))


def darker(image: Images) -> Images:
    return (image * 0.6).astype(np.uint8)


def brighter(image: Images) -> Images:
    return (255 - (255 - image.astype(float)) * 0.7).astype(np.uint8)


def cropped(image: Images) -> Images:
    return np.asarray(PIL.Image.fromarray(image[1:111, 2:]).resize((112, 112)))


@pytest.mark.parametrize("change", [saved_again, smaller, darker, brighter, cropped])
@pytest.mark.parametrize("number", [2, 100])
def test_changed_copies_are_found_and_nothing_else(change, number: int) -> None:
    originals = [scene(seed) for seed in range(number)]
    images = originals + [change(image) for image in originals]
    thumbnails = np.stack([thumbnail(image) for image in images])
    pairs = close_pairs(perceptual_hashes(thumbnails))
    near = pairs[differences(thumbnails, pairs) <= MOST_DIFFERENCE]
    assert all(b - a == number for a, b in near.tolist())
    assert len(near) >= 0.95 * number


def test_the_difference_of_unlike_pictures_is_one_and_of_equal_ones_zero() -> None:
    thumbnails = np.stack([thumbnail(scene(seed)) for seed in (1, 2)])
    pairs = np.array([[0, 1], [1, 1]])
    unlike, equal = differences(thumbnails, pairs)
    assert unlike == 1
    assert equal == pytest.approx(0, abs=1e-4)


def test_candidates_that_are_all_unlike_are_no_error() -> None:
    thumbnails = np.stack([thumbnail(scene(seed)) for seed in (1, 2)])
    assert differences(thumbnails, np.array([[0, 1]])).tolist() == [1]
