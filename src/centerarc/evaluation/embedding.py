"""From images to embeddings, and from embeddings to scores."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.scores import FloatArray

if TYPE_CHECKING:
    import torch
    from torch import nn

    from centerarc.data import FaceSource
    from centerarc.export import Embedder

    # A source, or uint8 images (N, H, W, 3).
    Images: TypeAlias = FaceSource | npt.NDArray[np.uint8]


def embed(
    model: "nn.Module | Embedder",
    images: "Images",
    *,
    batch_size: int = 64,
    mirror: bool = False,
    device: "str | torch.device | None" = None,
    workers: int = 0,
    progress: Callable[[int], Any] | None = None,
) -> npt.NDArray[np.float32]:
    """The model's embeddings of all images, in order, not normalised.

    A PyTorch model is moved to ``device`` and put into eval mode; each module's mode is put back
    afterwards, the model stays on ``device``.

    Args:
        model: maps float32 (N, 3, H, W), (x - 127.5) / 127.5, to (N, D); or any
            :class:`centerarc.export.Embedder`, such as an ``OnnxModel``.
        images: a face source, or uint8 (N, H, W, 3) RGB; sizes as the model takes them.
        batch_size: images at once, at least 1.
        mirror: sum the features of each image and of its mirror image (what most published
            numbers on LFW do), at twice the cost.
        device: where a PyTorch model computes, the CPU by default; an embedder has its own.
        workers: decoding processes of a source; 0 decodes in this one.
        progress: called with the number of images after each batch.

    Returns:
        (N, D) float32.

    Raises:
        ValueError: ``batch_size`` or ``workers`` out of range, no images, images that are not
            uint8 (N, H, W, 3) or not of ``model.image_size``, or an embedding that is not finite.

    Example:
        >>> import numpy as np
        >>> from centerarc.models import create_model
        >>> model = create_model("mobilefacenet", embedding_size=64)
        >>> embed(model, np.zeros((2, 112, 112, 3), np.uint8)).shape
        (2, 64)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if len(images) == 0:
        raise ValueError("images holds no image")
    embedder = as_embedder(model, device)
    parts: list[npt.NDArray[np.float32]] = []
    for batch in _batches(images, batch_size, workers):
        check_image_size(batch, embedder.image_size)
        parts.append(embedder.embed(batch, mirror=mirror))
        if progress is not None:
            progress(len(batch))
    embeddings = np.concatenate(parts)
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if bad.size:
        raise ValueError(f"model gave an embedding that is not finite for image {bad[0]}")
    return embeddings


def as_embedder(
    model: "nn.Module | Embedder", device: "str | torch.device | None" = None
) -> "Embedder":
    """A PyTorch model as an embedder on ``device``; an embedder as it is.

    Raises:
        ValueError: ``model`` is neither, or an embedder comes with a device.
    """
    from torch import nn

    from centerarc.export import Embedder, TorchEmbedder

    if isinstance(model, nn.Module):
        return TorchEmbedder(model, "cpu" if device is None else device)
    if not isinstance(model, Embedder):
        raise ValueError(
            f"model is a {type(model).__name__}; it must be a PyTorch module or an embedder"
        )
    if device is not None:
        raise ValueError(f"device is {device}, but a {type(model).__name__} has a device already")
    return model


def check_image_size(batch: npt.NDArray[np.uint8], size: int | None) -> None:
    """Raises a ``ValueError`` for images (N, H, W, 3) that are not of the model's size."""
    if size is not None and batch.shape[1:3] != (size, size):
        raise ValueError(
            f"images are {batch.shape[1]} x {batch.shape[2]} pixels, the model takes {size} x "
            f"{size}"
        )


def _batches(images: "Images", batch_size: int, workers: int) -> Iterator[npt.NDArray[np.uint8]]:
    from centerarc.data import iterate_images

    if not isinstance(images, np.ndarray):
        for batch in iterate_images(images, np.arange(len(images)), batch_size, workers):
            yield batch.numpy()
        return
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(
            f"images must be uint8 of shape (N, H, W, 3), got {images.dtype} {images.shape}"
        )
    for start in range(0, len(images), batch_size):
        yield images[start : start + batch_size]


def pair_scores(
    embeddings: npt.ArrayLike, index_a: npt.ArrayLike, index_b: npt.ArrayLike
) -> FloatArray:
    """Cosine similarity of each pair of embeddings: <a, b> / (|a| |b|).

    Args:
        embeddings: (N, D), any length but 0.
        index_a: (P,) row of each pair's first embedding.
        index_b: (P,) row of the second.

    Returns:
        (P,) float64 in [-1, 1], higher is more alike.

    Raises:
        ValueError: an embedding of length 0 or not finite, with its row.

    Example:
        >>> pair_scores([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]], [0, 0], [1, 2]).tolist()
        [1.0, 0.0]
    """
    values = np.asarray(embeddings, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"embeddings must have shape (N, D), got {values.shape}")
    length = np.linalg.norm(values, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(length[:, 0]) & (length[:, 0] > 0)))
    if bad.size:
        raise ValueError(
            f"embeddings must be finite and longer than 0, row {bad[0]} has length "
            f"{length[bad[0], 0]}"
        )
    unit = values / length
    scores = np.einsum("pd,pd->p", unit[np.asarray(index_a)], unit[np.asarray(index_b)])
    return np.asarray(np.clip(scores, -1.0, 1.0), dtype=np.float64)
