"""Packing a source into few large files, the same bytes however often it is interrupted."""

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from centerarc.curate.pack_parts import (
    Encoding,
    Ints,
    Parts,
    Spool,
    create_format,
    is_own_file,
)
from centerarc.data.source import FaceSource, Skipped, as_source, chosen_people
from centerarc.data.views import Subset
from centerarc.data.views import leave_out as without_places
from centerarc.io.failures import full_disk_explained
from centerarc.io.jobs import Job, locked_job
from centerarc.io.parallel import check_workers, run_tasks
from centerarc.io.tables import write_csv

LEFT_OUT = "left-out.csv"
WORK = ".centerarc-pack"
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
        reencoded: How many images were encoded again; the others are the bytes of the source.
        read: How many images this run read; fewer than there are after an interruption.
        seconds: How long this run took.
    """

    path: Path
    images: int
    identities: int
    size: int
    left_out: dict[str, int]
    sizes: dict[str, int]
    reencoded: int
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
    """Packs labeled images into insightface RecordIO or WebDataset shards.

    Every image is decoded once. Those that are damaged are left out and named in
    `<out>/left-out.csv`; people who have no image left, or fewer than `min_images`, are left out
    too and the others get new labels, in the order of the source. Images keep that order, so that a
    seed gives the same batches from the source and from the pack, and keep their bytes unless
    `size` or `quality` asks for others (`Encoding`).

    A run that was stopped, by whatever, resumes when it is called again alike, and the result has
    the same bytes. Until then `<out>/.centerarc-pack` holds what is done. At its fullest it takes
    the size of the result, twice that for "rec", whose parts are joined.

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
        OSError: If a file cannot be read or written; the same call resumes.
    """
    begun = time.monotonic()
    source = as_source(source)
    if workers is not None:
        check_workers(workers)  # before anything is made
    encoding = Encoding(source.image_size if size is None else size, quality)
    layout = create_format(format, images_per_shard=images_per_shard, shard_mb=shard_mb)
    order, reasons = _select(source, identities, leave_out, min_images, shuffle)
    folder = Path(out)
    layout.check(source.identities[label] for label in np.unique(source.labels[order]))
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
        "choice of images": _digest(order.tobytes()),
    }
    report: Progress = progress if progress is not None else lambda stage, done, total: None
    work = folder / WORK
    with locked_job(work, folder), full_disk_explained(folder):
        present = _check_room(folder, overwrite=overwrite)
        job = Job(work, request, out=folder, overwrite=overwrite)
        facts, read = job.facts, 0
        if facts is None:
            for name in sorted(present, key=lambda name: name == LEFT_OUT):
                (folder / name).unlink()
            spool = Spool(work / "spool", source, order, encoding)
            read = _read(spool, workers, report)
            seen = spool.seen()
            kept = _keep(source, order, reasons, min_images, seen.damaged)
            ends = layout.ends(seen.lengths[kept.positions])
            parts = Parts(
                *(work / "parts", job.final, spool, layout),
                *(kept.positions, kept.labels, kept.identities, ends),
            )
            _write(parts, workers, report)
            skipped = [*source.skipped, *kept.left_out]
            write_left_out(job.final / LEFT_OUT, skipped)
            shapes = zip(seen.widths[kept.positions], seen.heights[kept.positions], strict=True)
            sizes = Counter((int(width), int(height)) for width, height in shapes)
            report("finishing", 0, len(kept.labels))
            layout.finish(parts, max(sizes, key=lambda size: (sizes[size], size)))
            report("finishing", len(kept.labels), len(kept.labels))
            facts = {
                "images": len(kept.labels),
                "identities": len(kept.identities),
                "size": sum(path.stat().st_size for path in job.final.iterdir()),
                "left_out": Counter(item.reason for item in skipped),
                "sizes": {f"{width}x{height}": count for (width, height), count in sizes.items()},
                "reencoded": int(seen.reencoded[kept.positions].sum()),
            }
        job.publish(folder, facts)
    seconds = time.monotonic() - begun
    return PackReport(path=folder / layout.main_file, read=read, seconds=seconds, **facts)


def _check_apart(source: FaceSource, out: Path) -> None:
    """Refuses to write into the source: `overwrite` would delete what is to be read."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"out must be a folder, got {str(out)!r}, which is a file")
    target = out.resolve()
    for root in source.roots():
        if target.is_relative_to(root.resolve()):
            raise ValueError(f"out is {str(out)!r}, which lies in the source, {str(root)!r}")
    if not out.is_dir() or not any(out.iterdir()):
        return
    for parent in {os.path.dirname(path) for path in source.files()}:
        if Path(parent).resolve().is_relative_to(target):
            raise ValueError(f"out is {str(out)!r}, which holds files of the source")


def _check_room(out: Path, *, overwrite: bool) -> list[str]:
    """Refuses a folder that holds something else, or a pack; returns its files otherwise."""
    unpublished = not Job.publishing(out / WORK)
    present = sorted(path.name for path in out.iterdir() if path.name != WORK)
    strange = [name for name in present if not is_own_file(name)]
    if present and LEFT_OUT not in present and unpublished:  # every pack has one
        strange = present
    if strange:
        raise ValueError(f"out is {str(out)!r}, which holds something else: {strange[0]!r}")
    if present and unpublished and not overwrite:
        raise ValueError(
            f"out is {str(out)!r}, which holds a pack already; --overwrite replaces it"
        )
    return present


def _counted(stage: str, done: int, total: int, report: Progress) -> Callable[[int], None]:
    """Adds up for a progress bar what runs report in steps."""

    def add(images: int) -> None:
        nonlocal done
        done += images
        report(stage, done, total)

    add(0)
    return add


def _read(spool: Spool, workers: int | None, report: Progress) -> int:
    """Fills the chunks that are missing, and returns how many images that were."""
    missing = [chunk for chunk in range(spool.chunks) if not spool.notes(chunk).exists()]
    todo, total = sum(len(spool.positions(chunk)) for chunk in missing), len(spool.order)
    add = _counted("reading", total - todo, total, report)
    tasks = run_tasks(Spool.fill, spool, missing, ordered=False, workers=workers, progress=add)
    with closing(tasks) as chunks:
        for _ in chunks:
            pass
    return todo


def _write(parts: Parts, workers: int | None, report: Progress) -> None:
    """Writes the parts that are missing."""
    done = {part for part in range(len(parts)) if parts.notes(part).exists()}
    freed = parts.free_spool(done, 0)
    missing = [part for part in range(len(parts)) if part not in done]
    todo, total = sum(len(parts.images(part)) for part in missing), len(parts.labels)
    add = _counted("writing", total - todo, total, report)
    tasks: Generator[int, None, None] = run_tasks(
        Parts.write, parts, missing, ordered=False, workers=workers, progress=add
    )
    with closing(tasks) as finished:
        for part in finished:
            done.add(part)
            freed = parts.free_spool(done, freed)


# What must be the same for a job to resume: the people, the images and the files of a source.


def fingerprint(source: FaceSource) -> dict[str, Any]:
    """Returns facts about a source, by the words in which a difference is told; JSON.

    Files are known by name, size and time of change, not by what is in them, so that five million
    take seconds.
    """
    stamps = hashlib.sha256()
    for path in source.files():
        with suppress(OSError):  # reading it will say what is wrong
            found = os.stat(path)
            stamp = f"{os.path.basename(path)}\0{found.st_size} {found.st_mtime_ns}\0"
            stamps.update(stamp.encode("utf-8", "surrogatepass"))
    names = "\0".join(source.identities)
    return {
        "number of images": len(source),
        "number of people": len(source.identities),
        "set of people": _digest(names.encode("utf-8", "surrogatepass")),
        "set of labels": _digest(np.asarray(source.labels, dtype="<i8").tobytes()),
        "state of the source's files": stamps.hexdigest(),
    }


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# Which images of a source are packed, in which order, and what becomes of the rest.

_NOT_ASKED_FOR, _LISTED, _TOO_FEW = 1, 2, 3


def _select(
    source: FaceSource,
    identities: Collection[str] | None,
    leave_out: Collection[str],
    min_images: int,
    shuffle: int | None,
) -> tuple[Ints, npt.NDArray[np.int8]]:
    """Chooses images without reading them: their order, and for each image why not, or 0."""
    if min_images < 1:
        raise ValueError(f"min_images must be at least 1, got {min_images}")
    if shuffle is not None and shuffle < 0:
        raise ValueError(f"shuffle must be a seed of at least 0 or None, got {shuffle}")
    reasons = np.zeros(len(source), dtype=np.int8)
    if identities is not None:
        names = chosen_people(identities, source.identities, "identities")
        chosen = np.array([name in names for name in source.identities])
        reasons[~chosen[source.labels]] = _NOT_ASKED_FOR
    rest = without_places(source, leave_out)
    if isinstance(rest, Subset) and rest is not source:
        listed = np.ones(len(source), dtype=bool)
        listed[rest.indices] = False
        reasons[listed & (reasons == 0)] = _LISTED
    reasons[(reasons == 0) & _few(source.labels, reasons == 0, min_images)] = _TOO_FEW
    order = np.flatnonzero(reasons == 0)
    if not len(order):
        raise ValueError(f"nothing is left of the {len(source)} images to pack")
    if shuffle is not None:
        order = np.random.default_rng(shuffle).permutation(order)
    return order, reasons


def _few(labels: Ints, usable: npt.NDArray[np.bool_], min_images: int) -> npt.NDArray[np.bool_]:
    """Whether the person of each image has fewer than `min_images` usable ones."""
    counts = np.bincount(labels[usable], minlength=int(labels.max(initial=-1)) + 1)
    return np.asarray((counts < min_images)[labels])


class _Kept(NamedTuple):
    """Sound images by position in the order, their new labels and names, and the others."""

    positions: Ints
    labels: Ints
    identities: list[str]
    left_out: list[Skipped]


def _keep(
    source: FaceSource,
    order: Ints,
    reasons: npt.NDArray[np.int8],
    min_images: int,
    damaged: dict[int, str],
) -> _Kept:
    """Takes out damaged images, then people who have too few left, and numbers the rest."""
    reasons = reasons.copy()
    problems = {int(order[position]): problem for position, problem in damaged.items()}
    sound = reasons == 0
    sound[list(problems)] = False
    reasons[sound & _few(source.labels, sound, min_images)] = _TOO_FEW
    sound &= reasons == 0
    positions = np.flatnonzero(sound[order])
    if not len(positions):
        index, problem = next(iter(problems.items()))
        raise ValueError(
            f"no image is left to pack: {len(damaged)} are damaged, first "
            f"{source.place(index)!r}: {problem}"
        )
    present, labels = np.unique(source.labels[order[positions]], return_inverse=True)
    words = {
        _LISTED: "named in the file of images to leave out",
        _TOO_FEW: f"its identity has fewer than {min_images} images",
    }
    for reason, text in words.items():
        problems |= dict.fromkeys(np.flatnonzero(reasons == reason).tolist(), text)
    rows = [left_out_image(source, index, problems[index]) for index in sorted(problems)]
    names = [source.identities[label] for label in present]
    return _Kept(positions, labels.astype(np.int64), names, rows)


def left_out_image(source: FaceSource, index: int, problem: str) -> Skipped:
    """Returns an image that is left out for a problem such as "reason: detail"."""
    reason, _, detail = problem.partition(": ")
    identity = source.identities[source.labels[index]]
    return Skipped(source.place(index), reason, detail, images=1, identity=identity)


def write_left_out(path: Path, rows: Iterable[Skipped]) -> None:
    """Writes what is left out as CSV with the columns place, identity and problem."""
    fields = ((row.place, row.identity, str(row)) for row in rows)
    write_csv(path, ("place", "identity", "problem"), fields, line_end="\n")
