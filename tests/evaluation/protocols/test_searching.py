"""How searches are judged: what cannot be is refused before the work."""

from typing import Any

import numpy as np
import pytest

from centerarc.evaluation.gallery import search_gallery
from centerarc.evaluation.protocols import SearchSettings
from centerarc.evaluation.protocols.judging import judge_searches, shared_note


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ranks": (1, 0)}, r"ranks must be at least 1, got \[1, 0\]"),
        ({"ranks": ()}, r"ranks must be at least 1, got \[\]"),
        ({"fpirs": (0.1, 1.0)}, r"fpir must be in \(0, 1\), got 1.0"),
        ({"fpirs": (float("nan"),)}, r"fpir must be in \(0, 1\), got nan"),
        ({"person_score": "sum"}, "person_score must be max or mean, got 'sum'"),
        ({"resamples": 99}, "resamples must be 0 or at least 100, got 99"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        SearchSettings(**wrong)


def test_the_curve_ends_with_the_people_whatever_rank_is_asked_for() -> None:
    eye = np.eye(3)
    search = search_gallery(eye, [0, 1, 2], [[1, 0.5, 0], [1, 0.5, 0]], [0, 1])
    found = judge_searches([search], SearchSettings(ranks=(10**20,), resamples=0))
    assert found.curve.tolist() == [0.5, 1.0, 1.0]
    assert found.report.cmc[10**20].value == 1.0


def test_probes_of_the_gallery_are_noted() -> None:
    assert shared_note(0, 10) == ()
    assert shared_note(1, 10)[0].startswith("1 of 10 probes is also in the gallery")
    assert shared_note(1234, 5678)[0].startswith("1,234 of 5,678 probes are also in the gallery")
