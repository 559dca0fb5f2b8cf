"""A stand-in for a model: what an embedding shows of its image can be checked by hand."""

from pathlib import Path

import numpy as np

from centerarc.models import OpenedModel, Preprocessing

SIZE = 8


class Looker:
    """Mean of the left half of each channel; counts images."""

    image_size = SIZE

    def __init__(self) -> None:
        self.seen = 0

    def embed(self, images: np.ndarray, *, mirror: bool = False) -> np.ndarray:
        self.seen += len(images)
        assert images.shape[1:] == (SIZE, SIZE, 3)
        result = left(images)
        return result + left(images[:, :, ::-1]) if mirror else result


def left(images: np.ndarray) -> np.ndarray:
    """What it gives."""
    return images[:, :, : SIZE // 2].mean(axis=(1, 2), dtype=np.float64).astype(np.float32)


def opened(sha256: str = "ab" * 32, embedder: Looker | None = None) -> OpenedModel:
    """It as a model of a file."""
    looker = Looker() if embedder is None else embedder
    return OpenedModel(Path("looker.onnx"), "onnx", sha256, looker, None, Preprocessing(SIZE))
