"""Several processes on a machine say the same thing once, and torchrun gets the first cause."""

import json
import threading
import time
from pathlib import Path

import pytest

from centerarc.cli import launcher
from centerarc.cli.launcher import first_to_say, is_restarted, tell_launcher


@pytest.fixture
def ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The error files of two processes, as torchrun names them."""
    paths = [tmp_path / "attempt_0" / str(rank) / "error.json" for rank in range(2)]
    for path in paths:
        path.parent.mkdir(parents=True)
    monkeypatch.setattr(launcher, "_PATIENCE", 0.3)
    return paths


def _as(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))


def test_one_process_alone_always_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    assert first_to_say("error: a")
    assert first_to_say("error: a")
    tell_launcher("error: a")  # no one listens


def test_the_same_line_is_said_once_and_another_one_too(
    monkeypatch: pytest.MonkeyPatch, ranks: list[Path]
) -> None:
    _as(monkeypatch, ranks[1])
    assert first_to_say("error: no such folder")
    _as(monkeypatch, ranks[0])
    assert not first_to_say("error: rank 1: no such folder")
    assert first_to_say("error: another one")


def test_a_lost_process_is_only_told_of_if_that_one_is_silent(
    monkeypatch: pytest.MonkeyPatch, ranks: list[Path]
) -> None:
    _as(monkeypatch, ranks[0])
    assert first_to_say("error: lost another one", lost=True)
    (said,) = ranks[0].parent.parent.glob("said-*")
    said.unlink()
    later = threading.Timer(0.1, lambda: (said.with_name("said-of-rank-1")).touch())
    later.start()
    assert not first_to_say("error: lost another one", lost=True)
    later.join()


def test_torchrun_reports_the_first_cause(
    monkeypatch: pytest.MonkeyPatch, ranks: list[Path]
) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    for rank, line in enumerate(["error: lost another one", "error: out of memory"]):
        _as(monkeypatch, ranks[rank])
        tell_launcher(line, lost=rank == 0)
    assert json.loads(ranks[0].read_text())["message"]["message"] == "error: lost another one"
    failures = {r: ProcessFailure(r, 100 + r, 2, str(path)) for r, path in enumerate(ranks)}
    report = str(ChildFailedError("centerarc", failures))
    assert report.index("Root Cause") < report.index("traceback : error: out of memory")
    assert failures[1].timestamp <= time.time()


@pytest.mark.parametrize(("count", "restarted"), [(None, False), ("0", False), ("2", True)])
def test_a_restart_is_known(
    monkeypatch: pytest.MonkeyPatch, count: str | None, restarted: bool
) -> None:
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    if count is not None:
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
    assert is_restarted() is restarted
