"""How often the intervals of a study hold the truth, in worlds whose truth is known.

A world is a sample of people, with one to six images each, and runs of two arms with a few seeds. A
run sees faces through a random linear map, the same for both arms of a seed, which stands for what
training with another seed changes; the second arm sees them less clearly. The truth of an arm is
the mean over 100 further seeds, each on 1,000 further people. The TPIR depends on how many people
the gallery has, so its truth is the mean over the worlds.

    python -m scripts.study_coverage --worlds 200

prints a table; docs/evaluation.md has the lines of one and of five seeds.
"""

import argparse
from collections import defaultdict
from functools import cache

import numpy as np
import numpy.typing as npt

from centerarc.evaluation import AllPairs, measured, score_all_pairs, summarize_arms

Floats = npt.NDArray[np.float64]
FARS, FPIR = (1e-2, 1e-3), 0.1
NAMES = ("tar@0.01", "tar@0.001", "auc", "tpir@0.1")
ARMS = ("a", "b")
_NUMBERS, _GROUPS, _SIZES = 24, 50, (1, 1, 1, 2, 3, 6)
_NOISE, _SPREAD, _BLUR = 0.9, 0.35, 0.4
# People, seeds, and how far a seed's map is from the identity: what another seed changes.
CASES = ((150, 1, 0.0), (150, 3, 0.3), (150, 5, 0.3))


class People:
    """A sample of the population with their images, (N, 24), and whose they are, (N,)."""

    def __init__(self, rng: np.random.Generator, count: int) -> None:
        groups = np.random.default_rng(99).normal(size=(_GROUPS, _NUMBERS))
        center = (
            rng.normal(size=(count, _NUMBERS)) + 0.45 * groups[rng.integers(_GROUPS, size=count)]
        )
        self.labels = np.repeat(np.arange(count), rng.choice(_SIZES, size=count))
        scatter = _NOISE * np.exp(_SPREAD * rng.normal(size=(count, 1)))
        noise = rng.normal(size=(self.labels.size, _NUMBERS))
        self.images = center[self.labels] + scatter[self.labels] * noise

    def runs(self, rng: np.random.Generator, seed_noise: float) -> dict[str, AllPairs]:
        """What one seed gives in each arm."""
        seen = np.eye(_NUMBERS) + seed_noise / _NUMBERS**0.5 * rng.normal(size=(_NUMBERS,) * 2)
        found = {}
        for arm, blur in zip(ARMS, (0.0, _BLUR), strict=True):
            images = self.images + blur * rng.normal(size=self.images.shape)
            found[arm] = score_all_pairs(images @ seen, self.labels, person_far=0.1)
        return found


def _values(record: AllPairs) -> Floats:
    found = measured(record, FARS, FPIR)
    return np.array([found[name] for name in NAMES], dtype=np.float64)


@cache
def truth(seed_noise: float, seeds: int = 100) -> Floats:
    """The measures of each arm, (2, R), as means over seeds and people."""
    rows = []
    for seed in range(seeds):
        rng = np.random.default_rng([7, seed])
        found = People(rng, 1000).runs(rng, seed_noise)
        rows.append([_values(found[arm]) for arm in ARMS])
    return np.mean(rows, axis=0)


def coverage(
    people: int, seeds: int, seed_noise: float, worlds: int, true: Floats
) -> dict[str, tuple[float, float]]:
    """By measure, the share of worlds whose intervals hold the truth: the first arm's value, and
    the difference of the second. The measures of each arm, (2, R), are `true`."""
    reached: dict[str, list[tuple[Floats, Floats]]] = defaultdict(list)
    for world in range(worlds):
        rng = np.random.default_rng([people, seeds, world])
        sample = People(rng, people)
        runs = [sample.runs(rng, seed_noise) for _ in range(seeds)]
        arms = {arm: {seed: run[arm] for seed, run in enumerate(runs)} for arm in ARMS}
        found = summarize_arms(arms, fars=FARS, fpir=FPIR, resamples=300, seed=world)
        for name in NAMES:
            mean = found.arms["a"].means[name]
            difference = (found.arms["b"].differences or {})[name]
            values, ends = [], []
            for one in (mean, difference):
                assert one.value is not None
                assert one.interval is not None
                values.append(one.value)
                ends.append([one.interval.low, one.interval.high])
            reached[name].append((np.array(values), np.array(ends)))
    value, other = true
    held = {}
    for at, name in enumerate(NAMES):
        both = np.array([value[at], other[at] - value[at]])
        if name.startswith("tpir"):
            both = np.mean([values for values, _ in reached[name]], axis=0)
        ends = np.stack([each for _, each in reached[name]])
        inside = (ends[..., 0] <= both) & (both <= ends[..., 1])
        first, second = inside.mean(axis=0)
        held[name] = float(first), float(second)
    return held


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=200)
    parser.add_argument("--seeds", type=int, choices=[1, 3, 5], help="only cases with so many")
    given = parser.parse_args()
    cases = [case for case in CASES if given.seeds in (None, case[1])]
    print("| people | seeds | they vary by |" + "".join(f" {name} |" for name in NAMES))
    print("|---" * (3 + len(NAMES)) + "|")
    for people, seeds, noise in cases:
        found = coverage(people, seeds, noise, given.worlds, truth(noise))
        cells = [f"{100 * a:.1f}, {100 * b:.1f}" for a, b in found.values()]
        print(f"| {people} | {seeds} | {noise} |" + "".join(f" {cell} |" for cell in cells))


if __name__ == "__main__":
    main()
