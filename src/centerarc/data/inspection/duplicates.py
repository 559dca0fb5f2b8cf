"""Pictures that are there more than once, within one identity and across identities."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from centerarc.data.inspection.examine import Examined
from centerarc.data.inspection.perceptual import close_pairs, differences, perceptual_hashes

# Measured on 10,562 aligned photographs: all pairs below 0.05 show one photograph or one moment,
# the first that does not comes at 0.052. Of copies that were saved again, resized, darkened or made
# grey all are found, of those cropped by 1, 2, 3 and 5 % 100, 98, 84 and 24 in a hundred.
MOST_DIFFERENCE = 0.04

# (image, kind of problem, the image that it repeats, particulars)
Finding = tuple[int, str, int, str]


def find_duplicates(examined: Examined, labels: npt.NDArray[np.int64]) -> list[Finding]:
    """Finds equal and nearly equal pictures among the readable, non-blank ones.

    Args:
        examined: What each image showed.
        labels: `(N,)` identity of each image.

    Returns:
        Of equal pictures under several identities every one; of equal pictures within one
        identity, and of nearly equal ones within it, all but the first; of nearly equal ones
        across identities both. Each image comes at most once for each kind.
    """
    worth = np.flatnonzero(examined.readable & ~examined.blank)
    findings: list[Finding] = []
    firsts = []
    for group in _equal(examined.pixels[worth]):
        images = worth[group]
        firsts.append(int(images[0]))
        if len(images) > 1:
            findings += _of_group(images, examined, labels)
    return findings + _near(np.array(sorted(firsts), dtype=np.int64), examined, labels)


def _equal(hashes: npt.NDArray[np.uint64]) -> Iterator[npt.NDArray[np.int64]]:
    """Yields the rows of each different hash, ascending."""
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))
    ordered = hashes[order]
    starts = np.flatnonzero((ordered[1:] != ordered[:-1]).any(axis=1)) + 1
    yield from np.split(order, starts) if len(order) else ()


def _of_group(
    images: npt.NDArray[np.int64], examined: Examined, labels: npt.NDArray[np.int64]
) -> Iterator[Finding]:
    across = len(np.unique(labels[images])) > 1
    for position, image in enumerate(images.tolist()):
        if across:
            # Shown beside it: the first one of somebody else.
            other = int(images[labels[images] != labels[image]][0])
            kind = "duplicate across identities"
        elif position:
            other, kind = int(images[0]), "duplicate"
        else:
            continue
        same_file = (
            examined.files[image].any() and (examined.files[image] == examined.files[other]).all()
        )
        yield image, kind, other, "same file as" if same_file else "same pixels as"


def _near(
    images: npt.NDArray[np.int64], examined: Examined, labels: npt.NDArray[np.int64]
) -> list[Finding]:
    thumbnails = examined.thumbnails[images]
    pairs = close_pairs(perceptual_hashes(thumbnails))
    amount = differences(thumbnails, pairs)
    near = np.flatnonzero(amount <= MOST_DIFFERENCE)
    # The closest pair of an image is the one that is told of it.
    best: dict[tuple[int, str], Finding] = {}
    for row in near[np.argsort(amount[near], kind="stable")]:
        first, second = (int(image) for image in images[pairs[row]])
        detail = f"differs by {100 * amount[row]:.1f} % from"
        if labels[first] == labels[second]:
            kind = "near duplicate"
            best.setdefault((second, kind), (second, kind, first, detail))
        else:
            kind = "near duplicate across identities"
            best.setdefault((first, kind), (first, kind, second, detail))
            best.setdefault((second, kind), (second, kind, first, detail))
    return list(best.values())
