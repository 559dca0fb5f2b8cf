"""The most memory that a call takes above what is there when it begins."""

import contextlib
import ctypes
import gc
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_above(call: Callable[[], None], device: str) -> tuple[int, str]:
    """Run ``call`` once.

    Returns:
        Bytes above the present ones, and how they were found.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before, "allocator"
    _give_back_free_memory()
    try:
        # 5 sets the process's high-water mark to its present size.
        CLEAR.write_text("5")
    except OSError:
        return _sampled(call), "sampled"
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before, "high-water mark"


def _status(name: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"{STATUS} has no {name}")


def _give_back_free_memory() -> None:
    # Only glibc has it, and elsewhere nothing is lost but a little accuracy.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _sampled(call: Callable[[], None]) -> int:
    before = highest = _status("VmRSS")
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.is_set():
            highest = max(highest, _status("VmRSS"))
            time.sleep(0.0005)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        call()
    finally:
        done.set()
        thread.join()
    return highest - before
