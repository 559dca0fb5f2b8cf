"""A YuNet-shaped network runs through OpenCV, and its landmarks are where the photo has them."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from centerarc.curate import YuNetDetector
from centerarc.data.alignment import arcface_template
from tests.curate.blob_model import OFFSETS, build


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("detector") / "blöbs.onnx")


def photo(
    width: int,
    height: int,
    *blobs: tuple[float, float],
    radius: float = 8,
    color: tuple[int, int, int] = (255, 20, 20),
) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    image = np.full((height, width, 3), 90.0)
    for u, v in blobs:
        cover = np.clip(radius + 0.5 - np.hypot(x - u, y - v), 0, 1)[..., None]
        image = image * (1 - cover) + cover * np.array(color)
    return image.round().astype(np.uint8)


def test_faces_are_found_where_they_are(model: Path) -> None:
    blobs = [(100.3, 80.6), (230.0, 140.0)]
    for width, height in ((320, 224), (333, 217)):  # a multiple of 32 pixels, and not
        found = YuNetDetector(model).detect(photo(width, height, *blobs))
        assert len(found) == 2
        for face, blob in zip(sorted(found, key=lambda f: f.points[2, 0]), blobs, strict=True):
            np.testing.assert_allclose(face.points, OFFSETS + blob, atol=0.02)
            assert face.score is not None
            assert 0.6 < face.score <= 1


def test_the_order_of_landmarks_is_that_of_the_template(model: Path) -> None:
    # What YuNet calls the right eye is the person's, so left in the image, as in the template.
    [face] = YuNetDetector(model).detect(photo(200, 200, (100, 100)))
    template = arcface_template()
    np.testing.assert_array_equal(
        np.sign(face.points - face.points[2])[[0, 1, 3, 4]],
        np.sign(template - template[2])[[0, 1, 3, 4]],
    )
    assert face.problem(200, 200) is None


def test_red_is_red_to_the_network(model: Path) -> None:
    # OpenCV's networks want BGR, our images are RGB.
    blue = photo(200, 200, (100, 100), color=(20, 20, 255))
    assert YuNetDetector(model).detect(blue) == []


@pytest.mark.parametrize(("width", "height"), [(2000, 1500), (1501, 1999), (1234, 4000)])
def test_landmarks_of_a_large_photo_are_in_its_own_pixels(
    model: Path, width: int, height: int
) -> None:
    shrink = max(width, height) / 640
    at = np.array([0.4 * width + 0.3, 0.55 * height + 0.4])
    image = photo(width, height, tuple(at), radius=8 * shrink)
    [face] = YuNetDetector(model).detect(image)
    assert np.abs(face.points[2] - at).max() < 0.1
    np.testing.assert_allclose(face.points - at, OFFSETS * shrink, rtol=0.01, atol=0.2)


def test_one_detector_takes_photos_of_many_sizes_and_none_with_a_face(model: Path) -> None:
    detector = YuNetDetector(model)
    for width, height in ((640, 480), (31, 17), (1, 1), (480, 640), (3000, 2)):
        assert detector.detect(np.full((height, width, 3), 90, np.uint8)) == []
    assert len(detector.detect(photo(200, 200, (100, 100)))) == 1


def test_faint_faces_need_a_lower_score(model: Path) -> None:
    faint = photo(200, 200, (100, 100), color=(190, 90, 90))
    assert YuNetDetector(model).detect(faint) == []
    [face] = YuNetDetector(model, min_score=0.2).detect(faint)
    # The network's score is the redness of the cell, (190 - 90) / 255, all in the blob.
    assert face.score == pytest.approx(100 / 255, abs=0.02)


def test_a_copy_in_another_process_finds_the_same(model: Path) -> None:
    detector = YuNetDetector(model)
    image = photo(200, 200, (100, 100))
    [here] = detector.detect(image)
    [there] = pickle.loads(pickle.dumps(detector)).detect(image)
    np.testing.assert_array_equal(here.points, there.points)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"no model" * 99, "this is not an ONNX model that OpenCV can read"),
        ({"without": "kps_16"}, "not a YuNet model of 2023 or newer: it lacks the outputs kps_16"),
        ({"landmarks": 4}, "96 x 64 pixels its output kps_8 has 768 values, not 960"),
    ],
)
def test_a_file_that_is_no_yunet_is_one_clear_line(
    tmp_path: Path, content: object, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        build(path, **content)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message) as caught:
        YuNetDetector(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_wrong_arguments_are_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"min_score must be in .*got 1\.5"):
        YuNetDetector(model, min_score=1.5)
    with pytest.raises(ValueError, match="max_side must be at least 32, got 31"):
        YuNetDetector(model, max_side=31)
    with pytest.raises(OSError, match=r"absent\.onnx.*No such file"):
        YuNetDetector(tmp_path / "absent.onnx")
