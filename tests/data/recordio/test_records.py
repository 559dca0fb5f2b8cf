"""RecordIO framing: every payload comes back, and every damage is named by its byte."""

import os
import pickle
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from centerarc.data.recordio import RecordFile, walk
from centerarc.data.recordio.records import framed
from tests.data.recordio import by_hand

MAGIC = by_hand.MAGIC

payloads = st.lists(st.one_of(st.just(MAGIC), st.binary(max_size=9)), max_size=12).map(b"".join)


def opened(path: Path, data: bytes) -> RecordFile:
    path.write_bytes(data)
    return RecordFile(path)


@given(st.lists(payloads, min_size=1, max_size=5))
def test_any_payload_comes_back_and_others_read_what_we_write(
    tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]
) -> None:
    data = b"".join(map(framed, contents))
    assert data == b"".join(map(by_hand.record, contents))
    assert [content for _, content in by_hand.records(data)] == contents
    file = opened(tmp_path_factory.mktemp("any") / "x.rec", data)
    offsets = [offset for offset, _ in by_hand.records(data)]
    assert [file.record(offset) for offset in offsets] == contents
    assert list(walk(file)) == [
        (offset, len(content), None) for offset, content in zip(offsets, contents, strict=True)
    ]


def test_bytes_that_mxnet_wrote_are_read_and_written_alike(tmp_path: Path) -> None:
    # MXRecordIO of mxnet 1.9.1, given the payloads below.
    written = bytes.fromhex(
        "0a23d7ce000000200a23d7ce000000600a23d7ce08000000610a23d7ce6263640a23d7ce04000020"
        "616263640a23d7ce000000400a23d7ce03000060656667000a23d7ce000000000a23d7ce08000020"
        "31323334353637380a23d7ce000000600a23d7ce080000200a230a23d7ced7ce0a23d7ce00000060"
    )
    contents = {
        0: MAGIC,
        16: b"a" + MAGIC + b"bcd",
        32: b"abcd" + MAGIC + MAGIC + b"efg",
        64: b"",
        72: b"12345678" + MAGIC,
        96: MAGIC[:2] + MAGIC + MAGIC[2:] + MAGIC,
    }
    file = opened(tmp_path / "x.rec", written)
    assert {found.offset: file.record(found.offset) for found in walk(file)} == contents
    assert b"".join(map(framed, contents.values())) == written


def test_a_record_longer_than_one_read_comes_back(tmp_path: Path) -> None:
    long = bytes(range(256)) * 300 + MAGIC + b"tail" * 9000 + b"x"
    file = opened(tmp_path / "x.rec", by_hand.record(b"short") + by_hand.record(long))
    assert file.record(16) == long
    assert [found.length for found in walk(file)] == [5, len(long)]


def test_a_magic_number_off_the_grid_stays_in_its_part(tmp_path: Path) -> None:
    content = b"a" + MAGIC + b"bcd" + MAGIC[:2]
    assert framed(content).count(MAGIC) == 2
    assert opened(tmp_path / "x.rec", framed(content)).record(0) == content


def test_a_record_longer_than_its_length_can_say_is_refused() -> None:
    class Long(bytes):
        def __len__(self) -> int:
            return 2**29

    with pytest.raises(ValueError, match="536870912 bytes; at most 536870911"):
        framed(Long())


def head(kind: int, length: int) -> bytes:
    return MAGIC + struct.pack("<I", kind << 29 | length)


GOOD = by_hand.record(b"good record!")
DAMAGES = {
    "another number": (b"\1\2\3\4" + head(0, 4)[4:] + b"abcd", "starts with 0x04030201"),
    "cut off in its head": (MAGIC + b"\0\0", "the file ends after 6 of the 8"),
    "cut off": (head(0, 40) + b"abcd", "40 bytes follow, but the file ends after 4"),
    "an unknown kind": (head(5, 4) + b"abcd", "its kind is 5"),
    "a last part first": (head(3, 4) + b"abcd", "where a record should start"),
    "a middle part first": (head(2, 4) + b"abcd", "where a record should start"),
    "two first parts": (
        head(1, 4) + b"abcd" + head(1, 4) + b"abcd" + head(3, 0),
        r"part at byte 32: a new record starts",
    ),
    "a part that is missing": (head(1, 4) + b"abcd", "part at byte 32: the file ends after 0"),
    "a part off the grid": (head(1, 5) + b"abcde" + head(3, 0), "5 bytes, no multiple of 4"),
}


@pytest.mark.parametrize("damaged", DAMAGES)
def test_damage_is_named_by_its_byte(tmp_path: Path, damaged: str) -> None:
    data, words = DAMAGES[damaged]
    file = opened(tmp_path / "x.rec", GOOD + data)
    assert file.record(0) == b"good record!"
    with pytest.raises(ValueError, match=f"damaged record at byte 20.*{words}"):
        file.record(20)
    first, found, *_ = list(walk(file))
    assert first == (0, 12, None)
    assert found.offset == 20
    assert found.problem is not None
    assert "damaged record at byte 20" in found.problem


@pytest.mark.parametrize("damaged", [name for name in DAMAGES if "cut off" not in name])
def test_a_walk_goes_on_after_damage(tmp_path: Path, damaged: str) -> None:
    data = DAMAGES[damaged][0]
    data += b"\0" * (-len(data) % 4)
    found = list(walk(opened(tmp_path / "x.rec", GOOD + data + GOOD + GOOD)))
    good = [item.offset for item in found if item.problem is None]
    end = 20 + len(data)
    assert good[0] == 0
    assert good[-2:] == [end, end + 20]
    # Together they cover the file.
    bad = [item for item in found if item.problem is not None]
    assert sum(item.length for item in bad) + 20 * len(good) == end + 40


def test_a_length_that_swallows_the_next_records_loses_only_its_own(tmp_path: Path) -> None:
    data = bytearray(GOOD * 6)
    data[24:28] = struct.pack("<I", 48)  # the second now ends within the fourth
    found = list(walk(opened(tmp_path / "x.rec", bytes(data))))
    assert [item.offset for item in found] == [0, 20, 40, 60, 80, 100]
    assert [item.problem is None for item in found] == [True, False, True, True, True, True]
    assert "another record starts in it at byte 40" in str(found[1].problem)


def test_a_damaged_head_does_not_blame_the_record_before_it(tmp_path: Path) -> None:
    data = bytearray(GOOD * 3)
    data[20] ^= 1
    found = list(walk(opened(tmp_path / "x.rec", bytes(data))))
    assert [(item.offset, item.problem is None) for item in found] == [
        (0, True),
        (20, False),
        (40, True),
    ]


def test_a_hole_of_zeros_is_one_gap(tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    path.write_bytes(GOOD)
    with path.open("r+b") as file:
        file.seek(50_000_000)
        file.write(GOOD)
    found = list(walk(RecordFile(path)))
    assert [(item.offset, item.length) for item in found] == [
        (0, 12),
        (20, 50_000_000 - 20),
        (50_000_000, 12),
    ]


def test_a_walk_passes_over_payloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.rec"
    with path.open("wb") as out:
        for number in range(5):
            out.seek(number * 100_000_008)
            out.write(head(0, 100_000_000))
        out.truncate(5 * 100_000_008)
    asked = []
    real = RecordFile.bytes_at
    monkeypatch.setattr(
        RecordFile, "bytes_at", lambda self, at, n: asked.append(n) or real(self, at, n)
    )
    done: list[tuple[int, int]] = []
    found = list(walk(RecordFile(path), lambda now, total: done.append((now, total))))
    assert [item.length for item in found] == [100_000_000] * 5
    assert sum(asked) < 20_000_000
    assert done[-1] == (500_000_040, 500_000_040)
    assert done == sorted(done)


def test_a_file_cut_off_while_open_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    file = opened(path, by_hand.record(b"x" * 50_000))
    os.truncate(path, 30_000)
    with pytest.raises(ValueError, match=r"byte 0: it says that 50000 bytes .* after 29992"):
        file.record(0)


def test_a_record_file_travels_to_another_process(tmp_path: Path) -> None:
    file = opened(tmp_path / "x.rec", GOOD)
    sent = pickle.dumps(file)
    assert pickle.loads(sent).record(0) == b"good record!"
    (tmp_path / "x.rec").write_bytes(GOOD * 2)
    with pytest.raises(OSError, match="had 20 bytes and now has 40"):
        pickle.loads(sent)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_no_handle_stays_open(tmp_path: Path) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    opened(tmp_path / "x.rec", GOOD)
    before = count()
    for _ in range(50):
        file = pickle.loads(pickle.dumps(RecordFile(tmp_path / "x.rec")))
        assert file.record(0) == b"good record!"
    del file
    assert count() == before
