"""Drawn faces: the same for everybody, different people different, and not solvable by pixels."""

import hashlib
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from centerarc.data.synthetic.person import draw_conditions, draw_person
from centerarc.data.synthetic.source import SyntheticFaces

IDENTITIES, IMAGES = 40, 8


@pytest.fixture(scope="module")
def faces() -> SyntheticFaces:
    return SyntheticFaces(IDENTITIES, IMAGES, seed=3, image_size=112)


@pytest.fixture(scope="module")
def images(faces: SyntheticFaces) -> NDArray[np.uint8]:
    return np.stack([faces.image(index) for index in range(len(faces))])


def _auc(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Chance that two images of one person score higher than two images of two people."""
    first, second = np.triu_indices(len(labels), k=1)
    same = labels[first] == labels[second]
    value = scores[first, second]
    genuine, impostor = value[same], np.sort(value[~same])
    return float(np.mean(np.searchsorted(impostor, genuine)) / len(impostor))


def _cosine(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    rows = rows - rows.mean(axis=0)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    result: NDArray[np.float64] = rows @ rows.T
    return result


@pytest.mark.parametrize("size", [64, 112, 160])
def test_images_are_colour_pictures_of_the_size_asked_for(size: int) -> None:
    source = SyntheticFaces(2, 3, image_size=size)
    for index in range(len(source)):
        image = source.image(index)
        assert image.shape == (size, size, 3)
        assert image.dtype == np.uint8
        assert image.flags["C_CONTIGUOUS"]
        assert image.std() > 8, "a flat picture"


def test_labels_and_names_follow_the_images() -> None:
    source = SyntheticFaces(3, 4, first_identity=7)
    assert len(source) == 12
    assert source.labels.dtype == np.int64
    assert source.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert len(set(source.identities)) == 3
    assert source.identities == SyntheticFaces(10, 1).identities[7:]


def test_the_same_picture_at_two_sizes_shows_the_same_thing() -> None:
    # A size that is drawn differently would make image_size change the data.
    large = SyntheticFaces(4, 2, image_size=224)
    small = SyntheticFaces(4, 2, image_size=112)
    for index in range(len(small)):
        halved = large.image(index).reshape(112, 2, 112, 2, 3).mean(axis=(1, 3)).ravel()
        assert np.corrcoef(halved, small.image(index).ravel())[0, 1] > 0.9


def test_an_image_is_the_same_in_every_process_and_in_any_order() -> None:
    program = (
        "import hashlib\n"
        "from centerarc.data.synthetic import SyntheticFaces\n"
        "source = SyntheticFaces(5, 4, seed=11)\n"
        "print(hashlib.sha256(b''.join(source.image(i).tobytes() for i in range(20))).hexdigest())"
    )
    other = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.strip()
    source = SyntheticFaces(5, 4, seed=11)
    drawn = {index: source.image(index).tobytes() for index in reversed(range(20))}
    assert hashlib.sha256(b"".join(drawn[i] for i in range(20))).hexdigest() == other


def test_a_pickled_source_draws_the_same_and_is_small(faces: SyntheticFaces) -> None:
    faces.image(0)
    data = pickle.dumps(faces)
    assert len(data) < 1000, "a loader sends the source to every worker"
    np.testing.assert_array_equal(pickle.loads(data).image(5), faces.image(5))


def test_a_person_keeps_the_number_in_the_population() -> None:
    everybody = SyntheticFaces(6, 3, seed=2)
    late = SyntheticFaces(2, 3, seed=2, first_identity=4)
    for index in range(len(late)):
        np.testing.assert_array_equal(late.image(index), everybody.image(4 * 3 + index))
    assert set(late.identities).isdisjoint(SyntheticFaces(4, 3, seed=2).identities)


def test_more_images_of_a_person_do_not_change_the_first_ones() -> None:
    few, many = SyntheticFaces(3, 2), SyntheticFaces(3, 5)
    for label in range(3):
        for number in range(2):
            np.testing.assert_array_equal(
                few.image(2 * label + number), many.image(5 * label + number)
            )


def test_no_two_images_are_alike(images: NDArray[np.uint8]) -> None:
    assert len({image.tobytes() for image in images}) == len(images)


def test_another_seed_is_another_population() -> None:
    one, two = SyntheticFaces(4, 2, seed=0), SyntheticFaces(4, 2, seed=1)
    for index in range(len(one)):
        assert not np.array_equal(one.image(index), two.image(index))
    assert draw_person(0, 1).head_width != draw_person(1, 1).head_width


def test_changing_one_number_changes_only_what_it_names() -> None:
    person = draw_person(5, 9)
    first, second = (draw_conditions(person, 5, 9, number) for number in (0, 1))
    assert (first.yaw, first.light, first.exposure) != (second.yaw, second.light, second.exposure)
    again = draw_person(5, 9)
    assert (again.eye_spacing, again.mouth_width, again.hair_seed) == (
        person.eye_spacing,
        person.mouth_width,
        person.hair_seed,
    )


def test_traits_of_the_population_are_continuous_and_overlap() -> None:
    # Were traits drawn from a few values, a network could learn a code instead of faces.
    people = [draw_person(0, identity) for identity in range(300)]
    for name in ("head_width", "eye_spacing", "nose_width", "mouth_width", "chin", "age"):
        values = np.asarray([getattr(person, name) for person in people])
        assert len(np.unique(values)) > 290, name
        assert np.ptp(values) > 3.5 * values.std() > 0, name
    skins = np.asarray([person.skin for person in people])
    assert np.all((skins > 0) & (skins < 1))
    assert np.unique(skins.round(6), axis=0).shape[0] == len(people)


def test_pixels_alone_do_not_tell_people_apart(
    faces: SyntheticFaces, images: NDArray[np.uint8]
) -> None:
    flat = images.reshape(len(images), -1).astype(np.float64)
    assert _auc(_cosine(flat), faces.labels) < 0.75


def test_the_mean_pictures_of_a_person_agree(
    faces: SyntheticFaces, images: NDArray[np.uint8]
) -> None:
    # Averaging removes pose, light and noise: what is left must be the person.
    halves = images.reshape(IDENTITIES, 2, IMAGES // 2, -1).astype(np.float64).mean(axis=2)
    scores = _cosine(halves.reshape(2 * IDENTITIES, -1))
    labels = np.repeat(np.arange(IDENTITIES), 2)
    single = images[:: IMAGES // 2].reshape(2 * IDENTITIES, -1).astype(np.float64)
    assert _auc(scores, labels) > max(0.8, _auc(_cosine(single), labels))


def test_faces_are_aligned_to_the_template(images: NDArray[np.uint8]) -> None:
    # In the mean face the eyes are darker than the cheeks below them and the brow bone between.
    mean = images.astype(np.float64).mean(axis=(0, 3))

    def patch(x: float, y: float) -> float:
        return float(mean[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3].mean())

    for x in (38.3, 73.5):
        assert patch(x, 51.7) < patch(x, 68) - 5
        assert patch(x, 51.7) < patch(56, 51.7) - 5
    # So are the corners of the mouth, and the nostrils below the tip of the nose.
    for x in (41.5, 70.7):
        assert patch(x, 92.3) < patch(x, 80)
    assert patch(56, 78) < patch(56, 70) - 5
    # Faces are about symmetric over a population.
    assert np.corrcoef(mean.ravel(), mean[:, ::-1].ravel())[0, 1] > 0.95


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        ({"num_identities": 0}, "num_identities", "0"),
        ({"num_identities": 2.5}, "num_identities", "2.5"),
        ({"images_per_identity": -1}, "images_per_identity", "-1"),
        ({"seed": -4}, "seed", "-4"),
        ({"seed": True}, "seed", "True"),
        ({"image_size": 8}, "image_size", "8"),
        ({"first_identity": "3"}, "first_identity", "'3'"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], name: str, value: str) -> None:
    given: dict[str, Any] = {"num_identities": 2, "images_per_identity": 2} | arguments
    with pytest.raises(ValueError, match=rf"{name} must be .*got {value}"):
        SyntheticFaces(**given)


@pytest.mark.parametrize("index", [-1, 6, 100])
def test_an_index_outside_the_set_is_an_error(index: int) -> None:
    with pytest.raises(IndexError, match=str(index)):
        SyntheticFaces(3, 2).image(index)


def test_numpy_integers_are_integers() -> None:
    two: Any = np.int64(2)
    source = SyntheticFaces(two, two, seed=1)
    np.testing.assert_array_equal(source.image(two), source.image(2))


@pytest.mark.parametrize("worn", ["glasses", "hat", "scarf", "hand"])
def test_every_kind_of_covering_occurs_and_is_rare(worn: str) -> None:
    person = draw_person(0, 0)
    values = [getattr(draw_conditions(person, 0, 0, number), worn) for number in range(800)]
    assert {1, 2} <= set(values), "each has two styles"
    assert sum(value > 0 for value in values) < (700 if worn == "glasses" else 240)
