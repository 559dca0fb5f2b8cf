"""The file `property` beside a .rec: how many identities, and how large the images are."""

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Property:
    """What the file says.

    Attributes:
        num_classes: Number of identities.
        height: Of the images in pixels.
        width: Of the images in pixels.
    """

    num_classes: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.num_classes},{self.height},{self.width}"


def read_property(path: Path) -> Property:
    """Reads the file: three numbers with commas or spaces between them.

    Args:
        path: The file.

    Raises:
        ValueError: If it holds something else.
        OSError: If it cannot be read.
    """
    text = path.read_bytes()[:200].decode("utf-8", "backslashreplace").strip()
    fields = re.split(r"\s*,\s*|\s+", text)
    if len(fields) != 3 or not all(re.fullmatch(r"[0-9]{1,9}", field) for field in fields):
        raise ValueError(
            f"{path.name} holds {text!r}; it must be the number of identities, the height and "
            "the width, such as 85742,112,112"
        )
    return Property(*map(int, fields))
