"""Labels that a model finds wrong, and how far the model can be trusted.

Everything compares mean cosines: s(A, B) is the mean cosine of the pairs between two groups of
images. Genuine similarities (within identities) and impostor ones (between two) are drawn from
the data, for groups of 1, 2, 4 and 8 images; each kind is taken for a normal distribution with
their median and 1.4826 times their median absolute deviation. The evidence of a similarity is
e(s) = ln p(s | genuine) - ln p(s | impostor). With a chance of 0.01 that a label is wrong, Bayes'
rule gives the log-odds l, of which the confidence is 1 / (1 + exp(-l)):

    another person, image i of y looks like k   l = e(s(i, k)) - max(e(s(i, y)), ln 0.01) + p
    two people A, B in one identity             l = -e'(s(A, B)) + ln(0.01 / 0.99)
    two names a, b of one person                l = e(s(a, b)) + p

where p = ln(0.01 / 0.99) - ln(C - 1) stands for the choice among C - 1 other identities; ln 0.01
because one image in a hundred shows its own person too badly to speak against it; and e' takes
its genuine similarities from the best split into two of every identity, which lie lower than
those of splits by chance, and their deviation from those above the median, as two people in one
identity lie below it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Units = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

# How alike images of one person and of two people are, learned from the data themselves.

_MAD_TO_SIGMA = 1.4826
_LEAST_SIGMA = 0.01
# Sizes of groups for which similarities are measured; larger groups count as the largest.
_GROUP_SIZES = (1, 2, 4, 8)
_DRAWS = 1500
_ENOUGH_PEOPLE = 20


class _Spread(NamedTuple):
    """Where most similarities of one kind lie: median and 1.4826 times the median deviation.

    Both ignore up to half of the values, so mistakes in the data hardly move them.
    """

    middle: float
    sigma: float

    @classmethod
    def of(cls, values: npt.ArrayLike, *, upper: bool = False) -> "_Spread":
        """Measures it; `upper` by the values above the median, where mistakes lie below it."""
        array = np.asarray(values, dtype=np.float64)
        middle = float(np.median(array))
        far = np.abs((array[array >= middle] if upper else array) - middle)
        return cls(middle, max(_MAD_TO_SIGMA * float(np.median(far)), _LEAST_SIGMA))

    def log_density(self, values: Floats) -> Floats:
        """The logarithm of the normal density, without its constant."""
        z = (values - self.middle) / self.sigma
        return np.asarray(-0.5 * z**2 - np.log(self.sigma))


class _Alikeness(NamedTuple):
    """Similarities between images, or groups of images, of one person and of two."""

    genuine: _Spread
    impostor: _Spread

    def evidence(self, similarity: npt.ArrayLike) -> Floats:
        """e(s) = ln p(s | one person) - ln p(s | two people); rises with s.

        Beyond the middle of either kind there is no more evidence than there. Of a model that
        tells no one apart, whose middles lie the wrong way round, nothing is evidence.
        """
        low, high = self.impostor.middle, self.genuine.middle
        values = np.asarray(similarity, dtype=np.float64)
        if low >= high:
            return np.zeros_like(values)
        inside = np.clip(values, low, high)
        return self.genuine.log_density(inside) - self.impostor.log_density(inside)


class _People:
    """Unit embeddings (N, D) grouped by identity.

    `names` has the C labels, ascending, `label` each image's position there; `rows`, `sizes` and
    `means` have the images of each identity, their number and the mean of their units.
    """

    def __init__(self, embeddings: npt.ArrayLike, labels: npt.ArrayLike) -> None:
        values = np.asarray(embeddings, dtype=np.float32)
        if values.ndim != 2:
            raise ValueError(f"embeddings must have shape (N, D), got {values.shape}")
        length = np.linalg.norm(values, axis=1, keepdims=True)
        bad = np.flatnonzero(~(np.isfinite(length[:, 0]) & (length[:, 0] > 0)))
        if bad.size:
            raise ValueError(
                f"embeddings must be finite and longer than 0; row {bad[0]} has length "
                f"{length[bad[0], 0]}"
            )
        self.units: Units = np.asarray(values / length, dtype=np.float32)
        given = np.asarray(labels)
        if given.shape != (len(values),):
            raise ValueError(
                f"labels must have shape ({len(values)},), one for each embedding, got "
                f"{given.shape}"
            )
        self.names, self.label, self.sizes = np.unique(
            given, return_inverse=True, return_counts=True
        )
        order = np.argsort(self.label, kind="stable")
        ends = np.cumsum(self.sizes)
        self.rows: list[Rows] = np.split(order, ends[:-1])
        sums = np.add.reduceat(self.units[order], ends - self.sizes, axis=0)
        self.means: Units = (sums / self.sizes[:, None]).astype(np.float32)

    def alikeness(self, seed: int, *, image: bool) -> list[_Alikeness]:
        """Measures how alike groups are, for each of `_GROUP_SIZES`, by 1,500 pairs of each kind.

        Compares one image with a group, or two groups of the size. Where fewer than 20 identities
        have enough images, the size before it counts.
        """
        found: list[_Alikeness] = []
        for size in _GROUP_SIZES:
            rng = np.random.default_rng((seed, size, int(image)))
            one = 1 if image else size
            enough = np.flatnonzero(self.sizes >= one + size)
            if len(enough) < _ENOUGH_PEOPLE:
                if not found:
                    raise ValueError(_too_few_people(len(enough)))
                found.append(found[-1])
                continue
            genuine, impostor = [], []
            large = np.flatnonzero(self.sizes >= size)
            for _ in range(_DRAWS):
                rows = rng.choice(
                    self.rows[enough[rng.integers(len(enough))]], one + size, replace=False
                )
                genuine.append(self._similarity(rows[:one], rows[one:]))
                a, b = rng.integers(len(large)), rng.integers(1, len(large))
                first, second = large[a], large[(a + b) % len(large)]
                impostor.append(
                    self._similarity(
                        rng.choice(self.rows[first], one, replace=False),
                        rng.choice(self.rows[second], size, replace=False),
                    )
                )
            found.append(_Alikeness(_Spread.of(genuine), _Spread.of(impostor)))
        return found

    def _similarity(self, first: Rows, second: Rows) -> float:
        return float(self.units[first].mean(axis=0) @ self.units[second].mean(axis=0))

    def closest(self, rows: Rows, unit: Units) -> int:
        """The image of some that is most like a vector."""
        return int(rows[(self.units[rows] @ unit).argmax()])


def _too_few_people(number: int) -> str:
    return (
        f"only {number} identities have two readable images; to learn from the data how alike "
        f"images of one person are takes at least {_ENOUGH_PEOPLE}"
    )


def check_enough_people(labels: npt.ArrayLike) -> None:
    """Raises `ValueError` where too few identities have two images to judge labels by a model.

    Args:
        labels: `(N,)` identity of each image.
    """
    _, counts = np.unique(np.asarray(labels), return_counts=True)
    if (number := int((counts >= 2).sum())) < _ENOUGH_PEOPLE:
        raise ValueError(_too_few_people(number))


def _size_class(sizes: npt.ArrayLike) -> Rows:
    """The position in `_GROUP_SIZES` of the largest size that is not above each size."""
    return np.searchsorted(_GROUP_SIZES, np.asarray(sizes), side="right") - 1


def _evidence(alikeness: Sequence[_Alikeness], similarity: Floats, classes: Rows) -> Floats:
    """e(s) of `(..., C)` similarities, with the alikeness of each column's size class."""
    result = np.empty(similarity.shape)
    for number in np.unique(classes):
        columns = classes == number
        result[..., columns] = alikeness[number].evidence(similarity[..., columns])
    return result


def _probability(log_odds: float) -> float:
    """1 / (1 + exp(-x)) without overflow."""
    return float(0.5 * (1 + np.tanh(0.5 * log_odds)))


# How well a model tells apart the very people whose labels it judges.

# A useful model is near 0.99, and with one label in ten wrong, near 0.94.
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
    people = _People(embeddings, labels)
    rows = np.flatnonzero(people.sizes[people.label] >= 2)
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
    others = [_cosine(units, sums[enough[(position + s) % len(enough)]]) for s in step]
    # The share of pairs in which the own person is the more alike; ties count half.
    ordered = np.sort(np.concatenate(others))
    below = np.searchsorted(ordered, own, "left") + np.searchsorted(ordered, own, "right")
    return Judgement(len(rows), len(enough), float(below.mean() / 2 / len(ordered)))


def _cosine(units: Floats, sums: Floats) -> Floats:
    length = np.maximum(np.linalg.norm(sums, axis=1), 1e-12)
    return np.asarray(np.einsum("nd,nd->n", units, sums) / length)


# Wrong labels, as far as embeddings show them.

CONFIDENCE = 0.9
_LOG_PRIOR = float(np.log(0.01 / 0.99))
_LEAST_OWN_EVIDENCE = float(np.log(0.01))
_MAX_BLOCK = 1 << 22  # similarities at once: 32 MB
_SPLIT_ROUNDS = 10
_ENOUGH_SPLITS = 20
# Identities with fewer images split so freely that they are measured apart.
_SPLIT_SIZES = (4, 8, 16)


@dataclass(frozen=True)
class LabelError:
    """A label that seems to be wrong.

    Args:
        kind: "other person", "two people" or "two names".
        images: The images concerned: the one image, the smaller group, the smaller identity.
        identity: Their label.
        other: The label of the person they resemble; of two people, the label itself.
        own_similarity: Mean cosine to the own identity; of two people and two names the mean
            cosine within the images concerned, 1 for a single one.
        other_similarity: Mean cosine to the other identity or group.
        shown: An image to show with them.
        confidence: Chance that it is as said; see the module.
    """

    kind: str
    images: tuple[int, ...]
    identity: int
    other: int
    own_similarity: float
    other_similarity: float
    shown: int
    confidence: float


def find_label_errors(
    embeddings: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> list[LabelError]:
    """Finds labels that embeddings speak against; see the module for the formulas.

    Takes O(N D) for the first two kinds but for the few images unlike their identity, and
    O(C^2 D) time for the third; O(N D + C D) memory and 32 MB.

    Args:
        embeddings: `(N, D)`, any length but 0.
        labels: `(N,)` identity of each, any whole numbers.
        confidence: Report findings of at least this confidence, in (0, 1).
        seed: Chooses the pairs from which genuine and impostor similarities are learned.

    Returns:
        By kind, the surest first.

    Raises:
        ValueError: If fewer than 20 identities have two images, shapes do not fit, an embedding
            is not finite or has no length, or `confidence` is out of range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    people = _People(embeddings, labels)
    groups = people.alikeness(seed, image=False)
    found = [
        *_other_person(people, people.alikeness(seed, image=True), confidence),
        *_two_people(people, groups, confidence),
        *_two_names(people, groups, confidence),
    ]
    kinds = ["other person", "two people", "two names"]
    return sorted(found, key=lambda e: (kinds.index(e.kind), -e.confidence, e.images))


def _other_person(
    people: _People, alikeness: list[_Alikeness], confidence: float
) -> list[LabelError]:
    prior = _LOG_PRIOR - np.log(len(people.names) - 1)
    enough = np.log(confidence / (1 - confidence)) - prior
    size = people.sizes[people.label]
    own_sum = np.einsum("nd,nd->n", people.units, people.means[people.label]) * size
    own = ((own_sum - 1) / np.maximum(size - 1, 1)).astype(np.float64)
    own_evidence = _evidence(alikeness, own, _size_class(np.maximum(size - 1, 1)))
    own_evidence = np.maximum(own_evidence, _LEAST_OWN_EVIDENCE)
    # Only the few whose own evidence leaves room need the search among all identities.
    most = max(float(a.evidence(1.0)) for a in alikeness)
    worth = np.flatnonzero((size >= 2) & (most - own_evidence >= enough))
    classes = _size_class(people.sizes)
    found = []
    step = max(_MAX_BLOCK // len(people.names), 1)
    for rows in (worth[a : a + step] for a in range(0, len(worth), step)):
        similarity = (people.units[rows] @ people.means.T).astype(np.float64)
        odds = _evidence(alikeness, similarity, classes)
        odds[np.arange(len(rows)), people.label[rows]] = -np.inf
        best = odds.argmax(axis=1)
        for position, (row, other) in enumerate(zip(rows, best, strict=True)):
            log_odds = odds[position, other] - own_evidence[row]
            if log_odds >= enough and similarity[position, other] > own[row]:
                found.append(
                    LabelError(
                        "other person",
                        images=(int(row),),
                        identity=int(people.names[people.label[row]]),
                        other=int(people.names[other]),
                        own_similarity=float(own[row]),
                        other_similarity=float(similarity[position, other]),
                        shown=people.closest(people.rows[other], people.units[row]),
                        confidence=_probability(log_odds + prior),
                    )
                )
    return found


def _two_people(
    people: _People, alikeness: list[_Alikeness], confidence: float
) -> list[LabelError]:
    splits = {}
    for identity in np.flatnonzero(people.sizes >= _SPLIT_SIZES[0]).tolist():
        rows = people.rows[identity]
        second = split_in_two(people.units[rows])
        if min(second.sum(), (~second).sum()) >= 2:
            smaller = second if 2 * second.sum() <= len(rows) else ~second
            a, b = rows[smaller], rows[~smaller]
            between = float(people.units[a].mean(axis=0) @ people.units[b].mean(axis=0))
            splits[identity] = (a, b, between)
    if len(splits) < _ENOUGH_SPLITS:
        return []
    # How alike the two parts of an identity of about its size are.
    classes = {i: int(np.searchsorted(_SPLIT_SIZES, people.sizes[i], "right")) for i in splits}
    every = [between for _, _, between in splits.values()]
    spreads = {}
    for number in set(classes.values()):
        values = [between for i, (_, _, between) in splits.items() if classes[i] == number]
        spreads[number] = _Spread.of(values if len(values) >= _ENOUGH_SPLITS else every, upper=True)
    found = []
    for identity, (a, b, between) in splits.items():
        of_class = alikeness[int(_size_class(min(len(a), len(b))))]
        genuine = spreads[classes[identity]]
        odds = float(_LOG_PRIOR - _Alikeness(genuine, of_class.impostor).evidence(between))
        within = [_mean_cosine(people.units[group]) for group in (a, b)]
        # Two groups are two people only if each is one: not faces apart from failed crops.
        each_is_one = (alikeness[0].evidence(within) > 0).all()
        if each_is_one and _probability(odds) >= confidence:
            name = int(people.names[identity])
            found.append(
                LabelError(
                    "two people",
                    images=tuple(a.tolist()),
                    identity=name,
                    other=name,
                    own_similarity=within[0],
                    other_similarity=between,
                    shown=people.closest(b, people.means[identity]),
                    confidence=_probability(odds),
                )
            )
    return found


def split_in_two(units: Units) -> npt.NDArray[np.bool_]:
    """Splits unit vectors into the two groups that are least alike: 2-means on the sphere.

    Starts from the vector that is least like the mean and the one least like that. Returns who is
    in the second group.
    """
    first = units[(units @ units.mean(axis=0)).argmin()]
    second = units[(units @ first).argmin()]
    group = units @ second > units @ first
    for _ in range(_SPLIT_ROUNDS):
        if group.all() or not group.any():
            break
        centers = [units[part].sum(axis=0) for part in (~group, group)]
        first, second = (center / max(np.linalg.norm(center), 1e-12) for center in centers)
        following = units @ second > units @ first
        if (following == group).all():
            break
        group = following
    return np.asarray(group, dtype=np.bool_)


def _two_names(people: _People, alikeness: list[_Alikeness], confidence: float) -> list[LabelError]:
    count = len(people.names)
    prior = _LOG_PRIOR - np.log(count - 1)
    enough = np.log(confidence / (1 - confidence)) - prior
    classes = _size_class(people.sizes)
    least = min(_least_similarity(a, enough) for a in alikeness)
    best: dict[int, tuple[float, float, int]] = {}
    step = max(_MAX_BLOCK // count, 1)
    for start in range(0, count, step):
        similarity = people.means[start : start + step] @ people.means[start:].T
        # A pair is judged by its smaller identity; the class with most images asks for least.
        for i, j in zip(*np.nonzero(similarity >= least), strict=True):
            if j <= i:
                continue
            a, b = int(start + i), int(start + j)
            value = float(similarity[i, j])
            odds = float(alikeness[min(classes[a], classes[b])].evidence(value))
            # Of two equal ones the later goes, as the later copy of a picture does.
            small, large = (a, b) if people.sizes[a] < people.sizes[b] else (b, a)
            if odds >= enough and (odds, value, -large) > best.get(small, (0.0, 0.0, 0)):
                best[small] = (odds, value, -large)
    found = []
    for small, (odds, value, negative) in best.items():
        rows, large = people.rows[small], -negative
        found.append(
            LabelError(
                "two names",
                images=tuple(rows.tolist()),
                identity=int(people.names[small]),
                other=int(people.names[large]),
                own_similarity=_mean_cosine(people.units[rows]) if len(rows) > 1 else 1.0,
                other_similarity=value,
                shown=people.closest(people.rows[large], people.means[small]),
                confidence=_probability(odds + prior),
            )
        )
    return found


def _least_similarity(alikeness: _Alikeness, enough: float) -> float:
    """The least similarity with so much evidence; infinite if none has it."""
    grid = np.linspace(alikeness.impostor.middle, alikeness.genuine.middle, 2001)
    above = np.flatnonzero(alikeness.evidence(grid) >= enough)
    return float(grid[max(above[0] - 1, 0)]) if above.size else np.inf


def _mean_cosine(units: Units) -> float:
    """Mean cosine of the pairs of different rows."""
    total, size = units.sum(axis=0, dtype=np.float64), len(units)
    return float((total @ total - size) / (size * (size - 1)))
