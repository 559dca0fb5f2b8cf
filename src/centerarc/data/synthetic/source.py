"""The set of drawn faces as a source of images."""

from functools import lru_cache
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

from centerarc.data.source import FaceSource
from centerarc.data.synthetic.face import Outlines, draw_outlines
from centerarc.data.synthetic.person import Person, draw_conditions, draw_person
from centerarc.data.synthetic.render import render


@lru_cache(maxsize=4096)
def _known_person(seed: int, identity: int) -> tuple[Person, Outlines]:
    # Shared by all sets of a process and bounded, so that sets stay small to send to workers.
    person = draw_person(seed, identity)
    return person, draw_outlines(person)


def _integer(name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return int(value)


class SyntheticFaces(FaceSource):
    """Faces of made-up people, drawn on demand from a seed: no files, no network, no real person.

    Every person is a point in a continuous space of traits (shape of the head, eyes, nose, mouth
    and ears, skin, hair, beard, age, moles), every image a photograph of it under its own pose,
    expression, light, glasses, coverings, background and camera, aligned to the five-point
    ArcFace template up to the error of a landmark detector. An image depends on nothing but the
    seed, the number of the person and the number of the image, so that sets whose ranges of
    people do not overlap share nobody.

    Args:
        num_identities: number of people, at least 1.
        images_per_identity: number of images of each, at least 1.
        seed: the population to draw from, at least 0. Default 0.
        image_size: side of the images in pixels, at least 16. Default 112.
        first_identity: number of the first person in the population, at least 0: person k of
            this set is person first_identity + k of a set that starts at 0. Default 0.

    Raises:
        ValueError: an argument is not an integer or is too small.

    Example:
        >>> from centerarc.data.synthetic import SyntheticFaces
        >>> training = SyntheticFaces(100, 10)
        >>> held_out = SyntheticFaces(20, 10, first_identity=100)
        >>> training.image(0).shape, len(training), int(training.labels[-1])
        ((112, 112, 3), 1000, 99)
    """

    def __init__(
        self,
        num_identities: int,
        images_per_identity: int,
        *,
        seed: int = 0,
        image_size: int = 112,
        first_identity: int = 0,
    ) -> None:
        self.num_identities = _integer("num_identities", num_identities, 1)
        self.images_per_identity = _integer("images_per_identity", images_per_identity, 1)
        self.seed = _integer("seed", seed, 0)
        self.image_size: int = _integer("image_size", image_size, 16)
        self.first_identity = _integer("first_identity", first_identity, 0)

    def __len__(self) -> int:
        """Return the number of images."""
        return self.num_identities * self.images_per_identity

    def __repr__(self) -> str:
        """Return the call that makes this set."""
        return (
            f"SyntheticFaces({self.num_identities}, {self.images_per_identity}, seed={self.seed}, "
            f"image_size={self.image_size}, first_identity={self.first_identity})"
        )

    # Made on demand, so that a set is small to send to workers.
    @property
    def labels(self) -> NDArray[np.int64]:  # type: ignore[override]
        """The label 0..num_identities-1 of every image, int64 of shape (len(self),)."""
        return np.repeat(np.arange(self.num_identities, dtype=np.int64), self.images_per_identity)

    @property
    def identities(self) -> list[str]:  # type: ignore[override]
        """The name of the person of every label; it keeps its number when the range shifts."""
        return [f"person-{self.first_identity + label:06d}" for label in range(self.num_identities)]

    def image(self, index: int) -> NDArray[np.uint8]:
        """Draw one image.

        Args:
            index: number of the image, 0..len(self)-1; the images of a person follow each other.

        Returns:
            uint8 RGB of shape (image_size, image_size, 3).

        Raises:
            IndexError: index is out of range.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index must be in 0..{len(self) - 1}, got {index}")
        label, number = divmod(int(index), self.images_per_identity)
        identity = self.first_identity + label
        person, outlines = _known_person(self.seed, identity)
        conditions = draw_conditions(person, self.seed, identity, number)
        return render(person, outlines, conditions, self.image_size)
