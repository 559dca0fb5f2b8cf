"""Open files, a bounded number of them, for reading at any place."""

import os
from collections import OrderedDict
from threading import Lock


class _Handle:
    """A file open for reading; closed when the last reader lets go of it."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._moving = Lock()

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)

    def read(self, offset: int, size: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self.descriptor, size, offset)
        with self._moving:
            os.lseek(self.descriptor, offset, os.SEEK_SET)
            return os.read(self.descriptor, size)


class Handles:
    """Reads parts of files and keeps those open that were read last.

    Threads may share it. Each process opens files for itself, so it can be forked and pickled.

    Args:
        limit: The most files kept open, at least 1.
    """

    def __init__(self, limit: int = 64) -> None:
        if limit < 1:
            raise ValueError(f"limit is {limit}; it must be at least 1")
        self.limit = limit
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._lock = Lock()
        self._open: OrderedDict[str, _Handle] = OrderedDict()

    def __getstate__(self) -> dict[str, int]:
        return {"limit": self.limit}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.limit = state["limit"]
        self._reset()

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Reads a part of a file.

        Args:
            path: The file.
            offset: Its first byte.
            size: How many bytes.

        Returns:
            The bytes; fewer than `size` where the file ends before.

        Raises:
            OSError: If the file cannot be opened or read; the message gives the reason alone.
        """
        try:
            handle = self._handle(path)
            data = handle.read(offset, size)
            while len(data) < size:  # network shares and interrupted calls give less at once
                if not (more := handle.read(offset + len(data), size - len(data))):
                    break
                data += more
        except OSError as error:
            raise OSError(error.strerror or str(error)) from error
        return data

    def _handle(self, path: str) -> _Handle:
        if self._process != os.getpid():
            self._reset()  # forked, perhaps while another thread held the lock
        with self._lock:
            handle = self._open.get(path)
            if handle is None:
                handle = self._open[path] = _Handle(path)
                if len(self._open) > self.limit:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(path)
            return handle
