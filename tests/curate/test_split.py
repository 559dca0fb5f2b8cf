"""Splits are by people, the same for any kind and order of source."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from centerarc.curate import Split, pack, split_source, write_split
from centerarc.data import (
    FaceSource,
    FolderSource,
    ListSource,
    RecordIOSource,
    ShardSource,
    read_identities,
    subset,
    write_identities,
)
from centerarc.data.decode import Image
from tests.curate.pictures import faces, people_of


class Counts(FaceSource):
    """A source of so many images of each person."""

    def __init__(self, counts: dict[str, int]) -> None:
        self.identities = list(counts)
        self.labels = np.repeat(np.arange(len(counts)), list(counts.values()))

    def image(self, index: int) -> Image:
        raise AssertionError("a split reads no image")


names = st.text(st.characters(exclude_characters="\n\r\0", exclude_categories=["Cs"]), min_size=1)
people = st.dictionaries(names, st.integers(1, 4), min_size=3)


@given(people, st.integers(0, 99), st.randoms())
def test_everybody_is_on_one_side_whatever_the_order(counts, seed, random) -> None:  # type: ignore[no-untyped-def]
    enough = [name for name in counts if counts[name] >= 2]
    if len(enough) < 2:
        return
    count = len(enough) // 2
    split = split_source(Counts(counts), count=count, seed=seed)
    assert sorted(split.train + split.held_out) == sorted(counts)
    assert len(split.held_out) == count
    assert set(split.held_out) <= set(enough)
    names = list(counts)
    random.shuffle(names)
    other = split_source(Counts({name: counts[name] for name in names}), count=count, seed=seed)
    assert set(other.held_out) == set(split.held_out)
    assert other.train == [name for name in names if name in split.train]


def test_the_fraction_is_of_those_who_may_be_held_out_and_the_seed_chooses() -> None:
    source = Counts({f"p{number}": 1 + number % 2 for number in range(100)})
    splits = [split_source(source, fraction=0.1, seed=seed) for seed in (0, 0, 1)]
    assert all(len(split.held_out) == 5 for split in splits)
    assert splits[0] == splits[1] != splits[2]
    alone = split_source(source, fraction=0.1, min_images=1)
    assert len(alone.held_out) == 10
    assert {int(name[1:]) % 2 for name in splits[0].held_out} == {1}
    assert {int(name[1:]) % 2 for name in alone.held_out} == {0, 1}


def test_folder_rec_and_shards_are_split_alike_and_packed_apart(tmp_path: Path) -> None:
    names = ["p1", "p2", "p10", "J. R.", "Zoë", "x,y", '"q"']
    folder = FolderSource(faces(tmp_path / "faces", {n: ["1.jpg", "2.jpg"] for n in names}))
    pack(folder, tmp_path / "rec", format="rec", workers=0)
    pack(folder, tmp_path / "shards", format="shards", workers=0)
    expected = split_source(folder, count=3, seed=5)
    for source in (RecordIOSource(tmp_path / "rec"), ShardSource(tmp_path / "shards")):
        split = split_source(source, count=3, seed=5)
        assert split == expected
        written = write_split(tmp_path / "lists", source, split)
        assert [path.name for path in written] == ["train.txt", "held-out.txt"]
        assert read_identities(tmp_path / "lists" / "held-out.txt") == expected.held_out
    report = pack(
        folder,
        tmp_path / "part",
        format="rec",
        identities=read_identities(tmp_path / "lists" / "train.txt"),
        workers=0,
    )
    assert RecordIOSource(report.path).identities == expected.train


def test_lists_of_a_folder_open_as_the_two_sides(tmp_path: Path) -> None:
    people = {f"p{number}": ["a b.jpg", "ü,1.jpg"] for number in range(5)}
    folder = FolderSource(faces(tmp_path / "faces", people))
    part = subset(folder, [name for name in folder.identities if name != "p3"])
    split = split_source(part, count=2)
    write_split(tmp_path / "lists", part, split)
    seen = []
    for name, expected in (("train", split.train), ("held-out", split.held_out)):
        side = ListSource(tmp_path / "lists" / f"{name}.csv")
        assert side.identities == expected
        seen += [(owner, side.encoded(i)) for i, owner in enumerate(people_of(side))]
    files = [(path.parent.name, path.read_bytes()) for path in folder.paths]
    assert sorted(seen) == sorted(row for row in files if row[0] != "p3")
    again = split_source(ListSource(tmp_path / "lists" / "train.csv"), count=1)
    assert set(again.train + again.held_out) == set(split.train)


def test_a_split_moves_with_its_images(tmp_path: Path) -> None:
    people = {f"p{number}": ["1.jpg", "2.jpg"] for number in range(4)}
    folder = FolderSource(faces(tmp_path / "here" / "faces", people))
    (tmp_path / "elsewhere" / "lists").mkdir(parents=True)
    links = tmp_path / "here" / "lists"
    links.symlink_to(tmp_path / "elsewhere" / "lists")
    for place in (tmp_path / "here" / "split", links):
        write_split(place, folder, split_source(folder, count=1))
        source = ListSource(place / "train.csv")
        assert sorted(source.identities)[0] in people
        assert source.encoded(0)
        assert str(tmp_path) not in (place / "train.csv").read_text()
    (tmp_path / "here").rename(tmp_path / "there")
    moved = ListSource(tmp_path / "there" / "split" / "train.csv")
    assert moved.place(0).startswith("../faces/p")
    assert moved.encoded(0)


def test_the_files_of_another_split_stay_until_overwriting_is_asked_for(tmp_path: Path) -> None:
    people = {f"p{number}": ["1.jpg", "2.jpg"] for number in range(6)}
    folder = FolderSource(faces(tmp_path / "faces", people))
    out = tmp_path / "lists"
    first, second = (
        Split(folder.identities[:4], folder.identities[4:]),
        Split(folder.identities[2:], folder.identities[:2]),
    )
    write_split(out, folder, first)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    write_split(out, folder, first)  # the same again is no harm
    with pytest.raises(ValueError, match=r"train\.txt' is of another split.*--overwrite"):
        write_split(out, folder, second)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    write_split(out, folder, second, overwrite=True)
    assert read_identities(out / "train.txt") == second.train
    assert ListSource(out / "held-out.csv").identities == second.held_out


def test_no_list_of_files_of_an_overwritten_split_stays(tmp_path: Path) -> None:
    people = {f"p{number}": ["1.jpg", "2.jpg"] for number in range(4)}
    folder = FolderSource(faces(tmp_path / "faces", people))
    write_split(tmp_path / "lists", folder, Split(["p0", "p1", "p2"], ["p3"]))
    packed = RecordIOSource(pack(folder, tmp_path / "rec", format="rec", workers=0).path)
    write_split(tmp_path / "lists", packed, Split(["p1", "p2", "p3"], ["p0"]), overwrite=True)
    assert sorted(p.name for p in (tmp_path / "lists").iterdir()) == ["held-out.txt", "train.txt"]


def test_a_stopped_split_goes_on_and_an_edited_list_stays(tmp_path: Path) -> None:
    people = {f"p{number}": ["1.jpg", "2.jpg"] for number in range(4)}
    folder = FolderSource(faces(tmp_path / "faces", people))
    split = Split(["p0", "p1", "p2"], ["p3"])
    write_split(tmp_path / "lists", folder, split)
    (tmp_path / "lists" / "train.csv").unlink()  # as after a stop between two files
    write_split(tmp_path / "lists", folder, split)
    listed = tmp_path / "lists" / "train.csv"
    listed.write_bytes(listed.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"train\.csv' is of another split"):
        write_split(tmp_path / "lists", folder, split)


@given(st.lists(names, min_size=1, unique=True))
def test_names_come_back_from_their_file(tmp_path_factory, listed) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("names") / "names.txt"
    write_identities(path, listed)
    assert read_identities(path) == listed


def test_files_of_names_from_elsewhere_are_read(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(b"\xef\xbb\xbfAnn Lee\r\n\r\ncaf\xe9\r\nBob")
    assert read_identities(path) == ["Ann Lee", "caf\udce9", "Bob"]
    path.write_text("Ann\nBob\nAnn\n")
    with pytest.raises(ValueError, match="names 'Ann' twice"):
        read_identities(path)
    path.write_text("\n\n")
    with pytest.raises(ValueError, match="names no one"):
        read_identities(path)
    with pytest.raises(ValueError, match=r"identity 'a\\nb' cannot be"):
        write_identities(path, ["a\nb"])
    with pytest.raises(ValueError, match=r"identity 'a\\x00' cannot be"):
        write_identities(path, ["a\0"])
    with pytest.raises(ValueError, match="cannot be in a list"):
        write_identities(path, ["\ud800"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "give either fraction or count"),
        ({"fraction": 0.5, "count": 1}, "give either fraction or count"),
        ({"fraction": 1.0}, r"fraction must be in .*got 1\.0"),
        ({"fraction": float("nan")}, r"fraction must be .*got nan"),
        ({"count": 0}, r"count must be .*got 0"),
        ({"count": 1, "seed": -1}, r"seed must be .*got -1"),
        ({"count": 1, "min_images": 0}, r"min_images must be .*got 0"),
        ({"count": 2}, "2 people cannot be held out: 2 of 3 have 2 images or more"),
    ],
)
def test_what_cannot_be_is_refused(options, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=words):
        split_source(Counts({"a": 1, "b": 2, "c": 3}), **options)


def test_a_split_of_nobody_is_not_made() -> None:
    assert split_source(Counts({"a": 2, "b": 2}), fraction=0.01) in (
        Split(["a"], ["b"]),
        Split(["b"], ["a"]),
    )
