"""Images that a model finds under a wrong name."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from centerarc.curate.likeness import (
    Alikeness,
    Identities,
    Rows,
    Spread,
    Units,
    evidence,
    probability,
    size_class,
)

# How well a model tells apart the very people whose labels it judges.

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


# Wrong labels, as far as embeddings show them: another person, two people, two names.
#
# Everything compares mean cosines: s(A, B) is the mean cosine of the pairs between two groups of
# images. Genuine similarities (within identities) and impostor ones (between two) are drawn from
# the data, for groups of 1, 2, 4 and 8 images; each kind is taken for a normal distribution with
# their median and 1.4826 times their median absolute deviation. The evidence of a similarity is
# e(s) = ln p(s | genuine) - ln p(s | impostor). With a chance of 0.01 that a label is wrong, Bayes'
# rule gives the log-odds l, of which the confidence is 1 / (1 + exp(-l)):
#
#     another person, image i of y looks like k   l = e(s(i, k)) - max(e(s(i, y)), ln 0.01) + p
#     two people A, B in one identity             l = -e'(s(A, B)) + ln(0.01 / 0.99)
#     two names a, b of one person                l = e(s(a, b)) + p
#
# where p = ln(0.01 / 0.99) - ln(C - 1) stands for the choice among C - 1 other identities; ln 0.01
# because one image in a hundred shows its own person too badly to speak against it; and e' takes
# its genuine similarities from the best split into two of every identity, which lie lower than
# those of splits by chance, and their deviation from those above the median, as two people in one
# identity lie below it.

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
        other: The label of whom they resemble; of two people, the label itself.
        own_similarity: Mean cosine to the own identity; of two people and two names the mean
            cosine within the images concerned, 1 for a single one.
        other_similarity: Mean cosine to the other identity or group.
        shown: An image to show beside them.
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
        raise ValueError(f"confidence is {confidence}; it must be between 0 and 1, both excluded")
    people = Identities(embeddings, labels)
    groups = people.alikeness(seed, image=False)
    found = [
        *_other_person(people, people.alikeness(seed, image=True), confidence),
        *_two_people(people, groups, confidence),
        *_two_names(people, groups, confidence),
    ]
    kinds = ["other person", "two people", "two names"]
    return sorted(found, key=lambda e: (kinds.index(e.kind), -e.confidence, e.images))


def _other_person(
    people: Identities, alikeness: list[Alikeness], confidence: float
) -> list[LabelError]:
    prior = _LOG_PRIOR - np.log(len(people.names) - 1)
    enough = np.log(confidence / (1 - confidence)) - prior
    size = people.sizes[people.label]
    own_sum = np.einsum("nd,nd->n", people.units, people.means[people.label]) * size
    own = ((own_sum - 1) / np.maximum(size - 1, 1)).astype(np.float64)
    own_evidence = evidence(alikeness, own, size_class(np.maximum(size - 1, 1)))
    own_evidence = np.maximum(own_evidence, _LEAST_OWN_EVIDENCE)
    # Only the few whose own evidence leaves room need the search among all identities.
    most = max(float(a.evidence(1.0)) for a in alikeness)
    worth = np.flatnonzero((size >= 2) & (most - own_evidence >= enough))
    classes = size_class(people.sizes)
    found = []
    step = max(_MAX_BLOCK // len(people.names), 1)
    for rows in (worth[a : a + step] for a in range(0, len(worth), step)):
        similarity = (people.units[rows] @ people.means.T).astype(np.float64)
        odds = evidence(alikeness, similarity, classes)
        odds[np.arange(len(rows)), people.label[rows]] = -np.inf
        best = odds.argmax(axis=1)
        for position, (row, other) in enumerate(zip(rows, best, strict=True)):
            log_odds = odds[position, other] - own_evidence[row]
            if log_odds >= enough and similarity[position, other] > own[row]:
                found.append(
                    LabelError(
                        "other person",
                        (int(row),),
                        int(people.names[people.label[row]]),
                        int(people.names[other]),
                        float(own[row]),
                        float(similarity[position, other]),
                        _closest(people, people.rows(other), people.units[row]),
                        float(probability(log_odds + prior)),
                    )
                )
    return found


def _two_people(
    people: Identities, alikeness: list[Alikeness], confidence: float
) -> list[LabelError]:
    splits = {}
    for identity in np.flatnonzero(people.sizes >= _SPLIT_SIZES[0]).tolist():
        rows = people.rows(identity)
        second = split_in_two(people.units[rows])
        if min(second.sum(), (~second).sum()) >= 2:
            smaller = second if 2 * second.sum() <= len(rows) else ~second
            a, b = rows[smaller], rows[~smaller]
            between = float(people.units[a].mean(axis=0) @ people.units[b].mean(axis=0))
            splits[identity] = (a, b, between)
    if len(splits) < _ENOUGH_SPLITS:
        return []
    found = []
    spreads = _split_spreads(people, {i: split[2] for i, split in splits.items()})
    for identity, (a, b, between) in splits.items():
        of_class = alikeness[int(size_class(min(len(a), len(b))))]
        odds = _LOG_PRIOR - Alikeness(spreads[identity], of_class.impostor).evidence(between)
        within = [_mean_cosine(people.units[group]) for group in (a, b)]
        # Two groups are two people only if each is one: not faces apart from failed crops.
        each_is_one = (alikeness[0].evidence(within) > 0).all()
        if each_is_one and probability(odds) >= confidence:
            name = int(people.names[identity])
            shown = _closest(people, b, people.means[identity])
            found.append(
                LabelError(
                    "two people",
                    tuple(a.tolist()),
                    name,
                    name,
                    within[0],
                    between,
                    shown,
                    float(probability(odds)),
                )
            )
    return found


def _split_spreads(people: Identities, between: dict[int, float]) -> dict[int, Spread]:
    """How alike the two parts of an identity of about its size are, for each identity."""
    every = Spread.of_upper(list(between.values()))
    classes = {i: int(np.searchsorted(_SPLIT_SIZES, people.sizes[i], "right")) for i in between}
    of_class = {}
    for number in set(classes.values()):
        values = [value for i, value in between.items() if classes[i] == number]
        of_class[number] = Spread.of_upper(values) if len(values) >= _ENOUGH_SPLITS else every
    return {i: of_class[number] for i, number in classes.items()}


def split_in_two(units: Units) -> npt.NDArray[np.bool_]:
    """Splits unit vectors into the two groups that are least alike: 2-means on the sphere.

    Starts from the vector that is least like the mean and the one least like that.

    Args:
        units: `(n, D)`, n at least 2.

    Returns:
        `(n,)` bool, who is in the second group.
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


def _two_names(
    people: Identities, alikeness: list[Alikeness], confidence: float
) -> list[LabelError]:
    count = len(people.names)
    prior = _LOG_PRIOR - np.log(count - 1)
    enough = np.log(confidence / (1 - confidence)) - prior
    classes = size_class(people.sizes)
    least = np.array([_least_similarity(a, enough) for a in alikeness])
    best: dict[int, tuple[float, float, int]] = {}
    step = max(_MAX_BLOCK // count, 1)
    for start in range(0, count, step):
        similarity = people.means[start : start + step] @ people.means[start:].T
        # A pair is judged by its smaller identity; the class with most images asks for least.
        for i, j in zip(*np.nonzero(similarity >= least.min()), strict=True):
            if j <= i:
                continue
            a, b = int(start + i), int(start + j)
            number = min(classes[a], classes[b])
            value = float(similarity[i, j])
            odds = float(alikeness[number].evidence(value))
            # Of two equal ones the later goes, as the later copy of a picture does.
            small, large = (a, b) if people.sizes[a] < people.sizes[b] else (b, a)
            if odds >= enough and (odds, value, -large) > best.get(small, (0.0, 0.0, 0)):
                best[small] = (odds, value, -large)
    found = []
    for small, (odds, value, negative) in best.items():
        large = -negative
        rows = people.rows(small)
        found.append(
            LabelError(
                "two names",
                tuple(rows.tolist()),
                int(people.names[small]),
                int(people.names[large]),
                _mean_cosine(people.units[rows]) if len(rows) > 1 else 1.0,
                value,
                _closest(people, people.rows(large), people.means[small]),
                float(probability(odds + prior)),
            )
        )
    return found


def _least_similarity(alikeness: Alikeness, enough: float) -> float:
    """The least similarity with so much evidence; infinite if none has it."""
    grid = np.linspace(alikeness.impostor.middle, alikeness.genuine.middle, 2001)
    above = np.flatnonzero(alikeness.evidence(grid) >= enough)
    return float(grid[max(above[0] - 1, 0)]) if above.size else np.inf


def _mean_cosine(units: Units) -> float:
    """Mean cosine of the pairs of different rows."""
    total, size = units.sum(axis=0, dtype=np.float64), len(units)
    return float((total @ total - size) / (size * (size - 1)))


def _closest(people: Identities, rows: Rows, unit: Units) -> int:
    return int(rows[(people.units[rows] @ unit).argmax()])
