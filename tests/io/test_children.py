"""Processes of ours: how they end, that a signal reaches all, that none is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from centerarc.io.children import Children, ChildrenStopped

SLEEPS = ["-c", "import time; print('here', flush=True); time.sleep(60)"]


def _said(path: Path, word: str) -> None:
    for _ in range(1200):
        if path.exists() and word in path.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} never says {word!r}")


def _gone(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{number}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize(
    ("code", "ended", "reason"),
    [
        ("print('error: not this')", 0, ""),
        ("print('error: one\\nerror: the loss\\nmore'); raise SystemExit(3)", 3, "the loss"),
        ("print('first\\nlast'); raise SystemExit(2)", 2, "last"),
        ("raise SystemExit(4)", 4, "it ended with exit code 4"),
        ("import os; os.kill(os.getpid(), 9)", -9, "it was killed by signal 9"),
    ],
)
def test_how_one_ended_and_why(tmp_path: Path, code: str, ended: int, reason: str) -> None:
    with Children() as children:
        children.start("one", ["-c", code], tmp_path / "one.log")
        found = children.wait()
    assert found is not None
    assert (found.name, found.code, found.reason) == ("one", ended, reason)


def test_several_run_at_once_and_are_told_apart(tmp_path: Path) -> None:
    meet = (
        "import sys, pathlib, time\nhere, there = map(pathlib.Path, sys.argv[1:])\nhere.touch()\n"
    )
    meet += "while not there.exists(): time.sleep(0.01)"
    a, b = tmp_path / "a", tmp_path / "b"
    with Children(2) as children:
        children.start("a", ["-c", meet, str(a), str(b)], tmp_path / "a.log")
        assert not children.full
        children.start("b", ["-c", meet, str(b), str(a)], tmp_path / "b.log")
        assert children.full
        assert children.running == ["a", "b"]
        names = {ended.name for ended in (children.wait(), children.wait()) if ended}
        assert names == {"a", "b"}
        assert children.wait() is None


def test_cores_are_divided(tmp_path: Path) -> None:
    with Children(1, threads=3) as children:
        show = "import os; print(os.environ['OMP_NUM_THREADS'])"
        children.start("one", ["-c", show], tmp_path / "log")
        children.wait()
    assert (tmp_path / "log").read_text() == "3\n"
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        Children(0)


def test_waiting_may_end_first(tmp_path: Path) -> None:
    with Children() as children:
        children.start("one", SLEEPS, tmp_path / "log")
        assert children.wait(0.2) is None
        assert children.running == ["one"]


def test_a_signal_ends_all_of_them(tmp_path: Path) -> None:
    log = tmp_path / "log"
    orderly = "import signal, sys\nsignal.signal(15, lambda *_: sys.exit(print('saved')))\n"
    with Children(2) as children:
        children.start("one", ["-c", f"{orderly}{SLEEPS[1]}"], log)
        children.start("two", SLEEPS, tmp_path / "two")
        _said(log, "here")
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(ChildrenStopped):
            children.wait()
        assert children.running == []
        assert children.stopping
    assert log.read_text().endswith("saved\n")


PARENT = """
import sys
from pathlib import Path
from centerarc.io.children import Children
child = "import os, time\\nfrom centerarc.io.children import end_with_parent\\n"
child += "end_with_parent(); print(os.getpid(), 'here', flush=True); time.sleep(60)"
with Children() as children:
    children.start("one", ["-c", child], Path(sys.argv[1]))
    children.wait()
"""


def test_none_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(log)])
    _said(log, "here")
    child = int(log.read_text().split()[0])
    assert not _gone(child)
    parent.kill()
    parent.wait()
    for _ in range(600):
        if _gone(child):
            return
        time.sleep(0.05)
    raise AssertionError("the child is still there")
