"""Checksums find what changed, and are those of `sha256sum`."""

import hashlib
from pathlib import Path

import pytest

from centerarc.io.files import verify_checksums, write_checksums


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    for name in ("a.rec", "b c.idx"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    write_checksums(tmp_path / "all.sha256", ["a.rec", "b c.idx"])
    return tmp_path / "all.sha256"


def test_they_are_sha256_in_the_common_format(sums: Path) -> None:
    first = hashlib.sha256(b"a.rec" * 1000).hexdigest()
    assert sums.read_text().splitlines()[0] == f"{first}  a.rec"


def test_what_changed_or_is_missing_is_told(sums: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert verify_checksums(sums, lambda *step: seen.append(step)) == []
    assert seen[-1] == (12_000, 12_000)
    data = bytearray(sums.with_name("a.rec").read_bytes())
    data[2500] ^= 1
    sums.with_name("a.rec").write_bytes(data)
    sums.with_name("b c.idx").unlink()
    assert verify_checksums(sums) == [
        "a.rec: its content changed (SHA-256)",
        "b c.idx: is missing",
    ]


@pytest.mark.parametrize("line", ["no checksum", "0" * 63 + "  a.rec", "0" * 64 + " a.rec"])
def test_a_list_of_something_else_is_refused(sums: Path, line: str) -> None:
    sums.write_text(f"{line}\n")
    with pytest.raises(ValueError, match="line 1"):
        verify_checksums(sums)


def test_a_list_does_not_reach_out_of_its_folder(sums: Path) -> None:
    sums.write_text(f"{'0' * 64}  ../secret\n")
    with pytest.raises(ValueError, match=r"'\.\./secret', which is not in its folder"):
        verify_checksums(sums)
