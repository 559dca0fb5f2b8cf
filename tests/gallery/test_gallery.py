"""Who is enrolled and who somebody is, with a recognizer that reads numbers from text files."""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from centerarc.evaluation import read_embeddings
from centerarc.gallery import FoundFace, Gallery, Identity, Thresholds, judged
from centerarc.gallery.gallery import Candidate


class Numbers:
    """A photo is a line for each face: an angle, or why the face is refused."""

    def __init__(self, weights: str = "a") -> None:
        self.identity = {"weights_sha256": weights, "mirror": "False"}
        self.settings = {"detector": "none"}
        embed = SimpleNamespace(embed=lambda images: np.zeros((len(images), 2)))
        self.model = SimpleNamespace(image_size=112, embedder=embed)
        self.embedded = 0
        self.batch = 3

    def stream(self, photos: Iterable[Any], *, rule: str = "all") -> Iterator[list[FoundFace]]:
        held: list[bytes] = []
        for photo in photos:
            held.append(photo if isinstance(photo, bytes) else Path(photo).read_bytes())
            if len(held) == self.batch:
                yield from map(self.faces, held)
                held = []
        yield from map(self.faces, held)

    def faces(self, photo: bytes) -> list[FoundFace]:
        self.embedded += 1
        return [self.face(line) for line in photo.decode().splitlines()]

    def face(self, line: str) -> FoundFace:
        try:
            angle = np.deg2rad(float(line))
        except ValueError:
            return FoundFace("blurred", line)
        return FoundFace(embedding=np.array([np.cos(angle), np.sin(angle)], np.float32))


def write(root: Path, photos: dict[str, str]) -> Path:
    for path, content in photos.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    return root


@pytest.fixture
def album(tmp_path: Path) -> Path:
    photos = {"Ann/1.jpg": "0", "Ann/2.jpg": "4", "Bob/1.jpg": "90", "Bob/9.jpg": "soft"}
    return write(tmp_path / "album", photos)


@pytest.fixture
def gallery(tmp_path: Path, album: Path) -> Iterator[Gallery]:
    with Gallery.create(tmp_path / "people.db", Numbers()) as made:  # type: ignore[arg-type]
        yield made


def said(found: Iterable[Any], root: Path) -> list[tuple[str, ...]]:
    return [(str(Path(one.place).relative_to(root)), *one[1:]) for one in found]


def test_a_folder_is_enrolled_and_what_became_of_each_photo_is_said(
    gallery: Gallery, album: Path
) -> None:
    write(album, {"lonely.jpg": "7", "Cyd/copy.jpg": "90", "Cyd/gone.jpg": "1"})
    (album / "Cyd/gone.jpg").unlink()
    (album / "Cyd/gone.jpg").symlink_to(album / "nowhere.jpg")
    seen: list[tuple[int, int]] = []
    found = said(gallery.add_folder(album, progress=lambda *at: seen.append(at)), album)
    assert found[0][:3] == ("Cyd/gone.jpg", "", "refused")
    assert found[1:] == [
        (
            "lonely.jpg",
            "",
            "refused",
            f"it is in no person's folder: put it into {album}/<person>/",
        ),
        ("Ann/1.jpg", "Ann", "added", ""),
        ("Ann/2.jpg", "Ann", "added", ""),
        ("Bob/1.jpg", "Bob", "added", ""),
        ("Bob/9.jpg", "Bob", "refused", "blurred: soft"),
        ("Cyd/copy.jpg", "Cyd", "known", "the same photo is there as Bob's"),
    ]
    assert seen == [(at, 5) for at in range(1, 6)]
    assert [(one.name, one.photos) for one in gallery.people()] == [("Ann", 2), ("Bob", 1)]
    digest = hashlib.sha256(b"4").hexdigest()
    assert [one.digest for one in gallery.photos("Ann")][1] == digest


def test_what_is_there_is_not_embedded_again(gallery: Gallery, album: Path) -> None:
    list(gallery.add_folder(album))
    recognizer: Any = gallery.recognizer
    assert recognizer.embedded == 4
    (album / "Ann/1.jpg").rename(album / "Ann/renamed.jpg")
    write(album, {"Bob/10.jpg": "93"})
    found = said(gallery.add_folder(album), album)
    assert [one[2] for one in found] == ["known", "known", "known", "refused", "added"]
    assert recognizer.embedded == 6  # the blurred one, and the new one


def test_photos_of_one_person_and_names_in_any_form(gallery: Gallery, album: Path) -> None:
    list(gallery.add_photos("Zoe\u0308", [album / "Ann/1.jpg"]))
    again = list(gallery.add_photos("Zo\u00eb", [album / "Ann/1.jpg", album / "none.jpg"]))
    assert [one.status for one in again] == ["known", "refused"]
    assert again[0].reason == ""
    assert [one.name for one in gallery.people()] == ["Zo\u00eb"]
    (bad,) = gallery.add_photos("a\tb", [album / "Ann/2.jpg"])
    assert bad.status == "refused"
    assert "name must be printable text" in bad.reason


def test_a_face_that_is_one_of_several_is_enrolled_with_a_word(
    gallery: Gallery, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer: Any = gallery.recognizer
    several = replace(recognizer.face("30"), among=3)
    monkeypatch.setattr(recognizer, "faces", lambda photo: [several])
    (one,) = gallery.add_photos("Ann", [album / "Ann/1.jpg"])
    assert one[2:] == ("added", "one of 3 faces was taken (rule 'largest')")


def test_who_is_on_a_photo(gallery: Gallery, album: Path, tmp_path: Path) -> None:
    list(gallery.add_folder(album))
    party = write(tmp_path, {"party.jpg": "5\nsoft\n200\n47"}) / "party.jpg"
    (faces,) = gallery.identify([party], Thresholds(0.9, reject=0.6))
    assert [one.verdict for one in faces] == ["accepted", "unknown", "unknown", "unsure"]
    assert [one.name for one in faces] == ["Ann", None, None, None]
    assert faces[0].candidates[0].score == pytest.approx(np.cos(np.deg2rad(1)), abs=1e-6)
    assert faces[0].candidates[0].photo == 2
    assert faces[1].candidates == ()
    assert faces[1].face is not None
    assert faces[1].face.refused == "blurred"
    (plain,) = gallery.identify([party.read_bytes()])
    assert [one.verdict for one in plain] == ["no threshold", "unknown", *2 * ["no threshold"]]
    (one,) = gallery.identify([b"5"], Thresholds(0.9), candidates=1)
    assert len(one[0].candidates) == 1


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        ([], "unknown"),
        ([0.39], "unknown"),
        ([0.4], "unsure"),
        ([0.5], "accepted"),
        ([0.5, 0.41], "unsure"),
        ([0.5, 0.39], "accepted"),
    ],
)
def test_two_thresholds_and_a_margin(scores: list[float], verdict: str) -> None:
    near = [Candidate(1, "a", score, 1) for score in scores]
    assert judged(near, Thresholds(0.5, 0.4, margin=0.1)) == verdict
    assert Identity("unsure", tuple(near)).name is None


def test_thresholds_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match=r"accept must be between -1 and 1, got 1\.5"):
        Thresholds(1.5)
    with pytest.raises(ValueError, match=r"reject must be at most accept \(0\.5\), got 0\.6"):
        Thresholds(0.5, 0.6)
    with pytest.raises(ValueError, match=r"margin must be between 0 and 2, got -0\.1"):
        Thresholds(0.5, margin=-0.1)
    with pytest.raises(ValueError, match="accept must be between"):
        Thresholds(float("nan"))


def test_another_model_is_refused_by_name(gallery: Gallery, tmp_path: Path) -> None:
    path = gallery.store.path
    with pytest.raises(ValueError, match="another model: weights_sha256 is 'a' there and 'b' here"):
        Gallery(path, Numbers("b"))  # type: ignore[arg-type]
    with Gallery(path) as plain, pytest.raises(ValueError, match="photos need a recognizer"):
        next(plain.identify(["a.jpg"]))
    Gallery.create(tmp_path / "plain.db", embedding_size=2).close()
    with pytest.raises(ValueError, match="that were given as numbers"):
        Gallery(tmp_path / "plain.db", Numbers())  # type: ignore[arg-type]


def test_embeddings_are_enrolled_normalized_and_exported(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((7, 5)) * 9
    names = ["a", "b", "a", "c", "c", "c", "b"]
    with Gallery.create(tmp_path / "people.db", embedding_size=5) as gallery:
        assert {one.status for one in gallery.add_embeddings(names, rows)} == {"added"}
        again = gallery.add_embeddings(["a", "z"], np.stack([rows[0], rows[1]]), ["x", "y"])
        assert [one.status for one in again] == ["known", "known"]
        assert [one.reason for one in again] == ["", "the same photo is there as b's"]
        for who, row in zip(names, rows, strict=True):
            (found,) = gallery.identify_embeddings(row[None], Thresholds(0.99))
            assert found.name == who
        assert gallery.export(tmp_path / "out.npz") == 7
        read = read_embeddings(tmp_path / "out.npz")
        assert read.identities == names
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        np.testing.assert_allclose(read.embedding, unit, atol=1e-6)
        for wrong, words in (
            (np.zeros((1, 5)), "embeddings must be finite and longer than 0, row 0"),
            (np.full((1, 5), np.nan), "must be finite"),
            (
                np.ones((1, 4)),
                "embeddings must have 5 numbers each, as those of the gallery, got 4",
            ),
        ):
            with pytest.raises(ValueError, match=words):
                gallery.add_embeddings(["a"], wrong)
            with pytest.raises(ValueError, match=words):
                gallery.identify_embeddings(wrong)
        with pytest.raises(ValueError, match="people must have 7 names, got 1"):
            gallery.add_embeddings(["a"], rows)
        assert not list(gallery.check())
        assert gallery.remove("c") == 3
        assert gallery.remove_photos([1]) == 1
        assert [one.photos for one in gallery.people()] == [1, 2]


def test_who_has_no_photo_left_is_told(gallery: Gallery, album: Path) -> None:
    list(gallery.add_folder(album))
    gallery.remove_photos([3])
    assert list(gallery.check()) == ["Bob (person 2) has no photo"]
    gallery.remove("Ann")
    with pytest.raises(ValueError, match="no photo to export"):
        gallery.export(album / "x.npz")


def test_what_a_calibration_chose_is_used(gallery: Gallery, album: Path) -> None:
    list(gallery.add_folder(album))
    assert gallery.thresholds is None
    kept = {"accept": 0.8, "reject": 0.5, "margin": 0.1}
    gallery.store.keep(thresholds=json.dumps(kept), stranger_scores=json.dumps([0.1, 0.2, 0.9, 1]))
    assert gallery.thresholds == Thresholds(0.8, 0.5, 0.1)
    (one,) = gallery.identify([b"20"])
    assert one[0].name == "Ann"
    assert one[0].strangers == 0.25


def test_who_comes_and_goes_meanwhile_is_left_out_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = Gallery.create(tmp_path / "people.db", embedding_size=3)
    gallery.add_embeddings(["A", "B", "C"], np.eye(3), ["a", "b", "c"])
    read = gallery.store.rows

    def then_changed() -> Any:
        found = read()
        gallery.remove("A")
        gallery.add_embeddings(["D"], [[1, 2, 3]], ["d"])
        return found

    monkeypatch.setattr(gallery.store, "rows", then_changed)
    assert gallery.export(tmp_path / "out.npz") == 2
    written = read_embeddings(tmp_path / "out.npz")
    assert written.identities == ["B", "C"]
    assert list(written.places) == ["b", "c"]
    np.testing.assert_array_equal(written.embedding, np.eye(3)[1:])
    gallery.close()


def test_what_is_damaged_is_named(tmp_path: Path) -> None:
    with Gallery.create(tmp_path / "people.db", embedding_size=3) as gallery:
        gallery.add_embeddings(["A", "B"], np.eye(3)[:2])
        for fact in ("thresholds", "stranger_scores", "calibration"):
            for text in ('{"accep', '{"accent": 1}', "7x"):
                gallery.store.keep(**{fact: text})
                [said] = gallery.check()
                assert said.endswith(
                    "is damaged: its calibration cannot be read; take a copy of it from before"
                )
            gallery.store.keep(
                thresholds='{"accept": 0.5}', stranger_scores="[]", calibration='{"people": 2}'
            )
            assert list(gallery.check()) == []
        change = sqlite3.connect(tmp_path / "people.db")
        change.execute("UPDATE photo SET facts = 7 WHERE id = 2")
        change.execute("UPDATE photo SET facts = '{' WHERE id = 2")
        change.commit()
        assert "what is kept of photo 2 cannot be read" in next(gallery.check())
        change.execute("UPDATE photo SET facts = '{}', embedding = 7 WHERE id = 2")
        change.commit()
        change.close()
        assert "a photo has an embedding of another size" in next(gallery.check())
        with pytest.raises(ValueError, match="a photo has an embedding of another size"):
            gallery.identify_embeddings(np.eye(3))
