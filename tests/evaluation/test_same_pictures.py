"""Pictures are the same by their pixels, or by embeddings that are equal up to rounding."""

import io

import numpy as np
import PIL.Image
import pytest

from centerarc.data.synthetic.source import SyntheticFaces
from centerarc.evaluation.same_pictures import (
    Embedded,
    first_of_each,
    near_copies,
    number_pictures,
    picture_digest,
    thumbnail,
)


def groups(numbers: list[np.ndarray]) -> list[tuple[int, ...]]:
    """The rows of all parts in turn, grouped by equal numbers."""
    flat = np.concatenate(numbers)
    return sorted(tuple(np.flatnonzero(flat == n).tolist()) for n in np.unique(flat))


def test_pixels_and_shape_decide() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    other = image.copy()
    other[0, 0, 0] ^= 1
    digests = [picture_digest(a) for a in (image, image.copy(), other, image.reshape(4, 2, 3))]
    parts = [
        Embedded(np.zeros((2, 3), np.float32), np.array(digests[:2])),
        Embedded(np.zeros((2, 3), np.float32), np.array(digests[2:])),
    ]
    assert groups(number_pictures(*parts)) == [(0, 1), (2,), (3,)]


@pytest.mark.parametrize("seed", range(3))
def test_equal_embeddings_are_found_as_by_comparing_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one = rng.normal(size=(300, 32)).astype(np.float32)
    again = one[rng.integers(300, size=80)]
    again = again + 1e-6 * rng.normal(size=again.shape).astype(np.float32)
    # Near is not the same: another shot of one person, and the same direction at another length.
    near = np.concatenate([one[:20] + 1e-2, 1.01 * one[20:40]])
    parts = [one, np.concatenate([again, near]).astype(np.float32)]
    found = groups(number_pictures(*(Embedded(part) for part in parts)))
    every = np.concatenate(parts).astype(np.float64)
    apart = np.linalg.norm(every[:, None] - every[None], axis=2)
    equal = apart <= 1e-4 * np.linalg.norm(every, axis=1)[:, None]
    assert found == sorted({tuple(np.flatnonzero(row).tolist()) for row in equal})
    assert len(found) == 340


def test_a_part_without_pixels_is_compared_by_embeddings() -> None:
    digest = np.arange(4, dtype=np.uint64).reshape(2, 2)
    vectors = np.eye(2, dtype=np.float32)
    parts = [Embedded(vectors, digest), Embedded(vectors[::-1].copy())]
    assert groups(number_pictures(*parts)) == [(0, 3), (1, 2)]


def test_the_first_of_each_stays_in_order() -> None:
    assert first_of_each(np.array([5, 2, 5, 0, 2])).tolist() == [0, 1, 3]


def shown(images: list[np.ndarray]) -> Embedded:
    found = np.array([thumbnail(image) for image in images])
    return Embedded(np.zeros((len(images), 2), np.float32), None, found)


def test_copies_that_were_saved_again_or_resized_are_found_and_other_pictures_are_not() -> None:
    faces = SyntheticFaces(num_identities=12, images_per_identity=4, seed=3)
    images = [faces.image(n) for n in range(len(faces))]
    changed = []
    for number, image in enumerate(images[::2]):
        picture = PIL.Image.fromarray(image)
        if number % 2:
            picture = picture.resize((80, 80)).convert("L").convert("RGB")
        file = io.BytesIO()
        picture.save(file, "jpeg", quality=60)
        with PIL.Image.open(file) as again:
            changed.append(np.asarray(again.resize((112, 112))))
    known = shown(images)
    assert near_copies(shown(changed), known).tolist() == list(range(0, len(images), 2))
    assert (near_copies(shown(images[1::2]), shown(images[::2])) == -1).all()
    flat = [np.full((112, 112, 3), value, np.uint8) for value in (10, 200)]
    assert (near_copies(shown(flat), shown(flat)) == -1).all()
