"""A model in an ONNX file held to the PyTorch model that it was made from."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from centerarc.export.embedder import TorchEmbedder
from centerarc.export.onnx_model import OnnxModel
from centerarc.models import Backbone


@dataclass(frozen=True)
class Comparison:
    """How far two models are apart on the same images.

    Args:
        batch_size: Images at a time.
        images: Their number.
        largest_difference: Of one number of an embedding.
        largest_number: Of PyTorch's embeddings, without sign.
        smallest_cosine: Between the two embeddings of an image.
    """

    batch_size: int
    images: int
    largest_difference: float
    largest_number: float
    smallest_cosine: float

    @property
    def relative_difference(self) -> float:
        """The largest difference as a part of the largest number."""
        if self.largest_number == 0:
            return 0.0 if self.largest_difference == 0 else float("inf")
        return self.largest_difference / self.largest_number


def compare(network: Backbone, path: Path, samples: npt.NDArray[np.uint8]) -> list[Comparison]:
    """Embeds images with both, one at a time and all at once.

    Args:
        network: On the CPU, in eval mode.
        path: The ONNX file.
        samples: `(N, S, S, 3)` uint8.

    Returns:
        One for each different batch size.

    Raises:
        ValueError: If the file cannot be run.
    """
    truth = TorchEmbedder(network)
    expected = np.concatenate([truth.embed(samples[i : i + 1]) for i in range(len(samples))])
    model = OnnxModel(path)
    results = []
    for size in sorted({1, len(samples)}):
        parts = [model.embed(samples[i : i + size]) for i in range(0, len(samples), size)]
        found = np.concatenate(parts)
        difference = np.abs(found.astype(np.float64) - expected)
        results.append(
            Comparison(
                batch_size=size,
                images=len(samples),
                largest_difference=float(difference.max()),
                largest_number=float(np.abs(expected).max()),
                smallest_cosine=float(_cosines(found, expected).min()),
            )
        )
    return results


def _cosines(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(wide_a, axis=1) * np.linalg.norm(wide_b, axis=1)
    result: npt.NDArray[np.float64] = (wide_a * wide_b).sum(axis=1) / np.maximum(lengths, 1e-300)
    return result
