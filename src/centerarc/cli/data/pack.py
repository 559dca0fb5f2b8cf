"""`centerarc data pack` and `centerarc data split`."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from centerarc.cli.flags import ListFlags, by_flags

# `centerarc data pack`: any source as insightface RecordIO or WebDataset shards.


@by_flags
def pack(
    source: Path,
    out: Path,
    /,
    *,
    format: Literal["rec", "shards"] = "rec",
    size: int | None = None,
    quality: int | None = None,
    images_per_shard: int | None = None,
    shard_mb: float | None = None,
    min_images: int = 1,
    identities: Path | None = None,
    leave_out: Path | None = None,
    columns: ListFlags | None = None,
    shuffle: int | None = None,
    workers: int | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Pack labeled faces into a few large files, which any disk reads fast.

    Images keep their order and, unless --size or --quality asks for others, their bytes. Each
    is decoded once; damaged ones are left out and named in OUT/left-out.csv. After a stop, by
    whatever, the same command resumes where it was, from OUT/.centerarc-pack, and the result
    has the same bytes.

    Exit code: 0 done, 2 wrong input, 130 interrupted.

    Parameters
    ----------
    source
        A folder of <person>/<image>, a .rec file, .tar shards, or a .csv or .parquet list.
    out
        A folder for the result, absent or empty. A .rec needs twice its size there while it is
        made.
    format
        rec: train.rec, .idx, .lst and property, as insightface has them. shards: tar files of
        WebDataset and dataset.json.
    size
        Resize images to this side in pixels; those that have it keep their bytes.
    quality
        Of new JPEGs, 95 by default. When given, images of other formats become JPEGs too.
    images_per_shard
        Images in a shard, 10000 by default.
    shard_mb
        End a shard after so many megabytes of images instead.
    min_images
        Leave out people with fewer images.
    identities
        Pack the people named in this file only, one a line, such as train.txt of data split.
    leave_out
        Leave out the images of this file: CSV with a column place, such as data check writes.
    shuffle
        Put images in a random order by this seed, for training that streams from a slow disk.
    workers
        Processes; 0 works in this one. One for each core by default.
    overwrite
        Delete what another pack left in OUT, finished or not.
    """
    from rich.console import Console

    from centerarc.cli.flags import opened
    from centerarc.cli.tables import facts_table, work_facts
    from centerarc.curate.packing import pack as run
    from centerarc.data.views import read_identities, read_leave_out
    from centerarc.io.progress import stages

    found = opened(source, columns=columns)
    try:
        with stages("images") as progress:
            report = run(
                found,
                out,
                format=format,
                size=size,
                quality=quality,
                images_per_shard=images_per_shard,
                shard_mb=shard_mb,
                min_images=min_images,
                identities=None if identities is None else read_identities(identities),
                leave_out=() if leave_out is None else read_leave_out(leave_out),
                shuffle=shuffle,
                workers=workers,
                overwrite=overwrite,
                progress=progress,
            )
    except KeyboardInterrupt:
        print("stopped; the same command resumes where it was", file=sys.stderr)
        raise
    facts = {
        "images": f"{report.images:,}",
        "people": f"{report.identities:,}",
        "size": f"{report.size / 1e6:,.1f} MB",
    }
    sizes = sorted(report.sizes.items(), key=lambda item: -item[1])
    for shape, number in sizes[:3]:
        facts[f"{shape.replace('x', ' x ')} pixels"] = f"{number:,}"
    if len(sizes) > 3:
        facts[f"{len(sizes) - 3} other sizes"] = f"{sum(number for _, number in sizes[3:]):,}"
    facts["encoded again"] = f"{report.reencoded:,}"
    facts |= work_facts(report.left_out, report.read, report.seconds)
    print(f"packed {source} into {out}")
    Console().print(facts_table(facts))
    if report.left_out:
        print(f"what is left out, and why: {report.left_out_file}")
    kind = "recordio" if report.path.suffix else "shards"
    path = shlex.quote(str(report.path))
    print(f"to train on it: centerarc train CONFIG.yaml --data.source {kind} --data.path {path}")


# `centerarc data split`: people to train on and people held out.


@by_flags
def split(
    source: Path,
    /,
    *,
    out: Path,
    fraction: float | None = None,
    count: int | None = None,
    seed: int = 0,
    min_images: int = 2,
    identities: Path | None = None,
    columns: ListFlags | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Split a set of faces by people, so that no one held out is seen in training.

    Writes OUT/train.txt and OUT/held-out.txt, the names of the people, for data.identities of a
    training and --identities of data pack; where images are files also OUT/train.csv and
    OUT/held-out.csv, lists that are sources themselves. The choice depends on the names, the
    seed and who has enough images alone, so the same command gives the same lists. The files of
    another split stay, and --overwrite replaces them. For three parts, split again with
    --identities OUT/train.txt.

    Exit code: 0 done, 2 wrong input, 130 interrupted.

    Parameters
    ----------
    source
        A folder of <person>/<image>, a .rec file, .tar shards, or a .csv or .parquet list.
    out
        Folder for the lists.
    fraction
        Part of the people to hold out, such as 0.1; either this or --count.
    count
        Number of people to hold out.
    seed
        Chooses who is held out.
    min_images
        People with fewer images are not held out but trained on: one image makes no pair.
    identities
        Split the people named in this file only, one a line.
    overwrite
        Replace the files that another split left in the folder.
    """
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    from centerarc.cli.flags import opened
    from centerarc.curate.split import split_source, write_split
    from centerarc.data.source import chosen_people, namesakes
    from centerarc.data.views import read_identities, subset
    from centerarc.io.tables import counted

    found = opened(source, columns=columns)
    if identities is not None:
        wanted = read_identities(identities)
        chosen = chosen_people(wanted, found.identities, repr(str(identities)))
        found = subset(found, [name for name in found.identities if name in chosen])
    parts = split_source(found, fraction=fraction, count=count, seed=seed, min_images=min_images)
    if alike := namesakes(parts.held_out, parts.train):
        print(
            f"{counted(len(alike), 'name')} held out, such as {alike[0]!r}, and one in train "
            "differ in spelling only: they are different people (centerarc data check names all)",
            file=sys.stderr,
        )
    written = write_split(out, found, parts, overwrite=overwrite)
    images = np.bincount(found.labels, minlength=len(found.identities))
    number = dict(zip(found.identities, images.tolist(), strict=True))
    table = Table()
    for column in ("part", "people", "images"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for name, people in (("train", parts.train), ("held-out", parts.held_out)):
        table.add_row(name, f"{len(people):,}", f"{sum(number[person] for person in people):,}")
    print(f"split {source} by people, seed {seed}")
    Console().print(table)
    for path in written:
        print(path)
