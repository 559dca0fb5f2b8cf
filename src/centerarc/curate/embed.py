"""All images of a source to one file of embeddings."""

import json
import os
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader

from centerarc import __version__
from centerarc.curate.selection import fingerprint, split_reason, write_left_out
from centerarc.data.decode import WrongSizeError
from centerarc.data.loader import Batch, Reader, Request
from centerarc.data.source import FaceSource, Skipped
from centerarc.evaluation.embedding import (
    Part,
    file_format,
    load_npz,
    require_parquet_extra,
    write_npz,
    write_parquet,
)
from centerarc.io.files import atomic_path, full_disk_explained, locked_folder
from centerarc.io.jobs import stopped_between_batches
from centerarc.io.parallel import (
    check_workers,
    explain_dead_workers,
    signals_held_back,
    start_worker,
)

if TYPE_CHECKING:
    from centerarc.models.embedder import OpenedModel


# Embeddings under way: chunks in a hidden folder beside the result, from which a run goes on.

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


# Batches of the images that can be read; damaged ones are named, nothing takes their place.


@dataclass(frozen=True)
class _Unreachable:
    """A file that cannot be read at all, which is no fault of an image."""

    reason: str


class _SoundReader(Reader):
    def __init__(self, source: FaceSource, image_size: int) -> None:
        super().__init__(source)
        self._shape = (image_size, image_size, 3)

    def __getitem__(self, request: Request) -> Any:
        try:
            return super().__getitem__(request)
        except OSError as error:
            return _Unreachable(str(error))

    def read(self, request: Request) -> Batch:
        """Reads what can be read; ``indices`` of the result are those of its images."""
        images, rows = self.room(request)
        sound: list[int] = []
        damaged: dict[int, str] = {}
        for index in request.indices.tolist():
            try:
                self.source.image_into(index, rows[len(sound)])
            except WrongSizeError:
                raise
            except ValueError as error:
                # A share that is gone would otherwise leave out everything.
                if isinstance(error.__cause__, OSError):
                    raise OSError(str(error)) from error
                prefix = f"cannot read {self.source.place(index)!r}: "
                damaged[index] = f"damaged: {str(error).removeprefix(prefix)}"
                continue
            sound.append(index)
        return Batch(images[: len(sound)], torch.tensor(sound, dtype=torch.int64), damaged)


def sound_images(
    source: FaceSource, first: int, image_size: int, *, batch_size: int, workers: int
) -> Iterator[Batch]:
    """Yields the images of a source from number ``first`` on, in order.

    Args:
        source: where they come from.
        first: number of the first.
        image_size: side of all of them, in pixels.
        batch_size: images at once, before damaged ones are taken out.
        workers: processes that read; 0 reads in this one.

    Yields:
        Sound images with their numbers, possibly none, and the reason for each damaged one.

    Raises:
        ValueError: an image has another size.
        OSError: a file cannot be read at all.
    """
    check_workers(workers)
    numbers = np.arange(first, len(source), dtype=np.int64)
    requests = [
        Request(numbers[begin : begin + batch_size]) for begin in range(0, len(numbers), batch_size)
    ]
    loader: DataLoader[Any] = DataLoader(
        _SoundReader(source, image_size),
        sampler=requests,
        batch_size=None,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=start_worker,
        pin_memory=torch.cuda.is_available(),
    )
    with signals_held_back(signal.SIGINT):
        batches = iter(loader)
    for batch in batches:
        if isinstance(batch, str):
            raise ValueError(batch)
        if isinstance(batch, _Unreachable):
            raise OSError(batch.reason)
        yield batch


def _unchanged(batch: Any) -> Any:
    return batch


# All images of a source to one file of embeddings, in as many sittings as it takes.

# What a kill may cost, and what is held in memory.
_CHUNK_SECONDS = 10.0
_CHUNK_IMAGES = 16_384


@dataclass(frozen=True)
class EmbedReport:
    """What was embedded.

    Args:
        path: the file.
        images: number of embeddings in it.
        identities: number of people.
        embedding_size: D.
        left_out: how many images are left out for which reason.
        left_out_file: the file that names each of them; None if there is none.
        embedded: how many images this run embedded; fewer than there are after an interruption.
        seconds: how long this run took.
    """

    path: Path
    images: int
    identities: int
    embedding_size: int
    left_out: dict[str, int]
    left_out_file: Path | None
    embedded: int
    seconds: float


def embed_to_file(
    model: "OpenedModel",
    source: "FaceSource",
    out: str | os.PathLike[str],
    *,
    mirror: bool = False,
    batch_size: int = 64,
    workers: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int], Any] | None = None,
) -> EmbedReport:
    """Embed all images of a source into a Parquet or npz file, in the order of the source.

    Rows have the image's place, its identity and its embedding, not normalised; the file's metadata
    names the model, by its SHA-256, and its preprocessing. Damaged images are left out and named
    in ``<out>.left-out.csv``, with what the source itself left out.

    A run that was stopped, by whatever, goes on where it was when it is called again alike; until
    then ``.<out>.centerarc-embed`` beside the result holds what is done, every ten seconds at
    least.

    Args:
        model: from :func:`centerarc.export.open_model`.
        source: images of the model's size.
        out: the file, ending in ``.parquet`` or ``.npz``.
        mirror: sum the features of each image and of its mirror image.
        batch_size: images at once, at least 1.
        workers: decoding processes; 0 decodes in this one.
        overwrite: replace a file that is there, and what another run left unfinished.
        progress: called with the images done and their total.

    Returns:
        What was embedded.

    Raises:
        ImportError: it is a Parquet file and pyarrow is not installed.
        ValueError: an argument is out of range, ``out`` exists already or was begun with something
            else, no image is sound, or the model gives an embedding that is not finite or of
            length 0, which nothing can be compared with; the message names the image.
        OSError: a file cannot be read or written; the same call goes on. What is there of an
            unfinished run is damaged; with ``overwrite`` it starts anew.
    """
    begun = time.monotonic()
    path = Path(out)
    kind = file_format(path)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    check_workers(workers)
    if path.is_dir():
        raise ValueError(f"out is {str(path)!r}, a folder; it must name a file")
    if kind == "parquet":
        require_parquet_extra()
        _check_names(source)
    facts = {
        "model": model.sha256,
        "weights_sha256": model.weights_sha256,
        "preprocessing": model.preprocessing.to_dict(),
        "mirror": mirror,
    }
    with locked(path), full_disk_explained(path):
        chunks = Chunks(path, {**facts, **fingerprint(source)}, overwrite=overwrite)
        embedded = len(source) - chunks.done
        _fill(chunks, model, source, mirror, batch_size, workers, progress)
        report = _finish(chunks, source, kind, {**facts, "model_file": model.path.name})
        chunks.discard()
    return EmbedReport(**report, embedded=embedded, seconds=time.monotonic() - begun)


@dataclass
class _Gathered:
    """What was embedded since the last chunk."""

    numbers: list[npt.NDArray[np.int64]] = field(default_factory=list)
    embedding: list[npt.NDArray[np.float32]] = field(default_factory=list)
    damaged: dict[int, str] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)
    end: int = 0

    def with_batch(self, batch: "Batch", embedding: list[npt.NDArray[np.float32]]) -> "_Gathered":
        return _Gathered(
            [*self.numbers, batch.indices.numpy()],
            [*self.embedding, *embedding],
            self.damaged | batch.damaged,
            self.begun,
            self.end + len(batch.indices) + len(batch.damaged),
        )

    def is_full(self) -> bool:
        late = time.monotonic() - self.begun > _CHUNK_SECONDS
        return late or sum(map(len, self.numbers)) >= _CHUNK_IMAGES

    def chunk(self) -> Chunk:
        embedding = np.concatenate(self.embedding) if self.embedding else np.zeros((0, 0), "f4")
        numbers = np.concatenate(self.numbers) if self.numbers else np.zeros(0, np.int64)
        return Chunk(numbers, embedding, self.damaged)


def _fill(
    chunks: Chunks,
    model: "OpenedModel",
    source: "FaceSource",
    mirror: bool,
    batch_size: int,
    workers: int,
    progress: Callable[[int, int], Any] | None,
) -> None:
    """Embeds what is missing; whatever ends it, what was embedded is kept."""
    total = len(source)
    if progress is not None:
        progress(chunks.done, total)
    gathered = _Gathered(end=chunks.done)
    try:
        with stopped_between_batches() as check, explain_dead_workers(workers):
            for batch in sound_images(
                source, chunks.done, model.image_size, batch_size=batch_size, workers=workers
            ):
                # One assignment, so that an interruption never leaves half a batch.
                gathered = gathered.with_batch(batch, _embedded(model, batch, source, mirror))
                if gathered.is_full():
                    chunks.add(gathered.end, gathered.chunk())
                    gathered = _Gathered(end=gathered.end)
                if progress is not None:
                    progress(gathered.end, total)
                check()
    finally:
        if gathered.end > chunks.done:
            chunks.add(gathered.end, gathered.chunk())


def _embedded(
    model: "OpenedModel", batch: "Batch", source: "FaceSource", mirror: bool
) -> list[npt.NDArray[np.float32]]:
    """The embeddings of a batch; none of a batch of damaged images alone."""
    if not len(batch.indices):
        return []
    embedding = model.embedder.embed(batch.images.numpy(), mirror=mirror)
    finite = np.asarray(np.isfinite(embedding).all(axis=1))
    bad = np.flatnonzero(~(finite & embedding.any(axis=1)))
    if bad.size:
        place = source.place(int(batch.indices[bad[0]]))
        what = "of length 0" if finite[bad[0]] else "that is not finite"
        raise ValueError(f"{str(model.path)!r} gave an embedding {what} for {place!r}")
    return [embedding]


def _finish(
    chunks: Chunks, source: "FaceSource", kind: str, facts: dict[str, Any]
) -> dict[str, Any]:
    """Writes the result from the chunks."""
    left_out = list(source.skipped)
    people: set[int] = set()
    images = 0
    for chunk in chunks.read(with_embedding=False):
        for number, problem in chunk.damaged.items():
            identity = source.identities[source.labels[number]]
            reason, detail = split_reason(problem)
            left_out.append(Skipped(source.place(number), reason, detail, 1, identity))
        images += len(chunk.numbers)
        people.update(np.unique(source.labels[chunk.numbers]).tolist())
    if not images:
        first = left_out[-1]
        raise ValueError(
            f"no image is left to embed: all {len(source)} are damaged, the last {first.place!r}: "
            f"{first}"
        )

    size = next(c.embedding.shape[1] for c in chunks.read() if len(c.numbers))

    def parts(with_embedding: bool) -> Iterator[Part]:
        for chunk in chunks.read(with_embedding):
            numbers = chunk.numbers.tolist()
            if not numbers:
                continue
            yield Part(
                [source.place(number) for number in numbers],
                [source.identities[label] for label in source.labels[chunk.numbers].tolist()],
                chunk.embedding,
            )

    file = chunks.out.with_name(f"{chunks.out.name}.left-out.csv")
    if left_out:
        write_left_out(file, left_out)
    else:
        file.unlink(missing_ok=True)
    metadata = {"version": __version__, **facts, "left_out": len(left_out)}
    write = write_parquet if kind == "parquet" else write_npz
    with atomic_path(chunks.out) as temporary:
        write(temporary, parts, size, json.loads(json.dumps(metadata)))
    return {
        "path": chunks.out,
        "images": images,
        "identities": len(people),
        "embedding_size": size,
        "left_out": dict(Counter(item.reason for item in left_out)),
        "left_out_file": file if left_out else None,
    }


def _check_names(source: "FaceSource") -> None:
    """Refuses before hours of work what Parquet cannot hold: names that are no Unicode."""
    for index in range(len(source)):
        for text in (source.place(index), source.identities[source.labels[index]]):
            try:
                text.encode()
            except UnicodeEncodeError:
                raise ValueError(
                    f"the name {text!r} is no Unicode, which Parquet cannot hold; write .npz "
                    "instead"
                ) from None
