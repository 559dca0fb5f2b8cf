"""How this process takes memory from the system, and whether it gives it back."""

import ctypes
import os
import sys
from contextlib import suppress

# Parameters of glibc's mallopt: from malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
# Bytes, bytes and a number of arrays: what is kept of all that was used, and glibc's own.
_KEEPING = {_TRIM_THRESHOLD: -1, _TOP_PAD: 64 << 20, _MMAP_MAX: 0}
_USUAL = {_TRIM_THRESHOLD: 128 << 10, _TOP_PAD: 128 << 10, _MMAP_MAX: 65536}
# What a user sets instead.
_VARIABLES = ("MALLOC_", "GLIBC_TUNABLES")


def use_huge_pages() -> None:
    """Makes PyTorch take large tensors in pages of 2 MB, where the system gives them on request.

    The system clears a page when it is first used, and does so faster for huge ones: of a training
    step on a CPU, small ones take up to a fifth. It is for a command that trains, before its first
    tensor. Unlike memory that is kept, it leaves no gaps, so the peak stays what the tensors need.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def keep_memory() -> None:
    """Makes this process keep large arrays that it frees, and use their memory again.

    By default glibc returns them to the system, which clears each page anew when the next array of
    the same size comes. It suits batch after batch of the same size without a backward pass.
    Processes that are forked from this one, such as a loader's workers, do as usual. It is for the
    process of a command, not for a library that others import. Does nothing with another C library,
    or where an environment variable of glibc's allocator is set.
    """
    if not any(name.startswith(_VARIABLES) for name in os.environ) and _set(_KEEPING):
        os.register_at_fork(after_in_child=lambda: _set(_USUAL))


def _set(options: dict[int, int]) -> bool:
    """Sets parameters of the allocator, and returns whether they are set.

    The numbers of the parameters are those of glibc, so only glibc is asked.
    """
    if sys.platform != "linux":
        return False
    with suppress(AttributeError, OSError):  # another C library has no such function
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018
        return all(library.mallopt(option, value) for option, value in options.items())
    return False
