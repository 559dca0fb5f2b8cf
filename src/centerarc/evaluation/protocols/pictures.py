"""Pictures for a page, from a source that is opened again when the first is asked for."""

from collections.abc import Callable

from centerarc.data.image import Image
from centerarc.data.source import FaceSource

# Gives image `index` of what was evaluated.
Picture = Callable[[int], Image]


def pictures_of(reopen: Callable[[], FaceSource]) -> Picture:
    """Returns a function for the images of a source, as large as its files have them.

    Args:
        reopen: Opens the source that was evaluated without resizing its images.
    """
    opened: list[FaceSource] = []

    def picture(index: int) -> Image:
        if not opened:
            opened.append(reopen())
        return opened[0].image(index)

    return picture
