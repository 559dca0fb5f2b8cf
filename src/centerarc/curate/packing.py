"""Packing a source into few large files, the same bytes however often it is interrupted."""

import os
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from centerarc.curate.pack_parts import (
    Contents,
    Encoding,
    Folders,
    PackFormat,
    Reading,
    Spool,
    Writing,
    create_format,
    fill_chunk,
    fill_part,
    free_spool,
    is_own_file,
    what_was_seen,
)
from centerarc.curate.selection import (
    Selection,
    digest,
    fingerprint,
    keep,
    select,
    write_left_out,
)
from centerarc.data.source import FaceSource
from centerarc.io.files import full_disk_explained
from centerarc.io.jobs import Job, locked, read_json
from centerarc.io.parallel import as_done, check_workers

LEFT_OUT = "left-out.csv"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class PackReport:
    """What was packed.

    Args:
        path: What to train from.
        images: Their number.
        identities: Number of people.
        size: Bytes of all files.
        left_out: How many images are left out for which reason; `left-out.csv` names each.
        sizes: How many images have which size in pixels, as `112x112`.
        anew: How many images were encoded anew; the others are the bytes of the source.
        read: How many images this run read; fewer than there are after an interruption.
        seconds: How long this run took.
    """

    path: Path
    images: int
    identities: int
    size: int
    left_out: dict[str, int]
    sizes: dict[str, int]
    anew: int
    read: int
    seconds: float

    @property
    def left_out_file(self) -> Path:
        """Returns the file that names what is left out."""
        folder = self.path if self.path.is_dir() else self.path.parent
        return folder / LEFT_OUT


def pack(
    source: FaceSource,
    out: str | os.PathLike[str],
    *,
    format: Literal["rec", "shards"],
    size: int | None = None,
    quality: int | None = None,
    images_per_shard: int | None = None,
    shard_mb: float | None = None,
    min_images: int = 1,
    identities: Collection[str] | None = None,
    leave_out: Collection[str] = (),
    shuffle: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> PackReport:
    """Packs labelled images into insightface RecordIO or WebDataset shards.

    Every image is decoded once. Those that are damaged are left out and named in
    `<out>/left-out.csv`; people who have no image left, or fewer than `min_images`, are left out
    too and the others get new labels, in the order of the source. Images keep that order, so that a
    seed gives the same batches from the source and from the pack, and keep their bytes unless
    `size` or `quality` asks for others (`Encoding`).

    A run that was stopped, by whatever, goes on where it was when it is called again alike, and the
    result has the same bytes. Until then `<out>/.centerarc-pack` holds what is done. At its fullest
    it takes the size of the result, twice that for "rec", whose parts are joined.

    Args:
        source: What to pack. A source that resizes is packed in its size.
        out: A folder, absent or empty.
        format: "rec" writes `train.rec`, `train.idx`, `train.lst` and `property`; "shards" writes
            tar files and `dataset.json`. Both write checksums.
        size: Side in pixels to which images are resized; None leaves them as they are.
        quality: Of new JPEGs, 1 to 100; 95 by default. Given, it makes JPEGs of all other formats.
        images_per_shard: Images in a shard, 10,000 by default.
        shard_mb: Megabytes of images after which a shard ends, instead.
        min_images: The fewest images of a person.
        identities: Names of the people to pack; None packs all.
        leave_out: Places of images to leave out.
        shuffle: Seed of a random order, for streaming from slow disks; None keeps the source's.
        workers: Processes; 0 works in this one. One for each core by default.
        overwrite: Delete what another pack left in `out`.
        progress: Called with "reading", "writing" or "finishing", the images done and their total.

    Returns:
        What was packed.

    Raises:
        ValueError: If an argument is out of range or does not fit the source, nothing is left, or
            `out` holds anything but this pack, unfinished.
        OSError: If a file cannot be read or written; give the same command to go on.
    """
    begun = time.monotonic()
    if workers is not None:
        check_workers(workers)  # before anything is made
    encoding = Encoding(source.image_size if size is None else size, quality)
    layout = create_format(format, images_per_shard=images_per_shard, shard_mb=shard_mb)
    selection = select(
        source,
        identities=identities,
        leave_out=leave_out,
        min_images=min_images,
        shuffle=shuffle,
    )
    folder = Path(out)
    layout.check([source.identities[i] for i in np.unique(source.labels[selection.order])])
    _check_apart(source, folder)
    request = {
        **fingerprint(source),
        "format": layout.name,
        "shard size": layout.part_size,
        "size": encoding.size,
        "quality": encoding.quality,
        "min_images": min_images,
        "identities": len(identities) if identities is not None else None,
        "shuffle": shuffle,
        "choice of images": digest(selection.order.tobytes()),
    }
    report: Progress = progress if progress is not None else lambda stage, done, total: None
    with locked(folder), full_disk_explained(folder):
        job = Job(folder, request, own_file=is_own_file, mark=LEFT_OUT, overwrite=overwrite)
        facts, read = job.done(), 0
        if facts is None:
            spool = Spool(job.spool, selection.order)
            read = _read(Reading(source, encoding, spool), workers, report)
            facts = _write(source, spool, selection, job, layout, workers, report)
        job.publish(facts)
    return PackReport(
        path=folder / layout.main_file,
        images=facts["images"],
        identities=facts["identities"],
        size=facts["size"],
        left_out=facts["left_out"],
        sizes=facts["sizes"],
        anew=facts["anew"],
        read=read,
        seconds=time.monotonic() - begun,
    )


class _Count:
    """Adds up for a progress bar what runs report in steps."""

    def __init__(self, stage: str, done: int, total: int, report: Progress) -> None:
        self.stage, self.done, self.total, self.report = stage, done, total, report
        report(stage, done, total)

    def add(self, images: int) -> None:
        self.done += images
        self.report(self.stage, self.done, self.total)


def _check_apart(source: FaceSource, out: Path) -> None:
    """Refuses to write into the source: `overwrite` would delete what is to be read."""
    target = out.resolve()
    for root in source.roots():
        if target.is_relative_to(root.resolve()):
            raise ValueError(f"out is {str(out)!r}, which lies in the source, {str(root)!r}")
    if not out.is_dir() or not any(out.iterdir()):
        return
    for parent in {os.path.dirname(path) for path in source.files()}:
        if Path(parent).resolve().is_relative_to(target):
            raise ValueError(f"out is {str(out)!r}, which holds files of the source")


def _read(reading: Reading, workers: int | None, report: Progress) -> int:
    """Fills the chunks that are missing, and returns how many images that were."""
    spool = reading.spool
    missing = [chunk for chunk in range(spool.chunks) if not spool.notes(chunk).exists()]
    todo = sum(len(spool.positions(chunk)) for chunk in missing)
    count = _Count("reading", len(spool.order) - todo, len(spool.order), report)
    with closing(
        as_done(fill_chunk, reading, missing, workers=workers, progress=count.add)
    ) as chunks:
        for _ in chunks:
            pass
    return todo


def _write(
    source: FaceSource,
    spool: Spool,
    selection: Selection,
    job: Job,
    layout: PackFormat,
    workers: int | None,
    report: Progress,
) -> dict[str, Any]:
    """Writes the final files, and returns what is told of them."""
    seen = what_was_seen(spool)
    kept = keep(source, selection, seen.damaged)
    folders = Folders(job.parts, job.final)
    plan = layout.plan(kept.labels, seen.lengths[kept.positions])
    writing = Writing(source, spool, kept, layout, folders, plan)
    parts = range(len(plan.ends))
    done = {part for part in parts if writing.notes(part).exists()}
    freed = free_spool(writing, done, 0)
    missing = [part for part in parts if part not in done]
    todo = sum(int(plan.ends[part]) - writing.first(part) for part in missing)
    count = _Count("writing", len(kept.labels) - todo, len(kept.labels), report)
    with closing(
        as_done(fill_part, writing, missing, workers=workers, progress=count.add)
    ) as finished:
        for part in finished:
            done.add(part)
            freed = free_spool(writing, done, freed)
    left_out = [*source.skipped, *kept.left_out]
    write_left_out(job.final / LEFT_OUT, left_out)
    facts = [read_json(writing.notes(part)) or {} for part in parts]
    images = spool.order[kept.positions].tolist()
    places = (source.place(index) for index in images)
    pairs = zip(
        seen.widths[kept.positions].tolist(), seen.heights[kept.positions].tolist(), strict=True
    )
    sizes = Counter(pairs)
    size = max(sizes, key=lambda size: (sizes[size], size))
    report("finishing", 0, len(images))
    layout.finish(folders, facts, Contents(kept.labels, kept.identities, places, size))
    report("finishing", len(images), len(images))
    return {
        "images": len(kept.labels),
        "identities": len(kept.identities),
        "size": sum(path.stat().st_size for path in job.final.iterdir()),
        "left_out": Counter(item.reason for item in left_out),
        "sizes": {f"{width}x{height}": count for (width, height), count in sizes.items()},
        "anew": int(seen.anew[kept.positions].sum()),
    }
