"""Embeddings under way: chunks in a hidden folder beside the result, from which a run goes on."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.data.files import atomic_path, locked_folder

_REQUEST = "request.json"
_NAME = re.compile(r"(\d{12})-(\d{12})\.npz")
_DIGEST = re.compile(r"[0-9a-f]{64}")
# How long the processes of a killed run may take to notice and end.
_LOCK_SECONDS = 12.0


@dataclass(frozen=True)
class Chunk:
    """The embeddings of the images of a range of numbers.

    Args:
        numbers: (n,) int64 the images that were sound.
        embedding: (n, D) float32.
        damaged: number of an image to what is wrong with it.
    """

    numbers: npt.NDArray[np.int64]
    embedding: npt.NDArray[np.float32]
    damaged: dict[int, str]


class Chunks:
    """What is there of a result that is being made.

    Args:
        out: the file of the result.
        request: what was asked for, by the words a user knows it by; JSON. Only the request that
            began goes on.
        overwrite: replace a finished result, and delete chunks of another request.

    Attributes:
        done: number of images that the chunks cover, from the first on.

    Raises:
        ValueError: ``out`` is there already, or chunks of another request.
    """

    def __init__(self, out: Path, request: Mapping[str, Any], *, overwrite: bool) -> None:
        self.out = out
        self.folder = work_folder(out)
        if out.exists() and not overwrite:
            raise ValueError(f"out is {str(out)!r}, which exists already; --overwrite replaces it")
        request = json.loads(json.dumps(request))
        known = _read_json(self.folder / _REQUEST)
        if known is not None and known != request and not overwrite:
            raise ValueError(self._difference(known, request))
        if known != request:
            # First, so that what a kill leaves of the rest belongs to no request.
            (self.folder / _REQUEST).unlink(missing_ok=True)
            shutil.rmtree(self.folder, ignore_errors=True)
        for path in self.folder.glob(".*"):  # what a killed run was writing
            path.unlink()
        with atomic_path(self.folder / _REQUEST) as temporary:
            temporary.write_text(json.dumps(request), encoding="utf-8")
        self._files: list[Path] = []
        self.done = 0
        for path in sorted(self.folder.iterdir()):
            found = _NAME.fullmatch(path.name)
            if found and int(found[1]) == self.done:
                self._files.append(path)
                self.done = int(found[2])

    def _difference(self, known: Mapping[str, Any], request: Mapping[str, Any]) -> str:
        names = dict.fromkeys([*known, *request])
        name = next(name for name in names if known.get(name) != request.get(name))
        before, now = known.get(name), request.get(name)
        # A digest says nothing to anybody.
        change = "" if _DIGEST.fullmatch(str(before)) else f" ({before}, now {now})"
        return (
            f"out is {str(self.out)!r}, whose unfinished embeddings are of another {name}{change}; "
            "give the same command to go on, or --overwrite to start anew"
        )

    def add(self, end: int, chunk: Chunk) -> None:
        """Keeps the embeddings of the images from ``done`` to before ``end``."""
        path = self.folder / f"{self.done:012d}-{end:012d}.npz"
        damaged = json.dumps({str(number): why for number, why in chunk.damaged.items()})
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(
                file,
                numbers=chunk.numbers,
                embedding=chunk.embedding,
                damaged=np.frombuffer(damaged.encode(), dtype=np.uint8),
            )
        self._files.append(path)
        self.done = end

    def read(self, with_embedding: bool = True) -> Iterator[Chunk]:
        """Yields all chunks in order.

        Args:
            with_embedding: read the embeddings too; else they are (n, 0).

        Raises:
            OSError: one of them cannot be read.
        """
        for path in self._files:
            try:
                with np.load(path, allow_pickle=False) as found:
                    damaged = json.loads(found["damaged"].tobytes())
                    numbers = found["numbers"]
                    embedding = np.zeros((len(numbers), 0), np.float32)
                    if with_embedding:
                        embedding = found["embedding"]
            except Exception as error:  # a damaged zip file can fail in any way
                raise OSError(
                    f"cannot read {str(path)!r}: {error}; --overwrite starts anew"
                ) from error
            yield Chunk(numbers, embedding, {int(number): why for number, why in damaged.items()})

    def discard(self) -> None:
        """Deletes them."""
        (self.folder / _REQUEST).unlink(missing_ok=True)
        shutil.rmtree(self.folder)


def work_folder(out: Path) -> Path:
    """Returns the hidden folder beside a result in which its chunks are kept."""
    return out.with_name(f".{out.name}.centerarc-embed")


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Makes the folder of the chunks and keeps other runs out of it, where the system can.

    Raises:
        ValueError: another process is writing the same result.
    """
    folder = work_folder(out)
    try:
        taken = f"out is {str(out)!r}, which another process is writing"
        with locked_folder(folder, taken, patience=_LOCK_SECONDS):
            yield
    finally:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found
