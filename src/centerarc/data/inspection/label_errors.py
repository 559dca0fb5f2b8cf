"""Wrong labels, as far as embeddings show them: another person, two people, two names.

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

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from centerarc.data.inspection.similarity import (
    Alikeness,
    Identities,
    Rows,
    Spread,
    Units,
    evidence,
    probability,
    size_class,
)

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
