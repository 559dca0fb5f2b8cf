"""The .idx: any order of keys, and each kind of damage named by its line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from centerarc.data.recordio.index import read_index, walked_index
from centerarc.data.recordio.records import RecordFile
from centerarc.data.recordio.source import RecordIOSource
from tests.data.recordio import by_hand


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
    count = 700_000
    offsets = range(0, 40 * count, 40)
    lines = [f"{key}\t{offset}\n" for key, offset in enumerate(offsets)]
    assert index(tmp_path, "".join(lines), 40 * count) == dict(enumerate(offsets))
    # As insightface's own script leaves it: record 0 after the images.
    moved = [*lines[1:600_000], lines[0], *lines[600_000:]]
    assert index(tmp_path, "".join(moved), 40 * count) == dict(enumerate(offsets))
    lines[650_000] = "650000\tx\n"
    with pytest.raises(ValueError, match=r"line 650001: '650000.*x' is not a key and a byte"):
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
