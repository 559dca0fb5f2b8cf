"""Thresholds for a gallery, measured on its own photos."""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from centerarc.evaluation.left_out import LeaveOneOut, leave_one_out
from centerarc.evaluation.misfits import WeakSpots, weak_spots
from centerarc.evaluation.open_set import (
    Calibration,
    OperatingPoint,
    calibrate,
    operating_point,
)
from centerarc.evaluation.pareto_tail import extreme_tail
from centerarc.gallery.store import Photo

if TYPE_CHECKING:
    from centerarc.gallery.gallery import Gallery

Verdict = Literal["accepted", "unsure", "unknown", "no threshold"]
"""What a face is: `name` of an `Identity` is one where it is accepted."""

# Scores of strangers that are kept, to say how many reach a score.
_KEPT_SCORES = 1000


@dataclass(frozen=True)
class Thresholds:
    """When a face has a name.

    Args:
        accept: From this score of the best person on, it is the person.
        reject: Below this one it is a stranger; between both it is unsure. None is `accept`.
        margin: How much higher than the second person's the score must be, too.

    Raises:
        ValueError: If a number is out of range, or `reject` above `accept`.
    """

    accept: float
    reject: float | None = None
    margin: float = 0.0

    def __post_init__(self) -> None:
        for name, value, low in (
            ("accept", self.accept, -1),
            ("reject", self.lower, -1),
            ("margin", self.margin, 0),
        ):
            if not low <= value <= 2 - (low < 0):
                raise ValueError(f"{name} must be between {low} and {2 - (low < 0)}, got {value}")
        if self.lower > self.accept:
            raise ValueError(f"reject must be at most accept ({self.accept:g}), got {self.lower:g}")

    @property
    def lower(self) -> float:
        """The score below which a face is a stranger's."""
        return self.accept if self.reject is None else self.reject


@dataclass(frozen=True, eq=False)
class GalleryCalibration:
    """What a gallery's own photos say about its thresholds.

    Args:
        thresholds: Those that were chosen.
        chosen: Their error rates; None where they are extrapolated.
        found: All that was measured.
        weak: People who resemble each other, photos that do not fit, people with one photo; people
            are their numbers, photos rows of `photos`.
        left_out: Scores with each photo, and each person, left out.
        photos: `(N,)` the photos, in the order of the rows.
        names: Of people by their numbers.
    """

    thresholds: Thresholds
    chosen: OperatingPoint | None
    found: Calibration
    weak: WeakSpots
    left_out: LeaveOneOut
    photos: tuple[Photo, ...]
    names: dict[int, str]

    def facts(self) -> dict[str, str]:
        """What the gallery keeps of it."""
        limits = self.thresholds
        scores = np.sort(self.left_out.rival)
        if len(scores) > _KEPT_SCORES:
            scores = np.quantile(scores, np.linspace(0, 1, _KEPT_SCORES))
        about: dict[str, Any] = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "people": self.found.people,
            "photos": self.found.photos,
            "wanted_fpir": self.found.wanted_fpir,
            "confidence": self.found.confidence,
            "extrapolated": self.chosen is None,
            "fpir": None if self.chosen is None else self.chosen.fpir.to_dict(),
        }
        kept = {"accept": limits.accept, "reject": limits.reject, "margin": limits.margin}
        return {
            "thresholds": json.dumps(kept),
            "stranger_scores": json.dumps([round(float(score), 6) for score in scores]),
            "calibration": json.dumps(about),
        }


def calibrated(
    gallery: "Gallery",
    fpir: float,
    fnir: float,
    confidence: float,
    *,
    unsure: bool,
    margin: bool,
    extrapolate: bool,
    bootstrap: int,
    seed: int,
) -> GalleryCalibration:
    """Measures; see `Gallery.calibrate`."""
    embedding, photos, names = gallery.store.whole()
    person = np.array([photo.person for photo in photos], np.int64)
    if len(np.unique(person)) < 2:
        raise ValueError(
            f"{gallery.store.place!r} must have photos of at least 2 people to be calibrated, "
            f"got {len(np.unique(person))}"
        )
    left_out = leave_one_out(embedding, person)
    found = calibrate(
        left_out, fpir, confidence, fnir=fnir, bootstrap=bootstrap, seed=seed, tail="auto"
    )
    chosen: OperatingPoint | None = found.accept
    accept, ahead = found.accept.threshold, 0.0
    if extrapolate:
        try:
            tail = found.tail or extreme_tail(
                left_out, fpir, confidence, bootstrap=bootstrap, seed=seed
            )
        except ValueError as error:
            raise ValueError(f"extrapolate is not possible here: {error}") from error
        found, chosen, accept = replace(found, tail=tail), None, tail.threshold
    elif margin and found.margin_rule is not None and found.margin_rule.helps:
        accept, ahead = found.margin_rule.threshold, found.margin_rule.margin
        chosen = operating_point(left_out, accept, ahead, confidence)
    # A cosine of two equal photos is 1 up to rounding, and so may be a threshold above them.
    accept = float(np.clip(accept, -1, 1))
    reject = float(np.clip(min(found.reject, accept), -1, 1)) if unsure else None
    return GalleryCalibration(
        Thresholds(accept, reject, ahead),
        chosen,
        found,
        weak_spots(left_out),
        left_out,
        photos,
        names,
    )
