"""What a failure that is no fault of the code is called: one line that says what to change."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from centerarc.io.files import FULL

# What PyTorch, CUDA, OpenCV and onnxruntime say, each in its own kind of error.
_NO_MEMORY = re.compile(
    r"out of memory|(can't|cannot|failed to|unable to) allocate|bad_?alloc|insufficient memory"
    r"|ALLOC_FAILED",
    re.IGNORECASE,
)
_WANTED = re.compile(r"allocate\D{0,50}?([\d.]*\d) ?([KMGTPE]?)i?B", re.IGNORECASE)
_FREE = re.compile(
    r"capacity of ([\d.]*\d) ([KMGT]?)i?B.{0,9} of which ([\d.]*\d) ([KMGT]?)i?B", re.IGNORECASE
)
# Tensors between processes are files, too.
_NO_FILES = re.compile(r"too many open files|items of ancdata", re.IGNORECASE)
_TOO_MANY_SAID = "too many files are open{}; raise the limit, as by ulimit -n 8192"
_GPU = re.compile(r"CUDA|HIP|MPS|CUBLAS|CUDNN")
_TOO_MANY = (errno.EMFILE, errno.ENFILE)
# So much of a text that cannot be written is shown.
_LONGEST = 80


class NoMemory(MemoryError):
    """Memory did not suffice; the message says how much was wanted, and what to change."""


def in_one_line(error: BaseException) -> str | None:
    """Returns what to say of an error that its user can do something about, in one line.

    That is wrong input, and what the system refuses, such as memory. Of any other error it is None:
    the code is at fault, and the traceback says more.

    Example:
        >>> in_one_line(OSError(24, "Too many open files", "a.png"))
        "too many files are open, at 'a.png'; raise the limit, as by ulimit -n 8192"
        >>> in_one_line(KeyError("step")) is None
        True
    """
    said: str | None = None
    if isinstance(error, NoMemory):
        said = str(error)
    elif memory := _out_of_memory(error):
        said = memory
    elif _NO_FILES.search(str(error)) and not isinstance(error, ValueError | OSError):
        said = _TOO_MANY_SAID.format("")
    elif isinstance(error, RecursionError):
        said = "what was read is nested too deeply, or code of yours calls itself without end"
    elif isinstance(error, UnicodeEncodeError):
        said = (
            f"{error.object!r:.{_LONGEST}} cannot be written in {error.encoding}, the encoding of "
            "this terminal or file system; set PYTHONUTF8=1"
        )
    elif isinstance(error, OSError) and error.errno is not None and error.strerror:
        said = _of_system(error)
    elif isinstance(error, ImportError | ValueError | OSError):
        said = str(error) or type(error).__name__
    if said is None:
        return None
    return " ".join("; ".join([said, *getattr(error, "__notes__", ())]).split())


@contextmanager
def full_disk_explained(out: str | os.PathLike[str]) -> Iterator[None]:
    """Says of a full disk what to do, where the same command resumes with what is there.

    Args:
        out: What is being written.

    Raises:
        OSError: In place of the system's, which names the file that did not fit.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OSError(
            f"no space is left for {os.fspath(out)!r}; make room and give the same command to "
            "resume"
        ) from error


@contextmanager
def memory_explained(advice: str) -> Iterator[None]:
    """Says what to change where memory does not suffice.

    Args:
        advice: Such as "use a smaller --batch-size".

    Raises:
        NoMemory: In place of any error that tells of too little memory.
    """
    try:
        yield
    except Exception as error:
        memory = _out_of_memory(error)
        if memory is None or isinstance(error, NoMemory):
            raise
        short = NoMemory(f"{memory}; {advice}")
        for note in getattr(error, "__notes__", ()):  # such as what is saved
            short.add_note(note)
        raise short from error


def _out_of_memory(error: BaseException) -> str | None:
    """Says how much memory was wanted, of an error that tells of too little."""
    lacking = isinstance(error, MemoryError)
    lacking = lacking or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    text = str(error)
    # What we say ourselves is a ValueError, and may quote others.
    if not lacking and (isinstance(error, ValueError | OSError) or not _NO_MEMORY.search(text)):
        return None
    said = "out of memory" + (" on the GPU" if _GPU.search(text) else "")
    if wanted := _WANTED.search(text):
        said += f": {_amount(wanted[1], wanted[2])} more were asked for"
        if free := _FREE.search(text):
            said += f", {_amount(free[3], free[4])} of {_amount(free[1], free[2])} were free"
    return said


def _amount(number: str, unit: str) -> str:
    size = float(number) * 1024.0 ** " KMGTPE".index(unit.upper() or " ")
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"


def _of_system(error: OSError) -> str:
    """What the system says, with the file, and what to do where that is known."""
    name = "" if error.filename is None else repr(error.filename)
    if error.errno in FULL:
        return f"no space is left on the disk{name and f' for {name}'}; make room there"
    if error.errno in _TOO_MANY:
        return _TOO_MANY_SAID.format(name and f", at {name}")
    onto = "" if error.filename2 is None else f" -> {error.filename2!r}"
    return f"{error.strerror}{name and f': {name}'}{onto}"
