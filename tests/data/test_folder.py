"""A folder of identities: the order is stable, and nothing is left out without a word."""

from pathlib import Path

import numpy as np
import pytest

from centerarc.data import FolderSource
from tests.data.pictures import put


def reasons(source: FolderSource) -> dict[str, str]:
    return {item.place.rpartition("/")[2]: str(item) for item in source.skipped}


def test_images_come_in_natural_order_with_the_labels_of_their_folders(tmp_path: Path) -> None:
    for value, name in enumerate(["p10/img2", "p10/img10", "p2/b", "p2/a"]):
        put(tmp_path / f"{name}.png", value)
    source = FolderSource(tmp_path)
    assert source.identities == ["p2", "p10"]
    assert [f"{p.parent.name}/{p.stem}" for p in source.paths] == [
        "p2/a",
        "p2/b",
        "p10/img2",
        "p10/img10",
    ]
    assert source.labels.tolist() == [0, 0, 1, 1]
    assert source.labels.dtype == np.int64
    assert [int(source.image(i)[0, 0, 0]) for i in range(len(source))] == [3, 2, 0, 1]
    assert source.summary() == "4 images of 2 identities"


def test_what_is_left_out_is_listed_with_the_reason(tmp_path: Path) -> None:
    put(tmp_path / "ann" / "1.png")
    put(tmp_path / "ann" / ".hidden.png")
    put(tmp_path / "ann" / "deeper" / "2.png")
    put(tmp_path / "rare" / ".." / "stray.png")
    (tmp_path / "readme.md").touch()
    (tmp_path / "ann" / "nothing").mkdir()
    (tmp_path / "ann" / "notes.txt").write_text("x")
    (tmp_path / "ann" / "empty.jpg").touch()
    (tmp_path / "ann" / "text.jpg").write_text("no picture")
    cut = tmp_path / "ann" / "cut.png"
    cut.write_bytes((tmp_path / "ann" / "1.png").read_bytes()[:20])
    source = FolderSource(tmp_path)
    assert [p.name for p in source.paths] == ["1.png"]
    found = reasons(source)
    assert found[".hidden.png"] == "hidden"
    assert found["deeper"] == "a folder of images inside an identity's folder"
    assert found["nothing"] == "a folder inside an identity's folder"
    assert found["stray.png"] == "an image outside an identity's folder"
    assert found["readme.md"] == "not in an identity's folder"
    assert found["notes.txt"] == "no image by its extension"
    assert found["empty.jpg"] == "unreadable: the file is empty"
    assert "known format" in found["text.jpg"]
    assert found["cut.png"].startswith("unreadable")
    assert "3 unreadable" in source.summary()


def test_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere" / "eve" / "1.png")
    root = tmp_path / "root"
    put(root / "ann" / "1.png")
    (root / "again").symlink_to(root / "ann")
    (root / "eve").symlink_to(tmp_path / "elsewhere" / "eve")
    (root / "loop").symlink_to(root)
    (root / "eve" / "loop").symlink_to(root / "eve")
    (root / "eve" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    source = FolderSource(root)
    assert source.identities == ["again", "eve"]
    assert "a link to another identity: again" in [
        str(item) for item in source.skipped if item.place == "ann"
    ]
    assert reasons(source)["gone.png"] == "a broken link"
    assert len(source) == 2


def test_a_file_damaged_later_is_named(tmp_path: Path) -> None:
    path = put(tmp_path / "ann" / "1.jpg", size=64)
    source = FolderSource(tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"ann/1\.jpg"):
        source.image(0)
    path.unlink()
    with pytest.raises(ValueError, match=r"ann/1\.jpg"):
        source.image(0)


def test_images_are_resized_when_asked(tmp_path: Path) -> None:
    put(tmp_path / "ann" / "1.png", 90, size=20)
    assert FolderSource(tmp_path).image(0).shape == (20, 20, 3)
    image = FolderSource(tmp_path, image_size=12).image(0)
    assert image.shape == (12, 12, 3)
    assert (image == 90).all()


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"root must be a folder, got .*absent"):
        FolderSource(tmp_path / "absent")
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "1.jpg").touch()
    with pytest.raises(ValueError, match=r"no usable image .*\(1 unreadable"):
        FolderSource(tmp_path)
    with pytest.raises(ValueError, match="image_size must be at least 1 or None, got 0"):
        FolderSource(tmp_path, image_size=0)


@pytest.mark.parametrize(
    ("people", "level", "instead"),
    [
        ("part", "one level", "part"),
        ("a/b c", "two levels", "a/b c"),
        ("a/b/c", "three levels", "a/b/c"),
    ],
)
def test_people_one_level_too_deep_are_pointed_out(
    tmp_path: Path, people: str, level: str, instead: str
) -> None:
    for person in ("ann", "bob"):
        for number in range(2):
            put(tmp_path / people / person / f"{number}.png")
    expected = f"people seem to lie {level} deeper; use a folder such as '{tmp_path / instead}'"
    with pytest.raises(ValueError, match="no usable image") as caught:
        FolderSource(tmp_path)
    assert expected in str(caught.value)
    put(tmp_path / "stray person" / "1.png")
    source = FolderSource(tmp_path)
    assert len(source) == 1
    assert len(source.problems) == 1
    assert expected in source.problems[0]
    assert "4 of 5" in source.problems[0]
    assert expected in source.summary()
    assert FolderSource(tmp_path / instead).problems == []


def test_a_few_deeper_images_do_not_move_the_root(tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path / "ann" / f"{number}.png")
        put(tmp_path / "ann" / "originals" / f"{number}.png")
    (tmp_path / "ann" / "originals" / "loop").symlink_to(tmp_path)
    source = FolderSource(tmp_path)
    assert source.problems == []
    assert [(item.place, item.images) for item in source.skipped] == [("ann/originals", 3)]


def test_pictures_in_formats_that_are_not_read_are_told_from_other_files(tmp_path: Path) -> None:
    put(tmp_path / "ann" / "1.png")
    for name in ("1.HEIC", "2.heif", "3.avif", "4.gif", "notes.txt", "._5.heic"):
        (tmp_path / "ann" / name).write_bytes(b"x")
    found = reasons(FolderSource(tmp_path))
    for name in ("1.HEIC", "2.heif", "3.avif", "4.gif"):
        extension = Path(name).suffix.lower()
        assert found[name] == f"a format that is not read: {extension}"
    assert found["notes.txt"] == "no image by its extension"
    assert found["._5.heic"] == "hidden"


def test_a_root_that_is_far_too_high_is_not_searched_to_the_bottom(tmp_path: Path) -> None:
    put(tmp_path / "ann" / "1.png")
    for number in range(2):
        put(tmp_path / "a" / "b" / "c" / "d" / "ann" / f"{number}.png")
        put(tmp_path / "ann" / "x" / ".cache" / f"{number}.png")
    source = FolderSource(tmp_path)
    assert source.problems == []
    assert {item.images for item in source.skipped} == {0}


def test_a_list_that_labels_the_folder_is_pointed_out(tmp_path: Path) -> None:
    put(tmp_path / "train" / "1.png")
    (tmp_path / "train" / "metadata.csv").write_text("file_name,label\n1.png,Ann\n")
    assert "'train/metadata.csv' may say who is on the images" in FolderSource(tmp_path).summary()
