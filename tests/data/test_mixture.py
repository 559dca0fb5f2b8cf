"""A mixture: people of one name are one person or not, as asked, and every image is named."""

import pickle
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from centerarc.data.decode import Image, WrongSizeError
from centerarc.data.folder import FolderSource
from centerarc.data.source import FaceSource
from centerarc.data.views import CachedSource, MixedSource, Part, Subset


class Plain(FaceSource):
    """A source of the least that one must have; its images say part and number."""

    def __init__(self, part: int, names: list[str]) -> None:
        self.part, self.names = part, names  # of each image
        self.identities = sorted(set(names))
        self.labels = np.array([self.identities.index(name) for name in names], dtype=np.int64)

    def image(self, index: int) -> Image:
        return np.full((4, 4, 3), 50 * self.part + index, dtype=np.uint8)


def whom(source: FaceSource) -> list[str]:
    return [source.identities[label] for label in source.labels]


@given(
    st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6), min_size=1, max_size=4),
    st.booleans(),
)
def test_each_image_keeps_its_pixels_and_its_person(parts: list[list[str]], merge: bool) -> None:
    plain = [Plain(number, names) for number, names in enumerate(parts)]
    mixed = MixedSource([Part(s, 1.0, f"part{s.part}") for s in plain], merge=merge)
    expected = [(s, i) for s in plain for i in range(len(s))]
    assert len(mixed) == len(expected)
    out = np.zeros((4, 4, 3), dtype=np.uint8)
    for index, (s, i) in enumerate(expected):
        assert (mixed.image(index) == s.image(i)).all()
        mixed.image_into(index, out)
        assert (out == s.image(i)).all()
        assert mixed.place(index) == f"part{s.part}/image {i}"
        assert mixed.encoded(index) is None
    assert whom(mixed) == [
        s.names[i] if merge else f"part{s.part}/{s.names[i]}" for s, i in expected
    ]
    assert len(set(mixed.identities)) == len(mixed.identities)
    people = {name if merge else (s.part, name) for s in plain for name in s.names}
    assert len(mixed.identities) == len(people)
    # Those of the first part keep their labels, so that a head trained on it still fits.
    first = mixed.labels[: len(plain[0])]
    assert (first == plain[0].labels).all()


def test_names_that_look_like_anothers_stay_apart() -> None:
    mixed = MixedSource(
        [Part(Plain(0, ["b/ann", "ann"]), 1.0, "a"), Part(Plain(1, ["ann"]), 1.0, "b")], merge=False
    )
    assert whom(mixed) == ["a/b/ann", "a/ann", "b/ann"]


def test_weights_say_how_often_an_image_is_shown() -> None:
    mixed = MixedSource(
        [Part(Plain(0, ["a", "b"]), 2, "x"), Part(Plain(1, ["c"] * 3), 0.5, "y")], merge=True
    )
    assert mixed.weights.tolist() == [2.0, 2.0, 0.5, 0.5, 0.5]
    assert mixed.weights.dtype == np.float64
    outer = MixedSource([Part(mixed, 3.0, "m"), Part(Plain(2, ["d"]), 1.0, "z")], merge=True)
    assert outer.weights.tolist() == [6.0, 6.0, 1.5, 1.5, 1.5, 1.0]
    assert outer.place(2) == "m/y/image 0"


def put(path: Path, size: int, value: int = 9) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (size, size), (value, value, value)).save(path)


def test_files_of_folders_come_through_and_errors_name_the_part(tmp_path: Path) -> None:
    put(tmp_path / "one" / "Ann" / "1.png", 8)
    put(tmp_path / "two" / "Ann" / "1.png", 6)
    put(tmp_path / "two" / "Bob" / "2.png", 6)
    folders = {name: FolderSource(tmp_path / name) for name in ("one", "two")}
    mixed = MixedSource([Part(source, 1.0, name) for name, source in folders.items()], merge=True)
    assert mixed.identities == ["Ann", "Bob"]
    assert mixed.labels.tolist() == [0, 0, 1]
    assert mixed.place(1) == "two/Ann/1.png"
    for again in (
        mixed,
        pickle.loads(pickle.dumps(mixed)),
        Subset(mixed, images=mixed.labels >= 0),
    ):
        assert again.encoded(2) == (tmp_path / "two" / "Bob" / "2.png").read_bytes()
    with pytest.raises(WrongSizeError, match=r"two: 'Ann/1\.png'"):
        mixed.image_into(1, np.zeros((8, 8, 3), dtype=np.uint8))
    (tmp_path / "two" / "Bob" / "2.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"two: cannot read 'Bob/2\.png'"):
        mixed.image(2)
    with pytest.raises(ValueError, match=r"two: cannot read 'Bob/2\.png'"):
        mixed.image_into(2, np.zeros((6, 6, 3), dtype=np.uint8))
    with pytest.raises(IndexError):
        mixed.image(3)


def test_a_mixture_can_be_cached() -> None:
    plain = [Plain(0, ["a", "b"]), Plain(1, ["a"])]
    mixed = MixedSource([Part(s, 1.0, f"p{s.part}") for s in plain], merge=True)
    cached = CachedSource(mixed, limit_bytes=1000)
    assert [int(cached.image(i)[0, 0, 0]) for i in range(3)] == [0, 1, 50]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "parts must have at least one source, got none"),
        ([("", 1.0)], "name of a part must .*, got ''"),
        ([("a/b", 1.0)], "name of a part must .*, got 'a/b'"),
        ([("a", 1.0), ("a", 1.0)], "got 'a' twice"),
        ([("a", 0.0)], "weight of part 'a' must .*, got 0.0"),
        ([("a", -1.0)], "weight of part 'a' must .*, got -1.0"),
        ([("a", float("nan"))], "weight of part 'a' must .*, got nan"),
        ([("a", float("inf"))], "weight of part 'a' must .*, got inf"),
    ],
)
def test_parts_that_cannot_be_are_refused(parts: list[tuple[str, float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixedSource([Part(Plain(0, ["x"]), weight, name) for name, weight in parts], merge=True)
