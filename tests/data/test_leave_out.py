"""Lists of images to leave out: what is named is gone, and what is not there is said."""

import csv
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from centerarc.curate import Problem, write_problems
from centerarc.data.folder import FolderSource
from centerarc.data.views import leave_out, read_leave_out

# A name of a file is any bytes; those that are no UTF-8 reach Python as lone surrogates.
names = st.binary(min_size=1, max_size=12).map(
    lambda data: data.replace(b"\0", b"_").decode("utf-8", "surrogateescape")
)


@pytest.fixture
def source(tmp_path: Path) -> FolderSource:
    for person, count in (("ann", 3), ("bob", 1), ("cyd", 2)):
        for number in range(count):
            path = tmp_path / "faces" / person / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    (tmp_path / "faces" / "ann" / "empty.jpg").touch()
    return FolderSource(tmp_path / "faces")


@settings(deadline=None)
@given(st.lists(names, unique=True, max_size=8))
def test_what_a_check_writes_is_read_back_to_the_letter(
    tmp_path_factory, places: list[str]
) -> None:
    path = tmp_path_factory.mktemp("lists") / "problems.csv"
    problems = [Problem(place, 'a "name",', "unreadable", "x\r\ny") for place in places]
    assert write_problems(path, problems) == len(places)
    assert read_leave_out(path) == set(places)
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.reader(file))  # as any other program reads it
    assert rows[0] == ["place", "identity", "problem", "severity", "detail"]
    assert [row[0] for row in rows[1:]] == places


def test_only_what_should_be_left_out_is_written(tmp_path: Path) -> None:
    kinds = {"unreadable": "a", "tiny": "b", "grey": "c", "checksum": "faces-0.tar"}
    problems = [Problem(place, "", kind, "") for kind, place in kinds.items()]
    write_problems(tmp_path / "errors.csv", problems)
    write_problems(tmp_path / "warnings.csv", problems, least="warning")
    assert read_leave_out(tmp_path / "errors.csv") == {"a"}
    assert read_leave_out(tmp_path / "warnings.csv") == {"a", "b"}


@pytest.mark.parametrize(
    "text",
    [
        "ann/0.png\ncyd/1.png",
        "ann/0.png\r\n\r\ncyd/1.png\r\n",
        "place\nann/0.png\ncyd/1.png\n",
        "\ufeffplace,why\r\nann/0.png,bad\r\ncyd/1.png,\r\n",
        "why;place\nbad;ann/0.png\n;cyd/1.png\n",
        'why\tplace\nbad\t"ann/0.png"\n\tcyd/1.png\n',
    ],
)
def test_lists_and_tables_of_other_programs_are_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list"
    path.write_bytes(text.encode())
    assert read_leave_out(path) == {"ann/0.png", "cyd/1.png"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("why,place\nbad\n", "line 2: 1 fields and 2 columns"),
        ("place,why\n,bad\n", "line 2: place is empty"),
        ('place,why\n"ann/0.png,bad\n', "line 2: this is not CSV"),
        ("place,why\nLee, Ann/0.png,bad\n", "line 2: 3 fields and 2 columns; a field with a comma"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_leave_out(path)


@pytest.mark.parametrize("text", ["ann/0.png\n", "place,why\nann/0.png,bad\n"])
def test_a_list_in_utf_16_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(text, encoding="utf-16")
    with pytest.raises(ValueError, match=r"list\.csv: the file is UTF-16"):
        read_leave_out(path)


def test_an_absent_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot read '.*gone\.csv': No such file"):
        read_leave_out(tmp_path / "gone.csv")


def test_named_images_are_gone_and_people_without_images_with_them(source: FolderSource) -> None:
    rest = leave_out(source, {"ann/1.png", "bob/0.png"})
    assert rest.identities == ["ann", "cyd"]
    assert [rest.place(i) for i in range(len(rest))] == [
        "ann/0.png",
        "ann/2.png",
        "cyd/0.png",
        "cyd/1.png",
    ]
    assert rest.labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(rest.image(1), source.image(2))


def test_what_the_folder_skipped_may_be_named(source: FolderSource) -> None:
    assert leave_out(source, {"ann/empty.jpg"}) is source
    assert leave_out(source, set()) is source
    assert len(leave_out(source, ["ann/empty.jpg", "ann/0.png"])) == 5


def test_a_place_that_is_not_there_is_named_with_the_closest(source: FolderSource) -> None:
    with pytest.raises(
        ValueError, match=r"1 of 2 places .* 'ann/00\.png'; the closest is 'ann/0\."
    ):
        leave_out(source, {"ann/00.png", "cyd/0.png"})
    with pytest.raises(ValueError, match=r"'\?+'; its first is 'ann/0\.png'"):
        leave_out(source, {"?????????????"})


def test_leaving_out_everything_is_refused(source: FolderSource) -> None:
    with pytest.raises(ValueError, match="all 6 images"):
        leave_out(source, {source.place(i) for i in range(len(source))})
