"""From images to embeddings and scores, and pairs drawn from labelled images."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.scores import BoolArray, FloatArray, IntArray

if TYPE_CHECKING:
    import torch
    from torch import nn

    from centerarc.data.source import FaceSource
    from centerarc.models.embedder import Embedder

    # A source, or uint8 images (N, H, W, 3).
    Images: TypeAlias = FaceSource | npt.NDArray[np.uint8]


# From images to embeddings, and from embeddings to scores.


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

    from centerarc.models.embedder import Embedder, TorchEmbedder

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
    from centerarc.data.loader import iterate_images

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


# Verification pairs drawn from labelled images, for data that comes without a pairs file.


@dataclass(frozen=True)
class ImagePairs:
    """Pairs of image numbers.

    Attributes:
        index_a: (P,) number of the first image.
        index_b: (P,) number of the second image.
        same: (P,) whether both show one person.
        fold: (P,) fold of the pair, from 1; people are disjoint between folds.
    """

    index_a: IntArray
    index_b: IntArray
    same: BoolArray
    fold: IntArray

    def __len__(self) -> int:
        return int(self.same.size)


def make_pairs(
    labels: npt.ArrayLike, num_pairs: int, *, seed: int = 0, folds: int = 10
) -> ImagePairs:
    """Draw balanced genuine and impostor pairs, with people disjoint between folds.

    People are dealt to the folds at random, those with several images and those with one
    separately, so that every fold has genuine pairs. A genuine pair is a random person and two of
    the person's images; an impostor pair is two random people and an image of each. No pair
    appears twice. A fold with fewer distinct pairs of a kind than asked for gives all it has, and
    as many of the other kind, so the result stays balanced but may be smaller than
    ``num_pairs``.

    Args:
        labels: (N,) identity of each image, any integers.
        num_pairs: pairs in total, a multiple of ``2 * folds``.
        seed: of the drawing; equal seeds give equal pairs.
        folds: number of folds, at least 1.

    Returns:
        The pairs, fold by fold, genuine before impostor.

    Raises:
        ValueError: ``num_pairs`` or ``folds`` out of range, or too few people: each fold needs
            two, one of them with two images.

    Example:
        >>> pairs = make_pairs([0, 0, 1, 1, 2, 2, 3, 3], num_pairs=4, folds=2)
        >>> pairs.same.tolist(), pairs.fold.tolist()
        ([True, False, True, False], [1, 1, 2, 2])
    """
    identity = np.asarray(labels)
    if identity.ndim != 1 or not np.issubdtype(identity.dtype, np.integer):
        raise ValueError(
            f"labels must be integers of shape (N,), got {identity.dtype} {identity.shape}"
        )
    if folds < 1:
        raise ValueError(f"folds must be at least 1, got {folds}")
    if num_pairs < 2 * folds or num_pairs % (2 * folds):
        raise ValueError(
            f"num_pairs must be a positive multiple of 2 * folds = {2 * folds}, got {num_pairs}"
        )
    people = _images_by_person(identity)
    several = [images for images in people if images.size > 1]
    single = [images for images in people if images.size == 1]
    if len(several) < folds or len(people) < 2 * folds:
        raise ValueError(
            f"labels hold {len(people)} people, {len(several)} of them with two images or more; "
            f"{folds} folds need {2 * folds} people, {folds} of them with two images"
        )
    generator = np.random.default_rng(seed)
    # One dealing: those with several images first, so that each fold gets its share of both.
    dealt = [several[i] for i in generator.permutation(len(several))]
    dealt += [single[i] for i in generator.permutation(len(single))]
    chosen: list[tuple[int, int]] = []
    same: list[bool] = []
    fold_of: list[int] = []
    for fold in range(folds):
        members = dealt[fold::folds]
        each = num_pairs // (2 * folds)
        genuine = _draw_genuine(members, each, generator)
        impostor = _draw_impostor(members, len(genuine), generator)
        genuine = genuine[: len(impostor)]
        chosen += genuine + impostor
        same += [True] * len(genuine) + [False] * len(impostor)
        fold_of += [fold + 1] * (len(genuine) + len(impostor))
    index = np.array(chosen, dtype=np.int64)
    return ImagePairs(index[:, 0], index[:, 1], np.array(same), np.array(fold_of, dtype=np.int64))


def _images_by_person(identity: npt.NDArray[np.integer]) -> list[IntArray]:
    order = np.argsort(identity, kind="stable").astype(np.int64)
    starts = np.flatnonzero(np.diff(identity[order])) + 1
    return [part for part in np.split(order, starts) if part.size]


def _draw_genuine(
    members: list[IntArray], count: int, generator: np.random.Generator
) -> list[tuple[int, int]]:
    rich = [images for images in members if images.size > 1]
    available = sum(images.size * (images.size - 1) // 2 for images in rich)
    # A few left over are listed and shuffled; drawing and rejecting would take for ever.
    if available <= 4 * count:
        everything = [
            (int(images[i]), int(images[j]))
            for images in rich
            for i in range(images.size)
            for j in range(i + 1, images.size)
        ]
        return [everything[i] for i in generator.permutation(len(everything))[:count]]
    drawn: dict[tuple[int, int], None] = {}
    # Few people with many images each hold enough pairs for rejection to end soon.
    while len(drawn) < count:
        images = rich[generator.integers(len(rich))]
        i, j = sorted(generator.choice(images.size, size=2, replace=False).tolist())
        drawn[int(images[i]), int(images[j])] = None
    return list(drawn)


def _draw_impostor(
    members: list[IntArray], count: int, generator: np.random.Generator
) -> list[tuple[int, int]]:
    sizes = np.array([images.size for images in members])
    available = int((sizes.sum() ** 2 - (sizes**2).sum()) // 2)
    wanted = min(count, available)
    drawn: dict[tuple[int, int], None] = {}
    while len(drawn) < wanted:
        a, b = sorted(generator.choice(len(members), size=2, replace=False).tolist())
        first = int(generator.choice(members[a]))
        second = int(generator.choice(members[b]))
        drawn[first, second] = None
    return list(drawn)
