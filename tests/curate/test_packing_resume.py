"""However a pack is stopped, the same call goes on and ends in the same bytes."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from centerarc.curate import pack
from centerarc.curate.packing import WORK
from centerarc.data import FolderSource
from tests.curate.packing_helpers import contents, many, picture

OPTIONS: dict[str, dict[str, Any]] = {
    "rec": {"format": "rec"},
    "shards": {"format": "shards", "images_per_shard": 9},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = many(tmp_path / "faces", people=5)
    (folder / "p3" / "2.jpg").write_bytes(picture(1)[:-200])
    assert len(FolderSource(folder)) == 35, "damage that shows when it is decoded"
    return folder


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("centerarc.curate.pack_parts._PART_BYTES", 20_000)
    # Only a power cut could tell.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def killed_at(step: int, root: Path, out: Path, options: dict[str, Any]) -> bool:
    """Packs in a process that kills itself before its `step`-th rename or deletion."""

    def child() -> None:
        left = step

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return call(*args, **kwargs)

            return wrapper

        for name in ("replace", "unlink", "rmdir"):
            setattr(os, name, counted(getattr(os, name)))
        pack(FolderSource(root), out, workers=0, **options)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("format", OPTIONS)
def test_killed_at_any_step_it_goes_on_to_the_same_bytes(
    root: Path, tmp_path: Path, format: str
) -> None:
    pack(FolderSource(root), tmp_path / "whole", workers=0, **OPTIONS[format])
    expected = contents(tmp_path / "whole")
    step = 0
    while killed_at(step, root, out := tmp_path / f"{step}", OPTIONS[format]):
        if (out / "left-out.csv").exists() and not list(out.glob(f"{WORK}/*")):
            break  # all is there; what is left is an empty folder
        visible = {path.name for path in out.iterdir()} - {WORK}
        assert not visible or (out / WORK / "done.json").exists()
        pack(FolderSource(root), out, workers=0, **OPTIONS[format])
        assert contents(out) == expected
        assert not (out / WORK).exists()
        step += 1
    assert step > 20


SLOW = """
import sys, time
from pathlib import Path
from centerarc.data import FolderSource
from centerarc.curate import pack

class Slow(FolderSource):
    def encoded(self, index):
        time.sleep(0.005)
        return super().encoded(index)

if __name__ == "__main__":
    print("begun", flush=True)
    pack(Slow(sys.argv[1]), sys.argv[2], format="rec", workers=2)
"""


def started(root: Path, out: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(root), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_stopped_with_its_processes_it_goes_on(root: Path, tmp_path: Path, number: int) -> None:
    pack(FolderSource(root), tmp_path / "whole", format="rec", workers=0)
    out = tmp_path / "out"
    process = started(root, out)
    wait_for(lambda: len(list(out.glob(f"{WORK}/spool/[0-9]*.json"))) >= 1)
    if number == signal.SIGKILL:
        process.kill()  # the parent alone: its workers must notice
    else:
        os.killpg(process.pid, number)  # as a terminal does
    _, error = process.communicate()
    assert error.count("Traceback") <= 1, "a worker complained too"
    assert not (out / "train.rec").exists()
    # Waits for workers of the killed run, which hold the folder's lock until they end.
    pack(FolderSource(root), out, format="rec", workers=2)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.skipif(sys.platform == "win32", reason="no lock there")
def test_two_cannot_pack_into_one_folder(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("centerarc.io.jobs._LOCK_SECONDS", 0.1)
    out = tmp_path / "out"
    process = started(root, out)
    try:
        wait_for(lambda: (out / WORK / "request.json").exists())
        with pytest.raises(ValueError, match="another process is writing"):
            pack(FolderSource(root), out, format="rec", overwrite=True, workers=0)
    finally:
        process.kill()
        process.communicate()


def unfinished(root: Path, out: Path, **options: Any) -> None:
    """Leaves a pack that was stopped after its first images."""

    def stop(stage: str, done: int, total: int) -> None:
        if done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(FolderSource(root), out, workers=0, progress=stop, **options)


def test_what_was_read_is_not_read_again(root: Path, tmp_path: Path) -> None:
    unfinished(root, tmp_path / "out", format="rec")
    report = pack(FolderSource(root), tmp_path / "out", format="rec", workers=0)
    assert (report.images, report.read) == (34, 35 - 16)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "shards"}, r"another format \(rec, now shards\)"),
        ({"format": "rec", "size": 8}, r"another size \(None, now 8\)"),
        ({"format": "rec", "quality": 90}, r"another quality \(None, now 90\)"),
        ({"format": "rec", "min_images": 7}, r"another min_images \(1, now 7\)"),
        ({"format": "rec", "shuffle": 0}, r"another shuffle \(None, now 0\)"),
        ({"format": "rec", "leave_out": {"p0/1.jpg"}}, "another choice of images;"),
        ({"format": "rec", "identities": ["p0"]}, r"another identities \(None, now 1\)"),
    ],
)
def test_another_command_is_told_what_differs(
    root: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    out = tmp_path / "out"
    unfinished(root, out, format="rec")
    before = contents(out)
    with pytest.raises(ValueError, match=f"{words}.*--overwrite starts over"):
        pack(FolderSource(root), out, workers=0, **options)
    assert contents(out) == before
    if "min_images" in options:
        options = {"format": "rec"}
    pack(FolderSource(root), tmp_path / "fresh", workers=0, **options)
    pack(FolderSource(root), out, workers=0, overwrite=True, **options)
    assert contents(out) == contents(tmp_path / "fresh")


def test_a_changed_source_is_told(root: Path, tmp_path: Path) -> None:
    unfinished(root, tmp_path / "out", format="rec")
    (root / "p0" / "1.jpg").write_bytes(picture(99))
    with pytest.raises(ValueError, match="another state of the source's files;"):
        pack(FolderSource(root), tmp_path / "out", format="rec", workers=0)
    (root / "p0" / "new.jpg").write_bytes(picture(99))
    with pytest.raises(ValueError, match=r"another number of images \(35, now 36\)"):
        pack(FolderSource(root), tmp_path / "out", format="rec", workers=0)


def test_a_folder_with_something_else_is_left_alone(root: Path, tmp_path: Path) -> None:
    source = FolderSource(root)
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("notes.txt", "train.rec"):
        (mine / name).write_text("mine")
        for overwrite in (False, True):
            with pytest.raises(ValueError, match=f"holds something else: '{name}'"):
                pack(source, mine, format="rec", workers=0, overwrite=overwrite)
        assert (mine / name).read_text() == "mine"
        (mine / name).unlink()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"must be a folder, got .*, which is a file"):
        pack(source, tmp_path / "file", format="rec", workers=0)
    with pytest.raises(ValueError, match="lies in the source"):
        pack(source, root / "packed", format="rec", workers=0)
    assert not (root / "packed").exists()


def test_a_finished_pack_is_replaced_only_when_told(root: Path, tmp_path: Path) -> None:
    from centerarc.data import RecordIOSource

    out = tmp_path / "out"
    pack(FolderSource(root), out, format="rec", workers=0)
    before = contents(out)
    with pytest.raises(ValueError, match=r"holds a pack already: .*--overwrite replaces it"):
        pack(FolderSource(root), out, format="rec", workers=0)
    with pytest.raises(ValueError, match="holds files of the source"):
        pack(RecordIOSource(out), out, format="shards", overwrite=True, workers=0)
    assert contents(out) == before
    pack(FolderSource(root), out, format="shards", overwrite=True, workers=0)
    pack(FolderSource(root), tmp_path / "fresh", format="shards", workers=0)
    assert contents(out) == contents(tmp_path / "fresh")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_is_told_and_the_same_call_goes_on(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    pack(FolderSource(root), tmp_path / "whole", format="rec", workers=0)
    fsync = os.fsync
    left = 3

    def full(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        # Others would not have that.
        patch.setattr("centerarc.io.parallel._start_method", lambda: "fork")
        with pytest.raises(OSError, match=r"no space is left for .*same command to resume"):
            pack(FolderSource(root), tmp_path / "out", format="rec", workers=workers)
    pack(FolderSource(root), tmp_path / "out", format="rec", workers=workers)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_file_that_cannot_be_read_stops_the_pack(root: Path, tmp_path: Path) -> None:
    # A share that is gone would otherwise leave out everything.
    source = FolderSource(root)
    data = (root / "p2" / "3.jpg").read_bytes()
    (root / "p2" / "3.jpg").unlink()
    with pytest.raises(OSError, match=r"cannot read 'p2/3\.jpg': No such file"):
        pack(source, tmp_path / "out", format="rec", workers=0)
    assert not (tmp_path / "out" / "train.rec").exists()
    (root / "p2" / "3.jpg").write_bytes(data)


@pytest.mark.parametrize("content", ["{bad", "[1]", '"text"'])
def test_a_damaged_note_is_named_and_overwritten_when_told(
    root: Path, tmp_path: Path, content: str
) -> None:
    out = tmp_path / "out"
    assert killed_at(3, root, out, OPTIONS["rec"])
    note = out / WORK / "request.json"
    note.write_text(content, encoding="utf-8")
    with pytest.raises(OSError, match=r"cannot read .*request\.json'.*--overwrite starts over"):
        pack(FolderSource(root), out, workers=0, **OPTIONS["rec"])
    pack(FolderSource(root), out, workers=0, overwrite=True, **OPTIONS["rec"])
    whole = tmp_path / "whole"
    pack(FolderSource(root), whole, workers=0, **OPTIONS["rec"])
    assert contents(out) == contents(whole)
