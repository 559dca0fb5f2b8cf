"""All photos of a tree are found once, and none shares its output with another."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from centerarc.curate.photos import PhotoTree, face_separators, output_names


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
