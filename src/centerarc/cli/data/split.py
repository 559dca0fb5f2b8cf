"""``centerarc data split``: people to train on and people held out."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from centerarc.cli.sources import ListFlags


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
    """Split a set of faces by people, so that nobody held out is seen in training.

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
    from rich.text import Text

    from centerarc.cli.sources import opened
    from centerarc.data import read_identities, split_source, subset
    from centerarc.data.splitting import write_split

    found = opened(source, columns=columns)
    if identities is not None:
        chosen = set(read_identities(identities))
        if unknown := chosen.difference(found.identities):
            raise ValueError(
                f"{str(identities)!r} names {len(unknown)} people whom the source lacks, first "
                f"{min(unknown)!r}"
            )
        found = subset(found, [name for name in found.identities if name in chosen])
    parts = split_source(found, fraction=fraction, count=count, seed=seed, min_images=min_images)
    written = write_split(out, found, parts, overwrite=overwrite)
    images = np.bincount(found.labels, minlength=len(found.identities))
    number = dict(zip(found.identities, images.tolist(), strict=True))
    # Text, not str: a path may hold what rich takes for markup.
    table = Table()
    for column in ("part", "people", "images"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for name, people in (("train", parts.train), ("held-out", parts.held_out)):
        table.add_row(name, f"{len(people):,}", f"{sum(number[person] for person in people):,}")
    console = Console()
    console.print(Text(f"split {source} by people, seed {seed}"), soft_wrap=True)
    console.print(table)
    for path in written:
        console.print(Text(str(path)), soft_wrap=True)
