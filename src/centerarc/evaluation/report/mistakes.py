"""The hardest mistakes: pairs on the wrong side of the threshold, worst first."""

from dataclasses import dataclass

import numpy as np

from centerarc.evaluation.report.data import ReportData
from centerarc.evaluation.report.pictures import data_uri

SHOWN = 6
_PICTURE = 112


@dataclass(frozen=True)
class Mistake:
    """One wrong pair.

    Attributes:
        score: its cosine.
        names: of the two sides, "" each where names were not given.
        pictures: two ``data:`` URIs; None where there are none.
    """

    score: float
    names: tuple[str, str]
    pictures: tuple[str, str] | None


@dataclass(frozen=True)
class Mistakes:
    """Mistakes of one kind: how many there are, and the worst of them."""

    count: int
    worst: list[Mistake]


def find_mistakes(data: ReportData) -> tuple[Mistakes, Mistakes]:
    """False accepts and false rejects at the reported threshold."""
    assert data.verification is not None  # or there would be no pairs
    accepted = data.scores >= data.verification.threshold
    false_accepts = np.flatnonzero(accepted & ~data.same)
    false_rejects = np.flatnonzero(~accepted & data.same)
    by_score = data.scores
    return (
        _worst(data, false_accepts[np.argsort(-by_score[false_accepts], kind="stable")].tolist()),
        _worst(data, false_rejects[np.argsort(by_score[false_rejects], kind="stable")].tolist()),
    )


def _worst(data: ReportData, rows: list[int]) -> Mistakes:
    worst = []
    for row in rows[:SHOWN]:
        names = data.pair_names[row] if len(data.pair_names) else ("", "")
        pictures = None
        if data.pair_images is not None:
            first, second = data.pair_images(row)
            pictures = (data_uri(first, _PICTURE), data_uri(second, _PICTURE))
        elif not names[0]:
            break  # nothing to tell one from another by
        worst.append(Mistake(float(data.scores[row]), names, pictures))
    return Mistakes(len(rows), worst)
