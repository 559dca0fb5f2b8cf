"""The report gives back what was put in, and half a journal gives whole photos."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from centerarc.curate.align import (
    COLUMNS,
    JOURNAL_NAME,
    Journal,
    Row,
    read_journal,
    read_report,
    write_report,
)

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
rows = st.fixed_dictionaries(dict.fromkeys(COLUMNS, texts))


@given(st.lists(rows, max_size=4))
@settings(deadline=None)
def test_every_row_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, given_rows: list[Row]
) -> None:
    path = tmp_path_factory.mktemp("report") / "alignment.csv"
    write_report(path, given_rows)
    assert read_report(path) == given_rows


def row(path: str, face: int) -> Row:
    more = {"path": path, "status": "aligned", "face": str(face), "aligned": f"{path}-{face}"}
    return dict.fromkeys(COLUMNS, "") | more


@pytest.mark.parametrize("cut", range(0, 120, 7))
def test_a_journal_cut_anywhere_gives_only_whole_photos(tmp_path: Path, cut: int) -> None:
    journal = Journal(tmp_path)
    for name in ("a", "odd\n,b", "c"):
        journal.add([row(name, face) for face in (1, 2)])
    path = tmp_path / JOURNAL_NAME
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - cut])
    found = [row["path"] for row in read_journal(tmp_path)]
    assert found in ([], ["a"] * 2, ["a"] * 2 + ["odd\n,b"] * 2)
    # The third has begun, so the second is whole; a cut row tells nothing and counts for none.
    assert cut >= 33 or found == ["a"] * 2 + ["odd\n,b"] * 2
    journal.discard()
    assert read_journal(tmp_path) == []
