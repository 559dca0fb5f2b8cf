"""Who is on an image: identity records, headers and .lst files, and damage to each."""

import re
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from centerarc.data import RecordIOSource
from centerarc.data.recordio import source as source_module
from centerarc.data.recordio.labels import parse_line, read_listing
from centerarc.data.recordio.records import Index
from tests.data.recordio import by_hand
from tests.data.recordio.by_hand import PEOPLE

folders = st.text("ab ./\\é\udcff\t\r", max_size=5)
labels = st.one_of(st.integers(0, 99).map(str), st.sampled_from(["3.000000", "4.", "-1", "5.5"]))


@given(
    st.lists(st.tuples(st.integers(-1, 99), labels, folders, st.booleans()), min_size=1, max_size=9)
)
def test_a_whole_file_reads_as_its_lines_do(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, str, str, bool]]
) -> None:
    lines = [
        f"{key}\t{label}\t{folder}{'/' if slash else ''}1.jpg".encode("utf-8", "surrogateescape")
        for key, label, folder, slash in parts
    ]
    path = tmp_path_factory.mktemp("lst") / "train.lst"
    path.write_bytes(b"\n".join(lines))
    try:
        wanted = [parse_line(line) for line in lines]
    except ValueError:
        with pytest.raises(ValueError, match=r"train\.lst, line [1-9]: "):
            read_listing(path)
        return
    keys, labels, folders, names = read_listing(path)
    assert keys is not None
    assert list(zip(keys, labels, [names[n] for n in folders], strict=True)) == wanted


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (b"5\t2.000000\ta/b/1.jpg", (5, 2, "b")),
        (b"5\t2.000000\t0.5\t7\ta b/1.jpg\r", (5, 2, "a b")),
        (b"5\t2\t.\\b\\1.jpg", (5, 2, "b")),
        (b"5\t2\t./1.jpg", (5, 2, "")),
        (b"5\t2\t1.jpg", (5, 2, "")),
        (b"1\t/x/b/1.jpg\t2", (None, 2, "b")),
        (b"0\tb/1.jpg\t2\t10\t20\t30\t40", (None, 2, "b")),
    ],
)
def test_both_kinds_are_read(line: bytes, wanted: tuple[int | None, int, str]) -> None:
    assert parse_line(line) == wanted


@pytest.mark.parametrize("line", [b"", b"1\t2", b"a\t2\tb/1.jpg", b"1\tb/1.jpg\tc", b"1 2 b/1.jpg"])
def test_other_lines_are_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"is not a line of a \.lst file"):
        parse_line(line)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ((1.0, 9.0), "images have keys 1 to 0 .* there must be an image"),
        ((90.0, 99.0), "images have keys 1 to 89 .* but keys end at 9"),
        ((3.0, 99.0), "identities follow up to 98, but keys end at 9"),
        ((7.0, 8.0), "identities follow up to 7, but keys end at 9"),
        ((float("nan"), 9.0), "there must be an image"),
        ((float("inf"), 9.0), "keys end at 9"),
        ((7.0, float("nan")), "keys end at 9"),
    ],
)
def test_a_record_0_that_points_outside_is_refused(
    rec: Path, labels: tuple[float, float], words: str
) -> None:
    data = bytearray(rec.read_bytes())
    data[32:40] = struct.pack("<2f", *labels)
    rec.write_bytes(data)
    with pytest.raises(ValueError, match=f"train.rec: record 0 at byte 0 says .*{words}"):
        RecordIOSource(rec)


def test_keys_beyond_2_to_the_24_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A record of 48 bytes each; only those near the boundary are really written.
    edge = 2**24
    borders = [1, edge - 3, edge + 1, edge + 3, edge + 6, edge + 7, edge + 15, edge + 31]
    n, people = borders[-1], len(borders) - 1
    said = np.array(borders, dtype=np.float32).astype(np.int64)
    assert (said != borders).sum() >= 3
    offsets = np.zeros(n + people, dtype=np.int64)
    offsets[1:] = 40 + 48 * np.arange(n + people - 1)
    rec = tmp_path / "train.rec"
    with rec.open("wb") as file:
        file.write(by_hand.record(by_hand.payload((n, n + people), 0)))
        file.write(by_hand.record(by_hand.payload(0, 1, b"1" * 16)))
        for person, (first, end) in enumerate(pairwise(borders)):
            for key in range(max(first, edge - 40), end):
                file.seek(int(offsets[key]))
                image = str(key).encode().ljust(16)
                file.write(by_hand.record(by_hand.payload(10 * person, key, image)))
            file.seek(int(offsets[n + person]))
            file.write(by_hand.record(by_hand.payload((first, end), n + person)))
    rec.with_suffix(".idx").touch()
    monkeypatch.setattr(
        source_module, "read_index", lambda path, size: Index(range(len(offsets)), offsets)
    )
    source = RecordIOSource(rec)
    assert len(source) == n - 1
    assert source.problems == []
    assert source.identities == [str(10 * person) for person in range(people)]
    assert np.array_equal(source.labels, np.repeat(np.arange(people), np.diff(borders)))
    for key in range(edge - 5, n):
        assert source.encoded(key - 1).strip() == str(key).encode()


def test_damaged_identity_records_cost_nothing(rec: Path) -> None:
    offsets = by_hand.insightface(rec, PEOPLE)
    sound = rec.read_bytes()
    for at, value, words in (
        (offsets[8], b"\0", f"identity record 8 at byte {offsets[8]} is damaged"),
        (offsets[7] + 36, struct.pack("<f", 90), "tells images 1 to 89"),
        (offsets[7] + 36, struct.pack("<f", float("inf")), "tells images 1 to inf"),
        (offsets[7] + 32, struct.pack("<f", float("nan")), "tells images nan to 2"),
        (offsets[7] + 36, struct.pack("<f", 5), "records 7 and 8 tell the same images"),
    ):
        data = bytearray(sound)
        data[at : at + len(value)] = value
        rec.write_bytes(data)
        source = RecordIOSource(rec)
        assert source.labels.tolist() == [0, 0, 1, 1, 1, 2]
        assert words in source.problems[0]


def test_images_that_contradict_their_identity_record_are_right(rec: Path) -> None:
    # Images were shuffled; identity records stayed as they were.
    images = {
        k: by_hand.payload(label, k, by_hand.picture(k))
        for k, label in enumerate([9, 3, 8, 3, 8, 8], start=1)
    }
    ranges = {7: (1, 3), 8: (3, 6), 9: (6, 7)}
    people = {k: by_hand.payload(pair, k) for k, pair in ranges.items()}
    by_hand.write(rec, {0: by_hand.payload((7, 10), 0)} | images | people)
    source = RecordIOSource(rec)
    assert source.labels.tolist() == [2, 0, 1, 0, 1, 1]
    assert "its own is" in source.problems[0]


@pytest.mark.parametrize("many", [4, 2000])
@pytest.mark.parametrize("turned", [0, 0.5, 1])
def test_a_label_damaged_into_another_persons_moves_no_one(
    tmp_path: Path, many: int, turned: float
) -> None:
    people = [0] * 7 + [1] * many + [2] * 5 + [0] * 3 + [3]
    rec = tmp_path / "train.rec"
    starts = by_hand.insightface(rec, people)
    assert RecordIOSource(rec).problems == []
    place = 7 + min(int(turned * many), many - 1)
    data = bytearray(rec.read_bytes())
    stored = starts[place + 1] + 12  # after magic number, length and count
    assert struct.unpack_from("<f", data, stored) == (1.0,)
    struct.pack_into("<f", data, stored, 2.0)
    rec.write_bytes(data)
    source = RecordIOSource(rec)
    if turned == 0.5:  # the one that speaks for its range
        assert source.labels.tolist() == people
        assert source.problems[0].startswith(f"image {place + 1} has label 2, but all others")
    else:
        assert np.count_nonzero(source.labels != people) <= 1


@pytest.mark.parametrize("label", [2.0**24, 2.0**24 + 8, 1e30])
def test_labels_that_float32_cannot_tell_apart_are_refused(tmp_path: Path, label: float) -> None:
    payloads = {k: by_hand.payload(v, k, b"x") for k, v in enumerate([2.0**24 - 1, label])}
    offsets = by_hand.write(tmp_path / "train.rec", payloads)
    words = f"record at byte {offsets[1]} .*cannot tell labels from 16777216 on apart"
    with pytest.raises(ValueError, match=words):
        RecordIOSource(tmp_path)


@pytest.mark.parametrize("label", [-1.0, 0.5, float("nan")])
def test_labels_that_are_none_are_refused(tmp_path: Path, label: float) -> None:
    payloads = {0: by_hand.payload(1.0, 0, b"x"), 1: by_hand.payload(label, 1, b"x")}
    by_hand.write(tmp_path / "train.rec", payloads)
    with pytest.raises(ValueError, match=rf"label {label:g}; it must be a whole number from 0"):
        RecordIOSource(tmp_path)


def test_a_lst_tells_labels_apart_that_float32_cannot(tmp_path: Path) -> None:
    labels = [2**24, 2**24 + 1, 2**40]
    by_hand.write(
        tmp_path / "train.rec", {k: by_hand.payload(v, k, b"x") for k, v in enumerate(labels)}
    )
    lines = "".join(f"{k}\t{v}.000000\t{k}/1.jpg\n" for k, v in enumerate(labels))
    (tmp_path / "train.lst").write_text(lines)
    source = RecordIOSource(tmp_path)
    assert source.problems == []
    assert source.labels.tolist() == [0, 1, 2]


def test_names_come_from_the_folders_of_an_insightface_lst(rec: Path) -> None:
    folders = ["Zoë", "a b", "c.d"]
    lines = [f"1\t/data/{folders[[3, 8, 9].index(p)]}/{k}.jpg\t{p}" for k, p in enumerate(PEOPLE)]
    lst = rec.with_suffix(".lst")
    lst.write_text("\n".join(lines), encoding="utf-8")
    assert RecordIOSource(rec).identities == folders
    for text, words in (
        ("\n".join(lines[1:]), "train.lst has 5 lines for 6 images"),
        ("\n".join([lines[0], *lines[3:], *lines[1:3]]), "line 3: label 8|line .: label"),
        ("\n".join(lines).replace("a b", "c.d"), "two people in one folder"),
        ("\n".join(f"1\t{k}.jpg\t{p}" for k, p in enumerate(PEOPLE)), "without a folder"),
        ("\n".join(["1\tx", *lines[1:]]), r"line 1: '1\\tx' is not a line of a .lst"),
    ):
        lst.write_text(text, encoding="utf-8")
        source = RecordIOSource(rec)
        assert source.identities == ["3", "8", "9"]
        assert source.labels.tolist() == [0, 0, 1, 1, 1, 2]
        assert len(source.problems) == 1
        assert re.search(words, source.problems[0])


def test_labels_and_names_come_from_an_im2rec_lst(tmp_path: Path) -> None:
    labels = {0: 7.0, 1: 2.0, 3: 7.0}
    payloads = {key: by_hand.payload(value, key, b"x") for key, value in labels.items()}
    by_hand.write(tmp_path / "train.rec", payloads)
    lst = tmp_path / "train.lst"
    # In another order, with an image that im2rec could not read, on Windows.
    text = "3\t7.000000\t{b}\\9.jpg\n2\t7.000000\t{b}\\8.jpg\n1\t2.000000\tann/1.jpg\r\n"
    text += "0\t7.000000\t{b}\\7.jpg\n"
    lst.write_bytes(text.replace("{b}", "bob").encode() + b"\n")
    read: list[tuple[int, int]] = []
    source = RecordIOSource(tmp_path, progress=lambda *step: read.append(step))
    assert read == []  # no label was read from the .rec
    assert source.labels.tolist() == [1, 0, 1]
    assert source.identities == ["ann", "bob"]
    assert source.problems == []
    for changed, words in (
        (text.replace("3\t7", "3\t8"), "says label 8 for record 3, but that has 7"),
        (text.replace("1\t2", "11\t2"), "no line for record 1"),
        (text.replace("1\t2.0", "1\tx"), "train.lst, line 3: .* is not a line"),
        (text.replace("3\t7.000000", "1\tb/1.jpg\t7"), "line 2: another kind"),
    ):
        lst.write_text(changed)
        source = RecordIOSource(tmp_path)
        assert source.labels.tolist() == [1, 0, 1]
        assert source.identities == ["2", "7"]
        assert len(source.problems) == 1
        assert re.search(words, source.problems[0])
    # Labels are right, but a person is in two folders.
    lst.write_text(text.replace("{b}", "bob", 1).replace("{b}", "bo"))
    assert RecordIOSource(tmp_path).identities == ["2", "7"]


@pytest.mark.parametrize(
    "text", ["3,112,96", "3, 112 ,96\n", "3 112\t96\n", "3,112,96\n9\n", "3\n112\n96\n"]
)
def test_property_is_read(rec: Path, text: str) -> None:
    rec.with_name("property").write_text(text)
    source = RecordIOSource(rec)
    assert str(source.property) == "3,112,96"
    assert source.problems == []


def test_a_property_that_does_not_fit_is_told(rec: Path) -> None:
    assert RecordIOSource(rec).property is None
    rec.with_name("property").write_text("4,112,112")
    assert RecordIOSource(rec).problems == ["property says 4 identities, but images show 3"]
    rec.with_name("property").write_bytes(b"\xff,-1")
    assert "it must be the number of identities" in RecordIOSource(rec).problems[0]
