"""Landmark files of others are understood, and what is wrong in them is said with its line."""

from pathlib import Path

import numpy as np
import pytest

from centerarc.curate import read_landmarks
from centerarc.data.alignment import arcface_template

XY = [f"{axis}{number}" for number in range(1, 6) for axis in "xy"]
POINTS = arcface_template() + 100


def line(path: str, points: np.ndarray = POINTS, *more: str) -> str:
    return ",".join([path, *(repr(float(value)) for value in points.flat), *more])


def write(folder: Path, *lines: str, header: str = ",".join(["path", *XY])) -> Path:
    path = folder / "landmarks.csv"
    path.write_bytes("\n".join([header, *lines, ""]).encode("utf-8", "surrogateescape"))
    return path


def test_landmarks_come_back_exactly_and_several_lines_are_several_faces(tmp_path: Path) -> None:
    table = read_landmarks(
        write(tmp_path, line("a/1.jpg"), line("b/2.jpg"), "", line("a/1.jpg", POINTS * 2))
    )
    assert len(table) == 3
    found = table.faces("a/1.jpg")
    assert list(found) == [""]
    assert [face.score for face in found[""]] == [None, None]
    np.testing.assert_array_equal(found[""][0].points, POINTS)
    np.testing.assert_array_equal(found[""][1].points, POINTS * 2)
    assert table.faces("c.jpg") == {}
    assert table.without_photo(["a/1.jpg", "c.jpg"]) == ["b/2.jpg"]


@pytest.mark.parametrize(
    "header",
    [
        "path," + ",".join(XY),
        "File Name," + ",".join(name.upper() for name in XY),
        # as in the list of CelebA that goes round as CSV
        "image_id,lefteye_x,lefteye_y,righteye_x,righteye_y,nose_x,nose_y,"
        "leftmouth_x,leftmouth_y,rightmouth_x,rightmouth_y",
        "image,left_eye_x,left_eye_y,right_eye_x,right_eye_y,nose_tip_x,nose_tip_y,"
        "mouth_left_x,mouth_left_y,right_mouth_corner_x,right_mouth_corner_y",
    ],
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_common_names_and_delimiters_are_understood(
    tmp_path: Path, header: str, delimiter: str
) -> None:
    text = f"\ufeff{header}\n{line('1.jpg')}\n".replace(",", delimiter)
    path = tmp_path / "l.csv"
    path.write_text(text, encoding="utf-8")
    [face] = read_landmarks(path).faces("1.jpg")[""]
    np.testing.assert_array_equal(face.points, POINTS)


def test_columns_may_stand_in_any_order_among_others(tmp_path: Path) -> None:
    names = [*reversed(XY), "comment", "path", "score", "identity"]
    values = [*(repr(float(v)) for v in POINTS.flat[::-1]), '"a, b"', "1.jpg", "0.25", "Ann Lee"]
    table = read_landmarks(write(tmp_path, ",".join(values), header=",".join(names)))
    [face] = table.faces("1.jpg")["Ann Lee"]
    np.testing.assert_array_equal(face.points, POINTS)
    assert face.score == 0.25
    assert table.has_scores()


@pytest.mark.parametrize(
    "written",
    ["./ann/ü.jpg", "ann\\ü.jpg", "ann//ü.jpg", "ann/u\u0308.jpg", "ROOT/ann/ü.jpg"],
)
def test_paths_of_other_machines_find_their_photo(tmp_path: Path, written: str) -> None:
    path = write(tmp_path, line(written.replace("ROOT", str(tmp_path))))
    assert read_landmarks(path, tmp_path).faces("ann/ü.jpg")


def test_names_with_newlines_commas_and_foreign_bytes_are_kept(tmp_path: Path) -> None:
    odd = "a,b\nc \udcff.jpg"
    table = read_landmarks(write(tmp_path, line(f'"{odd}"')))
    assert table.faces(odd)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [line("a"), line("b").replace("138.2946", "wide", 1)],
            r", line 3: x1 must be a finite number, got 'wide'",
        ),
        (
            [line("a").replace("138.2946", "nan", 1)],
            r", line 2: x1 must be a finite .* 'nan'",
        ),
        ([line("a").replace("138.2946", "", 1)], r", line 2: x1 must be a finite number, got ''"),
        (
            [line("a").replace("138.2946", "1e9", 1)],
            r", line 2: x1 must be a pixel coordinate of at most 100000, got 1e\+09",
        ),
        (['"a\nb",1', line("a")], r", line 2: 2 fields and 11 columns"),
        ([line("")], r", line 2: path must name a photo, got ''"),
        ([line("a", POINTS / 300)], r", line 2: all coordinates are within 0 and 1"),
        ([], r", line 1: there is no face"),
        ([line("b"), '"a,1'], r", line 3: "),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    path = write(tmp_path, *lines)
    with pytest.raises(ValueError, match=message) as caught:
        read_landmarks(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("path," + ",".join(XY[:-1]), r", line 1: there is no column y5 or right_mouth_y"),
        (",".join(XY), r", line 1: there is no column path; the columns are x1, y1"),
        ("path,file," + ",".join(XY), r", line 1: columns 1 and 2 are both 'path'"),
        ("path,left_eye_x," + ",".join(XY), r", line 1: columns 2 and 3 are both 'x1'"),
        ("", r", line 1: there is no column path"),
    ],
)
def test_a_wrong_header_is_named(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_landmarks(write(tmp_path, line("a"), header=header))


@pytest.mark.parametrize("identity", ["", " ", "..", "a/b", "a\\b", ".ann"])
def test_an_identity_that_names_no_folder_is_refused(tmp_path: Path, identity: str) -> None:
    header = ",".join(["path", *XY, "identity"])
    with pytest.raises(ValueError, match=r", line 2: identity names a folder, so it must not be"):
        read_landmarks(write(tmp_path, line("a.jpg", POINTS, identity), header=header))


SWAPPED = POINTS[[1, 0, 2, 4, 3]]


def test_a_file_in_the_persons_view_is_refused_as_a_whole(tmp_path: Path) -> None:
    upside_down = 500 - POINTS
    path = write(tmp_path, line("a", upside_down), line("b", SWAPPED), line("c", 500 - SWAPPED))
    with pytest.raises(
        ValueError, match=r", line 3: left and right are swapped, here and in 2 of 3"
    ):
        read_landmarks(path)


def test_one_swapped_face_among_others_does_not_stop_the_rest(tmp_path: Path) -> None:
    table = read_landmarks(write(tmp_path, line("a"), line("b", SWAPPED), line("c")))
    [face] = table.faces("b")[""]
    assert "swapped" in (face.problem(400, 400) or "")
    [face] = table.faces("a")[""]
    assert face.problem(400, 400) is None


def test_an_absent_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"absent\.csv"):
        read_landmarks(tmp_path / "absent.csv")
