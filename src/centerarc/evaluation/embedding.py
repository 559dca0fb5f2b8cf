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

    # A source, or uint8 images (N, H, W, 3).
    Images: TypeAlias = FaceSource | npt.NDArray[np.uint8]


def embed(
    model: "nn.Module",
    images: "Images",
    *,
    batch_size: int = 64,
    mirror: bool = False,
    device: "str | torch.device" = "cpu",
    workers: int = 0,
    progress: Callable[[int], Any] | None = None,
) -> npt.NDArray[np.float32]:
    """The model's embeddings of all images, in order, not normalised.

    The model is moved to ``device`` and put into eval mode; each module's mode is put back
    afterwards, the model stays on ``device``.

    Args:
        model: maps float32 (N, 3, H, W), (x - 127.5) / 127.5, to (N, D).
        images: a face source, or uint8 (N, H, W, 3) RGB; sizes as the model takes them.
        batch_size: images at once, at least 1.
        mirror: sum the features of each image and of its mirror image (what most published
            numbers on LFW do), at twice the cost.
        device: where to compute.
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
    import torch

    from centerarc.data import to_input

    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if len(images) == 0:
        raise ValueError("images holds no image")
    modes = [(module, module.training) for module in model.modules()]
    model.to(device).eval()
    size = getattr(model, "image_size", None)
    parts: list[npt.NDArray[np.float32]] = []
    try:
        with torch.inference_mode():
            for batch in _batches(images, batch_size, workers):
                if size is not None and batch.shape[1:3] != (size, size):
                    raise ValueError(
                        f"images are {batch.shape[1]} x {batch.shape[2]} pixels, the model takes "
                        f"{size} x {size}"
                    )
                inputs = to_input(batch.to(device))
                features = model(inputs).float()
                if mirror:
                    features = features + model(inputs.flip(-1)).float()
                parts.append(features.cpu().numpy())
                if progress is not None:
                    progress(len(batch))
    finally:
        # Not model.train(mode): a frozen part of a training model was in eval mode before.
        for module, mode in modes:
            module.training = mode
    embeddings = np.concatenate(parts)
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if bad.size:
        raise ValueError(f"model gave an embedding that is not finite for image {bad[0]}")
    return embeddings


def _batches(images: "Images", batch_size: int, workers: int) -> "Iterator[torch.Tensor]":
    import torch

    from centerarc.data import iterate_images

    if not isinstance(images, np.ndarray):
        yield from iterate_images(images, np.arange(len(images)), batch_size, workers)
        return
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(
            f"images must be uint8 of shape (N, H, W, 3), got {images.dtype} {images.shape}"
        )
    for start in range(0, len(images), batch_size):
        yield torch.from_numpy(np.ascontiguousarray(images[start : start + batch_size]))


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
