"""The scores of a run on a set of a study, in a file, and the measures that they make."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from centerarc.data.source import FaceSource, chosen_people, open_source
from centerarc.data.synthetic.source import SyntheticFaces
from centerarc.data.views import subset
from centerarc.evaluation.all_pair_scores import score_all_pairs
from centerarc.evaluation.all_pairs import AllPairs
from centerarc.evaluation.all_pairs_report import AllPairsSettings
from centerarc.evaluation.embedding import pair_scores
from centerarc.evaluation.files.pair_set import open_pair_set, read_named_pairs
from centerarc.evaluation.intervals import rate_key
from centerarc.evaluation.protocols.all_pairs import evaluate_all_pairs
from centerarc.evaluation.protocols.subject import ModelSubject
from centerarc.evaluation.scores import BoolArray, FloatArray, IntArray
from centerarc.evaluation.seeds import measured
from centerarc.evaluation.verification import ScoredPairs
from centerarc.io.files import atomic_path, read_arrays
from centerarc.training.judged import DrawnPeople, StudySet

# Measures by name, such as "tar@0.001"; each in [0, 1].
Measures = dict[str, float]


@dataclass(frozen=True, eq=False)
class ListedScores:
    """The scores of listed pairs.

    Args:
        score: `(P,)` cosine of each pair.
        same: `(P,)` whether both images show one person.
        fold: `(P,)` each pair's fold.
        first, second: `(P,)` number of the person on each image; of pairs without people, -1.
    """

    score: FloatArray
    same: BoolArray
    fold: IntArray
    first: IntArray
    second: IntArray

    def judged(self) -> ScoredPairs:
        """The scores with their accuracy by folds, and by a threshold of their own without."""
        return ScoredPairs(self.score, self.same, self.fold, "exact", ())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the arrays to an `.npz` file, complete or not at all."""
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **vars(self))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ListedScores":
        """Reads what `save` wrote.

        Raises:
            ValueError: If there is no such file, or it is damaged or something else.
        """
        arrays = read_arrays(path)
        wanted = {"score": "f", "same": "b", "fold": "i", "first": "i", "second": "i"}
        sizes = {arrays[name].shape for name in wanted if name in arrays}
        if (
            arrays.keys() != wanted.keys()
            or len(sizes) != 1
            or any(arrays[name].dtype.kind != kind for name, kind in wanted.items())
        ):
            raise ValueError(f"{os.fspath(path)!r} must hold the scores of listed pairs")
        return cls(**arrays)


Scores = AllPairs | ListedScores


def read_scores(path: Path, kind: str) -> Scores:
    """Reads a file of scores of a kind of set.

    Raises:
        ValueError: If there is none, or it is damaged or of something else.
    """
    return AllPairs.load(path) if kind == "all_pairs" else ListedScores.load(path)


def score_set(one: StudySet, subject: ModelSubject) -> Scores:
    """Embeds the images of a set and compares them.

    Args:
        one: The set.
        subject: The model.

    Raises:
        ValueError: If the set cannot be opened, or an embedding is of no use.
        OSError: If a file cannot be read.
    """
    size = subject.image_size
    if one.all_pairs is None:
        assert one.pairs is not None
        listed = open_pair_set(one.pairs, images=one.images, folds=one.folds, image_size=size)
        found = subject.embed(listed).embedding
        sides = listed.index_a, listed.index_b
        known = listed.people is not None
        people = [listed.labels[side] if known else np.full(side.shape, -1) for side in sides]
        score = pair_scores(found, *sides)
        first, second = (numbers.astype(np.int64) for numbers in people)
        return ListedScores(score, listed.same, listed.fold.astype(np.int64), first, second)
    if isinstance(one.all_pairs, DrawnPeople):
        source = _drawn(one.all_pairs, size or 112)
        places = _places(source)
        names = np.array(source.identities)[source.labels]
        return score_all_pairs(subject.embed(source).embedding, names, places=places)
    judged = evaluate_all_pairs(
        subject,
        one.all_pairs,
        pairs=one.pairs,
        folds=one.folds,
        other_side=one.other_side,
        settings=AllPairsSettings(resamples=0),
    ).all_pairs
    assert judged is not None
    return judged.record


def _drawn(drawn: DrawnPeople, image_size: int) -> FaceSource:
    return SyntheticFaces(
        drawn.people,
        drawn.images,
        seed=drawn.seed,
        image_size=image_size,
        first_identity=drawn.first,
    )


def check_set(one: StudySet, image_size: int, primary: str = "") -> None:
    """Opens the images of a set, so that a wrong path is seen before the work.

    Args:
        one: The set.
        image_size: Side of the images in pixels.
        primary: The measure that decides, if it is of this set.

    Raises:
        ValueError: As `score_set`, or if the set has too few people for the measure.
        OSError: As `score_set`.
    """
    if one.all_pairs is None:
        assert one.pairs is not None
        open_pair_set(one.pairs, images=one.images, folds=one.folds, image_size=image_size)
        return
    source = (
        _drawn(one.all_pairs, image_size)
        if isinstance(one.all_pairs, DrawnPeople)
        else open_source(one.all_pairs, image_size=image_size)
    )
    named = source.identities
    if one.pairs is not None:
        everyone = read_named_pairs(one.pairs, one.folds).everyone()
        named = sorted(chosen_people(everyone, source.identities, str(one.pairs)))
    people = len(named)
    if primary.startswith("tar@") and people * (people - 1) / 2 < 1 / float(primary[4:]):
        raise ValueError(
            f"primary must be a measure that the set supports: {primary} needs at least "
            f"{1 / float(primary[4:]):,.0f} pairs of people, and {people:,} people make "
            f"{people * (people - 1) // 2:,}"
        )
    if one.other_side is not None:
        places = _places(subset(source, named))
        there = {*_places(open_source(one.other_side, image_size=image_size))}
        if missing := [place for place in places if place not in there]:
            raise ValueError(
                f"other_side must hold the same images, but {str(one.other_side)!r} lacks "
                f"{len(missing):,} of {len(places):,}, first {missing[0]!r}"
            )


def _places(source: FaceSource) -> list[str]:
    return [source.place(number) for number in range(len(source))]


def measures_of(scores: Scores) -> Measures:
    """The measures of a run on a set, as far as the set has enough pairs and people for them.

    Of all pairs those of `centerarc.evaluation.seeds.measured`; of listed pairs `accuracy`, `auc`,
    `eer` and TARs such as `tar@0.01`.
    """
    if isinstance(scores, AllPairs):
        return {k: v for k, v in measured(scores).items() if isinstance(v, float)}
    judged = scores.judged()
    names = ("accuracy", "auc", "eer", *(f"tar@{rate_key(far)}" for far in judged.fars))
    return dict(zip(names, judged.rates.tolist(), strict=True))


def facts_of(scores: Scores) -> dict[str, int]:
    """People, images and pairs of each kind, by name; only what is known."""
    if isinstance(scores, AllPairs):
        return {
            "people": scores.num_people,
            "people_with_genuine_pairs": scores.num_genuine_people,
            "images": scores.num_images,
            "genuine_pairs": scores.num_genuine,
            "impostor_pairs": scores.num_impostor,
        }
    genuine = int(scores.same.sum())
    people = np.unique(np.concatenate([scores.first, scores.second]))
    known = {"people": int(people.size)} if people.min(initial=0) >= 0 else {}
    return {**known, "genuine_pairs": genuine, "impostor_pairs": scores.same.size - genuine}
