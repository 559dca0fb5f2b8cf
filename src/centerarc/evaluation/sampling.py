"""Verification pairs drawn from labelled images, for data that comes without a pairs file."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.scores import BoolArray, IntArray


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
