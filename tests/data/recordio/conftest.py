"""A small data set in insightface's layout."""

from pathlib import Path

import pytest

from tests.data.recordio import by_hand


@pytest.fixture
def rec(tmp_path: Path) -> Path:
    """A data set in insightface's layout whose image k has gray k - 1."""
    by_hand.insightface(tmp_path / "train.rec", by_hand.PEOPLE)
    return tmp_path / "train.rec"
