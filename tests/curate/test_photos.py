"""Photos are found once, landmarks read, and the right one of several faces chosen."""

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from centerarc.curate import FACE_RULES, Face, choose_faces, read_landmarks
from centerarc.curate.photos import PhotoTree, face_separators, output_names
from centerarc.data.alignment import arcface_template


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_flat_and_deep_folders_are_searched_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path, "b10/2.jpg", "b2/deep/er/10.PNG", "b2/deep/er/9.webp", "b2/1.jpg", "top.tiff")
    found = [photo.path for photo in PhotoTree(tmp_path).photos]
    assert found == ["top.tiff", "b2/1.jpg", "b2/deep/er/9.webp", "b2/deep/er/10.PNG", "b10/2.jpg"]


def test_other_files_are_counted_and_hidden_folders_left_alone(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "a/notes.txt", "a/._1.jpg", ".cache/2.jpg")
    tree = PhotoTree(tmp_path)
    assert [photo.path for photo in tree.photos] == ["a/1.jpg"]
    assert tree.others == 2


def test_photos_that_are_not_read_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jfif", "a/2.HEIC", "a/.3.heic")
    tree = PhotoTree(tmp_path)
    assert [photo.path for photo in tree.photos] == ["a/1.jfif"]
    assert (tree.left_out, tree.others) == ([("a/2.HEIC", "a format that is not read: .heic")], 1)


def test_links_are_followed_once_and_broken_ones_listed(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/1.jpg", "root/a/2.jpg")
    root = tmp_path / "root"
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "c").symlink_to(root / "a")
    (root / "a" / "loop").symlink_to(root)
    (root / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    tree = PhotoTree(root)
    assert [photo.path for photo in tree.photos] == ["a/2.jpg", "b/1.jpg"]
    reasons = dict(tree.left_out)
    assert "seen before" in reasons["c"]
    assert "seen before" in reasons["a/loop"]
    assert "No such file" in reasons["gone.jpg"]


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may read all")
def test_a_folder_that_may_not_be_listed_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "b").chmod(0)
    try:
        assert dict(PhotoTree(tmp_path).left_out)["b"].startswith("cannot be listed")
    finally:
        (tmp_path / "b").chmod(0o755)


def test_a_changed_photo_has_another_version(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg")
    [before] = PhotoTree(tmp_path).photos
    assert PhotoTree(tmp_path).photos == [before]
    os.utime(tmp_path / "1.jpg", ns=(0, 1))
    [after] = PhotoTree(tmp_path).photos
    assert after.version != before.version


def test_no_folder_and_no_photo_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        PhotoTree(tmp_path / "absent")
    touch(tmp_path, "notes.txt")
    with pytest.raises(ValueError, match=r"holds no photo \(\.bmp, .*only 1 other files"):
        PhotoTree(tmp_path)


def test_names_that_would_meet_are_kept_apart() -> None:
    names = ["a/1.jpg", "a/1.png", "a/1.JPG", "a/1.png.jpg", "A/1.webp", "b/é.jpg", "b/e\u0301.jpg"]
    found = output_names([(name, "") for name in names])
    assert found[0] == "a/1"
    assert found[1] == "a/1.png"
    assert len({name.casefold() for name in found}) == len(names)
    assert output_names([("a/v1.2.jpg", "")]) == ["a/v1.2"]


def test_identities_become_folders() -> None:
    photos = [("Ann/1.jpg", "Ann"), ("trip/day 1/2.jpg", "Ann"), ("group.jpg", "Bob")]
    assert output_names(photos) == ["Ann/1", "Ann/trip_day 1_2", "Bob/group"]
    assert output_names([("trip/2.jpg", "A"), ("trip_2.jpg", "A")]) == ["A/trip_2", "A/trip_2.jpg"]


stems = st.from_regex(r"[aA]?-{0,3}[0-9]{0,2}[.]?[0-9]?", fullmatch=True).filter(
    lambda stem: stem.strip(".") != "" and not stem.startswith(".")
)


@settings(max_examples=60)
@given(st.lists(stems, min_size=1, max_size=8, unique=True))
def test_no_face_of_any_photo_meets_another(photos: list[str]) -> None:
    names = output_names([(f"p/{stem}.jpg", "") for stem in photos])
    separator = face_separators(names).get("p", "-")
    files = [
        name + suffix
        for name in names
        for suffix in ("", *(f"{separator}{n}" for n in range(2, 40)))
    ]
    assert len({file.casefold() for file in files}) == len(files)


# Landmark files.


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


# Choosing a face.


def face(x: float, y: float, side: float, score: float | None = None) -> Face:
    """A face whose square has the middle (x, y)."""
    return Face((arcface_template() - 55.5) * (side / 112) + (x, y), score)


NEAR = face(520, 410, 100, 0.7)  # 22 pixels from the middle of 1000 x 800
LARGE = face(700, 400, 200, 0.8)  # 200 pixels off it
SURE = face(100, 100, 60, 0.9)
PHOTO = (1000, 800)


def test_the_square_is_measured_in_the_photo() -> None:
    assert LARGE.side == pytest.approx(200)
    assert LARGE.middle.tolist() == pytest.approx([700, 400])
    turned = Face(LARGE.points @ np.array([[0.0, 1], [-1, 0]]))  # about the corner of the photo
    assert turned.side == pytest.approx(200)
    assert turned.middle.tolist() == pytest.approx([-400, 700])


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_each_rule_takes_its_face_whatever_their_order(order: list[int]) -> None:
    faces = [[NEAR, LARGE, SURE][i] for i in order]
    assert choose_faces(faces, "largest", *PHOTO) == [LARGE]
    assert choose_faces(faces, "center", *PHOTO) == [NEAR]
    assert choose_faces(faces, "score", *PHOTO) == [SURE]
    assert choose_faces(faces, "all", *PHOTO) == [LARGE, NEAR, SURE]
    assert choose_faces(faces, "only", *PHOTO) == []


def test_center_prefers_a_large_face_to_a_small_one_a_little_nearer() -> None:
    # 200^2 - 2 * 100^2 = 20000 against 50^2 - 0 = 2500.
    small, large = face(499.5, 399.5, 50), face(599.5, 399.5, 200)
    assert choose_faces([small, large], "center", *PHOTO) == [large]
    # 200^2 - 2 * 140^2 = 800 is less than 2500.
    farther = face(639.5, 399.5, 200)
    assert choose_faces([small, farther], "center", *PHOTO) == [small]


@pytest.mark.parametrize("rule", FACE_RULES)
def test_one_face_is_taken_by_every_rule_and_none_by_none(rule: str) -> None:
    assert choose_faces([NEAR], rule, *PHOTO) == [NEAR]  # type: ignore[arg-type]
    assert choose_faces([], rule, *PHOTO) == []  # type: ignore[arg-type]


def test_unknown_rules_and_absent_scores_are_refused() -> None:
    with pytest.raises(ValueError, match=r"faces must be one of largest, center, .*got 'biggest'"):
        choose_faces([NEAR], "biggest", *PHOTO)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has no score"):
        choose_faces([NEAR, face(1, 1, 20)], "score", *PHOTO)


@pytest.mark.parametrize(
    ("points", "problem"),
    [
        (NEAR.points, None),
        (1000 - NEAR.points, None),  # upside down
        (np.array([1000, 0]) + NEAR.points * [-1, 1], "left and right are swapped"),
        (np.full((5, 2), 7.0), "all points of the landmarks are the same"),
        (
            NEAR.points + np.array([600, 0]),
            r"middle, \(1120, 410\), is outside the 1000 x 800 photo",
        ),
        (NEAR.points + np.array([0, 5000]), r"far outside the 1000 x 800 photo"),
    ],
)
def test_landmarks_of_no_face_are_told(points: np.ndarray, problem: str | None) -> None:
    found = Face(points).problem(*PHOTO)
    if problem is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(problem, found)


NUMBERS = "69 109 106 113 77 142 73 152 108 154"


@pytest.mark.parametrize("landmarks", ["celeba", "celeba with names", "vggface2"])
def test_landmarks_of_public_sets_are_read_as_they_are(tmp_path, landmarks):
    points = " ".join(
        f"{name}_{axis}"
        for name in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
        for axis in "xy"
    )
    photo = "n000001/0001_01.jpg" if landmarks == "vggface2" else "000001.jpg"
    if landmarks == "vggface2":
        names = ",".join(f"P{number}{axis}" for number in range(1, 6) for axis in "XY")
        text = f'NAME_ID,{names}\n"n000001/0001_01",{NUMBERS.replace(" ", ",")}\n'
    else:
        start = "image_id " if landmarks.endswith("names") else ""
        text = f"1\n{start}{points} \n000001.jpg  {NUMBERS.replace(' ', '  ')}\n"
    path = tmp_path / "landmarks.txt"
    path.write_text(text)
    table = read_landmarks(path)
    (face,) = table.faces(photo)[""]
    assert face.points.ravel().tolist() == list(map(float, NUMBERS.split()))
    assert table.without_photo([photo]) == []
    assert len(table.without_photo(["other.jpg"])) == 1


def test_boxes_are_no_landmarks(tmp_path):
    path = tmp_path / "list_bbox_celeba.txt"
    path.write_text("1\nimage_id x_1 y_1 width height\n000001.jpg    95  71 226 313\n")
    with pytest.raises(ValueError, match=r"there is no column x2 or .*; boxes are not enough"):
        read_landmarks(path)
