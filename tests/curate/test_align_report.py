"""The report gives back what was put in, and half a journal gives whole photos."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from centerarc.curate.align import (
    JOURNAL_NAME,
    Journal,
    Row,
    read_journal,
    read_report,
    write_report,
)

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
floats = st.floats(allow_nan=False, allow_infinity=False)
rows = st.builds(
    Row,
    path=texts,
    status=st.sampled_from(["aligned", "no face", "unreadable"]),
    reason=texts,
    identity=texts,
    face=st.integers(0, 9),
    faces=st.none() | st.integers(0, 9),
    score=st.none() | floats,
    points=st.none()
    | st.lists(floats, min_size=10, max_size=10).map(lambda values: np.array(values).reshape(5, 2)),
    scale=st.none() | floats,
    aligned=texts,
    version=texts,
)


@given(st.lists(rows, max_size=4))
@settings(deadline=None)
def test_every_row_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, given_rows: list[Row]
) -> None:
    path = tmp_path_factory.mktemp("report") / "alignment.csv"
    write_report(path, given_rows)
    found = read_report(path)
    assert len(found) == len(given_rows)
    for row, expected in zip(found, given_rows, strict=True):
        for name in ("path", "status", "reason", "identity", "face", "faces", "score", "scale"):
            assert getattr(row, name) == getattr(expected, name)
        assert (row.aligned, row.version) == (expected.aligned, expected.version)
        if expected.points is None:
            assert row.points is None
        else:
            np.testing.assert_array_equal(row.points, expected.points)


@pytest.mark.parametrize("cut", range(0, 120, 7))
def test_a_journal_cut_anywhere_gives_only_whole_photos(tmp_path: Path, cut: int) -> None:
    journal = Journal(tmp_path)
    for name in ("a", "odd\n,b", "c"):
        journal.add([Row(name, "aligned", face=face, aligned=f"{name}-{face}") for face in (1, 2)])
    path = tmp_path / JOURNAL_NAME
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - cut])
    found = [row.path for row in read_journal(tmp_path)]
    assert found in ([], ["a"] * 2, ["a"] * 2 + ["odd\n,b"] * 2)
    # The third has begun, so the second is whole; a cut row tells nothing and counts for none.
    assert cut >= 33 or found == ["a"] * 2 + ["odd\n,b"] * 2
    journal.discard()
    assert read_journal(tmp_path) == []
