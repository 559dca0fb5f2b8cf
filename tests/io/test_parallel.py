"""Several processes give what one gives, fail in one line, and leave no one behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import wait
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

from centerarc.io import parallel
from centerarc.io.parallel import in_chunks, run_tasks

Tick = Callable[[], None]
ORDERED = (True, False)
posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def squares(context: int, numbers: range, tick: Tick) -> list[int]:
    found = []
    for number in numbers:
        tick()
        found.append(context * number**2)
    return found


def first_after(context: tuple[Path, int], task: int, tick: Tick) -> int:
    folder, other = context
    while task == 0 and not (folder / f"{other}").exists():
        time.sleep(0.001)
    (folder / f"{task}").touch()
    return task


def die(context: None, task: int, tick: Tick) -> None:
    if task == 5:
        os._exit(9)


def fail(context: None, task: int, tick: Tick) -> int:
    if task == 3:
        raise OSError(28, "no room")
    return task


def endless(context: Path, task: int, tick: Tick) -> int:
    if task == 0:
        return 0
    while True:
        tick()
        (context / f"{task}").touch()
        time.sleep(0.001)


def loaded(context: str, task: int, tick: Tick) -> tuple[bool, int]:
    return context in sys.modules, cv2.getNumThreads()


def warped(context: np.ndarray[Any, Any], task: int, tick: Tick) -> int:
    return int(cv2.warpAffine(context, np.eye(2, 3), (900, 900)).sum())


@pytest.mark.parametrize("ordered", ORDERED)
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("size", [0, 1, 10, 101])
def test_all_is_done_once_and_counted_whatever_works(
    ordered: bool, workers: int, size: int
) -> None:
    counts: list[int] = []
    parts = run_tasks(
        squares, 2, in_chunks(size, 7), ordered=ordered, workers=workers, progress=counts.append
    )
    assert sorted(value for part in parts for value in part) == [2 * n**2 for n in range(size)]
    assert sum(counts) == size


def test_results_come_in_order_or_as_they_are_done(tmp_path: Path) -> None:
    assert list(run_tasks(first_after, (tmp_path, 5), range(30), workers=2)) == [*range(30)]
    (tmp_path / "29").unlink()
    done = list(run_tasks(first_after, (tmp_path, 29), range(30), ordered=False, workers=2))
    assert sorted(done) == [*range(30)]
    assert done[0] != 0


# In a process of its own: other tests let theirs load torch before it forks.
BESIDE_A_THREAD = """
import sys, threading
import torch
from centerarc.io.parallel import run_tasks
from tests.io.test_parallel import loaded

end = threading.Event()
threading.Thread(target=end.wait).start()
try:
    print(list(run_tasks(loaded, "torch", range(4), workers=2)))
finally:
    end.set()
"""


def test_beside_other_threads_nothing_is_forked_and_no_torch_is_loaded() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BESIDE_A_THREAD], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == str(4 * [(False, 1)]), done.stderr


HANDED_OVER = """
import socket, sys, time
from multiprocessing import reduction, resource_sharer
from centerarc.io.parallel import start_worker

if sys.argv[2] == "worker":
    start_worker(0)
reduction.DupFd(0)
for _ in range(3):
    with socket.socket(socket.AF_UNIX) as taker:
        taker.connect(resource_sharer._resource_sharer._address)
        if sys.argv[1] == "later":
            taker.recv(1000)
resource_sharer.stop(timeout=10)  # after it has looked at the three
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of sockets of a file")
@pytest.mark.parametrize("instant", ["at once", "later"])
def test_who_takes_memory_from_a_worker_may_die(instant: str) -> None:
    words = [sys.executable, "-c", HANDED_OVER, instant]
    said = [
        subprocess.run([*words, who], capture_output=True, text=True, timeout=60)
        for who in ("worker", "other")
    ]
    assert [one.returncode for one in said] == [0, 0], said
    assert said[0].stderr == ""
    assert "Error" in said[1].stderr  # or nothing was tried


NO_DESCRIPTOR = """
import resource, socket, time
from multiprocessing import reduction, resource_sharer
from centerarc.io.parallel import start_worker

start_worker(0)
reduction.DupFd(0)
taker = socket.socket(socket.AF_UNIX)
resource.setrlimit(resource.RLIMIT_NOFILE, (taker.fileno(), taker.fileno()))
taker.connect(resource_sharer._resource_sharer._address)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of sockets of a file")
def test_a_worker_that_cannot_hand_over_for_lack_of_descriptors_ends_in_a_line() -> None:
    words = [sys.executable, "-c", NO_DESCRIPTOR]
    done = subprocess.run(words, capture_output=True, text=True, timeout=50)
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert said.startswith("a worker cannot send what it has read: [Errno 24] Too many open files")


def test_processes_use_opencv_after_this_one_did() -> None:
    # OpenCV's threads do not survive a fork; whoever touches them in the child crashes.
    image = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(4)
    try:
        here = warped(image, 0, lambda: None)
        assert list(run_tasks(warped, image, range(4), workers=2)) == 4 * [here]
        assert cv2.getNumThreads() == 4
    finally:
        cv2.setNumThreads(threads)


@pytest.mark.parametrize("ordered", ORDERED)
def test_a_process_that_dies_is_one_line(ordered: bool) -> None:
    with pytest.raises(OSError, match=r"^a worker process .*died.*fewer workers than 2$") as caught:
        list(run_tasks(die, None, range(20), ordered=ordered, workers=2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_as_it_was(workers: int) -> None:
    with pytest.raises(OSError, match="no room") as caught:
        list(run_tasks(fail, None, range(10), workers=workers))
    assert caught.value.errno == 28


@pytest.mark.parametrize("workers", [-1, 100_000])
def test_a_number_of_processes_that_cannot_be_meant_is_refused_at_once(workers: int) -> None:
    with pytest.raises(ValueError, match=f"workers must be between 0 and .*, got {workers}"):
        run_tasks(fail, None, range(3), workers=workers)


def test_tasks_under_way_stop_when_nobody_wants_results(tmp_path: Path) -> None:
    results = run_tasks(endless, tmp_path, range(3), ordered=False, workers=2)
    assert next(results) == 0
    results.close()
    for path in tmp_path.iterdir():
        path.unlink()
    time.sleep(0.05)
    assert not list(tmp_path.iterdir())


PROGRAM = """
import os, sys, threading, time
from centerarc.io.parallel import run_tasks

def work(context, task, tick):
    time.sleep(0.05)
    return os.getpid()

if __name__ == "__main__":
    if sys.argv[1] == "threads":
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    try:
        for process in run_tasks(work, None, range(10_000), workers=2):
            print(process, flush=True)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def started(tmp_path: Path, *words: str) -> tuple[subprocess.Popen[str], int]:
    """A program with processes at work, and one of them."""
    (tmp_path / "program.py").write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def gone(group: int) -> bool:
    """Whether a group has no process, but for ended ones that this machine does not clear away."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    for process in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and process.info["status"] != "zombie":
                return False
    return True


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@posix
def test_ctrl_c_waits_until_the_pool_has_no_lock_of_this_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    returned = []

    def interrupted(*arguments: Any) -> Any:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        found = wait(*arguments)
        returned.append(found)
        return found

    monkeypatch.setattr(parallel, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(run_tasks(loaded, "json", range(4), workers=2))
    assert len(returned) == 1


@pytest.mark.parametrize("threads", ["none", "threads"])
def test_ctrl_c_ends_all_processes_without_a_word_of_theirs(tmp_path: Path, threads: str) -> None:
    process, _ = started(tmp_path, threads)
    os.killpg(process.pid, signal.SIGINT)
    begun = time.monotonic()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors == ""
    assert time.monotonic() - begun < 10
    wait_until(lambda: gone(process.pid))


@posix
@pytest.mark.parametrize(
    ("start", "by"), [("none", "SIGTERM"), ("none", "SIGKILL"), ("threads", "SIGKILL")]
)
def test_processes_end_with_one_that_is_killed(tmp_path: Path, start: str, by: str) -> None:
    process, worker = started(tmp_path, start)
    assert worker != process.pid
    number = signal.Signals[by]
    process.send_signal(number)  # to the main process alone
    process.communicate(timeout=10)  # until no one holds its pipes
    assert process.returncode == -number
    wait_until(lambda: gone(process.pid))


ORPHAN = """
import multiprocessing, os, signal, time
from centerarc.io.parallel import start_worker

def work(parent):
    os.kill(parent, signal.SIGKILL)
    while os.getppid() == parent:
        time.sleep(0.01)
    start_worker(0)
    time.sleep(1000)

if __name__ == "__main__":
    multiprocessing.get_context("fork").Process(target=work, args=(os.getpid(),)).start()
    time.sleep(1000)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_a_process_ends_whose_parent_was_killed_before_it_began(tmp_path: Path) -> None:
    # As long as it is there, the sockets are open that the parent had, and others wait for it.
    begun = time.monotonic()
    words = [sys.executable, "-c", ORPHAN]
    with subprocess.Popen(words, stderr=subprocess.PIPE, start_new_session=True) as process:
        try:
            _, said = process.communicate(timeout=30)  # until no one holds its pipe
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert said == b""
    assert time.monotonic() - begun < 30
