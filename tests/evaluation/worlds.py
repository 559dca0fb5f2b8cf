"""People with images, and what all their pairs say by the plainest loops, in float64."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def world(
    sizes: list[int], seed: int = 0, noise: float = 0.9, size: int = 12
) -> tuple[Floats, Labels]:
    """Embeddings (N, `size`) around people who have so many images, in mixed order."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    people = rng.normal(size=(len(sizes), size))
    return people[labels] + noise * rng.normal(size=(labels.size, size)), labels


class EveryPair:
    """All pairs as lists: scores, people and weights, each person drawn so many times.

    Args:
        embeddings: (N, D).
        labels: (N,) numbers from 0, all of them there.
        other: (N, D) of the second side, for ordered pairs; None for one side.
    """

    def __init__(self, embeddings: Floats, labels: Labels, other: Floats | None = None) -> None:
        first = embeddings / np.linalg.norm(embeddings, axis=1)[:, None]
        second = first if other is None else other / np.linalg.norm(other, axis=1)[:, None]
        images = np.bincount(labels)
        self.people = images.size
        self.genuine: list[tuple[float, int]] = []
        self.impostor: list[tuple[float, int, int, float]] = []
        for i in range(labels.size):
            for j in range(labels.size):
                if i == j or (other is None and j < i):
                    continue
                a, b = int(labels[i]), int(labels[j])
                score = float(first[i] @ second[j])
                if a == b:
                    self.genuine.append((score, a))
                else:
                    self.impostor.append((score, a, b, 1 / (images[a] * images[b])))
        self.pairs_of = np.bincount([a for _, a in self.genuine], minlength=self.people)
        self._genuine, self._impostor = np.array(self.genuine).T, np.array(self.impostor).T

    def weights(self, drawn: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Scores and weights of the genuine, then of the impostor pairs."""
        score, person = self._genuine
        other_score, first, second, each = self._impostor
        genuine = (drawn / np.maximum(self.pairs_of, 1))[person.astype(np.int64)]
        both = drawn[first.astype(np.int64)] * drawn[second.astype(np.int64)]
        return score, genuine, other_score, both * each

    def tar(self, far: float, drawn: Floats) -> float:
        """The TAR at the lowest threshold with at most this FAR."""
        genuine, weight, impostor, other = self.weights(drawn)
        best = 0.0
        for threshold in np.append(impostor, impostor.max() + 1):
            above = impostor >= threshold
            if other[above].sum() <= far * other.sum() * (1 + 1e-12):
                # As low as it may be: just above the next impostor.
                kept_out = impostor[~above].max(initial=-2.0)
                best = max(best, weight[genuine > kept_out].sum() / weight.sum())
        return best

    def auc(self, drawn: Floats) -> float:
        """Share of pairs of pairs in the right order, equal ones by half."""
        genuine, weight, impostor, other = self.weights(drawn)
        more = (genuine[:, None] > impostor) + 0.5 * (genuine[:, None] == impostor)
        return float(weight @ more @ other / weight.sum() / other.sum())

    def eer(self, drawn: Floats) -> float:
        """Half of false accepts and misses at the threshold where they are nearest."""
        genuine, weight, impostor, other = self.weights(drawn)
        scores = np.concatenate([genuine, impostor])
        order = np.argsort(-scores)
        missed = 1 - np.cumsum(np.append(weight / weight.sum(), 0 * other)[order])
        false = np.cumsum(np.append(0 * weight, other / other.sum())[order])
        at = np.abs(missed - false).argmin()
        return float(missed[at] + false[at]) / 2

    def person_threshold(self, person: int, far: float) -> float:
        """The highest score of the person with others that must be kept out."""
        mine = [(s, w) for s, a, b, w in self.impostor if a == person or b == person]
        scores, weights = map(np.array, zip(*sorted(mine, reverse=True), strict=True))
        over = np.cumsum(weights) > far * (self.people - 1) * (1 + 1e-12)
        return float(scores[over.argmax()])
