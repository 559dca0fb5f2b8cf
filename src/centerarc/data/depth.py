"""Images that lie deeper than `<root>/<identity>/<image>`, and where people seem to be instead."""

import os
from collections import Counter
from pathlib import Path

from centerarc.data.extensions import is_picture

# Deeper ones are not looked for: a root named by mistake may be a whole disk.
_LEVELS = ("", "one level", "two levels", "three levels")


class Deeper:
    """Counts images below the folders of a root's identities.

    Args:
        root: The folder of identity folders.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._images: Counter[int] = Counter()  # by the levels they lie too deep
        self._people: dict[int, str] = {}  # a folder of people, had it been the root

    def count(self, folder: str) -> int:
        """Returns how many images a folder holds, up to two folders below it, by their names.

        Links to folders and hidden folders are not entered, so that loops end.

        Args:
            folder: A folder inside that of an identity.
        """
        total = 0
        for place, folders, files in os.walk(folder):
            levels = len(Path(place).relative_to(self._root).parts) - 1
            last = levels + 1 == len(_LEVELS)
            folders[:] = [] if last else sorted(f for f in folders if not f.startswith("."))
            number = sum(map(is_picture, files))
            if number:
                self._images[levels] += number
                self._people.setdefault(levels, os.path.dirname(place))
                total += number
        return total

    def hint(self, served: int) -> str:
        """Returns where people seem to lie, or "" unless most images lie deeper.

        Args:
            served: Images of the root that are where they should be.
        """
        deeper = self._images.total()
        if deeper <= served:
            return ""
        levels = min(self._images, key=lambda number: (-self._images[number], number))
        return (
            f"most images ({deeper} of {served + deeper}) lie too deep: people seem to lie "
            f"{_LEVELS[levels]} deeper; use a folder such as {self._people[levels]!r} instead"
        )
