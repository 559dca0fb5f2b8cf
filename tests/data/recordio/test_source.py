"""A RecordIO data set: both layouts, what stands beside it, and damage that hurts only itself."""

import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from centerarc.data import RecordIOSource
from centerarc.data.recordio import RecordFile
from centerarc.data.recordio.source import read_index, walked_index
from tests.data.recordio import by_hand
from tests.data.recordio.by_hand import PEOPLE


def grays(source: RecordIOSource) -> list[int]:
    return [int(source.image(i)[0, 0, 0]) for i in range(len(source))]


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
        assert grays(source) == [0, 1, 2, 3, 4, 5]
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
    assert grays(source) == [2, 4, 7, 30]


def test_an_image_with_key_0_is_not_taken_for_a_header(tmp_path: Path) -> None:
    payloads = {key: by_hand.payload((key % 2, 1), key, by_hand.picture(key)) for key in range(4)}
    by_hand.write(tmp_path / "train.rec", payloads)
    source = RecordIOSource(tmp_path)
    assert grays(source) == [0, 1, 2, 3]
    assert source.labels.tolist() == [0, 1, 0, 1]


def test_identity_records_may_be_left_out(tmp_path: Path) -> None:
    images = {k: by_hand.payload(k % 2, k, by_hand.picture(k)) for k in (1, 2, 3)}
    by_hand.write(tmp_path / "train.rec", {0: by_hand.payload((4, 6), 0)} | images)
    source = RecordIOSource(tmp_path)
    assert grays(source) == [1, 2, 3]
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
    assert grays(source) == [0, 1, 2]
    assert len(source.problems) == 1
    assert f"damaged record at byte {offsets[3]}" in source.problems[0]


def test_records_after_the_last_one_of_the_idx_are_told(tmp_path: Path) -> None:
    rec = tmp_path / "train.rec"
    payloads = {n: by_hand.payload(float(n), n, by_hand.picture(n)) for n in range(1, 7)}
    by_hand.write(rec, payloads, idx=True)
    assert RecordIOSource(rec).problems == []
    idx = rec.with_suffix(".idx")
    lines = idx.read_text().splitlines(keepends=True)
    idx.write_text("".join(lines[:4]))
    source = RecordIOSource(rec)
    assert len(source) == 4
    rest = rec.stat().st_size - int(lines[4].split()[1])
    assert source.problems == [
        f"train.idx lists no record of the last {rest:,} bytes of the .rec, which are left out"
    ]


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
    with pytest.raises(ValueError, match="image_size must be at least 1 or None, got 0"):
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
        assert grays(source)[-3:] == [197, 198, 199]


def test_it_can_be_pickled(rec: Path) -> None:
    source = pickle.loads(pickle.dumps(RecordIOSource(rec)))
    assert source.labels.tolist() == [0, 0, 1, 1, 1, 2]
    assert grays(source) == [0, 1, 2, 3, 4, 5]


def index(tmp_path: Path, text: str | bytes, size: int = 1000) -> dict[int, int]:
    path = tmp_path / "train.idx"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = read_index(path, size)
    assert list(found.keys) == sorted(found.keys)
    return dict(zip(found.keys, found.offsets.tolist(), strict=True))


@given(st.dictionaries(st.integers(0, 10**12), st.integers(0, 10**15).map(lambda n: 4 * n)))
def test_any_keys_in_any_order_are_read(
    tmp_path_factory: pytest.TempPathFactory, wanted: dict[int, int]
) -> None:
    if wanted:
        text = "".join(f"{key}\t{offset}\n" for key, offset in wanted.items())
        assert index(tmp_path_factory.mktemp("idx"), text, 2**62) == wanted


def test_a_file_of_many_blocks_is_read_whole(tmp_path: Path) -> None:
    count = 300_000
    offsets = range(0, 40 * count, 40)
    lines = [f"{key}\t{offset}\n" for key, offset in enumerate(offsets)]
    assert index(tmp_path, "".join(lines), 40 * count) == dict(enumerate(offsets))
    # As insightface's own script leaves it: record 0 after the images.
    moved = [*lines[1:290_000], lines[0], *lines[290_000:]]
    assert index(tmp_path, "".join(moved), 40 * count) == dict(enumerate(offsets))
    lines[280_000] = "280000\tx\n"
    with pytest.raises(ValueError, match=r"line 280001: '280000.*x' is not a key and a byte"):
        index(tmp_path, "".join(lines), 40 * count)


@pytest.mark.parametrize("text", ["3\t40\n5\t80", "3\t40\r\n5\t80\r\n", "\n3 40 \n\n5\t\t80\n"])
def test_line_ends_and_blanks_do_not_matter(tmp_path: Path, text: str) -> None:
    assert index(tmp_path, text) == {3: 40, 5: 80}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0\t0\n1\t1000\n", "line 2: record 1 .* byte 1000, but the .rec has 1000 bytes"),
        ("0\t0\n1\t99999999999999999999999\n", "line 2: record 1 .* cut off or the .idx"),
        ("0\t0\n1\t-4\n", "line 2: record 1 .* byte -4"),
        ("0\t0\n1\t42\n", "line 2: record 1 .* byte 42; records start at multiples of 4"),
        ("0\t0\n\n1 2 3\n", "line 3: '1 2 3' is not"),
        ("0\t0\t1\n4\n", r"line 1: '0\\t0\\t1' is not"),
        ("0\t0\n7\n", "line 2: '7' is not"),
        ("0\t0\nseven\t40\n", r"line 2: 'seven\\t40' is not"),
        ("0\t0\n-1\t40\n", "line 2: key -1 is out of range"),
        ("0\t0\n99999999999999999999\t40\n", "line 2: key 99999999999999999999 is out"),
        ("0\t0\n1\t40\n2\t80\n1\t120\n", "line 4: key 1 is already in line 2"),
        ("5\t0\n900\t40\n5\t80\n", "line 3: key 5 is already in line 1"),
        (b"\x00\xff\x80garbage", "line 1: .* is not a key and a byte"),
        ("", "train.idx is empty"),
        ("\n\n", "train.idx is empty"),
    ],
)
def test_damage_is_named_by_its_line(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        index(tmp_path, text)


def test_a_key_that_is_missing_is_named(tmp_path: Path) -> None:
    by_hand.insightface(tmp_path / "train.rec", [0, 0, 1, 1])
    idx = tmp_path / "train.idx"
    idx.write_text("".join(line for line in idx.open() if not line.startswith("3\t")))
    with pytest.raises(ValueError, match=r"record 0 at byte 0 says .* but there is no record 3"):
        RecordIOSource(tmp_path)


def test_without_idx_keys_are_those_in_the_headers(tmp_path: Path) -> None:
    rec = tmp_path / "train.rec"
    wanted = by_hand.insightface(rec, [4, 4, 7], zero_first=False)
    found, problems = walked_index(RecordFile(rec))
    assert dict(zip(found.keys, found.offsets.tolist(), strict=True)) == wanted
    assert problems == []
    # Where headers count nothing, the order does.
    payloads = {key: by_hand.payload(1.0, 5, b"x") for key in range(3)}
    wanted = by_hand.write(rec, payloads, idx=False)
    found, _ = walked_index(RecordFile(rec))
    assert dict(zip(found.keys, found.offsets.tolist(), strict=True)) == wanted


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """So many images, each with its own label, that they are worth keeping."""
    rec = tmp_path / "train.rec"
    by_hand.write(rec, {k: by_hand.payload(k // 2, k, b"jpeg") for k in range(12_000)})
    return rec


def reads(rec: Path) -> list[tuple[int, int]]:
    """What an opening says of its progress: nothing where it reads no header."""
    done: list[tuple[int, int]] = []
    source = RecordIOSource(rec, progress=lambda *step: done.append(step))
    assert source.labels.tolist() == [k // 2 for k in range(12_000)]
    return done


ALL = (12_000, 12_000)


def test_labels_are_kept_until_the_rec_changes(large: Path) -> None:
    kept = large.with_name("train.labels.npz")
    assert reads(large)[-1] == ALL
    written = kept.stat().st_mtime_ns
    assert reads(large) == []
    assert kept.stat().st_mtime_ns == written
    os.utime(large, ns=(0, 10**18))
    assert reads(large)[-1] == ALL
    large.write_bytes(large.read_bytes() + by_hand.record(b"more"))
    os.utime(large, ns=(0, 10**18))
    assert reads(large)[-1] == ALL
    assert not list(large.parent.glob(".*"))
    # Another .idx means other records than those whose labels are kept.
    lines = large.with_suffix(".idx").read_text().splitlines(keepends=True)
    large.with_suffix(".idx").write_text("".join(lines[5:]))
    assert RecordIOSource(large).identities[0] == "2"


def test_a_walk_is_kept_too(large: Path) -> None:
    large.with_suffix(".idx").unlink()
    assert reads(large)[-1] == ALL
    assert reads(large) == []


@pytest.mark.parametrize(
    "junk", [b"", b"PK\3\4 no zip", b"\x80\x04K\x01.", "pickled", "other", (8, 1), (10, 99)]
)
def test_a_kept_file_that_is_damaged_is_found_again(
    large: Path, junk: bytes | str | tuple[int, int]
) -> None:
    kept = large.with_name("train.labels.npz")
    if isinstance(junk, bytes):
        kept.write_bytes(junk)
    elif isinstance(junk, tuple):  # flags (8: encrypted) or method (10) in the zip directory
        reads(large)
        data = bytearray(kept.read_bytes())
        data[data.index(b"PK\1\2") + junk[0]] = junk[1]
        kept.write_bytes(data)
    elif junk == "pickled":
        np.savez(kept, stamp=np.array([print], dtype=object))
    else:
        np.save(kept.with_suffix(".npy"), np.arange(3))
        kept.with_suffix(".npy").rename(kept)
    assert reads(large)[-1] == ALL
    assert reads(large) == []


@pytest.mark.parametrize("change", [-4, 10**6])
def test_a_kept_walk_that_points_outside_is_walked_again(large: Path, change: int) -> None:
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
def test_a_folder_that_cannot_be_written_to_is_read(large: Path) -> None:
    large.parent.chmod(0o555)
    try:
        assert reads(large)[-1] == ALL
        assert reads(large)[-1] == ALL
    finally:
        large.parent.chmod(0o755)


def test_a_disk_that_cannot_be_written_to_is_read(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.touch", refuse)
    assert reads(large)[-1] == ALL
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
        if best_time < 2.0:
            break
        rec.with_name("train.labels.npz").unlink()
    assert best_time < 2.0
    assert most_memory < 200
