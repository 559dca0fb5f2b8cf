"""Files that are complete or absent, and their checksums."""

import hashlib
import sys
import threading
import time
from pathlib import Path

import pytest

from centerarc.data import atomic_path
from centerarc.io.files import locked_folder, read_file, write_checksums


def test_the_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.html"
    with atomic_path(path) as temporary:
        assert temporary.suffix == ".html"
        temporary.write_text("all")
        assert not path.exists()
    assert path.read_text() == "all"
    assert list(path.parent.iterdir()) == [path]


def test_after_an_error_the_old_file_is_there_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_cannot_be_replaced(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a folder"), atomic_path(tmp_path):
        pass


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 3_000_000])
def test_a_file_is_read_whole(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "file").write_bytes(content[:size])
    assert read_file(tmp_path / "file") == content[:size]


def test_a_file_that_cannot_be_read_gives_the_reason_alone(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"^No such file or directory$"):
        read_file(tmp_path / "absent")
    with pytest.raises(OSError, match=r"^Is a directory$"):
        read_file(tmp_path)


def test_a_device_is_no_file_and_a_link_stays_one(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="'/dev/null', a device or pipe; it must name a file"),
        atomic_path("/dev/null"),
    ):
        pass
    (tmp_path / "real").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "real" / "note.txt")
    with atomic_path(tmp_path / "link.txt") as temporary:
        temporary.write_text("all")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real" / "note.txt").read_text() == "all"


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_whoever_waited_for_a_folder_that_was_deleted_keeps_others_out_of_the_new_one(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "work"
    inside, leave = threading.Event(), threading.Event()

    def wait() -> None:
        with locked_folder(folder, "taken", patience=10):
            inside.set()
            leave.wait(10)

    waiting = threading.Thread(target=wait)
    with locked_folder(folder, "taken", patience=0):
        waiting.start()
        time.sleep(0.3)
        assert not inside.is_set()
        folder.rmdir()
    try:
        assert inside.wait(10)
        with (
            pytest.raises(ValueError, match="taken"),
            locked_folder(folder, "taken", patience=0.1),
        ):
            pass
    finally:
        leave.set()
        waiting.join()
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError), locked_folder(tmp_path / "file", "", patience=9):
        pass


def test_they_are_sha256_in_the_common_format(tmp_path: Path) -> None:
    for name in ("a.rec", "b c.idx"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    write_checksums(tmp_path / "all.sha256", ["a.rec", "b c.idx"])
    first = hashlib.sha256(b"a.rec" * 1000).hexdigest()
    second = hashlib.sha256(b"b c.idx" * 1000).hexdigest()
    assert (tmp_path / "all.sha256").read_text() == f"{first}  a.rec\n{second}  b c.idx\n"
