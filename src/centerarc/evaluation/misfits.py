"""What in a gallery will be mistaken: people who look alike, and photos that do not fit."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from centerarc.evaluation.left_out import LeaveOneOut
from centerarc.evaluation.people_rates import Plain
from centerarc.evaluation.scores import FloatArray, IntArray

# A photo is far from its person's others from so many robust standard deviations on.
_FAR = 4.0
# 1 / 0.6745: the median deviation of a normal distribution is so much of its standard deviation.
_NORMAL_SPREAD = 1.4826


@dataclass(frozen=True)
class AlikePeople(Plain):
    """Two people, and the two photos of them that are most alike."""

    first: int | str
    second: int | str
    score: float
    first_photo: int  # row
    second_photo: int


@dataclass(frozen=True)
class Misfit(Plain):
    """A photo that does not fit its person."""

    photo: int  # row
    person: int | str
    genuine: float  # score of its own person's other photos
    rival: float  # score of the most similar other person
    rival_person: int | str
    usual: float  # the median of `genuine` over the person's other photos
    reason: Literal["rival", "far"]  # another person is at least as similar; far from its person


@dataclass(frozen=True)
class WeakSpots(Plain):
    """Where a gallery deserves a look."""

    alike: tuple[AlikePeople, ...]  # pairs of people by falling score
    misfits: tuple[Misfit, ...]  # the worst first: those with a rival by how far it is ahead
    thin: tuple[int | str, ...]  # people with one photo, whose errors cannot be judged


def weak_spots(left_out: LeaveOneOut, most: int = 20) -> WeakSpots:
    """Find people who are alike, photos that do not fit, and people who cannot be judged.

    A photo does not fit if another person scores at least what its own does, or if its own
    person's score is far below the median of that person's other photos: by more than four times
    the gallery's usual deviation from it (1.4826 times the median of the absolute deviations), for
    people with at least three photos.

    Args:
        left_out: from `leave_one_out`.
        most: so many pairs and misfits at most, at least 1; of `thin`, all.

    Raises:
        ValueError: `most` below 1.
    """
    if most < 1:
        raise ValueError(f"most must be at least 1, got {most}")
    thin = left_out.people[left_out.photos_of == 1]
    return WeakSpots(
        _alike(left_out, most), _misfits(left_out, most), tuple(_label(each) for each in thin)
    )


def _label(value: Any) -> int | str:
    label: int | str = value.item() if isinstance(value, np.generic) else value
    return label


def _alike(left_out: LeaveOneOut, most: int) -> tuple[AlikePeople, ...]:
    kept, size = left_out.rivals.shape[1], left_out.people.size
    row = np.repeat(np.arange(left_out.person.size), kept)
    start, end = left_out.person[row], left_out.rival_people.ravel()
    score = left_out.rivals.ravel()
    # The best photo of each person toward each other one; the same score the other way round.
    order = np.lexsort((row, -score, start * size + end))
    way, first = np.unique((start * size + end)[order], return_index=True)
    best = order[first]
    back = np.minimum(np.searchsorted(way, way % size * size + way // size), way.size - 1)
    both = (way[back] == way % size * size + way // size) & (way // size < way % size)
    pairs = np.flatnonzero(both)
    pairs = pairs[np.argsort(-score[best[pairs]], kind="stable")[:most]]
    return tuple(
        AlikePeople(
            _label(left_out.people[way[pair] // size]),
            _label(left_out.people[way[pair] % size]),
            float(score[best[pair]]),
            int(row[best[pair]]),
            int(row[best[back[pair]]]),
        )
        for pair in pairs
    )


def _usual(left_out: LeaveOneOut) -> FloatArray:
    """(N,) the median of `genuine` over the person's other photos; NaN where there is none."""
    order = np.lexsort((left_out.genuine, left_out.person))
    counts = left_out.photos_of
    starts = np.cumsum(counts) - counts
    place = np.empty(order.size, dtype=np.int64)
    place[order] = np.arange(order.size)
    person = left_out.person
    rank, others = place - starts[person], counts[person] - 1
    sorted_values = left_out.genuine[order]

    def other(k: IntArray) -> FloatArray:
        # The k-th of the others: the photo itself is skipped.
        at = starts[person] + k + (k >= rank)
        return np.asarray(sorted_values[np.minimum(at, order.size - 1)])

    middle = (other(np.maximum(others - 1, 0) // 2) + other(others // 2)) / 2
    return np.where(others > 0, middle, np.nan)


def _misfits(left_out: LeaveOneOut, most: int) -> tuple[Misfit, ...]:
    usual = _usual(left_out)
    below = usual - left_out.genuine
    several = left_out.photos_of[left_out.person] > 2
    far = np.zeros(below.size, dtype=np.bool_)
    if several.any():
        spread = _NORMAL_SPREAD * float(np.median(np.abs(below[several])))
        far = several & (below > _FAR * spread) & (below > 0)
    beaten = left_out.judged & (left_out.rival >= left_out.genuine)
    found = np.flatnonzero(beaten | far)
    ahead = left_out.rival[found] - left_out.genuine[found]
    found = found[np.lexsort((-np.where(beaten[found], ahead, below[found]), ~beaten[found]))]
    return tuple(
        Misfit(
            int(photo),
            _label(left_out.people[left_out.person[photo]]),
            float(left_out.genuine[photo]),
            float(left_out.rival[photo]),
            _label(left_out.people[left_out.rival_person[photo]]),
            float(usual[photo]),
            "rival" if beaten[photo] else "far",
        )
        for photo in found[:most]
    )
