"""Tables of any spreadsheet are read with their lines; packed texts are those put in."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from centerarc.io.tables import CsvTable, Texts

anything = st.lists(st.text(st.characters(codec=None), max_size=8), max_size=8)


@given(anything, anything)
def test_texts_come_back_whatever_is_in_them(first: list[str], second: list[str]) -> None:
    packed = Texts.joined([Texts.of(first), Texts.of(second)])
    both = first + second
    assert list(packed) == both
    assert [packed[i] for i in range(-len(both), len(both))] == both + both
    assert len(packed) == len(both)
    with pytest.raises(IndexError):
        packed[len(both)]


@pytest.mark.parametrize("ends", [[3], [1, 0, 2], [-1, 2], [5, 2], []])
def test_ends_that_do_not_fit_are_refused(ends: list[int]) -> None:
    with pytest.raises(ValueError, match="ends must rise from 0 to the 2 bytes"):
        Texts(np.zeros(2, dtype=np.uint8), np.array(ends, dtype=np.int64))


def read(path: Path, text: str, *wanted: str, strip: bool = False) -> list[tuple[int, tuple]]:
    path.write_text(text, encoding="utf-8", newline="")
    table = CsvTable(path, wanted, strip=strip)
    return list(table.rows(wanted or None))


def test_wanted_columns_come_in_their_order_with_the_first_line_of_each_row(
    tmp_path: Path,
) -> None:
    text = '\r\n"x, in\ncm"; b ;a\r\n1;2;3\r\n\r\n"4\n4";" 5";6\r\n7;8;9'
    path = tmp_path / "t.csv"
    assert read(path, text, "a", "b") == [(4, ("3", "2")), (6, ("6", " 5")), (8, ("9", "8"))]
    assert read(path, text, "b", strip=True) == [(4, ("2",)), (6, ("5",)), (8, ("8",))]
    assert read(path, text)[1] == (6, ("4\n4", " 5", "6"))


def test_the_delimiter_that_finds_the_wanted_columns_wins(tmp_path: Path) -> None:
    text = "a;b, c, d\n1;2, 3, 4\n"
    assert read(tmp_path / "t.csv", text, "a") == [(2, ("1",))]
    assert read(tmp_path / "t.csv", text, "c", strip=True) == [(2, ("3",))]


def test_a_row_of_another_length_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"t\.csv, line 4: 1 fields and 2 columns; .* a tab in it"):
        read(tmp_path / "t.csv", '"a"\tb\n"1\n"\t2\n3\n', "a")


def test_a_compressed_table_is_read_and_a_damaged_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    random = np.random.default_rng(0).integers(0, 1 << 60, 2000).tolist()
    text = "path,identity\n" + "".join(f"{number}.png,Ann\n" for number in random)
    data = gzip.compress(text.encode())
    path.write_bytes(data)
    assert [row for _, row in CsvTable(path).rows()] == [(f"{n}.png", "Ann") for n in random]
    middle = len(data) // 2
    for damaged in (data[:middle], data[:-6]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"t\.csv\.gz: the gzip file is damaged or cut off"):
            list(CsvTable(path).rows())


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_nul_character_is_named_and_not_dropped(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(pack(b"path,identity\na.png,A\nb.png,P00\0\n"))
    with pytest.raises(ValueError, match=r"list\.csv, line 3: there is a NUL character"):
        CsvTable(path)
