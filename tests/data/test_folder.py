"""A folder of identities: the order is stable, and nothing is left out without a word."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from centerarc.data import FolderSource


def put(path: Path, value: int = 0, size: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (size, size), (value, value, value)).save(path)
    return path


def reasons(source: FolderSource) -> dict[str, str]:
    return {item.path.name: item.reason for item in source.skipped}


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
    (tmp_path / "ann" / "notes.txt").write_text("x")
    (tmp_path / "ann" / "empty.jpg").touch()
    (tmp_path / "ann" / "text.jpg").write_text("no picture")
    cut = tmp_path / "ann" / "cut.png"
    cut.write_bytes((tmp_path / "ann" / "1.png").read_bytes()[:20])
    source = FolderSource(tmp_path)
    assert [p.name for p in source.paths] == ["1.png"]
    found = reasons(source)
    assert found[".hidden.png"] == "hidden"
    assert found["deeper"] == "a folder inside an identity's folder"
    assert found["stray.png"] == "not in an identity's folder"
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
        item.reason for item in source.skipped if item.path == root / "ann"
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
    with pytest.raises(ValueError, match="not a folder"):
        FolderSource(tmp_path / "absent")
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "1.jpg").touch()
    with pytest.raises(ValueError, match=r"no usable image .*\(1 unreadable"):
        FolderSource(tmp_path)
    with pytest.raises(ValueError, match="image_size is 0"):
        FolderSource(tmp_path, image_size=0)
