"""Absurd headers are refused."""

import tarfile
from pathlib import Path

import pytest

from centerarc.data.shards import scan_shard


def header(name: str, size: int, kind: bytes = b"0") -> bytes:
    """A header whose size is written in base 256, as GNU tar does, negative or not."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (b"\xff" if size < 0 else b"\x80") + (size % 256**11).to_bytes(11, "big")
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("name", ["a/2.jpg", "a/1.cls", "README"])
@pytest.mark.parametrize("size", [-1, -512, -1024, -1536, -(2**40)])
def test_a_member_of_negative_size_is_refused_and_not_read_for_ever(
    tmp_path: Path, name: str, size: int
) -> None:
    path = tmp_path / "s.tar"
    path.write_bytes(header("a/1.jpg", 512) + bytes(512) + header(name, size) + bytes(1024))
    with pytest.raises(ValueError, match=rf"s\.tar'.* '{name}' at byte 1024 has {size} bytes"):
        scan_shard(path)


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g"])
@pytest.mark.parametrize("size", [-512, 2**20 + 1, 8**11, 2**50, 2**62, 2**80])
def test_a_long_name_of_absurd_size_is_refused_before_it_is_read(
    tmp_path: Path, kind: bytes, size: int
) -> None:
    path = tmp_path / "s.tar"
    before = header("././@LongLink", 5, b"L") + b"a/n.1".ljust(512, b"\0")
    path.write_bytes(before + header("././@LongLink", size, kind) + bytes(1024))
    with pytest.raises(ValueError, match=rf"s\.tar'.* at byte 1024 has {size} bytes"):
        scan_shard(path)


def test_a_pax_record_cannot_make_a_size_negative(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    record = b"13 size=-512\n"
    start = header("pax", len(record), b"x") + record.ljust(512, b"\0")
    path.write_bytes(start + header("a/1.jpg", 0) + bytes(1024))
    with pytest.raises(ValueError, match=r"s\.tar'.* byte 0 .*-512 bytes"):
        scan_shard(path)
