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
from centerarc.evaluation.embedding_file.formats import load_npz

_REQUEST = "request.json"
_NAME = re.compile(r"(\d{12})-(\d{12})\.npz")
_DIGEST = re.compile(r"[0-9a-f]{64}")
# How long the processes of a killed run may take to notice and end.
_LOCK_SECONDS = 12.0


class DamagedError(OSError):
    """A file of the work under way that cannot be read.

    Args:
        path: the file.
        error: what reading it came to.
    """

    def __init__(self, path: Path, error: Exception) -> None:
        super().__init__(f"cannot read {str(path)!r}: {error}; --overwrite starts anew")


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
        DamagedError: what is there of it cannot be read, and it is not to be overwritten.
    """

    def __init__(self, out: Path, request: Mapping[str, Any], *, overwrite: bool) -> None:
        self.out = out
        self.folder = work_folder(out)
        if out.exists() and not overwrite:
            raise ValueError(f"out is {str(out)!r}, which exists already; --overwrite replaces it")
        request = json.loads(json.dumps(request))
        try:
            known = _read_json(self.folder / _REQUEST)
            if known is not None and known != request and not overwrite:
                raise ValueError(self._difference(known, request))
            if known != request:
                self.discard()
            self._files, self.done = self._found()
        except DamagedError:
            if not overwrite:
                raise
            self.discard()
            self._files, self.done = [], 0
        for path in self.folder.glob(".*"):  # what a killed run was writing
            path.unlink()
        with atomic_path(self.folder / _REQUEST) as temporary:
            temporary.write_text(json.dumps(request), encoding="utf-8")

    def _found(self) -> tuple[list[Path], int]:
        """The chunks that are there, all read once: before hours of work, not after them."""
        files: list[Path] = []
        done = 0
        for path in sorted(self.folder.iterdir()):
            found = _NAME.fullmatch(path.name)
            if found and int(found[1]) == done:
                _read_chunk(path, with_embedding=True)
                files.append(path)
                done = int(found[2])
        return files, done

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
            DamagedError: one of them cannot be read.
        """
        for path in self._files:
            yield _read_chunk(path, with_embedding)

    def discard(self) -> None:
        """Deletes them. The folder itself stays: the lock is on it."""
        # First, so that what a kill leaves of the rest belongs to no request.
        for path in (self.folder / _REQUEST, *self.folder.iterdir()):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


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
    taken = f"out is {str(out)!r}, which another process is writing"
    with locked_folder(folder, taken, patience=_LOCK_SECONDS):
        try:
            yield
        finally:
            # Within the lock, so that it is never another's.
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(path, error) from error
    return found


def _read_chunk(path: Path, with_embedding: bool) -> Chunk:
    try:
        with load_npz(path) as found:
            damaged = json.loads(found["damaged"].tobytes())
            numbers = found["numbers"]
            embedding = np.zeros((len(numbers), 0), np.float32)
            if with_embedding:
                embedding = found["embedding"]
        first, end = map(int, path.stem.split("-"))
        if (
            numbers.dtype != np.int64
            or embedding.dtype != np.float32
            or embedding.shape[:-1] != numbers.shape
            or sorted([*numbers.tolist(), *map(int, damaged)]) != list(range(first, end))
        ):
            raise ValueError("it holds something else than its name says")
        return Chunk(numbers, embedding, {int(number): why for number, why in damaged.items()})
    except Exception as error:  # a damaged zip file can fail in any way
        raise DamagedError(path, error) from error
