"""All images of a source to one file of embeddings."""

import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from centerarc import __version__
from centerarc.curate.packing import fingerprint, left_out_image, write_left_out
from centerarc.data.loader import Batch, Request, SoundReader, read_batches
from centerarc.data.source import FaceSource, as_source
from centerarc.evaluation.embedding import (
    Part,
    check_usable,
    file_format,
    load_npz,
    require_parquet_extra,
    write_npz,
    write_parquet,
)
from centerarc.io.failures import full_disk_explained
from centerarc.io.files import atomic_path, check_place
from centerarc.io.jobs import DamagedError, Job, locked_job, stopped_between_batches
from centerarc.io.parallel import (
    check_workers,
    explain_dead_workers,
)
from centerarc.models.embedder import check_alone, check_square

if TYPE_CHECKING:
    from centerarc.models.opened import OpenedModel

# Embeddings so far, in chunks of consecutive images.

# What a kill may cost, and what is held in memory.
_CHUNK_SECONDS = 10.0
_CHUNK_IMAGES = 16_384
_NAME = re.compile(r"(\d{12})-(\d{12})\.npz")


class _Chunk(NamedTuple):
    """Numbers (n,) and embeddings (n, D) of sound images, and what is wrong with each other one."""

    numbers: npt.NDArray[np.int64]
    embedding: npt.NDArray[np.float32]
    damaged: dict[int, str]


class _Chunks:
    """The chunks in a folder; all are read once, so damage shows before hours of work."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[Path] = []
        self.done = 0  # the images that the chunks cover, from the first on
        for path in sorted(folder.iterdir()):
            found = _NAME.fullmatch(path.name)
            if found and int(found[1]) == self.done:
                _read_chunk(path, with_embedding=True)
                self._files.append(path)
                self.done = int(found[2])

    def add(self, batches: Sequence[tuple[Batch, npt.NDArray[np.float32]]]) -> None:
        """Keeps batches of the images that follow, with their embeddings."""
        numbers = np.concatenate([batch.indices.numpy() for batch, _ in batches])
        damaged = {n: why for batch, _ in batches for n, why in batch.damaged.items()}
        found = [embedding for _, embedding in batches if len(embedding)]
        end = self.done + len(numbers) + len(damaged)
        path = self._folder / f"{self.done:012d}-{end:012d}.npz"
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(
                file,
                numbers=numbers,
                embedding=np.concatenate(found) if found else np.zeros((0, 0), np.float32),
                damaged=np.frombuffer(json.dumps(damaged).encode(), dtype=np.uint8),
            )
        self._files.append(path)
        self.done = end

    def read(self, with_embedding: bool = True) -> Iterator[_Chunk]:
        """Yields all chunks in order; without their embeddings these are (n, 0)."""
        for path in self._files:
            yield _read_chunk(path, with_embedding)


def _read_chunk(path: Path, with_embedding: bool) -> _Chunk:
    try:
        with load_npz(path) as found:
            damaged = {int(n): why for n, why in json.loads(found["damaged"].tobytes()).items()}
            numbers = found["numbers"]
            embedding = np.zeros((len(numbers), 0), np.float32)
            if with_embedding:
                embedding = found["embedding"]
        first, end = map(int, path.stem.split("-"))
        if (
            numbers.dtype != np.int64
            or embedding.dtype != np.float32
            or embedding.shape[:-1] != numbers.shape
            or sorted([*numbers.tolist(), *damaged]) != list(range(first, end))
        ):
            raise ValueError("it holds something else than its name says")
        return _Chunk(numbers, embedding, damaged)
    except Exception as error:  # a damaged zip file can fail in any way
        raise DamagedError(path, error) from error


def _sound_images(
    source: FaceSource, first: int, image_size: int, batch_size: int, workers: int
) -> Iterator[Batch]:
    """Yields the images of a source from number `first` on, in order, and why each other fails."""
    numbers = np.arange(first, len(source), dtype=np.int64)
    requests = [Request(numbers[at : at + batch_size]) for at in range(0, len(numbers), batch_size)]
    return read_batches(SoundReader(source, image_size), requests, workers)


# All images of a source to one file, in as many runs as it takes.


@dataclass(frozen=True)
class EmbedReport:
    """What was embedded.

    Args:
        path: The file.
        images: Number of embeddings in it.
        identities: Number of people.
        embedding_size: D.
        left_out: How many images are left out for which reason.
        left_out_file: The file that names each of them; None if there is none.
        embedded: How many images this run embedded; fewer than there are after an interruption.
        seconds: How long this run took.
    """

    path: Path
    images: int
    identities: int
    embedding_size: int
    left_out: dict[str, int]
    left_out_file: Path | None
    embedded: int
    seconds: float


def check_out(path: Path, *, overwrite: bool) -> str:
    """Returns the format of a file to embed into, if it may be written.

    Raises:
        ValueError: If the name has another ending, or a file is there and may not be replaced.
    """
    kind = file_format(path)
    if not Job.publishing(work_folder(path)):  # else the file is that of the job being resumed
        check_place("out", path, overwrite=overwrite)
    return kind


def embed_to_file(
    model: "OpenedModel",
    source: FaceSource,
    out: str | os.PathLike[str],
    *,
    mirror: bool = False,
    batch_size: int = 64,
    workers: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int], Any] | None = None,
) -> EmbedReport:
    """Embeds all images of a source into a Parquet or npz file, in the order of the source.

    Rows have the image's place, its identity and its embedding, not normalized; the file's metadata
    names the model, by its SHA-256, and its preprocessing. Damaged images are left out and named
    in `<out>.left-out.csv`, with what the source itself left out.

    A run that was stopped, by whatever, resumes when it is called again alike; until then
    `.<out>.centerarc-embed` next to the result holds what is done, every ten seconds at least.

    Args:
        model: From `centerarc.models.open_model`.
        source: Images of the model's size.
        out: The file, ending in `.parquet` or `.npz`.
        mirror: Sum the features of each image and of its mirror image.
        batch_size: Images at once, at least 1.
        workers: Decoding processes; 0 decodes in this one.
        overwrite: Replace a file that is there, and what another run left unfinished.
        progress: Called with the images done and their total.

    Returns:
        What was embedded.

    Raises:
        ImportError: If it is a Parquet file and pyarrow is not installed.
        ValueError: If an argument is out of range, `out` exists already or was begun with something
            else, no image is sound, or the model gives an embedding that is not finite or of
            length 0, which nothing can be compared with; the message names the image. If the
            embedding of an image depends on the batch.
        OSError: If a file cannot be read or written; the same call resumes. If what is there of an
            unfinished run is damaged; with `overwrite` it starts over.
    """
    begun = time.monotonic()
    source = as_source(source)
    path = Path(out)
    kind = check_out(path, overwrite=overwrite)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    check_workers(workers)
    if kind == "parquet":
        require_parquet_extra()
        _check_names(source)
    facts = {
        "model": model.sha256,
        **model.identity,
        "preprocessing": model.preprocessing.to_dict(),
        "mirror": mirror,
    }
    work = work_folder(path)
    with locked_job(work, path), full_disk_explained(path):
        check_out(path, overwrite=overwrite)
        request = {**facts, **fingerprint(source)}
        job = Job(work, request, out=path, overwrite=overwrite)
        embedded = 0
        if job.facts is None:
            try:
                chunks = _Chunks(work)
            except DamagedError:
                if not overwrite:
                    raise
                job.discard()
                job = Job(work, request, out=path, overwrite=True)
                chunks = _Chunks(work)
            embedded = len(source) - chunks.done
            check_square(source, model.preprocessing)
            check_alone(model.embedder, source.image, len(source), model.name, mirror=mirror)
            _fill(chunks, model, source, mirror, batch_size, workers, progress)
            file = model.path.name if model.hub is None else model.name
            metadata = {"version": __version__, **facts, "model_file": file}
            job.facts = _finish(chunks, source, kind, job.final / path.name, metadata)
        list_file = path.with_name(f"{path.name}.left-out.csv")
        if not job.facts["left_out"]:
            list_file.unlink(missing_ok=True)
        job.publish(path.parent, job.facts)
    return EmbedReport(
        path=path,
        left_out_file=list_file if job.facts["left_out"] else None,
        embedded=embedded,
        seconds=time.monotonic() - begun,
        **job.facts,
    )


def work_folder(out: Path) -> Path:
    """Returns the hidden folder next to a result in which its chunks are kept."""
    return out.with_name(f".{out.name}.centerarc-embed")


def _fill(
    chunks: _Chunks,
    model: "OpenedModel",
    source: FaceSource,
    mirror: bool,
    batch_size: int,
    workers: int,
    progress: Callable[[int, int], Any] | None,
) -> None:
    """Embeds what is missing; whatever ends it, what was embedded is kept."""
    total = len(source)
    gathered: list[tuple[Batch, npt.NDArray[np.float32]]] = []
    images, begun = 0, time.monotonic()
    if progress is not None:
        progress(chunks.done, total)
    batches = _sound_images(source, chunks.done, model.image_size, batch_size, workers)
    try:
        with stopped_between_batches() as check, explain_dead_workers(workers):
            for batch in batches:
                # One step, so that an interruption never leaves half a batch.
                gathered.append((batch, _embedded(model, batch, source, mirror)))
                images += len(batch.indices) + len(batch.damaged)
                if images >= _CHUNK_IMAGES or time.monotonic() - begun > _CHUNK_SECONDS:
                    chunks.add(gathered)
                    gathered, images, begun = [], 0, time.monotonic()
                if progress is not None:
                    progress(chunks.done + images, total)
                check()
    finally:
        if gathered:
            chunks.add(gathered)


def _embedded(
    model: "OpenedModel", batch: Batch, source: FaceSource, mirror: bool
) -> npt.NDArray[np.float32]:
    """The embeddings of a batch; (0, 0) if all its images are damaged."""
    if not len(batch.indices):
        return np.zeros((0, 0), np.float32)
    embedding = model.embedder.embed(batch.images.numpy(), mirror=mirror)
    check_usable(embedding, lambda row: source.place(int(batch.indices[row])), model.name)
    return embedding


def _finish(
    chunks: _Chunks, source: FaceSource, kind: str, path: Path, metadata: dict[str, Any]
) -> dict[str, Any]:
    """Writes the result, and next to it the list of what is left out, if anything is."""
    skipped = list(source.skipped)
    people: set[int] = set()
    images = 0
    for chunk in chunks.read(with_embedding=False):
        skipped += [left_out_image(source, n, problem) for n, problem in chunk.damaged.items()]
        images += len(chunk.numbers)
        people.update(np.unique(source.labels[chunk.numbers]).tolist())
    if not images:
        raise ValueError(
            f"no image is left to embed: all {len(source)} are damaged, the last "
            f"{skipped[-1].place!r}: {skipped[-1]}"
        )
    size = next(chunk.embedding.shape[1] for chunk in chunks.read() if len(chunk.numbers))

    def parts(with_embedding: bool) -> Iterator[Part]:
        for numbers, embedding, _ in chunks.read(with_embedding):
            if len(numbers):
                yield Part(
                    [source.place(number) for number in numbers.tolist()],
                    [source.identities[label] for label in source.labels[numbers].tolist()],
                    embedding,
                )

    if skipped:
        write_left_out(path.with_name(f"{path.name}.left-out.csv"), skipped)
    metadata["left_out"] = len(skipped)
    write = write_parquet if kind == "parquet" else write_npz
    with atomic_path(path) as temporary:
        write(temporary, parts, size, json.loads(json.dumps(metadata)))
    return {
        "images": images,
        "identities": len(people),
        "embedding_size": size,
        "left_out": dict(Counter(item.reason for item in skipped)),
    }


def _check_names(source: FaceSource) -> None:
    """Refuses before hours of work what Parquet cannot hold: names that are not Unicode."""
    for index in range(len(source)):
        for text in (source.place(index), source.identities[source.labels[index]]):
            try:
                text.encode()
            except UnicodeEncodeError:
                raise ValueError(
                    f"the name {text!r} is not Unicode, as Parquet needs; write .npz instead"
                ) from None
