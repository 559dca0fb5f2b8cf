"""What a source holds is counted from headers, whatever reads them."""

from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from centerarc.curate import count_statistics, inspect_source, tail_plot
from centerarc.data import FolderSource, create_source
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


def test_sizes_formats_colors_and_bytes_are_counted(folder: Path) -> None:
    source = FolderSource(folder)
    found = inspect_source(source, workers=0)
    assert found.statistics.images == 8
    assert found.counts.tolist() == [5, 3]
    assert found.sizes == Counter({(112, 112): 7, (64, 64): 1})
    assert found.formats == Counter({"JPEG": 6, "PNG": 2})
    assert found.colors == Counter({"color": 6, "gray": 1, "CMYK": 1})
    assert found.file_bytes.tolist() == [path.stat().st_size for path in source.paths]
    assert [(item.place, item.reason) for item in found.left_out] == [
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


# The numbers of the long tail are those of their definitions.


counts = st.lists(st.integers(1, 30_000), min_size=1, max_size=60)


@given(counts)
def test_the_gini_coefficient_is_half_the_relative_mean_difference(values: list[int]) -> None:
    array = np.array(values, dtype=float)
    expected = np.abs(array[:, None] - array).mean() / (2 * array.mean())
    assert count_statistics(values).gini == pytest.approx(expected, abs=1e-9)


@given(counts)
@settings(deadline=None)
def test_every_identity_is_in_the_group_that_names_its_count(values: list[int]) -> None:
    found = count_statistics(values)
    assert sum(identities for _, identities, _ in found.groups) == len(values)
    assert sum(images for _, _, images in found.groups) == sum(values)
    for name, identities, images in found.groups:
        ends = name.replace(",", "").rstrip("+").split("-")
        low, high = int(ends[0]), int(ends[-1]) if not name.endswith("+") else 10**9
        inside = [value for value in values if low <= value <= high]
        assert (len(inside), sum(inside)) == (identities, images)


def test_the_head_is_the_identities_with_most_images() -> None:
    found = count_statistics([1] * 90 + [91] * 10)
    assert found.heads[0.1] == pytest.approx(910 / 1000)
    assert found.heads[0.01] == pytest.approx(91 / 1000)
    assert (found.minimum, found.median, found.mean, found.maximum) == (1, 1, 10, 91)


@pytest.mark.parametrize("bad", [[], [3, 0], [[1, 2]]])
def test_nothing_to_count_is_refused(bad: list[int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        count_statistics(bad)


# The plot of the terminal fits it and falls from left to right.


@given(
    st.lists(st.integers(1, 10**6), min_size=1, max_size=300),
    st.integers(20, 140),
    st.integers(2, 15),
    st.booleans(),
)
def test_it_never_exceeds_its_width_and_falls(
    counts: list[int], width: int, height: int, unicode: bool
) -> None:
    lines = tail_plot(counts, width=width, height=height, unicode=unicode).split("\n")
    assert len(lines) == height + 2
    assert max(map(len, lines)) <= width
    assert unicode or all(line.isascii() for line in lines)
    bar = "│" if unicode else "|"
    drawn = [len(line.split(bar)[1]) for line in lines[:height]]
    assert drawn == sorted(drawn)
    assert drawn[-1] == width - lines[0].index(bar) - 1  # everybody has an image


def test_the_axes_name_the_most_images_and_the_last_identity() -> None:
    lines = tail_plot(np.geomspace(4000, 1, 500).astype(int), width=60).split("\n")
    assert lines[0].startswith("4,000 ")
    assert lines[-1].split() == ["1", "10", "100", "500"]
    assert [line.split("│")[0].strip() for line in lines[:-2]].count("10") == 1


def test_identities_that_have_equally_many_fill_it() -> None:
    lines = tail_plot([7, 7, 7], width=30, height=4, unicode=False).split("\n")
    assert {line.count("#") for line in lines[:4]} == {30 - 3}


def test_too_narrow_a_terminal_is_refused() -> None:
    with pytest.raises(ValueError, match="width is 5"):
        tail_plot([1], width=5)
