"""From photos to embeddings: the right faces, in the photo's pixels, or a reason why not."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
import scipy.ndimage

from centerarc.curate import YuNetDetector, align_folder
from centerarc.curate.photos import Face
from centerarc.data.alignment import arcface_template, warp
from centerarc.data.decode import read_image, resized
from centerarc.data.synthetic import SyntheticFaces
from centerarc.gallery.faces import FoundFace, Recognizer, sharpness
from centerarc.models import create_model, export_onnx, open_model, save_weights
from centerarc.models.embedder import Preprocessing
from centerarc.models.opened import OpenedModel
from tests.curate.blob_model import build
from tests.curate.blob_model import photo as blob_photo
from tests.curate.drawn_photos import drawn_photo, needs_carrier

Images = npt.NDArray[np.uint8]


class Means:
    """Embeds a face as its picture at 4 x 4 pixels, and keeps what it is given."""

    image_size = 112

    def __init__(self, factor: float = 1.0, of_batch: float = 0.0) -> None:
        self.batches: list[Images] = []
        self.factor = factor
        self.of_batch = of_batch

    def embed(self, images: Images, *, mirror: bool = False) -> npt.NDArray[np.float32]:
        self.batches.append(images)
        found = self._means(images)
        if mirror:
            found = found + self._means(images[:, :, ::-1])
        found = found - self.of_batch * found.mean(0)
        return np.asarray(found * self.factor, np.float32)

    def _means(self, images: Images) -> npt.NDArray[np.float64]:
        cells = images.astype(np.float64).reshape(len(images), 4, 28, 4, 28, 3) - 110
        return cells.mean((2, 4)).reshape(len(images), -1)


def opened(embedder: Means | None = None, sha256: str = "5" * 64) -> OpenedModel:
    return OpenedModel(
        Path("m.safetensors"), "weights", sha256, embedder or Means(), None, Preprocessing(112)
    )


@pytest.fixture(scope="module")
def yunet() -> YuNetDetector:
    return YuNetDetector.bundled()


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> YuNetDetector:
    return YuNetDetector(build(tmp_path_factory.mktemp("blobs") / "blobs.onnx"))


class Given(YuNetDetector):
    """Finds what it is told to find."""

    def __init__(self, blobs: YuNetDetector, found: Sequence[Face]) -> None:
        self.__dict__.update(blobs.__dict__)
        self.found = list(found)

    def detect(self, image: Images) -> list[Face]:
        return self.found


def unit(row: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    wide = row.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide))


# Faces of a photo.


@needs_carrier
def test_faces_are_where_they_are_and_embedded_as_the_aligned_ones(
    yunet: YuNetDetector, tmp_path: Path
) -> None:
    photo = drawn_photo((20, 30), (180, 90))
    small, large = photo.copy(), cv2.resize(photo, (960, 720)).astype(np.uint8)
    model = opened()
    for image, scale in ((small, 1), (large, 3)):
        found = Recognizer(model, yunet).faces(image)
        assert [face.refused for face in found] == ["", ""]
        # What the command for whole folders makes of it, as a picture without loss.
        PIL.Image.fromarray(image).save(tmp_path / "1.png") if scale == 1 else None
        for face in found:
            assert face.landmarks is not None
            assert face.box is not None
            assert face.embedding is not None
            assert face.side is not None
            assert face.embedding.dtype == np.float32
            assert abs(float(np.linalg.norm(face.embedding)) - 1) < 1e-6
            place = min(((20, 30), (180, 90)), key=lambda p: abs(p[0] * scale - face.box[0]))
            wanted = (np.array(place) + arcface_template()) * scale
            assert np.abs(face.landmarks - wanted).max() < 14 * scale
            assert 70 * scale < face.side < 140 * scale
            x, y, width, height = face.box
            assert x < face.landmarks[:, 0].min() < face.landmarks[:, 0].max() < x + width
            assert y < face.landmarks[:, 1].min() < face.landmarks[:, 1].max() < y + height
    folder = tmp_path / "photos"
    folder.mkdir()
    PIL.Image.fromarray(photo).save(folder / "1.png")
    align_folder(folder, tmp_path / "out", yunet, faces="all", format="png", workers=0)
    files = sorted((tmp_path / "out").glob("*.png"), key=lambda path: len(path.name))
    again = Recognizer(model).stream(files)
    for face, [other] in zip(Recognizer(model, yunet).faces(photo), again, strict=True):
        assert face.embedding is not None
        assert other.embedding is not None
        np.testing.assert_allclose(face.embedding, other.embedding, atol=1e-6)


@needs_carrier
def test_a_photo_is_a_file_its_bytes_or_its_pixels(yunet: YuNetDetector, tmp_path: Path) -> None:
    photo = drawn_photo((90, 60))
    path = tmp_path / "1.png"
    PIL.Image.fromarray(photo).save(path)
    recognizer = Recognizer(opened(), yunet)
    expected = recognizer.faces(photo)[0].embedding
    assert expected is not None
    for source in (path, str(path), path.read_bytes()):
        np.testing.assert_array_equal(recognizer.faces(source)[0].embedding, expected)


@needs_carrier
@pytest.mark.parametrize("orientation", [1, 3, 6, 8, 5])
def test_a_phone_held_upright_gives_the_face_that_is_seen(
    yunet: YuNetDetector, tmp_path: Path, orientation: int
) -> None:
    photo = drawn_photo((150, 40), height=260)
    stored = {
        1: photo,
        3: photo[::-1, ::-1],
        5: photo.transpose(1, 0, 2),
        6: np.rot90(photo, 1),
        8: np.rot90(photo, -1),
    }[orientation]
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "1.png", exif=exif)
    recognizer = Recognizer(opened(), yunet)
    [shown], [wanted] = recognizer.faces(tmp_path / "1.png"), recognizer.faces(photo)
    assert shown.box == wanted.box
    np.testing.assert_array_equal(shown.landmarks, wanted.landmarks)
    np.testing.assert_array_equal(shown.embedding, wanted.embedding)


def test_the_rule_chooses_among_the_faces_of_a_photo(blobs: YuNetDetector) -> None:
    faces = [
        Face(arcface_template() * scale + (x, 20), score)
        for scale, x, score in ((0.5, 10, 0.9), (1.0, 100, 0.7), (0.8, 230, 0.8), (0.3, 5, 0.95))
    ]
    image = noise_photo(360, 180)
    recognizer = Recognizer(opened(), Given(blobs, faces))
    scores = {rule: [f.score for f in recognizer.faces(image, rule=rule)] for rule in RULES}
    # The face of 34 pixels is too small for every rule, and comes last where all are asked for.
    assert scores == {
        "all": [0.7, 0.8, 0.9, 0.95],
        "largest": [0.7],
        "score": [0.9],
        "center": [0.7],
    }
    assert [f.refused for f in recognizer.faces(image)] == ["", "", "", "too small"]
    assert [f.among for f in recognizer.faces(image, rule="largest")] == [3]
    assert [f.among for f in recognizer.faces(image)] == [1, 1, 1, 1]
    [only] = recognizer.faces(image, rule="only")
    assert (only.refused, only.detail) == ("several", "3 faces; a photo of one is asked for")
    [one] = Recognizer(opened(), Given(blobs, faces[2:])).faces(image, rule="only")
    assert (one.refused, one.score) == ("", 0.8)


RULES = ("all", "largest", "score", "center")


def noise_photo(width: int, height: int) -> Images:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


# Why a face is refused.


def only(found: list[FoundFace]) -> FoundFace:
    [face] = found
    assert face.embedding is None
    assert face.detail
    assert "\n" not in face.detail
    return face


@pytest.mark.parametrize("rule", RULES)
def test_a_photo_without_a_usable_face_says_why(blobs: YuNetDetector, rule: Any) -> None:
    recognizer = Recognizer(opened(), blobs)
    none = only(recognizer.faces(np.full((90, 90, 3), 90, np.uint8), rule=rule))
    assert (none.refused, none.box) == ("none", None)
    assert "a score of at least 0.6" in none.detail
    small = Face(arcface_template() * 0.3 + 20, 0.9)
    found = only(Recognizer(opened(), Given(blobs, [small])).faces(noise_photo(99, 99), rule=rule))
    assert found.refused == "too small"
    assert found.side == pytest.approx(0.3 * 112)
    assert found.detail == "a square of 33.6 pixels; at least 40 are asked for"
    loose = Recognizer(opened(), Given(blobs, [small]), min_face=33)
    assert loose.faces(noise_photo(99, 99), rule=rule)[0].refused == ""
    swapped = Face(arcface_template()[[1, 0, 2, 4, 3]], 0.9)
    bad = only(
        Recognizer(opened(), Given(blobs, [swapped])).faces(noise_photo(112, 112), rule=rule)
    )
    assert bad.refused == "bad landmarks"
    assert "left and right are swapped" in bad.detail


@needs_carrier
def test_blurred_faces_are_refused_and_sharp_ones_are_not(yunet: YuNetDetector) -> None:
    photo = drawn_photo((90, 60))
    recognizer = Recognizer(opened(), yunet)
    [sharp] = recognizer.faces(photo)
    assert sharp.sharpness is not None
    assert sharp.sharpness > 0.5
    soft = cv2.GaussianBlur(photo, (0, 0), 3.5).astype(np.uint8)
    blurred = only(recognizer.faces(soft))
    assert blurred.refused == "blurred"
    assert blurred.sharpness is not None
    assert blurred.sharpness < 0.5
    assert f"a sharpness of {blurred.sharpness:.3f}; at least 0.5 is asked for" == blurred.detail
    assert blurred.landmarks is not None
    assert Recognizer(opened(), yunet, min_sharpness=0).faces(soft)[0].refused == ""


@pytest.mark.parametrize(("factor", "what"), [(0.0, "all 0"), (np.nan, "not finite")])
def test_an_embedding_that_nothing_can_be_compared_with_is_refused(
    factor: float, what: str
) -> None:
    embedder = Means()
    recognizer = Recognizer(opened(embedder))
    embedder.factor = factor
    found = only(recognizer.faces(SyntheticFaces(1, 1).image(0)))
    assert (found.refused, found.detail) == ("not finite", f"the embedding is {what}")


def test_a_tiny_and_a_huge_embedding_have_length_1_too() -> None:
    for factor in (1e-36, 1e30):
        [face] = Recognizer(opened(Means(factor))).faces(SyntheticFaces(1, 1).image(0))
        assert face.embedding is not None
        assert abs(float(np.linalg.norm(face.embedding)) - 1) < 1e-6


def test_what_cannot_be_read_is_one_photo_without_a_face(
    blobs: YuNetDetector, tmp_path: Path
) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    recognizer = Recognizer(opened(), blobs)
    sources: list[Any] = [b"", b"no image", tmp_path / "absent.jpg", tmp_path, "a\0b"]
    for source in (*sources, tmp_path / "text.jpg"):
        found = only(recognizer.faces(source))
        assert found.refused == "unreadable"
    bomb = b"P5 60000 60000 255\n" + bytes(99)
    assert "too many pixels; at most 64000000 are decoded" in only(recognizer.faces(bomb)).detail


# Aligned faces, without a detector.


def test_an_aligned_face_is_taken_as_it_is() -> None:
    embedder = Means()
    image = SyntheticFaces(1, 1).image(0)
    [face] = Recognizer(opened(embedder)).faces(image)
    assert (face.box, face.side, face.landmarks, face.score) == ((0, 0, 112, 112), 112, None, None)
    np.testing.assert_array_equal(embedder.batches[-1], image[None])
    np.testing.assert_allclose(face.embedding, unit(Means().embed(image[None])[0]), atol=1e-6)


def test_an_aligned_face_of_another_size_is_resized_as_sources_do() -> None:
    embedder = Means()
    image = cv2.resize(SyntheticFaces(1, 1).image(0), (250, 250)).astype(np.uint8)
    [face] = Recognizer(opened(embedder)).faces(image)
    assert (face.box, face.side) == ((0, 0, 250, 250), 250)
    np.testing.assert_array_equal(embedder.batches[-1], resized(image, 112, 112)[None])


def test_what_cannot_be_an_aligned_face_is_refused_and_what_to_do_is_said(tmp_path: Path) -> None:
    PIL.Image.new("RGB", (250, 240)).save(tmp_path / "p.png")
    for source in (tmp_path / "p.png", np.zeros((240, 250, 3), np.uint8)):
        [face] = Recognizer(opened()).faces(source)
        assert face.refused == "unreadable"
        assert "250 x 240 pixels, and without a detector" in face.detail
        assert "centerarc data align" in face.detail


# Many photos.


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches_change_nothing_and_are_no_larger_than_asked(
    blobs: YuNetDetector, batch_size: int
) -> None:
    rng = np.random.default_rng(1)
    photos = [blob_photo(400, 200, *[(100, 100), (300, 100)][: number % 3]) for number in range(7)]
    photos = [np.clip(p + rng.normal(0, 9, p.shape), 0, 255).astype(np.uint8) for p in photos]
    embedder = Means()
    recognizer = Recognizer(opened(embedder), blobs, batch_size=batch_size)
    embedder.batches.clear()
    found = list(recognizer.stream(photos))
    assert [len(faces) for faces in found] == [1, 1, 2, 1, 1, 2, 1]
    assert [faces[0].refused for faces in found] == ["none", "", ""] * 2 + ["none"]
    sizes = [len(batch) for batch in embedder.batches]
    assert max(sizes) <= batch_size
    assert sum(sizes) == 6
    for photo, faces in zip(photos, found, strict=True):
        for one, other in zip(recognizer.faces(photo), faces, strict=True):
            np.testing.assert_array_equal(one.embedding, other.embedding)
            assert one.box == other.box


def test_photos_are_taken_as_they_are_needed() -> None:
    taken = []

    def photos() -> Iterator[Images]:
        faces = SyntheticFaces(9, 1)
        for number in range(9):
            taken.append(number)
            yield faces.image(number)

    found = Recognizer(opened(), batch_size=2, min_sharpness=0).stream(photos())
    assert not taken
    next(found)
    assert len(taken) == 2
    assert len(list(found)) == 8


def test_mirror_images_count_for_half() -> None:
    image = SyntheticFaces(1, 1).image(0)
    [face] = Recognizer(opened(), mirror=True).faces(image)
    both = Means().embed(np.stack([image, image[:, ::-1]])).astype(np.float64).sum(0)
    np.testing.assert_allclose(face.embedding, unit(both), atol=1e-6)


def test_a_model_that_sees_the_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="alone one that is 0: it normalizes over the batch"):
        Recognizer(opened(Means(of_batch=1)))


def test_wrong_arguments_are_named() -> None:
    for name, value in (("min_face", -1), ("min_sharpness", np.nan), ("batch_size", 0)):
        more: dict[str, Any] = {name: value}
        with pytest.raises(ValueError, match=f"{name} must be at least"):
            Recognizer(opened(), **more)
    recognizer = Recognizer(opened())
    wrong: Any = np.zeros((112, 112, 3), np.float32)
    with pytest.raises(ValueError, match=r"uint8 of shape \(H, W, 3\), got float32"):
        recognizer.faces(wrong)
    rule: Any = "best"
    with pytest.raises(ValueError, match=r"faces must be one of largest, .*'best'"):
        recognizer.faces(wrong, rule=rule)
    with pytest.raises(ValueError, match="photos must be several"):
        recognizer.stream("photo.jpg")


# What a gallery keeps.


def test_what_makes_embeddings_differ_is_in_the_identity(
    blobs: YuNetDetector, tmp_path: Path
) -> None:
    plain = Recognizer(opened())
    assert plain.digest == Recognizer(opened()).digest
    others = [
        Recognizer(opened(sha256="6" * 64)),
        Recognizer(opened(), mirror=True),
        Recognizer(opened().finished(concat_mirror=True)),
    ]
    changed = OpenedModel(
        *(Path("m"), "checkpoint", "5" * 64, Means(), None),
        preprocessing=Preprocessing(112, channels="bgr"),
    )
    digests = {each.digest for each in (plain, *others, Recognizer(changed))}
    assert len(digests) == 5
    # Limits and detectors are told, and do not keep embeddings apart.
    found = Recognizer(opened(), blobs, min_face=7, min_sharpness=0.25)
    assert found.identity == plain.identity
    assert found.settings["detector_sha256"] == blobs.sha256
    assert found.settings["min_face"] == "7"
    assert found.settings["min_sharpness"] == "0.25"
    assert all(isinstance(value, str) for value in (found.settings | found.identity).values())


def test_an_exported_model_is_the_same_to_a_gallery(tmp_path: Path) -> None:
    network = create_model("mobilefacenet", embedding_size=16).eval()
    save_weights(tmp_path / "m.safetensors", network)
    source = open_model(tmp_path / "m.safetensors")
    assert source.network is not None
    export_onnx(
        source.network,
        tmp_path / "m.onnx",
        samples=np.stack([SyntheticFaces(4, 1).image(number) for number in range(4)]),
        weights_sha256=source.sha256,
        preprocessing=source.preprocessing,
    )
    image = SyntheticFaces(1, 1).image(0)
    one, other = (Recognizer(open_model(tmp_path / name)) for name in ("m.safetensors", "m.onnx"))
    assert one.identity == other.identity
    first, second = one.faces(image)[0].embedding, other.faces(image)[0].embedding
    assert first is not None
    assert second is not None
    np.testing.assert_allclose(first, second, atol=1e-4)


# Sharpness.


@pytest.mark.parametrize("blur", [2.5, 4.0, 6.0])
@pytest.mark.parametrize("contrast", [60, 200])
def test_the_blur_of_an_edge_is_measured_in_pixels(blur: float, contrast: int) -> None:
    # Edges along rows and columns, of an exact Gaussian profile.
    at = (np.arange(112) - 55.5) / blur
    edge = scipy.special.ndtr(at)
    picture = 20 + contrast * (edge[:, None] + edge[None, :]) / 2
    face = np.repeat(picture.round().astype(np.uint8)[:, :, None], 3, axis=2)
    assert sharpness(face) == pytest.approx(1 / blur, rel=0.12)


def test_it_is_what_scipy_gives_in_float64() -> None:
    for number in range(5):
        face = SyntheticFaces(5, 1).image(number)
        gray = face.astype(np.float64) @ (0.299, 0.587, 0.114)
        small = gray.round().reshape(56, 2, 56, 2).mean((1, 3))
        soft = scipy.ndimage.gaussian_filter(small, 1.0, truncate=4, mode="mirror")
        found = []
        for axis in (0, 1):
            before, after = (
                np.square(np.diff(part[8:-8, 8:-8], axis=axis)).sum() for part in (small, soft)
            )
            found.append(np.sqrt((before / after) ** 2 - 1) / 2)
        assert sharpness(face) == pytest.approx(min(found), rel=2e-3)


def test_motion_in_one_direction_is_blur() -> None:
    face = SyntheticFaces(1, 1).image(0)
    before = sharpness(face)
    for kernel in (np.full((1, 15), 1 / 15), np.full((15, 1), 1 / 15)):
        assert sharpness(cv2.filter2D(face, -1, kernel).astype(np.uint8)) < 0.6 * before


def test_the_edge_of_the_photo_is_no_sharp_edge_of_a_face(blobs: YuNetDetector) -> None:
    face = cv2.GaussianBlur(SyntheticFaces(1, 1).image(0), (0, 0), 4).astype(np.uint8)
    # The photo ends above an ear: left and upper fifth of the square are black.
    cut = np.ascontiguousarray(face[25:, 25:])
    there = Face(arcface_template() - 25, 0.9)
    [found] = Recognizer(opened(), Given(blobs, [there])).faces(cut)
    assert found.refused == "blurred"
    assert found.sharpness == pytest.approx(sharpness(face), rel=0.25)
    black = warp(cut, there.matrix(112), 112)
    assert sharpness(black) > 1.5 * sharpness(face)


def test_pictures_of_nothing_have_none() -> None:
    for value in (0, 128, 255):
        assert sharpness(np.full((112, 112, 3), value, np.uint8)) == 0
    assert sharpness(np.zeros((20, 20, 3), np.uint8)) == 0


def test_other_sizes_are_measured_alike() -> None:
    face = SyntheticFaces(1, 1).image(0)
    large = cv2.resize(face, (448, 448), interpolation=cv2.INTER_NEAREST).astype(np.uint8)
    assert sharpness(large) == pytest.approx(sharpness(face), rel=0.01)


def test_read_image_and_recognizer_agree_on_what_is_up(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    image = SyntheticFaces(1, 1).image(0)
    PIL.Image.fromarray(np.rot90(image, 1).copy()).save(tmp_path / "1.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "1.png"), image)
