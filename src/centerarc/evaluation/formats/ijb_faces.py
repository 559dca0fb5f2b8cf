"""A folder of IJB-B or IJB-C: which metadata file is which, and its faces, aligned."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from centerarc.data.alignment import arcface_template, similarity_transform, warp
from centerarc.data.decode import read_image
from centerarc.data.image import Image
from centerarc.evaluation.formats.ijb_metadata import (
    IjbImages,
    IjbLandmarks,
    check_same_images,
)


@dataclass(frozen=True)
class IjbFiles:
    """The files of a metadata folder, named as insightface names them.

    Attributes:
        images: ``*_face_tid_mid.txt``.
        landmarks: ``*_name_5pts_score.txt``.
        pairs: ``*_template_pair_label.txt``.
        galleries: ``*_1N_gallery_G1.csv`` and ``G2`` (IJB-C) or ``S1`` and ``S2`` (IJB-B); empty
            where there is none.
        probes: ``*_1N_probe_mixed.csv``, or None.
    """

    images: Path
    landmarks: Path
    pairs: Path
    galleries: list[Path]
    probes: Path | None


def find_ijb_files(folder: str | os.PathLike[str]) -> IjbFiles:
    """Find the metadata files of one set in a folder.

    Args:
        folder: the folder, such as ``IJBC/meta``.

    Raises:
        ValueError: the path is no folder, a file is missing or there are two of a kind, or there
            are galleries without probes.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"the metadata must be a folder, got {str(folder)!r}")
    galleries = sorted(root.glob("*_1N_gallery_[GS][12].csv"))
    probes = sorted(root.glob("*_1N_probe_mixed.csv"))
    if galleries and not probes:
        raise ValueError(f"{str(root)!r} has galleries but no *_1N_probe_mixed.csv")
    return IjbFiles(
        _one(root, "*_face_tid_mid.txt"),
        _one(root, "*_name_5pts_score.txt"),
        _one(root, "*_template_pair_label.txt"),
        galleries,
        probes[0] if galleries else None,
    )


class IjbFaces:
    """The faces of an IJB set, cut out of its loose crops by their landmarks; a `FaceSource`.

    Args:
        images: From `read_ijb_images`.
        landmarks: From `read_ijb_landmarks`, of the same images in the same order.
        root: The folder of the images, such as `IJBC/loose_crop`.
        image_size: Side in pixels of the aligned faces.

    Attributes:
        labels: `(len,)` int64; templates, since the files do not say who is on an image.
        identities: The number of each label's template, as text.

    Raises:
        ValueError: If the root is no folder, the size is below 1, or the two lists differ; the
            message names the line.
    """

    def __init__(
        self,
        images: IjbImages,
        landmarks: IjbLandmarks,
        root: str | os.PathLike[str],
        *,
        image_size: int = 112,
    ) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise ValueError(f"images must be a folder, got {str(root)!r}")
        if image_size < 1:
            raise ValueError(f"image_size is {image_size}; it must be at least 1")
        check_same_images(images, landmarks)
        templates, labels = np.unique(images.template, return_inverse=True)
        self.labels = labels.astype(np.int64)
        self.identities = [str(template) for template in templates.tolist()]
        self._names = images.names
        self._landmarks = landmarks.landmarks
        self._target = arcface_template(image_size)
        self._size = image_size

    def __len__(self) -> int:
        return len(self._names)

    def place(self, index: int) -> str:
        """Returns the name of image `index`."""
        return self._names[index]

    def image(self, index: int) -> Image:
        """Returns face `index`, aligned: `(image_size, image_size, 3)` uint8 RGB.

        Raises:
            ValueError: If the image cannot be read, or its landmarks are of no face.
        """
        picture = read_image(self.root / self._names[index])
        try:
            matrix = similarity_transform(self._landmarks[index : index + 1], self._target)[0]
            return warp(picture, matrix, self._size)
        except ValueError as error:
            raise ValueError(f"cannot align {self._names[index]!r}: {error}") from error


def _one(root: Path, pattern: str) -> Path:
    found = sorted(root.glob(pattern))
    if len(found) != 1:
        shown = ", ".join(path.name for path in found) or "none"
        raise ValueError(f"{str(root)!r} must have one file {pattern}; it has {shown}")
    return found[0]
