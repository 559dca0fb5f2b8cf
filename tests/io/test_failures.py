"""What the system refuses is one line that says how much was wanted and what to change."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from centerarc.io.failures import NoMemory, in_one_line, memory_explained
from centerarc.io.files import atomic_path, named_in_errors

CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 139.80 GiB of "
    "which 3.06 GiB is free. Including non-PyTorch memory, this process has 136 GiB in use."
)
CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 192000000000 bytes. Error code 12 (Cannot allocate memory)\nframe #1"
)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            torch.OutOfMemoryError(CUDA),
            "out of memory on the GPU: 21.5 GB more were asked for, 3.3 GB of 150.1 GB were free",
        ),
        (RuntimeError(CPU), "out of memory: 192.0 GB more were asked for"),
        (MemoryError(), "out of memory"),
        (
            MemoryError("Unable to allocate 7.11 PiB for an array with shape (9,)"),
            "out of memory: 8",
        ),
        (RuntimeError("std::bad_alloc"), "out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "out of memory on the GPU"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
        (
            OSError(errno.ENOSPC, "No space left", "a.txt"),
            "no space is left on the disk for 'a.txt'",
        ),
        (OSError(errno.EMFILE, "Too many", "a.txt"), "too many files are open, at 'a.txt'; raise"),
        (
            RuntimeError("unable to mmap: Too many open files (24)"),
            "too many files are open; raise",
        ),
        (OSError(errno.EROFS, "Read-only file system", "a"), "Read-only file system: 'a'"),
        (OSError("cannot write"), "cannot write"),
        (RecursionError("maximum recursion depth"), "what was read is nested too deeply"),
        (UnicodeEncodeError("ascii", "Ä" * 999, 0, 1, "no"), "set PYTHONUTF8=1"),
        (ValueError("two\nlines of  it"), "two lines of it"),
        (ValueError(), "ValueError"),
    ],
)
def test_one_line_of_what_the_user_can_change(error: Exception, said: str) -> None:
    line = in_one_line(error)
    assert line is not None
    assert said in line
    assert "\n" not in line
    assert len(line) < 200


@pytest.mark.parametrize(
    "error", [KeyError("step"), RuntimeError("shapes differ"), TypeError("not callable")]
)
def test_a_fault_of_the_code_has_its_traceback(error: Exception) -> None:
    assert in_one_line(error) is None


def test_real_allocations_that_fail_say_what_to_change() -> None:
    for allocate in (
        lambda: torch.empty(2**46, dtype=torch.uint8),
        lambda: np.empty(2**46, dtype=np.uint8),
    ):
        with (
            pytest.raises(NoMemory, match=r"70,368\.7 GB more were asked for; try less$"),
            memory_explained("try more"),
            memory_explained("try less"),
        ):
            allocate()
    with pytest.raises(KeyError), memory_explained("try less"):
        raise KeyError("step")


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(OSError, match="No space") as full, named_in_errors(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert full.value.filename == str(path)
    with pytest.raises(OSError, match="No space") as full, atomic_path(path) as temporary:
        raise OSError(errno.ENOSPC, "No space left on device", str(temporary))
    assert full.value.filename == str(path)
    assert os.listdir(tmp_path) == []
    # What fails for another reason may be another file.
    with pytest.raises(OSError, match="broken") as other, named_in_errors(path):
        raise OSError(errno.EIO, "broken")
    assert other.value.filename is None
