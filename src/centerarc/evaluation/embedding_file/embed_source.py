"""All images of a source to one file of embeddings, in as many sittings as it takes."""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from centerarc import __version__
from centerarc.data import source as sources
from centerarc.data.files import atomic_path, full_disk_explained
from centerarc.data.packing.fingerprint import fingerprint
from centerarc.data.packing.selection import LeftOut, skipped, write_left_out
from centerarc.data.workers import check_workers, explain_dead_workers
from centerarc.evaluation.embedding_file.chunks import Chunk, Chunks, locked
from centerarc.evaluation.embedding_file.formats import (
    Part,
    file_format,
    require_parquet_extra,
    write_npz,
    write_parquet,
)
from centerarc.evaluation.embedding_file.stopping import stopped_between_batches

if TYPE_CHECKING:
    from centerarc.data import FaceSource
    from centerarc.data.reading import Batch
    from centerarc.export import OpenedModel

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
            from centerarc.evaluation.embedding_file.sound_images import sound_images

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
        place = sources.place(source, int(batch.indices[bad[0]]))
        what = "of length 0" if finite[bad[0]] else "that is not finite"
        raise ValueError(f"{str(model.path)!r} gave an embedding {what} for {place!r}")
    return [embedding]


def _finish(
    chunks: Chunks, source: "FaceSource", kind: str, facts: dict[str, Any]
) -> dict[str, Any]:
    """Writes the result from the chunks."""
    left_out = skipped(source)
    people: set[int] = set()
    images = 0
    for chunk in chunks.read(with_embedding=False):
        for number, problem in chunk.damaged.items():
            identity = source.identities[source.labels[number]]
            left_out.append(LeftOut(sources.place(source, number), identity, problem))
        images += len(chunk.numbers)
        people.update(np.unique(source.labels[chunk.numbers]).tolist())
    if not images:
        first = left_out[-1]
        raise ValueError(
            f"no image is left to embed: all {len(source)} are damaged, the last {first.place!r}: "
            f"{first.problem}"
        )

    size = next(c.embedding.shape[1] for c in chunks.read() if len(c.numbers))

    def parts(with_embedding: bool) -> Iterator[Part]:
        for chunk in chunks.read(with_embedding):
            numbers = chunk.numbers.tolist()
            if not numbers:
                continue
            yield Part(
                [sources.place(source, number) for number in numbers],
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
        "left_out": dict(Counter(row.problem.split(":")[0] for row in left_out)),
        "left_out_file": file if left_out else None,
    }


def _check_names(source: "FaceSource") -> None:
    """Refuses before hours of work what Parquet cannot hold: names that are no Unicode."""
    for index in range(len(source)):
        for text in (sources.place(source, index), source.identities[source.labels[index]]):
            try:
                text.encode()
            except UnicodeEncodeError:
                raise ValueError(
                    f"the name {text!r} is no Unicode, which Parquet cannot hold; write .npz "
                    "instead"
                ) from None
