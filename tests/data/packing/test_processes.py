"""Work over processes: all of it, errors as they are, and nobody left behind."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from centerarc.data.packing.processes import run_tasks


def square(context: int, task: int, tick: Callable[[], None]) -> int:
    tick()
    return context * task * task


def fail(context: int, task: int, tick: Callable[[], None]) -> int:
    if task == 3:
        raise OSError(28, "no room")
    return task


def die(context: int, task: int, tick: Callable[[], None]) -> int:
    os._exit(9)


def endless(context: Path, task: int, tick: Callable[[], None]) -> int:
    if task == 0:
        return 0
    while True:
        tick()
        (context / f"{task}").touch()
        time.sleep(0.001)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_task_is_done_once_and_counted(workers: int) -> None:
    counts: list[int] = []
    results = run_tasks(square, 2, range(40), workers=workers, progress=counts.append)
    assert sorted(results) == [2 * number * number for number in range(40)]
    assert sum(counts) == 40


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_as_it_was(workers: int) -> None:
    with pytest.raises(OSError, match="no room") as caught:
        list(run_tasks(fail, 0, range(10), workers=workers, progress=lambda count: None))
    assert caught.value.errno == 28


def test_a_dead_process_is_told() -> None:
    with pytest.raises(OSError, match=r"worker process died.*fewer workers than 2"):
        list(run_tasks(die, 0, range(4), workers=2, progress=lambda count: None))


def test_tasks_under_way_stop_when_nobody_wants_results(tmp_path: Path) -> None:
    results = run_tasks(endless, tmp_path, range(3), workers=2, progress=lambda count: None)
    assert next(results) == 0
    results.close()
    for path in tmp_path.iterdir():
        path.unlink()
    time.sleep(0.05)
    assert not list(tmp_path.iterdir())
