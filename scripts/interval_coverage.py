"""How often 95% intervals over people hold the truth, in worlds whose truth is known.

A world is a sample of people of a population of faces: each person has a center near that of one
of 50 groups (families, origins), and images that scatter around it, more for some people than for
others. A second model sees the same images less clearly. The truth comes from 200,000 people and
8 million impostor pairs.

    python -m scripts.interval_coverage --worlds 1000

prints the table of docs/evaluation.md.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from functools import cache

import numpy as np
import numpy.typing as npt

from centerarc.evaluation import (
    Interval,
    compare_with_first,
    evaluate_verification,
    kfold_accuracy,
)

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
FARS = (0.01, 0.001)
RATES = ("accuracy", "AUC", "EER", *(f"TAR at FAR {far:.1%}" for far in FARS))
_NUMBERS, _IMAGES, _GROUPS, _FOLDS = 24, 4, 50, 10
# Noise of the images, and what the second model sees of more.
_NOISE, _SPREAD, _BLUR = 0.9, 0.35, 0.5


class Sample:
    """Pairs of some people.

    Args:
        seed: of the drawing.
        people: how many.
        per_person: impostor pairs of each; None for one of every two people.
        noise: how far images lie from their person.

    Attributes:
        same, fold: (P,) of each pair; genuine pairs are all those of a person's four images.
        people: first and second person of each pair.
        scores: (P,) of each model.
    """

    def __init__(
        self, seed: int, people: int, per_person: int | None, noise: float = _NOISE
    ) -> None:
        rng = np.random.default_rng(seed)
        groups = np.random.default_rng(99).normal(size=(_GROUPS, _NUMBERS))
        center = (
            rng.normal(size=(people, _NUMBERS)) + 0.45 * groups[rng.integers(_GROUPS, size=people)]
        )
        scatter = noise * np.exp(_SPREAD * rng.normal(size=(people, 1, 1)))
        images = center[:, None] + scatter * rng.normal(size=(people, _IMAGES, _NUMBERS))
        a, b = np.triu_indices(_IMAGES, 1)
        who = np.repeat(np.arange(people), a.size)
        if per_person is None:
            first, second = np.triu_indices(people, 1)
        else:
            first = np.repeat(np.arange(people), per_person // 2)
            second = (first + rng.integers(1, people, size=first.size)) % people
        faces = rng.integers(_IMAGES, size=(2, first.size))
        sides = (
            (np.append(who, first), np.append(np.tile(a, people), faces[0])),
            (np.append(who, second), np.append(np.tile(b, people), faces[1])),
        )
        self.same = np.arange(who.size + first.size) < who.size
        self.people = sides[0][0], sides[1][0]
        self.fold = np.empty(self.same.size, dtype=np.int64)
        for kind in (self.same, ~self.same):
            self.fold[kind] = rng.permutation(np.count_nonzero(kind)) % _FOLDS
        self.scores = []
        for blur in (0.0, _BLUR):
            seen = images + blur * rng.normal(size=images.shape)
            seen /= np.linalg.norm(seen, axis=-1, keepdims=True)
            parts = np.array_split(np.arange(self.same.size), 1 + self.same.size // 1_000_000)
            found = [
                np.einsum("pd,pd->p", *(seen[who[part], face[part]] for who, face in sides))
                for part in parts
            ]
            self.scores.append(np.concatenate(found))


@cache
def truth(noise: float, population: int) -> list[tuple[Floats, Floats]]:
    """The sorted genuine and impostor scores of each model among very many people."""
    everyone = Sample(12_345, population, 80, noise)
    return [(np.sort(s[everyone.same]), np.sort(s[~everyone.same])) for s in everyone.scores]


@cache
def true_rates(noise: float, population: int) -> Floats:
    """AUC, EER and TARs of each model, (2, R - 1)."""
    rows = []
    for genuine, impostor in truth(noise, population):
        at = np.linspace(-0.2, 0.95, 5001)
        far = 1 - np.searchsorted(impostor, at) / impostor.size
        frr = np.searchsorted(genuine, at) / genuine.size
        equal = int(np.argmin(np.abs(far - frr)))
        area = float(np.searchsorted(impostor, genuine).mean() / impostor.size)
        levels = [np.quantile(impostor, 1 - limit) for limit in FARS]
        tars = [1 - np.searchsorted(genuine, level) / genuine.size for level in levels]
        rows.append([area, (far[equal] + frr[equal]) / 2, *tars])
    return np.array(rows)


def true_accuracies(sample: Sample, noise: float, population: int) -> Floats:
    """What the thresholds of a sample's folds are worth among everyone, for each model, (2,)."""
    share, found = sample.same.mean(), []
    for scores, (genuine, impostor) in zip(sample.scores, truth(noise, population), strict=True):
        at = kfold_accuracy(scores, sample.same, sample.fold).threshold
        tar = 1 - np.searchsorted(genuine, at) / genuine.size
        rejected = np.searchsorted(impostor, at) / impostor.size
        found.append(np.mean(share * tar + (1 - share) * rejected))
    return np.array(found)


def intervals_of(sample: Sample) -> Iterator[tuple[str, Interval | None, bool]]:
    """Yield the name of each rate or difference, its interval, and whether it is called thin."""
    one, other = sample.scores
    report = evaluate_verification(one, sample.same, sample.fold, sample.people)
    found = compare_with_first(
        {"one": one, "other": other}, sample.same, sample.fold, sample.people
    )["other"]
    for prefix, result in (("", report), ("difference of ", found)):
        tars = [result.tar_at_far[far] for far in FARS]
        for name, rate in zip(RATES, [result.accuracy, result.auc, result.eer, *tars], strict=True):
            yield prefix + name, rate.interval, rate.thin is not None


def coverage(
    people: int,
    per_person: int | None,
    worlds: int,
    *,
    noise: float = _NOISE,
    population: int = 200_000,
) -> dict[str, tuple[float, float]]:
    """By rate, the share of worlds whose interval holds the truth, and of those it is thin in."""
    held = defaultdict(list)
    for world in range(worlds):
        sample = Sample(world, people, per_person, noise)
        accuracies = true_accuracies(sample, noise, population)
        first, second = np.column_stack([accuracies, true_rates(noise, population)])
        true = dict(zip(RATES, first, strict=True))
        changes = zip(RATES, second - first, strict=True)
        true |= {f"difference of {name}": change for name, change in changes}
        for name, interval, thin in intervals_of(sample):
            if interval is not None:
                held[name].append((interval.low <= true[name] <= interval.high, thin))
    return {name: tuple(np.mean(found, axis=0).tolist()) for name, found in held.items()}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Coverage of 95% intervals over people.")
    parser.add_argument("--worlds", type=int, default=1000, help="of each row")
    parser.add_argument("--noise", type=float, default=_NOISE, help="of the images")
    given = parser.parse_args()
    print("| people | impostor pairs |", " | ".join(RATES), "|")
    print("|---|---|" + "---|" * len(RATES))
    for people in (40, 100, 300):
        for per_person in (20, 60, None):
            found = coverage(people, per_person, given.worlds, noise=given.noise)
            cells = []
            for name in RATES:
                if name not in found:
                    cells.append("-")
                    continue
                (rate, thin), (difference, _) = found[name], found[f"difference of {name}"]
                noted = " (noted)" if thin > 0.5 else ""
                cells.append(f"{100 * rate:.1f}, {100 * difference:.1f}{noted}")
            pairs = "every two people" if per_person is None else f"{per_person} a person"
            print(f"| {people} | {pairs} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
