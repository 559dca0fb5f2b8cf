"""IJB metadata files: their published form is read, and what breaks it is found by its line."""

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from centerarc.data.alignment import arcface_template
from centerarc.evaluation.files import (
    IjbFaces,
    find_ijb_files,
    ijb,
    read_ijb_images,
    read_ijb_landmarks,
    read_ijb_pairs,
    read_ijb_subjects,
)

POINTS = "46.060 62.026 87.785 60.323 68.851 77.656 52.162 99.875 86.450 98.648 0.999"


def put(tmp_path, text, name="ijbc.txt"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_images_of_templates(tmp_path):
    images = read_ijb_images(put(tmp_path, "1.jpg 1 69544\n2.jpg 1 69544\nan image.jpg 7 3\n"))
    assert images.names == ["1.jpg", "2.jpg", "an image.jpg"]
    assert images.template.tolist() == [1, 1, 7]
    assert images.media.tolist() == [69544, 69544, 3]


def test_landmarks_are_five_points_in_order(tmp_path):
    found = read_ijb_landmarks(put(tmp_path, f"1.jpg {POINTS}\n2.jpg {POINTS}"))
    assert found.landmarks.shape == (2, 5, 2)
    np.testing.assert_allclose(found.landmarks[1, 1], [87.785, 60.323])
    np.testing.assert_allclose(found.landmarks[0, 4], [86.45, 98.648])
    np.testing.assert_allclose(found.detector_score, 0.999)


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n\n"])
def test_pairs_of_templates(tmp_path, end):
    text = f"1 11065 1\n23124\t2 0\n3 3 1{end}"
    if "\r" in end:
        text = text.replace("\n", "\r\n").replace("\r\r", "\r")
    pairs = read_ijb_pairs(put(tmp_path, text))
    assert pairs.template_a.tolist() == [1, 23124, 3]
    assert pairs.template_b.tolist() == [11065, 2, 3]
    assert pairs.same.tolist() == [True, False, True]
    assert pairs.template_a.dtype == np.int32


@pytest.mark.parametrize("block", [1 << 23, 8])
def test_a_byte_order_mark_is_taken_by_every_file(tmp_path, monkeypatch, block):
    mark = b"\xef\xbb\xbf"
    monkeypatch.setattr(ijb, "_BLOCK", block)
    assert read_ijb_pairs(put(tmp_path, mark + b"11 2 1\n3 4 0")).template_a.tolist() == [11, 3]
    assert read_ijb_pairs(put(tmp_path, b"1 2 1")).template_a.tolist() == [1]
    assert read_ijb_images(put(tmp_path, mark + b"1.jpg 1 2")).names == ["1.jpg"]
    assert read_ijb_landmarks(put(tmp_path, mark + f"1.jpg {POINTS}".encode())).names == ["1.jpg"]
    subjects = read_ijb_subjects(put(tmp_path, mark + b"TEMPLATE_ID,SUBJECT_ID\n9,1"))
    assert subjects[0].tolist() == [9]
    with pytest.raises(ValueError, match="line 2: expected 3 whole numbers"):
        read_ijb_pairs(put(tmp_path, mark + b"1 2 1\n" + mark + b"1 2 0\n"))
    with pytest.raises(ValueError, match="the file has no line"):
        read_ijb_pairs(put(tmp_path, mark))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(*[st.integers(0, 10**18 - 1)] * 3), min_size=1, max_size=40),
    st.integers(1, 300),
)
def test_numbers_are_those_that_int_reads_whatever_the_blocks(tmp_path_factory, rows, block):
    path = tmp_path_factory.mktemp("numbers") / "n.txt"
    path.write_text("\n".join(" ".join(map(str, row)) for row in rows))
    before, ijb._BLOCK = ijb._BLOCK, max(block, 60)
    try:
        found = np.concatenate(list(ijb.number_lines(path, 3)))
    finally:
        ijb._BLOCK = before
    assert found.tolist() == [list(row) for row in rows]


GOOD = "1 2 0\n" * 7
BROKEN = [
    ("", "the file has no line"),
    ("1 2\n", "line 1: expected 3 whole numbers, got '1 2'"),
    (GOOD + "1 2 0 4\n" + GOOD, "line 8: expected 3 whole numbers, got '1 2 0 4'"),
    (GOOD + "1 2 0 4\n1 2\n", "line 8: expected 3"),
    (GOOD + "1 2\n1 2 0 4\n", "line 8: expected 3 whole numbers, got '1 2'"),
    (GOOD + "\n" + GOOD, "line 8: expected 3 whole numbers, got ''|line 9: the line before"),
    (GOOD + "1 2 x\n", "line 8: expected 3 whole numbers, got '1 2 x'"),
    (GOOD + "1 -2 0\n", "line 8: expected 3"),
    (GOOD + "1 2.5 0\n", "line 8: expected 3"),
    (GOOD + f"1 {'9' * 19} 0\n", "line 8: expected 3"),
    (GOOD + "1 2 2\n", "line 8: the label must be at most 1, got 2"),
    (GOOD + f"1 {2**31} 0\n", "line 8: the template must be at most 2147483647"),
    (GOOD + "1 2", "line 8: expected 3 whole numbers, got '1 2'"),
    (b"\x00\xff" * 40_000, "line 1: expected 3"),
]


@pytest.mark.parametrize("block", [1 << 23, 13, 6])
@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_a_broken_line_of_pairs_is_found(tmp_path, monkeypatch, text, message, block):
    monkeypatch.setattr(ijb, "_BLOCK", max(block, 30) if block == 6 else block)
    with pytest.raises(ValueError, match=f"ijbc.txt(, |: )({message})"):
        read_ijb_pairs(put(tmp_path, text))


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_ijb_images, "1.jpg 1 2\n2.jpg 1\n", "line 2: expected an image's name, a template"),
        (read_ijb_images, "1.jpg 1 x\n", "line 1: the medium must be a whole number, got 'x'"),
        (read_ijb_images, "1.jpg -1 2\n", "line 1: the template must be a whole number"),
        (read_ijb_images, "", "the file has no line"),
        (read_ijb_landmarks, "1.jpg 1 2 3\n", "line 1: expected an image's name, 10 numbers"),
        (read_ijb_landmarks, f"1.jpg {POINTS}\n2.jpg {POINTS}x\n", "line 2: expected an image"),
        (read_ijb_landmarks, f"1.jpg {POINTS.replace('0.999', 'nan')}", "line 1: .* be finite"),
    ],
)
def test_a_broken_line_of_images_is_found(tmp_path, read, text, message):
    with pytest.raises(ValueError, match=f"ijbc.txt.*{message}"):
        read(put(tmp_path, text))


def test_subjects_of_templates(tmp_path):
    text = "TEMPLATE_ID,SUBJECT_ID,FILENAME,FACE_X\n9,1,a.png,3\n9,1,b.png,4\n2,5,f/3.png,1\n"
    templates, subjects = read_ijb_subjects(put(tmp_path, text))
    assert (templates.tolist(), subjects.tolist()) == ([2, 9], [5, 1])
    for broken, message in (
        (text + "9,4,x.png,1\n", "line 5: template 9 is of subject 4, but of 1 on line 2"),
        (text.replace("SUBJECT_ID", "SUBJECT"), r"no column 'SUBJECT_ID'.* closest is 'SUBJECT'"),
        (text + "9,a,x.png,1\n", "line 5: SUBJECT_ID must be a whole number, got 'a'"),
        (text.splitlines()[0], "there is no template"),
    ):
        with pytest.raises(ValueError, match=message):
            read_ijb_subjects(put(tmp_path, broken))


@pytest.mark.parametrize(
    "read", [read_ijb_images, read_ijb_pairs, read_ijb_landmarks, read_ijb_subjects]
)
def test_a_missing_file_is_named(tmp_path, read):
    with pytest.raises(OSError, match=r"cannot read '.*gone\.txt': No such file"):
        read(tmp_path / "gone.txt")


def test_the_files_of_a_set_are_found_by_name(tmp_path):
    for name in ("face_tid_mid.txt", "name_5pts_score.txt", "template_pair_label.txt"):
        put(tmp_path, "", f"ijbb_{name}")
    put(tmp_path, "", "ijbb_name_5pts_score_retina.txt")
    assert find_ijb_files(tmp_path).galleries == []
    for name in ("gallery_S2", "gallery_S1"):
        put(tmp_path, "", f"ijbb_1N_{name}.csv")
    with pytest.raises(ValueError, match=r"galleries but no \*_1N_probe_mixed\.csv"):
        find_ijb_files(tmp_path)
    put(tmp_path, "", "ijbb_1N_probe_mixed.csv")
    found = find_ijb_files(tmp_path)
    galleries = [path.name for path in found.galleries]
    assert galleries == ["ijbb_1N_gallery_S1.csv", "ijbb_1N_gallery_S2.csv"]
    assert found.probes.name == "ijbb_1N_probe_mixed.csv"
    assert found.landmarks.name == "ijbb_name_5pts_score.txt"
    put(tmp_path, "", "ijbc_face_tid_mid.txt")
    with pytest.raises(ValueError, match=r"one file \*_face_tid_mid\.txt; it has ijbb_.*, ijbc_"):
        find_ijb_files(tmp_path)
    with pytest.raises(ValueError, match="must be a folder"):
        find_ijb_files(tmp_path / "gone")


def test_faces_are_cut_out_by_their_landmarks(tmp_path):
    """The landmarks are the template moved by (10, 20): the face is what starts there."""
    picture = np.zeros((200, 200, 3), np.uint8)
    picture[20:132, 10:122] = np.arange(112, dtype=np.uint8)[None, :, None]
    PIL.Image.fromarray(picture).save(tmp_path / "1.png")
    points = (arcface_template(112) + np.array([10, 20])).ravel()
    text = "1.png " + " ".join(f"{value:.4f}" for value in points) + " 0.9\n"
    landmarks = read_ijb_landmarks(put(tmp_path, text))
    images = read_ijb_images(put(tmp_path, "1.png 3 4\n"))
    faces = IjbFaces(images, landmarks, tmp_path)
    assert len(faces) == 1
    assert (faces.identities, faces.labels.tolist(), faces.place(0)) == (["3"], [0], "1.png")
    difference = np.abs(faces.image(0)[2:-2, 2:-2].astype(int) - np.arange(112)[None, 2:-2, None])
    assert difference.max() <= 1
    assert IjbFaces(images, landmarks, tmp_path, image_size=56).image(0).shape == (56, 56, 3)
    other = read_ijb_images(put(tmp_path, "2.png 3 4\n"))
    with pytest.raises(ValueError, match=r"line 1: templates have image '2\.png', landmarks .*'1"):
        IjbFaces(other, landmarks, tmp_path)
    (tmp_path / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1\.png"):
        faces.image(0)
