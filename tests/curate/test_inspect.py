"""What a source holds is counted from headers, whatever reads them."""

from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from centerarc.curate.inspect import inspect_source
from centerarc.data.folder import FolderSource
from centerarc.data.sources import create_source
from tests.curate.pictures import save, scene


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(5):
        save(tmp_path / "ann" / f"{number}.jpg", scene(number))
    save(tmp_path / "bob" / "1.png", scene(7, 64))
    grey = PIL.Image.fromarray(scene(8)).convert("L")
    grey.save(tmp_path / "bob" / "grey.png")
    PIL.Image.fromarray(scene(9)).convert("CMYK").save(tmp_path / "bob" / "cmyk.jpg")
    (tmp_path / "bob" / "empty.jpg").touch()
    (tmp_path / "bob" / "notes.txt").write_text("x")
    return tmp_path


def test_sizes_formats_colours_and_bytes_are_counted(folder: Path) -> None:
    source = FolderSource(folder)
    found = inspect_source(source, workers=0)
    assert found.statistics.images == 8
    assert found.counts.tolist() == [5, 3]
    assert found.sizes == Counter({(112, 112): 7, (64, 64): 1})
    assert found.formats == Counter({"JPEG": 6, "PNG": 2})
    assert found.colours == Counter({"colour": 6, "grey": 1, "CMYK": 1})
    assert found.file_bytes.tolist() == [path.stat().st_size for path in source.paths]
    assert [(item.place, item.kind) for item in found.left_out] == [
        ("bob/empty.jpg", "unreadable"),
        ("bob/notes.txt", "no image by its extension"),
    ]


def test_any_number_of_workers_finds_the_same(folder: Path) -> None:
    for number in range(1100):
        path = folder / "cyd" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((folder / "bob" / "1.png").read_bytes())
    source = FolderSource(folder)
    source.paths[700].write_bytes(b"spoiled after opening")
    one, several = (inspect_source(source, workers=workers) for workers in (0, 2))
    assert one.unreadable == several.unreadable
    assert [place for place, _ in one.unreadable] == [source.place(700)]
    assert one.sizes == several.sizes
    assert np.array_equal(one.file_bytes, several.file_bytes)


def test_no_pixel_is_decoded(folder: Path) -> None:
    path = folder / "ann" / "0.jpg"
    data = path.read_bytes()
    source = FolderSource(folder)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="cut off"):
        source.image(0)
    assert inspect_source(source, workers=0).unreadable == []


def test_a_source_without_files_is_counted_by_its_pixels() -> None:
    source = create_source("synthetic", num_identities=2, images_per_identity=2)
    found = inspect_source(source, workers=0)
    assert found.formats == Counter({"pixels": 4})
    assert found.sizes == Counter({(112, 112): 4})
