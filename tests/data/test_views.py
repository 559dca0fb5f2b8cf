"""Views: subsets, images left out, mixtures and caches; each image keeps its person and name."""

import csv
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from centerarc.curate import Problem, check_source, write_problems
from centerarc.data import (
    CachedSource,
    FaceSource,
    FolderSource,
    MixedSource,
    Part,
    Subset,
    TrainLoader,
    leave_out,
    read_leave_out,
    split_identities,
    subset,
    with_enough_images,
)
from centerarc.data.decode import Image, WrongSizeError
from centerarc.data.synthetic.source import SyntheticFaces
from tests.data.pictures import put


class Four(FaceSource):
    identities = ["ann", "bob", "cyd", "dan"]  # noqa: RUF012
    labels = np.array([0, 1, 1, 2, 3, 0])

    def image(self, index: int) -> np.ndarray:
        return np.full((1, 1, 3), index, dtype=np.uint8)


def test_a_subset_has_the_images_of_its_people_under_new_labels() -> None:
    part = subset(Four(), ["cyd", "ann"])
    assert part.identities == ["cyd", "ann"]
    assert len(part) == 3
    assert part.labels.tolist() == [1, 0, 1]
    assert [int(part.image(i)[0, 0, 0]) for i in range(3)] == [0, 3, 5]


@pytest.mark.parametrize(
    ("names", "message"),
    [([], "empty"), (["ann", "ann"], "twice"), (["ann", "eve"], "first 'eve'")],
)
def test_a_subset_of_wrong_names_is_refused(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        subset(Four(), names)


def test_a_subset_of_images_drops_people_without_any() -> None:
    part = Subset(Four(), images=np.array([True, False, False, True, True, False]))
    assert part.identities == ["ann", "cyd", "dan"]
    assert part.labels.tolist() == [0, 1, 2]
    assert part.indices.tolist() == [0, 3, 4]
    both = Subset(Four(), ["bob", "ann"], images=np.array([True, False, True, True, True, True]))
    assert both.identities == ["bob", "ann"]
    assert both.indices.tolist() == [0, 2, 5]
    with pytest.raises(
        ValueError, match=r"must be bool of shape \(6,\).*, got int64 of shape \(6,"
    ):
        Subset(Four(), images=np.ones(6, dtype=np.int64))
    with pytest.raises(ValueError, match="a subset needs at least one"):
        Subset(Four(), images=np.zeros(6, dtype=bool))


class Rich(Four):
    """Offers all that a source may offer."""

    weights = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])

    def encoded(self, index: int) -> bytes:
        return bytes([index])

    def place(self, index: int) -> str:
        return f"file {index}"


def test_what_a_source_offers_more_goes_through_a_subset() -> None:
    part = subset(subset(Rich(), ["cyd", "dan", "ann"]), ["dan", "ann"])
    assert [part.place(i) for i in range(3)] == ["file 0", "file 4", "file 5"]
    assert [part.encoded(i) for i in range(3)] == [b"\0", b"\4", b"\5"]
    assert part.weights is not None
    assert part.weights.tolist() == [1, 5, 6]
    row = np.zeros((1, 1, 3), dtype=np.uint8)
    part.image_into(1, row)
    assert (row == 4).all()


def test_a_source_that_offers_no_more_is_enough() -> None:
    part = subset(Four(), ["ann"])
    assert part.place(1) == "image 5"
    assert part.encoded(1) is None
    assert part.weights is None
    with pytest.raises(ValueError, match="'image 5': the image has 1 x 1 pixels and others have 2"):
        part.image_into(1, np.zeros((2, 2, 3), dtype=np.uint8))


def test_people_with_too_few_images_are_left_out_and_named() -> None:
    kept, few = with_enough_images(Four(), 2)
    assert kept.identities == ["ann", "bob"]
    assert kept.labels.tolist() == [0, 1, 1, 0]
    assert few is not None
    assert str(few) == "left out 2 people with fewer than 2 images (2 images; cyd, dan)"
    source = Four()
    assert with_enough_images(source, 1) == (source, None)
    with pytest.raises(ValueError, match="min_images is 3, but the person with the most images"):
        with_enough_images(source, 3)
    with pytest.raises(ValueError, match="min_images must be at least 1, got 0"):
        with_enough_images(source, 0)


def test_a_split_repeats_covers_everyone_and_shares_no_one() -> None:
    names = [f"p{i}" for i in range(50)]
    train, held_out = split_identities(names, 0.2, seed=1)
    assert len(held_out) == 10
    assert sorted(train + held_out) == sorted(names)
    assert split_identities(reversed(names), 0.2, seed=1) == (train, held_out)
    assert split_identities(names, 0.2, seed=2) != (train, held_out)
    assert [len(part) for part in split_identities(["a", "b"], 0.01, seed=0)] == [1, 1]


def test_a_split_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fraction must be .*, got 1\.0"):
        split_identities(["a", "b"], 1.0, seed=0)
    with pytest.raises(ValueError, match="at least 2 different names, got 1"):
        split_identities(["a", "a"], 0.5, seed=0)


# Lists of images to leave out: what is named is gone, and what is not there is said.


# A name of a file is any bytes; those that are no UTF-8 reach Python as lone surrogates.
names = st.binary(min_size=1, max_size=12).map(
    lambda data: data.replace(b"\0", b"_").decode("utf-8", "surrogateescape")
)


@pytest.fixture
def source(tmp_path: Path) -> FolderSource:
    for person, count in (("ann", 3), ("bob", 1), ("cyd", 2)):
        for number in range(count):
            put(tmp_path / "faces" / person / f"{number}.png", number)
    (tmp_path / "faces" / "ann" / "empty.jpg").touch()
    return FolderSource(tmp_path / "faces")


@settings(deadline=None)
@given(st.lists(names, unique=True, max_size=8))
def test_what_a_check_writes_is_read_back_to_the_letter(
    tmp_path_factory, places: list[str]
) -> None:
    path = tmp_path_factory.mktemp("lists") / "problems.csv"
    problems = [Problem(place, 'a "name",', "unreadable", "x\r\ny") for place in places]
    assert write_problems(path, problems) == len(places)
    assert read_leave_out(path) == set(places)
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.reader(file))  # as any other program reads it
    assert rows[0] == ["place", "identity", "problem", "severity", "detail"]
    assert [row[0] for row in rows[1:]] == places


def test_only_what_should_be_left_out_is_written(tmp_path: Path) -> None:
    kinds = {"unreadable": "a", "tiny": "b", "grey": "c", "checksum": "faces-0.tar"}
    problems = [Problem(place, "", kind, "") for kind, place in kinds.items()]
    write_problems(tmp_path / "errors.csv", problems)
    write_problems(tmp_path / "warnings.csv", problems, least="warning")
    assert read_leave_out(tmp_path / "errors.csv") == {"a"}
    assert read_leave_out(tmp_path / "warnings.csv") == {"a", "b"}


@pytest.mark.parametrize(
    "text",
    [
        "ann/0.png\ncyd/1.png",
        "ann/0.png\r\n\r\ncyd/1.png\r\n",
        "place\nann/0.png\ncyd/1.png\n",
        "\ufeffplace,why\r\nann/0.png,bad\r\ncyd/1.png,\r\n",
        "why;place\nbad;ann/0.png\n;cyd/1.png\n",
        'why\tplace\nbad\t"ann/0.png"\n\tcyd/1.png\n',
    ],
)
def test_lists_and_tables_of_other_programs_are_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list"
    path.write_bytes(text.encode())
    assert read_leave_out(path) == {"ann/0.png", "cyd/1.png"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("why,place\nbad\n", "line 2: 1 fields and 2 columns"),
        ("place,why\n,bad\n", "line 2: place is empty"),
        ('place,why\n"ann/0.png,bad\n', "line 2: this is not CSV"),
        ("place,why\nLee, Ann/0.png,bad\n", "line 2: 3 fields and 2 columns; a field with a comma"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_leave_out(path)


def test_a_list_that_is_absent_or_in_utf_16_is_named(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    with pytest.raises(OSError, match=r"cannot read '.*list\.csv': No such file"):
        read_leave_out(path)
    for text in ("ann/0.png\n", "place,why\nann/0.png,bad\n"):
        path.write_text(text, encoding="utf-16")
        with pytest.raises(ValueError, match=r"list\.csv: the file is UTF-16"):
            read_leave_out(path)


def test_named_images_are_gone_and_people_without_images_with_them(source: FolderSource) -> None:
    rest = leave_out(source, {"ann/1.png", "bob/0.png"})
    assert rest.identities == ["ann", "cyd"]
    assert [rest.place(i) for i in range(len(rest))] == [
        "ann/0.png",
        "ann/2.png",
        "cyd/0.png",
        "cyd/1.png",
    ]
    assert rest.labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(rest.image(1), source.image(2))


def test_what_the_folder_skipped_may_be_named(source: FolderSource) -> None:
    assert leave_out(source, {"ann/empty.jpg"}) is source
    assert leave_out(source, set()) is source
    assert len(leave_out(source, ["ann/empty.jpg", "ann/0.png"])) == 5


def test_a_place_that_is_not_there_is_named_with_the_closest(source: FolderSource) -> None:
    with pytest.raises(
        ValueError, match=r"1 of 2 places .* 'ann/00\.png'; the closest is 'ann/0\."
    ):
        leave_out(source, {"ann/00.png", "cyd/0.png"})
    with pytest.raises(ValueError, match=r"'\?+'; its first is 'ann/0\.png'"):
        leave_out(source, {"?????????????"})


def test_leaving_out_everything_is_refused(source: FolderSource) -> None:
    with pytest.raises(ValueError, match="all 6 images"):
        leave_out(source, {source.place(i) for i in range(len(source))})


# A mixture: people of one name are one person or not, as asked, and every image is named.


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


def test_files_of_folders_come_through_and_errors_name_the_part(tmp_path: Path) -> None:
    put(tmp_path / "one" / "Ann" / "1.png")
    put(tmp_path / "two" / "Ann" / "1.png", size=6)
    put(tmp_path / "two" / "Bob" / "2.png", size=6)
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
    parts = [Part(Plain(0, ["a", "b"]), 1.0, "p0"), Part(Plain(1, ["a"]), 1.0, "p1")]
    mixed = MixedSource(parts, merge=True)
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


# A cached source gives the same images, and asks for each only once, over all processes.


class Counting(FaceSource):
    """Six images, and a shared count of how often each was made."""

    def __init__(self) -> None:
        self.labels = np.array([0, 0, 0, 1, 1, 1])
        self.identities = ["ann", "bob"]
        self.made = torch.zeros(6, dtype=torch.long).share_memory_()

    def image(self, index: int) -> np.ndarray:
        if index == 5:
            raise ValueError("cannot read 'bob/3.jpg': damaged")
        self.made[index] += 1
        return np.full((4, 4, 3), index, dtype=np.uint8)


def test_each_image_is_made_once() -> None:
    source = Counting()
    cached = CachedSource(source, limit_bytes=1000)
    for _ in range(3):
        assert [int(cached.image(i)[0, 0, 0]) for i in range(5)] == [0, 1, 2, 3, 4]
    assert source.made.tolist() == [2, 1, 1, 1, 1, 0]  # The first told the size.


def test_a_damaged_image_stays_an_error() -> None:
    cached = CachedSource(Counting(), limit_bytes=1000)
    for _ in range(2):
        with pytest.raises(ValueError, match="damaged"):
            cached.image(5)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_and_workers_share_the_memory(workers: int) -> None:
    source = SyntheticFaces(4, 4, image_size=32)
    cached = CachedSource(source, limit_bytes=10**6)
    batches = []
    for faces in (source, cached):
        with TrainLoader(faces, batch_size=8, augmentation=None, seed=1, workers=workers) as loader:
            for epoch in range(2):
                loader.set_epoch(epoch)
                batches.append([images.clone() for images, _ in loader])
    for plain, kept in zip(batches[:2], batches[2:], strict=True):
        for a, b in zip(plain, kept, strict=True):
            assert torch.equal(a, b)
    assert cached._known.all()  # Seen here although, with workers, others filled it.


def test_augmentation_cannot_spoil_what_is_kept() -> None:
    cached = CachedSource(Counting(), limit_bytes=1000)
    with pytest.raises(ValueError, match="read-only"):
        cached.image(2)[0] = 9


def test_too_large_is_said_at_once() -> None:
    with pytest.raises(ValueError, match=r"needs 0.000288 MB for 6 images of 4 x 4 pixels"):
        CachedSource(Counting(), limit_bytes=100)


def test_survives_pickling() -> None:
    cached = CachedSource(SyntheticFaces(2, 2, image_size=16), limit_bytes=10**6)
    twin = pickle.loads(pickle.dumps(cached))
    assert np.array_equal(twin.image(3), cached.image(3))


class Damaged(Counting):
    """Only the last two images can be read."""

    def image(self, index: int) -> np.ndarray:
        if index < 4:
            raise ValueError(f"cannot read image {index}")
        return np.zeros((4, 4, 3), dtype=np.uint8)


def test_a_damaged_first_image_does_not_refuse_the_others() -> None:
    cached = CachedSource(Damaged(), limit_bytes=1000)
    assert cached.image(4).shape == (4, 4, 3)
    with pytest.raises(ValueError, match="cannot read image 0"):
        cached.image(0)


# Names in Unicode's composed form, as most lists have them, and decomposed, as a Mac's folders.
COMPOSED, DECOMPOSED = "Zo\u00eb", "Zoe\u0308"


def test_one_person_of_two_parts_is_one_whatever_the_form_or_case_of_the_name() -> None:
    parts = [Part(Plain(0, [COMPOSED, "Bob"]), 1, "a"), Part(Plain(1, [DECOMPOSED, "bob"]), 1, "B")]
    mixed = MixedSource(parts, merge=True)
    assert whom(mixed) == [COMPOSED, "Bob", COMPOSED, "Bob"]
    assert mixed.problems == mixed.by_case
    assert "'bob' for 'Bob'" in mixed.by_case[0]
    apart = [replace(parts[0], name="b"), parts[1]]
    names = [f"b/{COMPOSED}", "b/Bob", f"B/{DECOMPOSED}", "B/bob"]
    assert whom(MixedSource(apart, merge=False)) == names


def test_a_mixture_says_what_its_parts_left_out(tmp_path: Path) -> None:
    put(tmp_path / "ann" / "1.png")
    put(tmp_path / "ann" / "2.heic")
    folder = FolderSource(tmp_path)
    mixed = MixedSource([Part(folder, 1, "a"), Part(folder, 1, "b")], merge=True)
    assert [item.place for item in mixed.skipped] == ["a/ann/2.heic", "b/ann/2.heic"]
    assert "left out 2 (2 a format that is not read)" in mixed.summary()
    assert check_source(mixed, workers=0).counts()["unread format"] == 2
    assert subset(mixed, ["ann"]).skipped == mixed.skipped
    rest = leave_out(mixed, {"a/ann/2.heic", "a/ann/1.png"})
    assert [item.place for item in rest.skipped] == ["b/ann/2.heic"]


def test_a_split_chooses_the_same_people_whatever_the_form_of_their_names() -> None:
    people = [COMPOSED, "Zof", "ann", "bob"]
    other = [DECOMPOSED, *people[1:]]
    for seed in range(8):
        one, two = split_identities(people, 0.4, seed), split_identities(other, 0.4, seed)
        for part, again in zip(one, two, strict=True):
            assert {name.replace(DECOMPOSED, COMPOSED) for name in again} == set(part)


def test_images_are_left_out_whatever_the_form_of_their_names(tmp_path: Path) -> None:
    put(tmp_path / DECOMPOSED / "1.png")
    put(tmp_path / DECOMPOSED / "2.png")
    rest = leave_out(FolderSource(tmp_path), {f"{COMPOSED}/1.png"})
    assert [rest.place(i) for i in range(len(rest))] == [f"{DECOMPOSED}/2.png"]
