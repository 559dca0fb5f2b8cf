"""Several processes give what one gives, and fail in one line."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from centerarc.data import FaceSource
from centerarc.data.inspection.processes import map_chunks


class Numbers:
    """A source of nothing but its length."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


def squares(source: FaceSource, numbers: range) -> list[int]:
    return [number**2 for number in numbers]


def die(source: FaceSource, numbers: range) -> list[int]:
    if 40 in numbers:
        os.kill(os.getpid(), signal.SIGKILL)
    return list(numbers)


def refuse(source: FaceSource, numbers: range) -> None:
    raise ValueError("not these")


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("size", [0, 1, 10, 101])
def test_results_come_in_order_whatever_works(workers: int, size: int) -> None:
    done: list[int] = []
    parts = map_chunks(squares, Numbers(size), workers=workers, chunk=7, progress=done.append)
    assert [value for part in parts for value in part] == [n**2 for n in range(size)]
    assert sum(done) == size


def test_it_works_beside_other_threads() -> None:
    ready = threading.Event()
    thread = threading.Thread(target=ready.wait)
    thread.start()
    try:
        parts = list(map_chunks(squares, Numbers(20), workers=2, chunk=10))
    finally:
        ready.set()
        thread.join()
    assert [value for part in parts for value in part] == [n**2 for n in range(20)]


@pytest.mark.skipif(os.name != "posix", reason="kills its own process")
def test_a_worker_that_dies_is_one_line() -> None:
    with pytest.raises(OSError, match="died, most often for want of memory; try fewer") as caught:
        list(map_chunks(die, Numbers(100), workers=2, chunk=10))
    assert "\n" not in str(caught.value)


def test_an_error_of_a_worker_arrives_as_it_is() -> None:
    with pytest.raises(ValueError, match=r"^not these$"):
        list(map_chunks(refuse, Numbers(100), workers=2, chunk=10))


def test_a_number_of_workers_that_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ValueError, match="workers is 100000"):
        list(map_chunks(squares, Numbers(3), workers=100_000))


@pytest.mark.skipif(os.name != "posix", reason="sends a signal to a group")
def test_ctrl_c_ends_all_processes_without_a_word_of_theirs() -> None:
    program = """
import time, sys
from centerarc.data.inspection.processes import map_chunks
def work(source, numbers):
    time.sleep(0.1)
    return 0
class Many:
    def __len__(self):
        return 10_000
try:
    for _ in map_chunks(work, Many(), workers=2, chunk=1):
        print("working", flush=True)
except KeyboardInterrupt:
    sys.exit(130)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    os.killpg(process.pid, signal.SIGINT)
    begun = time.monotonic()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors == ""
    assert time.monotonic() - begun < 10
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody is left
