"""What took long to find in a .rec, kept in a file beside it."""

import os
import zipfile
import zlib
from contextlib import suppress
from typing import Any

import numpy as np

from centerarc.data.files import atomic_path
from centerarc.data.recordio.heads import Ints, Progress, read_labels
from centerarc.data.recordio.index import Index, walked_index
from centerarc.data.recordio.records import RecordFile

# Fewer records are read at once, and leave no file behind.
_WORTH_KEEPING = 10_000


class KeptFinds:
    """Labels read from many headers, and an index found by a walk, for the next opening.

    They stand in `<name>.labels.npz` and count as long as length and time of the .rec are what
    they were. Where the folder cannot be written to, they are found anew each time.

    Args:
        file: The .rec.
        progress: Called now and then with what is done and its total, whatever is read.
    """

    def __init__(self, file: RecordFile, progress: Progress | None) -> None:
        self.path = file.path.with_name(f"{file.path.stem}.labels.npz")
        self._file, self._progress = file, progress
        self._stamp = np.array([file.size, os.stat(file.path).st_mtime_ns], dtype=np.int64)
        self._known = self._load()
        self._found: dict[str, Ints] = {}

    def labels(self, name: str, offsets: Ints) -> Ints:
        """Returns the labels in the headers at these bytes; see `read_labels`.

        Args:
            name: Which records these are, in a word.
            offsets: `(K,)` byte at which each starts.
        """
        check = np.array([zlib.crc32(offsets.tobytes())], dtype=np.int64)
        labels = self._known.get(f"{name}_labels")
        asked = self._known.get(f"{name}_check")
        fits = labels is not None and asked is not None and np.array_equal(asked, check)
        if labels is None or not fits or len(labels) != len(offsets) or np.any(labels < -1):
            labels = read_labels(self._file, offsets, self._progress)
        self._found[f"{name}_labels"], self._found[f"{name}_check"] = labels, check
        return labels.copy()

    def index(self) -> tuple[Index, list[str]]:
        """Returns the index of a file without .idx, and what is damaged; see `walked_index`."""
        problems: list[str] = []
        if (index := self._known_index()) is None:
            index, problems = walked_index(self._file, self._progress)
        if not problems:  # they are told at each opening
            self._found["keys"] = np.array(index.keys, dtype=np.int64)
            self._found["offsets"] = index.offsets
        return index, problems

    def _known_index(self) -> Index | None:
        keys, offsets = self._known.get("keys"), self._known.get("offsets")
        if keys is None or offsets is None or not 0 < len(keys) == len(offsets):
            return None
        steps = np.diff(keys)
        if np.any(steps < 1) or offsets.min() < 0 or offsets.max() >= self._file.size:
            return None
        first = int(keys[0])
        counting = bool(np.all(steps == 1))
        return Index(range(first, first + len(keys)) if counting else keys, offsets)

    def save(self) -> None:
        """Writes what was found, if it is much, new, and the folder lets it."""
        new = self._found.keys() != self._known.keys() - {"stamp"} or any(
            not np.array_equal(found, self._known[name]) for name, found in self._found.items()
        )
        if not new or sum(map(len, self._found.values())) < _WORTH_KEEPING:
            return
        with suppress(OSError, ValueError), atomic_path(self.path) as temporary:
            # Labels need 32 bits; compressing would take longer than reading them anew.
            stored: dict[str, Any] = {"stamp": self._stamp}
            for name, found in self._found.items():
                stored[name] = found.astype(np.int32) if name.endswith("_labels") else found
            np.savez(temporary, **stored)

    def _load(self) -> dict[str, Ints]:
        try:
            stored = np.load(self.path, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                return {}
            with stored:
                known = {name: stored[name] for name in stored.files}
        # NotImplementedError and other RuntimeErrors: a zip method or a flag that is damaged.
        except (
            OSError,
            ValueError,
            KeyError,
            EOFError,
            RuntimeError,
            zipfile.BadZipFile,
            zlib.error,
        ):
            return {}
        sound = all(found.ndim == 1 and found.dtype.kind == "i" for found in known.values())
        if not sound or not np.array_equal(known.get("stamp", ()), self._stamp):
            return {}
        return {name: found.astype(np.int64, copy=False) for name, found in known.items()}
