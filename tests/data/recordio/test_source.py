"""A RecordIO data set: both layouts, what stands beside it, and damage that hurts only itself."""

import os
import pickle
import re
import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from centerarc.data import recordio
from centerarc.data.recordio import source as source_module
from centerarc.data.recordio.index import Index
from centerarc.data.recordio.source import RecordIOSource
from tests.data.recordio import by_hand

PEOPLE = [3, 3, 8, 8, 8, 9]


def greys(source: RecordIOSource) -> list[int]:
    return [int(source.image(i)[0, 0, 0]) for i in range(len(source))]


@pytest.fixture
def rec(tmp_path: Path) -> Path:
    """A data set in insightface's layout whose image k has grey k - 1."""
    by_hand.insightface(tmp_path / "train.rec", PEOPLE)
    return tmp_path / "train.rec"


@pytest.mark.parametrize("zero_first", [True, False])
@pytest.mark.parametrize("two_labels", [True, False])
@pytest.mark.parametrize("idx", [True, False])
def test_insightface_layout(tmp_path: Path, zero_first: bool, two_labels: bool, idx: bool) -> None:
    path = tmp_path / "odd name é.v2.rec"
    by_hand.insightface(path, PEOPLE, zero_first=zero_first, two_labels=two_labels)
    if not idx:
        path.with_suffix(".idx").unlink()
    for source in (RecordIOSource(path), RecordIOSource(tmp_path)):
        assert source.labels.tolist() == [0, 0, 1, 1, 1, 2]
        assert source.labels.dtype == np.int64
        assert source.identities == ["3", "8", "9"]
        assert greys(source) == [0, 1, 2, 3, 4, 5]
        assert [source.place(i) for i in (0, 5)] == ["record 1", "record 6"]
        assert source.encoded(4) == by_hand.picture(4)
        assert source.problems == []
    assert RecordIOSource(path, image_size=5).image(0).shape == (5, 5, 3)
    assert "6 images of 3 identities" in repr(source)


@pytest.mark.parametrize("idx", [True, False])
def test_images_alone_carry_their_labels(tmp_path: Path, idx: bool) -> None:
    rec = tmp_path / "train.rec"
    labels = {7: 5.0, 2: (1.0, 0.0, 9.0), 30: 5.0, 4: 0.0}
    payloads = {
        key: by_hand.payload(label, key, by_hand.picture(key)) for key, label in labels.items()
    }
    by_hand.write(rec, payloads, idx=idx)
    source = RecordIOSource(rec)
    assert [source.place(i) for i in range(4)] == ["record 2", "record 4", "record 7", "record 30"]
    assert source.labels.tolist() == [1, 0, 2, 2]
    assert source.identities == ["0", "1", "5"]
    assert greys(source) == [2, 4, 7, 30]


def test_an_image_with_key_0_is_not_taken_for_a_header(tmp_path: Path) -> None:
    payloads = {key: by_hand.payload((key % 2, 1), key, by_hand.picture(key)) for key in range(4)}
    by_hand.write(tmp_path / "train.rec", payloads)
    source = RecordIOSource(tmp_path)
    assert greys(source) == [0, 1, 2, 3]
    assert source.labels.tolist() == [0, 1, 0, 1]


def test_identity_records_may_be_left_out(tmp_path: Path) -> None:
    images = {k: by_hand.payload(k % 2, k, by_hand.picture(k)) for k in (1, 2, 3)}
    by_hand.write(tmp_path / "train.rec", {0: by_hand.payload((4, 6), 0)} | images)
    source = RecordIOSource(tmp_path)
    assert greys(source) == [1, 2, 3]
    assert source.labels.tolist() == [1, 0, 1]


def test_a_person_in_two_runs_is_one_person(tmp_path: Path) -> None:
    # insightface's script makes an identity record of each run of equal labels.
    by_hand.insightface(tmp_path / "train.rec", [0, 1, 1, 0, 2, 0])
    source = RecordIOSource(tmp_path)
    assert source.labels.tolist() == [0, 1, 1, 0, 2, 0]
    assert source.identities == ["0", "1", "2"]


def test_magic_numbers_within_header_and_image_are_read(tmp_path: Path) -> None:
    key = struct.unpack("<I", by_hand.MAGIC)[0]
    image = by_hand.MAGIC * 3 + b"ab" + by_hand.MAGIC
    payloads = {
        5: by_hand.payload(2.0, 5, image),
        6: by_hand.payload((1.0, 1.0), key, image),
        7: by_hand.payload(4.0, key + 1, image),
    }
    by_hand.write(tmp_path / "train.rec", payloads)
    source = RecordIOSource(tmp_path)
    assert source.identities == ["1", "2", "4"]
    assert source.labels.tolist() == [1, 0, 2]
    assert [source.encoded(i) for i in range(3)] == [image] * 3


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


def test_damaged_images_fail_alone_and_by_name(rec: Path) -> None:
    offsets = by_hand.insightface(rec, PEOPLE)
    data = bytearray(rec.read_bytes())
    data[offsets[3]] ^= 1  # its magic number
    data[offsets[4] + 80] ^= 1  # its pixels
    data[offsets[6] + 4 : offsets[6] + 8] = struct.pack("<I", 8)  # too short for its header
    rec.write_bytes(data)
    source = RecordIOSource(rec)
    assert source.labels.tolist() == [0, 0, 1, 1, 1, 1]
    for image, words in (
        (2, f"'record 3': damaged record at byte {offsets[3]}: it starts with"),
        (3, "'record 4': "),
        (5, f"'record 6': damaged record at byte {offsets[6]}: the record has 8 bytes"),
    ):
        with pytest.raises(ValueError, match=f"cannot read {words}"):
            source.image(image)
    assert int(source.image(4)[0, 0, 0]) == 4


def test_a_rec_cut_off_is_refused_with_idx_and_read_as_far_as_it_goes_without(rec: Path) -> None:
    os.truncate(rec, by_hand.insightface(rec, PEOPLE)[5] + 30)
    with pytest.raises(ValueError, match=r"train.idx, line 7: record 6 .* is cut off or the .idx"):
        RecordIOSource(rec)
    rec.with_suffix(".idx").unlink()
    with pytest.raises(ValueError, match="identities follow up to 9, but keys end at 4"):
        RecordIOSource(rec)
    payloads = {k: by_hand.payload(k, k, by_hand.picture(k)) for k in range(4)}
    offsets = by_hand.write(rec, payloads, idx=False)
    os.truncate(rec, offsets[3] + 30)
    source = RecordIOSource(rec)
    assert greys(source) == [0, 1, 2]
    assert len(source.problems) == 1
    assert f"damaged record at byte {offsets[3]}" in source.problems[0]


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


@pytest.mark.parametrize("label", [2.0**24, 2.0**24 + 8, 1e30])
def test_labels_that_float32_cannot_tell_apart_are_refused(tmp_path: Path, label: float) -> None:
    payloads = {k: by_hand.payload(v, k, b"x") for k, v in enumerate([2.0**24 - 1, label])}
    offsets = by_hand.write(tmp_path / "train.rec", payloads)
    words = f"record at byte {offsets[1]} .*cannot tell labels from 16777216 on apart"
    with pytest.raises(ValueError, match=words):
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


@pytest.mark.parametrize("label", [-1.0, 0.5, float("nan")])
def test_labels_that_are_none_are_refused(tmp_path: Path, label: float) -> None:
    payloads = {0: by_hand.payload(1.0, 0, b"x"), 1: by_hand.payload(label, 1, b"x")}
    by_hand.write(tmp_path / "train.rec", payloads)
    with pytest.raises(ValueError, match=rf"label {label:g}; it must be a whole number from 0"):
        RecordIOSource(tmp_path)


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
        ("\n".join(["1\tx", *lines[1:]]), r"line 1: '1\\tx' is no line of a .lst"),
    ):
        lst.write_text(text, encoding="utf-8")
        source = RecordIOSource(rec)
        assert source.identities == ["3", "8", "9"]
        assert source.labels.tolist() == [0, 0, 1, 1, 1, 2]
        assert len(source.problems) == 1
        assert re.search(words, source.problems[0])


def test_labels_and_names_come_from_an_im2rec_lst(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = {0: 7.0, 1: 2.0, 3: 7.0}
    payloads = {key: by_hand.payload(value, key, b"x") for key, value in labels.items()}
    by_hand.write(tmp_path / "train.rec", payloads)
    lst = tmp_path / "train.lst"
    # In another order, with an image that im2rec could not read, on Windows.
    text = "3\t7.000000\t{b}\\9.jpg\n2\t7.000000\t{b}\\8.jpg\n1\t2.000000\tann/1.jpg\r\n"
    text += "0\t7.000000\t{b}\\7.jpg\n"
    lst.write_bytes(text.replace("{b}", "bob").encode() + b"\n")
    with monkeypatch.context() as patched:
        patched.setattr("centerarc.data.recordio.index.read_labels", None)  # not needed
        source = RecordIOSource(tmp_path)
    assert source.labels.tolist() == [1, 0, 1]
    assert source.identities == ["ann", "bob"]
    assert source.problems == []
    for changed, words in (
        (text.replace("3\t7", "3\t8"), "says label 8 for record 3, but that has 7"),
        (text.replace("1\t2", "11\t2"), "no line for record 1"),
        (text.replace("1\t2.0", "1\tx"), "train.lst, line 3: .* is no line"),
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


@pytest.mark.parametrize("text", ["3,112,96", "3, 112 ,96\n", "3 112\t96\n"])
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


def test_what_cannot_be_opened_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        RecordIOSource(tmp_path / "absent.rec")
    with pytest.raises(ValueError, match=r"a folder with 0 \.rec files \(none\)"):
        RecordIOSource(tmp_path)
    for name in ("b.REC", "a.rec"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"with 2 \.rec files \('a.rec', 'b.REC'\)"):
        RecordIOSource(tmp_path)
    with pytest.raises(ValueError, match=r"a.rec' is empty \(0 bytes\)"):
        RecordIOSource(tmp_path / "a.rec")
    (tmp_path / "a.rec").write_bytes(b"no RecordIO at all")
    with pytest.raises(ValueError, match=r"a\.rec holds no record: damaged record at byte 0"):
        RecordIOSource(tmp_path / "a.rec")
    with pytest.raises(ValueError, match="image_size is 0"):
        RecordIOSource(tmp_path / "a.rec", image_size=0)


@pytest.mark.parametrize("seed", range(60))
def test_damage_anywhere_is_an_error_in_a_line_or_hurts_images_alone(rec: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    if seed % 3 == 0:
        rec.with_suffix(".idx").unlink()
    damaged = rec if seed % 2 else rec.with_suffix(".idx")
    if damaged.exists():
        data = np.frombuffer(damaged.read_bytes(), dtype=np.uint8).copy()
        at = rng.integers(len(data), size=int(rng.integers(1, 9)))
        data[at] = rng.integers(256, size=len(at))
        damaged.write_bytes(data.tobytes()[: int(rng.choice([len(data), at[0]]))])
    words = ""
    try:
        source = RecordIOSource(rec)
    except ValueError as error:
        words = str(error)
    if words:
        assert "\n" not in words
        return
    assert len(source.identities) == source.labels.max() + 1
    for index in range(len(source)):
        words = source.place(index)
        try:
            assert source.image(index).ndim == 3
        except ValueError as error:
            words = str(error)
        assert source.place(index) in words


class Images(torch.utils.data.Dataset[int]):
    def __init__(self, source: RecordIOSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> int:
        return int(self.source.image(index)[0, 0, 0])


def test_forked_workers_read_the_right_images(rec: Path) -> None:
    by_hand.insightface(rec, [0] * 100 + [1] * 100)
    source = RecordIOSource(rec)
    loader = torch.utils.data.DataLoader(
        Images(source), batch_size=5, num_workers=2, multiprocessing_context="fork"
    )
    for _ in range(2):
        assert torch.cat(list(loader)).tolist() == list(range(200))
        assert greys(source)[-3:] == [197, 198, 199]


def test_it_can_be_pickled(rec: Path) -> None:
    source = pickle.loads(pickle.dumps(RecordIOSource(rec)))
    assert source.labels.tolist() == [0, 0, 1, 1, 1, 2]
    assert greys(source) == [0, 1, 2, 3, 4, 5]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """So many images, each with its own label, that they are worth keeping."""
    rec = tmp_path / "train.rec"
    by_hand.write(rec, {k: by_hand.payload(k // 2, k, b"jpeg") for k in range(12_000)})
    return rec


def reads(monkeypatch: pytest.MonkeyPatch, rec: Path) -> tuple[int, RecordIOSource]:
    """How many headers an opening reads, and the source."""
    calls: list[int] = []
    done: list[tuple[int, int]] = []
    real = recordio.kept.read_labels
    with monkeypatch.context() as patched:
        patched.setattr(
            "centerarc.data.recordio.index.read_labels",
            lambda file, offsets, progress: (
                calls.append(len(offsets)) or real(file, offsets, progress)
            ),
        )
        source = RecordIOSource(rec, progress=lambda now, total: done.append((now, total)))
    assert not calls or done[-1] == (12_000, 12_000)
    assert source.labels.tolist() == [k // 2 for k in range(12_000)]
    return sum(calls), source


def test_labels_are_kept_until_the_rec_changes(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = large.with_name("train.labels.npz")
    assert reads(monkeypatch, large)[0] == 12_000
    written = kept.stat().st_mtime_ns
    assert reads(monkeypatch, large)[0] == 0
    assert kept.stat().st_mtime_ns == written
    os.utime(large, ns=(0, 10**18))
    assert reads(monkeypatch, large)[0] == 12_000
    large.write_bytes(large.read_bytes() + by_hand.record(b"more"))
    os.utime(large, ns=(0, 10**18))
    assert reads(monkeypatch, large)[0] == 12_000
    assert not list(large.parent.glob(".*"))
    # Another .idx means other records than those whose labels are kept.
    lines = large.with_suffix(".idx").read_text().splitlines(keepends=True)
    large.with_suffix(".idx").write_text("".join(lines[5:]))
    assert RecordIOSource(large).identities[0] == "2"


def test_a_walk_is_kept_too(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large.with_suffix(".idx").unlink()
    assert reads(monkeypatch, large)[0] == 12_000
    monkeypatch.setattr("centerarc.data.recordio.index.walked_index", None)
    assert reads(monkeypatch, large)[0] == 0


@pytest.mark.parametrize("junk", [b"", b"PK\3\4 no zip", b"\x80\x04K\x01.", "pickled", "other"])
def test_a_kept_file_that_is_none_is_found_anew(
    large: Path, monkeypatch: pytest.MonkeyPatch, junk: bytes | str
) -> None:
    kept = large.with_name("train.labels.npz")
    if isinstance(junk, bytes):
        kept.write_bytes(junk)
    elif junk == "pickled":
        np.savez(kept, stamp=np.array([print], dtype=object))
    else:
        np.save(kept.with_suffix(".npy"), np.arange(3))
        kept.with_suffix(".npy").rename(kept)
    assert reads(monkeypatch, large)[0] == 12_000
    assert reads(monkeypatch, large)[0] == 0


@pytest.mark.parametrize("change", [-4, 10**6])
def test_a_kept_walk_that_points_outside_is_walked_anew(large: Path, change: int) -> None:
    large.with_suffix(".idx").unlink()
    RecordIOSource(large)
    kept = large.with_name("train.labels.npz")
    with np.load(kept) as stored:
        changed = {**stored, "offsets": stored["offsets"] + change}
    np.savez(kept, **changed)
    source = RecordIOSource(large)
    assert [source.encoded(i) for i in (0, 11_999)] == [b"jpeg", b"jpeg"]
    with np.load(kept) as stored:
        assert stored["offsets"][0] == 0


def test_a_small_set_gets_no_file_beside_it(rec: Path) -> None:
    before = sorted(rec.parent.iterdir())
    RecordIOSource(rec)
    assert sorted(rec.parent.iterdir()) == before


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_cannot_be_written_to_is_read(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large.parent.chmod(0o555)
    try:
        assert reads(monkeypatch, large)[0] == 12_000
        assert reads(monkeypatch, large)[0] == 12_000
    finally:
        large.parent.chmod(0o755)


def test_a_disk_that_cannot_be_written_to_is_read(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.touch", refuse)
    assert reads(monkeypatch, large)[0] == 12_000
    assert not large.with_name("train.labels.npz").exists()


OPENING = """
import sys, time
from pathlib import Path
from centerarc.data.recordio import RecordIOSource

def status(name):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024

Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
before = status("VmRSS")
start = time.process_time()  # other tests run beside this one
source = RecordIOSource(sys.argv[1])
took = time.process_time() - start
assert len(source.identities) == 100_000 and source.problems == [], source.problems
assert source.labels[0] == 0 and source.labels[-1] == 99_999
print(len(source), took, status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_five_million_records_open_in_two_seconds_and_200_mb(tmp_path: Path) -> None:
    records, people, size = 5_000_000, 100_000, 6000
    n = records - people
    end = 40 + size * (n - 1)
    offsets = np.concatenate([[0], np.arange(40, end, size), np.arange(end, end + 40 * people, 40)])
    borders = np.linspace(1, n, people + 1).astype(np.int64)
    rec = tmp_path / "train.rec"
    with rec.open("wb") as file:
        file.write(by_hand.record(by_hand.payload((n, n + people), 0)))
        for person, key in enumerate(((borders[1:] + borders[:-1]) // 2).tolist()):
            file.seek(int(offsets[key]))
            file.write(by_hand.MAGIC + struct.pack("<I", size - 8))
            file.write(by_hand.payload(person, key))
        file.seek(int(offsets[n]))
        for person in range(people):
            pair = (borders[person], borders[person + 1])
            file.write(by_hand.record(by_hand.payload(pair, n + person)))
    with rec.with_suffix(".idx").open("w") as lines:
        for key, offset in enumerate(offsets.tolist()):
            lines.write(f"{key}\t{offset}\n")
    best_time, most_memory = float("inf"), 0.0
    for _ in range(3):
        out = subprocess.run(
            [sys.executable, "-c", OPENING, str(rec)], capture_output=True, text=True, check=True
        )
        images, took, memory = out.stdout.split()
        assert int(images) == n - 1
        best_time, most_memory = min(best_time, float(took)), max(most_memory, float(memory))
        rec.with_name("train.labels.npz").unlink()
    assert best_time < 2.0
    assert most_memory < 200


@pytest.mark.parametrize("many", [4, 2000])
@pytest.mark.parametrize("turned", [0, 0.5, 1])
def test_a_label_damaged_into_another_persons_moves_nobody(
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


@pytest.mark.parametrize(("at", "value"), [(8, 1), (10, 99)])
def test_a_kept_file_whose_zip_directory_is_damaged_is_found_anew(
    large: Path, monkeypatch: pytest.MonkeyPatch, at: int, value: int
) -> None:
    reads(monkeypatch, large)
    kept = large.with_name("train.labels.npz")
    data = bytearray(kept.read_bytes())
    data[data.index(b"PK\1\2") + at] = value  # flags (8: encrypted) or method (10)
    kept.write_bytes(data)
    assert reads(monkeypatch, large)[0] == 12_000
