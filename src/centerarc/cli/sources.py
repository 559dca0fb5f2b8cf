"""How the commands open a source, while the user waits."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Parameter

if TYPE_CHECKING:
    from centerarc.data import FaceSource


@Parameter(name="*")
@dataclass(frozen=True)
class ListFlags:
    """How a list is read; for a .csv, .tsv or .parquet SOURCE only.

    Parameters
    ----------
    root
        Of a list: the folder from which its paths start, by default its own.
    path_column
        Of a list: the column with the path of each image, path by default.
    identity_column
        Of a list: the column with the name of the person, identity by default.
    """

    root: Path | None = None
    path_column: str | None = None
    identity_column: str | None = None


def opened(
    path: Path, image_size: int | None = None, columns: ListFlags | None = None
) -> "FaceSource":
    """Opens the source at a path, shows how far that is, and says on stderr what is wrong with it.

    Args:
        path: What the user named.
        image_size: Side in pixels to which images are resized; None leaves them as they are.
        columns: How a list is read.
    """
    from rich.console import Console
    from rich.text import Text

    source = reopened(path, image_size, columns)
    # Text, not str: a path may hold what rich takes for markup.
    for problem in getattr(source, "problems", ()):
        Console(stderr=True).print(Text(f"{path}: {problem}"), soft_wrap=True)
    return source


def reopened(
    path: Path, image_size: int | None = None, columns: ListFlags | None = None
) -> "FaceSource":
    """As `opened`, without what the user was told before."""
    from centerarc.cli.progress import waiting
    from centerarc.data.sources import open_source

    with waiting("opening") as progress:
        return open_source(
            path,
            image_size=image_size,
            progress=progress,
            **asdict(ListFlags() if columns is None else columns),
        )
