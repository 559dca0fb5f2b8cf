"""Checksums are those of `sha256sum`."""

import hashlib
from pathlib import Path

from centerarc.io.files import write_checksums


def test_they_are_sha256_in_the_common_format(tmp_path: Path) -> None:
    for name in ("a.rec", "b c.idx"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    write_checksums(tmp_path / "all.sha256", ["a.rec", "b c.idx"])
    first = hashlib.sha256(b"a.rec" * 1000).hexdigest()
    second = hashlib.sha256(b"b c.idx" * 1000).hexdigest()
    assert (tmp_path / "all.sha256").read_text() == f"{first}  a.rec\n{second}  b c.idx\n"
