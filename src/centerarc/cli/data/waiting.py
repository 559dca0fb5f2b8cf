"""How the commands open a source, while the user waits."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from centerarc.data import FaceSource


def opened(path: Path, image_size: int | None = None) -> "FaceSource":
    """Opens the source at a path, shows how far that is, and says on stderr what is wrong with it.

    Args:
        path: What the user named.
        image_size: Side in pixels to which images are resized; None leaves them as they are.
    """
    from rich.console import Console
    from rich.text import Text

    source = reopened(path, image_size)
    # Text, not str: a path may hold what rich takes for markup.
    for problem in getattr(source, "problems", ()):
        Console(stderr=True).print(Text(f"{path}: {problem}"), soft_wrap=True)
    return source


def reopened(path: Path, image_size: int | None = None) -> "FaceSource":
    """As `opened`, without what the user was told before."""
    from centerarc.cli.progress import waiting
    from centerarc.data.sources import open_source

    with waiting("opening") as progress:
        return open_source(path, image_size=image_size, progress=progress)
