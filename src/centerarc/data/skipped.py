"""What a source left out when it was opened, in the words of all sources."""

from dataclasses import dataclass
from pathlib import Path

from centerarc.data.source import FaceSource


@dataclass(frozen=True)
class LeftOut:
    """Something that a source does not serve.

    Args:
        place: Where it is, as the source names its images.
        reason: Why.
        images: How many images it is or holds, as far as the source knows.
    """

    place: str
    reason: str
    images: int = 0

    @property
    def kind(self) -> str:
        """The reason without its particulars: "unreadable: the file is empty" is "unreadable"."""
        return self.reason.split(":")[0]


def left_out(source: FaceSource) -> list[LeftOut]:
    """Returns what a source left out at opening; empty for sources that keep no such list.

    Args:
        source: Any source; a `FolderSource` has files that it skipped.

    Returns:
        In the order of the source.
    """
    root = getattr(source, "root", None)
    found = []
    for item in getattr(source, "skipped", ()):
        path = Path(item.path)
        if root is not None and path.is_relative_to(root):
            path = path.relative_to(root)
        found.append(LeftOut(path.as_posix(), str(item.reason), getattr(item, "images", 0)))
    return found
