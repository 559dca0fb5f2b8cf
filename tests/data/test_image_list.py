"""Lists of images: what is wrong with one is said with its line before anything is trained."""

import csv
import gzip
import os
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from centerarc.data import ListSource, open_source, write_list
from tests.data.pictures import put


def listed(source: ListSource) -> list[tuple[str, str, int]]:
    """Place, identity and gray value of each image."""
    return [
        (source.place(i), source.identities[source.labels[i]], int(source.image(i)[0, 0, 0]))
        for i in range(len(source))
    ]


ROWS = [("p10/1.png", "p10", 1), ("p2/b.png", "p2", 2), ("p2/a.png", "p2", 3), ("x.png", "é", 4)]


def put_rows(folder: Path, rows: Sequence[tuple[str, str, int]] = ROWS) -> None:
    for path, _, value in rows:
        put(folder / path, value)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_csv_of_any_spreadsheet_is_read(tmp_path: Path, delimiter: str, encoding: str) -> None:
    put_rows(tmp_path)
    with open(tmp_path / "l.csv", "w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)  # \r\n ends its lines
        writer.writerow(["age, years", "identity", "path"])
        writer.writerows([["7", name, path] for path, name, _ in ROWS])
    source = ListSource(tmp_path / "l.csv")
    assert listed(source) == ROWS
    assert source.identities == ["p2", "p10", "é"]
    assert source.labels.tolist() == [1, 0, 0, 2]
    assert source.labels.dtype == np.int64
    assert [path.read_bytes() for path in source.paths] == [source.encoded(i) for i in range(4)]
    assert listed(pickle.loads(pickle.dumps(source))) == ROWS
    assert ListSource(tmp_path / "l.csv", image_size=5).image(0).shape == (5, 5, 3)
    assert source.summary() == "4 images of 3 identities"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("l.txt", "{path}\t{name}\n"),
        ("l.csv", "{path},{name}\n"),
        ("identity.txt", "{path} {name}\n"),
        ("l.tsv", "{name}\t{path}\n\n"),
        ("train.lst", "{number}\t{name}\t{path}\n"),
        ("faces.lst", "1\t{path}\t{name}\n"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_a_list_without_names_of_columns(
    tmp_path: Path, name: str, line: str, compressed: bool
) -> None:
    put_rows(tmp_path)
    text = "".join(line.format(path=p, name=n, number=i) for i, (p, n, _) in enumerate(ROWS))
    path = tmp_path / (f"{name}.gz" if compressed else name)
    path.write_bytes(gzip.compress(text.encode()) if compressed else text.encode())
    source = open_source(path)
    assert listed(source) == ROWS
    assert source.identities == ["p2", "p10", "é"]


def test_labels_that_im2rec_wrote_are_whole_numbers(tmp_path: Path) -> None:
    put_rows(tmp_path)
    (tmp_path / "t.lst").write_text(
        "".join(f"{n}\t{n}.000000\t{r[0]}\n" for n, r in enumerate(ROWS))
    )
    assert ListSource(tmp_path / "t.lst").identities == [str(n) for n in range(len(ROWS))]


def test_lists_in_no_known_form_say_which_would_be_read(tmp_path: Path) -> None:
    for text, message in (
        ("file_name,label\na.png,Ann\n", "path_column and identity_column name them"),
        ("1 2 3\n", r"without names of columns, lines are such as 'Ann/1\.jpg\\tAnn'"),
        ("a.png Ann\nb.png Bo Lee\n", r"line 2: 3 fields, .*path, identity; .* put tabs between"),
    ):
        (tmp_path / "l.txt").write_text(text)
        with pytest.raises(ValueError, match=message):
            ListSource(tmp_path / "l.txt")


def test_images_that_are_gone_are_left_out_if_asked(tmp_path: Path) -> None:
    put_rows(tmp_path)
    write_list(tmp_path / "l.csv", [row[:2] for row in ROWS])
    (tmp_path / "p2/b.png").unlink()
    (tmp_path / "x.png").unlink()
    with pytest.raises(ValueError, match="2 of 4 images are not there"):
        ListSource(tmp_path / "l.csv")
    source = open_source(tmp_path / "l.csv", missing="skip")
    assert listed(source) == [ROWS[0], ROWS[2]]
    assert source.identities == ["p2", "p10"]
    assert source.summary().endswith("; left out 2 (2 an image that is not there)")
    assert [(item.place, item.identity) for item in source.skipped] == [
        ("p2/b.png", "p2"),
        ("x.png", "é"),
    ]
    for row in ROWS:
        (tmp_path / row[0]).unlink(missing_ok=True)
    with pytest.raises(ValueError, match="4 of 4 images are not there"):
        ListSource(tmp_path / "l.csv", missing="skip")


@pytest.mark.parametrize(
    ("path_type", "identity_type"),
    [
        (pyarrow.string(), pyarrow.large_string()),
        (pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())),
        (pyarrow.string_view(), pyarrow.string()),
    ],
)
def test_a_parquet_list_is_read(
    tmp_path: Path, path_type: pyarrow.DataType, identity_type: pyarrow.DataType
) -> None:
    put_rows(tmp_path / "faces")
    table = pyarrow.table(
        {
            "file": pyarrow.array([path for path, _, _ in ROWS]).cast(path_type),
            "embedding": [[1.0, 2.0]] * 4,
            "name": pyarrow.array([name for _, name, _ in ROWS]).cast(identity_type),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "l.parquet")
    source = ListSource(
        tmp_path / "l.parquet",
        root=tmp_path / "faces",
        path_column="file",
        identity_column="name",
    )
    assert listed(source) == ROWS


def test_whole_numbers_name_people_in_parquet(tmp_path: Path) -> None:
    put_rows(tmp_path)
    table = pyarrow.table({"path": [path for path, _, _ in ROWS], "identity": [10, 9, 9, 2]})
    pyarrow.parquet.write_table(table, tmp_path / "l.parquet")
    source = ListSource(tmp_path / "l.parquet")
    assert source.identities == ["2", "9", "10"]
    assert source.labels.tolist() == [2, 1, 1, 0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"path": ["a"], "identity": [1.5]},
            "'identity' must hold text or whole numbers, got double",
        ),
        ({"path": [1], "identity": ["a"]}, "'path' must hold text, got int64"),
        ({"path": ["x.png", None], "identity": ["a", "b"]}, "row 2: path is empty"),
        ({"path": ["x.png"], "identity": [" "]}, "row 1: identity is empty"),
        ({"Path": ["x.png"], "identity": ["a"]}, "no column 'path'; .*the closest is 'Path'"),
        ({"path": [], "identity": []}, "it must"),
    ],
)
def test_a_wrong_parquet_list_is_refused(
    tmp_path: Path, columns: dict[str, list[object]], message: str
) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "l.parquet")
    with pytest.raises(ValueError, match=rf"l\.parquet.*{message}"):
        ListSource(tmp_path / "l.parquet")


def test_a_file_that_is_no_parquet_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "l.parquet").write_bytes(b"path,identity\n" * 10)
    with pytest.raises(ValueError, match=r"l\.parquet: not a Parquet file") as caught:
        ListSource(tmp_path / "l.parquet")
    assert "\n" not in str(caught.value)


def test_without_pyarrow_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "l.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'centerarc\[parquet\]'"):
        ListSource(tmp_path / "l.parquet")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: there are no columns 'path' and 'identity'; there are none"),
        ("file,identity\nx.png,a\n", r"there is no column 'path'; there are 'file', 'identity'$"),
        ("Path,person\nx.png,a\n", r"no columns 'path' and .*; the closest to 'path' is 'Path'"),
        ("path,identty\nx.png,a\n", r"no column 'identity'; .*; the closest is 'identty'"),
        ("path,path,identity\nx.png,x.png,a\n", "line 1: there are 2 columns 'path'"),
        ("path,identity\n", "has no row"),
        ("path,identity\n\n\n,a\n", "line 4: path is empty"),
        ("path,identity\nx.png,a\ny.png,\n", "line 3: identity is empty"),
        ('path,identity\nx.png,"a\nb"\ny.png, \n', "line 4: identity is empty"),
        ("path,identity\nLee, Ann/x.png,a\n", "line 2: 3 fields and 2 columns; a field with a co"),
        ("path;identity\nx.png\n", "line 2: 1 fields and 2 columns; a field with a semicolon"),
        ('path,identity\nx.png,"a\n', "line 2: this is not CSV"),
        ("path,identity\nx.png,a\n\nx.png,b\n", r"line 4: 'x\.png' is already on line 2"),
        ("path,identity\nx.png,a\n./x.png,a\n", r"line 3: '\./x\.png' is already on line 2"),
        ("path,identity\nx.png,a\n./p/..//x.png,a\n", r"line 3: '.*x\.png' is already on line 2"),
        ("path,identity\nx.png,a\ny.png,b\n", r"1 of 2 images are not there: 'y\.png' \(line 3\)"),
        (
            "path,identity\n" + "".join(f"p/{i}.png,a\n" for i in range(9)),
            r"9 of 9 .*: 'p/0\.png' \(line 2\), 'p/1\.png' \(line 3\), 'p/2\.png' \(line 4\), \.\.",
        ),
        ("path,identity\np\\x.png,a\n", "must be separated by /"),
        ("path,identity\n\0,a\n", "line 2: there is a NUL character"),
    ],
)
def test_a_wrong_csv_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    put(tmp_path / "x.png")
    (tmp_path / "p").mkdir()
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"l\.csv.*{message}") as caught:
        ListSource(tmp_path / "l.csv")
    assert "\n" not in str(caught.value)


def test_missing_images_are_counted_over_all_folders(tmp_path: Path) -> None:
    rows = [(f"p{p}/{i}.png", f"p{p}", 0) for p in range(6) for i in range(6)]
    there = [row for number, row in enumerate(rows) if number % 5]
    put_rows(tmp_path, there)
    write_list(tmp_path / "l.csv", [row[:2] for row in rows])
    with pytest.raises(ValueError, match=r"8 of 36 images are not there: 'p0/0\.png' \(line 2\)"):
        ListSource(tmp_path / "l.csv")
    write_list(tmp_path / "l.csv", [row[:2] for row in there])
    assert len(ListSource(tmp_path / "l.csv")) == 28


def test_paths_start_at_the_root_or_are_absolute(tmp_path: Path) -> None:
    put(tmp_path / "here" / "x.png", 1)
    put(tmp_path / "there" / "x.png", 2)
    absolute = str(tmp_path / "there" / "x.png")
    write_list(tmp_path / "lists" / "l.csv", [("../here/x.png", "a"), (absolute, "b")])
    assert listed(ListSource(tmp_path / "lists" / "l.csv")) == [
        ("../here/x.png", "a", 1),
        (absolute, "b", 2),
    ]
    write_list(tmp_path / "l.csv", [("x.png", "a"), (absolute, "b")])
    source = ListSource(tmp_path / "l.csv", root=tmp_path / "here")
    assert listed(source) == [("x.png", "a", 1), (absolute, "b", 2)]
    with pytest.raises(ValueError, match=r"root must be a folder, got .*nowhere"):
        ListSource(tmp_path / "l.csv", root=tmp_path / "nowhere")


def test_a_list_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot read .*l\.csv': No such file"):
        ListSource(tmp_path / "l.csv")
    (tmp_path / "l.csv").write_text("path,identity\nx.png,a\n", encoding="utf-16")
    with pytest.raises(ValueError, match=r"l\.csv: the file is UTF-16"):
        ListSource(tmp_path / "l.csv")


def test_an_image_removed_later_is_named(tmp_path: Path) -> None:
    put(tmp_path / "x.png")
    write_list(tmp_path / "l.csv", [("x.png", "a")])
    source = ListSource(tmp_path / "l.csv")
    (tmp_path / "x.png").unlink()
    with pytest.raises(ValueError, match=r"cannot read 'x\.png': No such file"):
        source.image(0)


def test_a_bad_row_leaves_the_old_list_as_it_was(tmp_path: Path) -> None:
    write_list(tmp_path / "l.csv", [("x.png", "a")])
    for row in (("", "a"), ("x.png", " "), ("\ud8ff", "a")):
        with pytest.raises(ValueError, match="row 2 is"):
            write_list(tmp_path / "l.csv", [("x.png", "a"), row])
    assert [path.name for path in tmp_path.iterdir()] == ["l.csv"]
    assert (tmp_path / "l.csv").read_bytes() == b"path,identity\nx.png,a\n"


odd = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from('",;\t\r\n \udcff')),
    min_size=1,
    max_size=12,
).filter(lambda text: not text.isspace())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(odd, odd), min_size=1, max_size=5))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "round.csv"
    write_list(path, rows)
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert list(csv.reader(file)) == [["path", "identity"], *map(list, rows)]


@pytest.mark.skipif(os.name != "posix", reason="names that Windows has not")
def test_odd_file_names_survive_the_list(tmp_path: Path) -> None:
    names = ['a "b", c', "line\nfeed", "back\rreturn", "not utf-8 \udcff", "名;前\t", " spaces "]
    rows = [(f"{name}/1.png", name, number) for number, name in enumerate(names)]
    put_rows(tmp_path, rows)
    write_list(tmp_path / "l.csv", [row[:2] for row in rows])
    assert listed(ListSource(tmp_path / "l.csv")) == rows


@pytest.mark.parametrize("before", ["", "path,identity\n"])
def test_a_field_too_long_for_csv_is_named_by_its_line(tmp_path: Path, before: str) -> None:
    path = tmp_path / "l.csv"
    path.write_text(before + "x" * 200_000 + ",a\n")
    line = before.count("\n") + 1
    with pytest.raises(ValueError, match=rf"l\.csv, line {line}: this is not CSV"):
        ListSource(path)
