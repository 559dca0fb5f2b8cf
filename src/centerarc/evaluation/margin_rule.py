"""Whether a gallery answers better if the best person must be ahead of the second-best."""

from dataclasses import dataclass

import numpy as np

from centerarc.evaluation.intervals import draw_people
from centerarc.evaluation.left_out import LeaveOneOut
from centerarc.evaluation.people_rates import Plain
from centerarc.evaluation.scores import ROUNDED_UP, BoolArray, FloatArray, IntArray

# Margins that are tried beside 0, and how many times the wanted share of strangers is looked at.
_MARGINS, _STRANGERS = 15, 10
# Weights at once: 32 MB.
_MOST_WEIGHTS = 4_000_000


@dataclass(frozen=True)
class MarginRule(Plain):
    """The threshold and margin that recognize most enrolled people at the wanted FPIR."""

    threshold: float
    margin: float  # 0 where no margin recognizes more
    recognized: float  # share of enrolled photos that get the right name by this rule
    recognized_without: float  # and by a threshold alone, with the same FPIR
    # What people gain on whom the margin was not chosen: each half judges the other's margin.
    gain: float
    gain_low: float
    gain_high: float
    helps: bool  # whether all of that interval is above 0


class _Probes:
    """Strangers and enrolled photos of some people, by one margin after the other."""

    def __init__(self, left_out: LeaveOneOut, people: BoolArray, most: float) -> None:
        number = np.cumsum(people) - 1  # of each of these people among them
        inside = people[left_out.person]
        person = number[left_out.person].astype(np.int64)
        self.count, self._most = int(people.sum()), most
        self._photos = np.bincount(person[inside], minlength=self.count).astype(np.float64)
        judged = inside & left_out.judged
        self._judged = np.bincount(person[judged], minlength=self.count).astype(np.float64)
        strangers = np.flatnonzero(inside)
        order = np.argsort(-left_out.rival[strangers], kind="stable")
        self._looked_at = int(np.ceil(_STRANGERS * most * strangers.size)) + 1
        strangers = strangers[order]
        self._stranger = person[strangers]
        self._score = left_out.rival[strangers]
        self._gap = self._score - left_out.second[strangers]
        enrolled = np.flatnonzero(judged & left_out.right)
        enrolled = enrolled[np.argsort(-left_out.genuine[enrolled], kind="stable")]
        self._enrolled = person[enrolled]
        self._genuine = left_out.genuine[enrolled]
        self._lead = self._genuine - left_out.rival[enrolled]

    @property
    def judged(self) -> int:
        """How many enrolled photos there are."""
        return int(self._judged.sum())

    def margins(self) -> FloatArray:
        """Those to try, rising from 0."""
        shares = np.arange(1, _MARGINS + 1) / (_MARGINS + 1)
        return np.unique(np.append(0.0, np.quantile(self._gap, shares)))

    def recognized(self, margin: float, drawn: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Share of enrolled photos with the right name, and threshold, both (B,), of draws (n, B).

        NaN where a draw has no enrolled photo.
        """
        near = np.flatnonzero(self._gap >= margin)[: self._looked_at]
        score = self._score[near]
        if not score.size:
            score, let_in = np.array([-1.0]), np.zeros((1, drawn.shape[1]))
        else:
            let_in = np.cumsum(drawn[self._stranger[near]], axis=0) / (self._photos @ drawn)
        ends = np.flatnonzero(np.append(score[1:] != score[:-1], True))
        allowed = (let_in[ends] <= self._most * ROUNDED_UP).sum(axis=0)
        # Above the first stranger who may not get a name; not below all that were looked at.
        above = np.append(np.nextafter(score[np.append(0, ends[:-1] + 1)], np.inf), score[-1])
        threshold = above[allowed]
        ahead = self._lead >= margin
        reached = np.searchsorted(-self._genuine[ahead], -threshold, side="right")
        # All draws find the first ones; only from there on they are counted one by one.
        few, person = int(reached.min()), self._enrolled[ahead]
        always = np.bincount(person[:few], minlength=self.count) @ drawn
        found = np.cumsum(drawn[person[few : int(reached.max())]], axis=0)
        found = np.concatenate([np.zeros((1, drawn.shape[1])), found])
        hits = always + np.take_along_axis(found, reached[None] - few, axis=0)[0]
        total = self._judged @ drawn
        return np.where(total > 0, hits / np.maximum(total, 1), np.nan), threshold

    def best(self) -> float:
        """The margin that recognizes most, the smallest of equals."""
        margins = self.margins()
        once = np.ones((self.count, 1))
        return float(margins[np.argmax([self.recognized(d, once)[0][0] for d in margins])])

    def gains(self, margin: float, resamples: int, seed: int) -> FloatArray:
        """What a margin gains in resamples of people, after what it gains: (1 + resamples,)."""
        if margin == 0:
            return np.zeros(1 + resamples)
        columns = max(1, min(64, _MOST_WEIGHTS // max(self._enrolled.size, self._looked_at)))
        draws = [np.ones((self.count, 1))]
        draws += list(draw_people(self.count, resamples, seed, columns))
        return np.concatenate(
            [self.recognized(margin, one)[0] - self.recognized(0.0, one)[0] for one in draws]
        )


def best_margin(
    left_out: LeaveOneOut, most: float, confidence: float, bootstrap: int, seed: int
) -> MarginRule:
    """Choose threshold and margin, and judge by people on whom the margin was not chosen.

    Of two halves of the people, drawn by `seed`, each has a margin of its own, which is judged on
    the other half, where both rules' thresholds are set again to the same FPIR.

    Args:
        left_out: of at least three people, some with two photos.
        most: share of strangers' photos that may get a name in the gallery without their person.
        confidence: of the interval of the gain, by percentiles of resampled people.
        bootstrap: how many resamples.
        seed: of the halves and the resamples.
    """
    size = left_out.people.size
    every = _Probes(left_out, np.ones(size, dtype=np.bool_), most)
    margin = every.best()
    once = np.ones((size, 1))
    recognized, threshold = every.recognized(margin, once)
    without = every.recognized(0.0, once)[0]
    first: IntArray = np.random.default_rng(seed).permutation(size)[: size // 2]
    half = np.zeros(size, dtype=np.bool_)
    half[first] = True
    sides = [_Probes(left_out, part, most) for part in (half, ~half)]
    gains = np.zeros(1 + bootstrap)
    if all(side.judged for side in sides):
        chosen = [side.best() for side in sides]
        gains = (
            sides[0].gains(chosen[1], bootstrap, seed)
            + sides[1].gains(chosen[0], bootstrap, seed + 1)
        ) / 2
    outside = (1 - confidence) / 2
    low, high = np.nanquantile(gains[1:], [outside, 1 - outside])
    return MarginRule(
        threshold=float(threshold[0]),
        margin=margin,
        recognized=float(recognized[0]),
        recognized_without=float(without[0]),
        gain=float(gains[0]),
        gain_low=float(low),
        gain_high=float(high),
        helps=bool(margin > 0 and low > 0),
    )
