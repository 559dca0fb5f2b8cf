"""Files that are complete or absent, and their checksums."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from centerarc.data import atomic_path
from centerarc.io import files
from centerarc.io.files import LOCK, check_unlocked, locked_folder, read_file, without_writing


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
        shutil.rmtree(folder)
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


HOLD = """
import os, signal, sys, time
from pathlib import Path
from centerarc.io.files import LOCK, locked_folder
with locked_folder(Path(sys.argv[1]), "", patience=0, inherited=False):
    worker = os.fork()
    if worker:
        print(worker, flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_a_lock_says_who_holds_it_and_ends_with_its_process_and_not_its_workers(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "work"
    words = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    try:
        who = rf"taken \(process {process.pid} on {socket.gethostname()}, since 20.*: .*-c.*"
        with pytest.raises(ValueError, match=who), locked_folder(folder, "taken", patience=0):
            pass
        process.kill()
        process.wait()
        assert (folder / LOCK).exists()
        with locked_folder(folder, "taken", patience=5):
            os.kill(worker, 0)  # which is there still
        assert not (folder / LOCK).exists()
    finally:
        process.kill()
        os.kill(worker, signal.SIGKILL)
        process.stdout.close()


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({}, True),  # this very process
        ({"host": "elsewhere"}, True),
        ({"process": 2**22 + 1}, False),  # no process has such a number
        ({"life": "another-boot 123"}, False),  # a number that was used again
    ],
    ids=["here", "elsewhere", "ended", "recycled"],
)
def test_without_locks_what_the_file_says_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], refused: bool
) -> None:
    import fcntl

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    if changes.keys() == {"life"} and not Path("/proc/self/stat").exists():
        pytest.skip("the system does not say when a process began")
    with locked_folder(tmp_path, "taken", patience=0):
        left = {**json.loads((tmp_path / LOCK).read_text()), **changes}
    assert not (tmp_path / LOCK).exists()
    (tmp_path / LOCK).write_text(json.dumps(left))
    host = left["host"]
    what = rf"taken \(process \d+ on {host}, .*; if that process has ended, delete '.*\.lock'"
    with (
        pytest.raises(ValueError, match=what) if refused else nullcontext(),
        locked_folder(tmp_path, "taken", patience=0),
    ):
        pass
    assert (tmp_path / LOCK).exists() == refused
    (tmp_path / LOCK).write_text("{")  # as left by a full disk
    with locked_folder(tmp_path, "taken", patience=0):
        pass


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_without_locks_a_process_that_was_not_cleared_away_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    folder = tmp_path / "work"
    words = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        os.kill(int(process.stdout.readline()), signal.SIGKILL)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert (folder / LOCK).exists()

        def no_locks(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", no_locks)
        with locked_folder(folder, "taken", patience=0):
            pass


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_a_lock_knows_whether_its_folder_is_there(tmp_path: Path) -> None:
    folder, other = tmp_path / "work", tmp_path / "other"
    with locked_folder(folder, "", patience=0) as is_there:
        assert is_there()
        folder.rename(other)
        assert not is_there()
        folder.mkdir()
        assert not is_there()
        folder.rmdir()
        other.rename(folder)
        assert is_there()
        (folder / LOCK).unlink()
        assert is_there()
        (folder / LOCK).touch()  # of another process
        assert not is_there()


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_looking_at_a_lock_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_unlocked(tmp_path / "none" / LOCK, "taken", patience=0)
    assert not list(tmp_path.iterdir())
    with locked_folder(tmp_path, "", patience=0):
        left = (tmp_path / LOCK).read_bytes()
        with pytest.raises(ValueError, match=rf"^taken \(process {os.getpid()} on "):
            check_unlocked(tmp_path / LOCK, "taken", patience=0)
    (tmp_path / LOCK).write_bytes(left)  # of a process that was killed
    before = (tmp_path / LOCK).stat()
    check_unlocked(tmp_path / LOCK, "taken", patience=0)
    assert (tmp_path / LOCK).read_bytes() == left
    assert (tmp_path / LOCK).stat().st_mtime_ns == before.st_mtime_ns
    monkeypatch.setattr(files, "_try_lock", lambda *_: f"; delete {LOCK}")  # where there are none
    with pytest.raises(ValueError, match=rf"\); delete {LOCK}$"):
        check_unlocked(tmp_path / LOCK, "taken", patience=0)


@pytest.mark.skipif(not hasattr(os, "seteuid") or os.getuid() != 0, reason="for root to try")
def test_a_lock_of_another_user_is_refused_in_the_words_of_locking() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / LOCK).touch(0o644)
        os.seteuid(65534)
        try:
            with pytest.raises(PermissionError, match=f"Permission denied: '{folder / LOCK}'") as a:
                check_unlocked(folder / LOCK, "taken", patience=0)
            with pytest.raises(PermissionError) as b, locked_folder(folder, "", patience=0):
                pass
        finally:
            os.seteuid(0)
        assert str(a.value) == str(b.value)


def test_nothing_is_written_where_nothing_is_to_be(tmp_path: Path) -> None:
    with (
        without_writing(),
        pytest.raises(OSError, match=r"Read-only.*note"),
        atomic_path(tmp_path / "new" / "note"),
    ):
        pass
    assert not list(tmp_path.iterdir())
    with atomic_path(tmp_path / "note") as temporary:
        temporary.touch()
    assert (tmp_path / "note").exists()
