"""How well a model tells apart the very people whose labels it judges."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from centerarc.data.inspection.similarity import Identities

# A model of use is near 0.99, and with one label in ten wrong, near 0.94.
_WEAK = 0.9
_OTHERS = 8


@dataclass(frozen=True)
class Judgement:
    """What a model's judgement of labels rests on.

    Args:
        images: Images that were judged: those of people with at least two.
        people: Their people.
        auc: Chance that an image is more like its own person than another image is like a person
            that it does not belong to; 0.5 is no better than a coin.
    """

    images: int
    people: int
    auc: float

    @property
    def too_weak(self) -> bool:
        """Whether the model hardly tells these people apart, so that its word means little."""
        return self.auc < _WEAK

    def summary(self) -> str:
        """Returns one line for the user."""
        line = (
            f"labels judged by the model: {self.images:,} images of {self.people:,} people; it "
            f"tells own from other people in {self.auc:.1%} of comparisons"
        )
        if self.too_weak:
            line += (
                f", under {_WEAK:.0%}: too weak to judge these labels, unless very many are wrong; "
                "do not rely on what it found or did not find"
            )
        return line


def judgement(embeddings: npt.ArrayLike, labels: npt.ArrayLike, *, seed: int = 0) -> Judgement:
    """Measures how well embeddings tell the people of some labels apart.

    The area under the ROC curve of cosines between an image and the center of the other images of
    its person, against those between an image and the centers of 8 people drawn at random.

    Args:
        embeddings: `(N, D)`, any length but 0.
        labels: `(N,)` identity of each image.
        seed: Chooses the other people.

    Returns:
        The measure, over all people with two images.

    Raises:
        ValueError: If fewer than two people have two images, or shapes do not fit.
    """
    people = Identities(embeddings, labels)
    size = people.sizes[people.label]
    rows = np.flatnonzero(size >= 2)
    enough = np.flatnonzero(people.sizes >= 2)
    if len(enough) < 2:
        raise ValueError(f"{len(enough)} people have two images; to tell people apart takes two")
    units, label = people.units[rows].astype(np.float64), people.label[rows]
    sums = people.means.astype(np.float64) * people.sizes[:, None]
    own = _cosine(units, sums[label] - units)
    rng = np.random.default_rng(seed)
    # Never the own person: the position among the others, counted on from the own one.
    position = np.searchsorted(enough, label)
    step = rng.integers(1, len(enough), size=(_OTHERS, len(rows)))
    other = [_cosine(units, sums[enough[(position + s) % len(enough)]]) for s in step]
    return Judgement(len(rows), len(enough), _auc(own, np.concatenate(other)))


def _cosine(
    units: npt.NDArray[np.float64], sums: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    length = np.maximum(np.linalg.norm(sums, axis=1), 1e-12)
    return np.asarray(np.einsum("nd,nd->n", units, sums) / length, dtype=np.float64)


def _auc(positive: npt.NDArray[np.float64], negative: npt.NDArray[np.float64]) -> float:
    """Share of pairs in which the positive is the larger; ties count half."""
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left")
    upto = np.searchsorted(ordered, positive, "right")
    return float((below + upto).mean() / 2 / len(negative))
