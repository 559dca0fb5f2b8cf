"""The pages: one file each, complete, safe and true to what was found."""

import re
import sys
from pathlib import Path

import PIL.Image
import pytest

from centerarc.curate import check_source, inspect_source
from centerarc.data import FolderSource
from centerarc.report.dataset_pages import write_check_page, write_inspect_page
from tests.curate.pictures import save, scene
from tests.report.pages import (
    check_charts,
    check_colors,
    check_loads_nothing,
    embedded,
    own_markup,
    style,
)

pytest.importorskip("plotly")
EVIL = "<b>&amp;'\""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> FolderSource:
    root = tmp_path_factory.mktemp("faces")
    for person in range(12):
        for number in range(1 + 20 // (person + 1)):
            save(root / f"person {person}" / f"{number}.jpg", scene(100 * person + number, 64))
    save(root / EVIL / f"{EVIL}.png", scene(5000))
    (root / EVIL / "copy.jpg").write_bytes((root / "person 0" / "0.jpg").read_bytes())
    (root / EVIL / "text.jpg").write_text("x")
    PIL.Image.new("RGB", (70, 70)).save(root / "person 1" / "blank.png")
    source = FolderSource(root)
    source.paths[3].write_bytes(source.paths[3].read_bytes()[:500])
    return source


@pytest.fixture(scope="module", params=["inspect", "check"])
def page(
    request: pytest.FixtureRequest, source: FolderSource, tmp_path_factory: pytest.TempPathFactory
) -> str:
    return written(request.param, source, tmp_path_factory.mktemp("page"))


def written(kind: str, source: FolderSource, folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / "report.html"
    if kind == "inspect":
        write_inspect_page(path, source, inspect_source(source, workers=0), name=EVIL)
    else:
        write_check_page(path, source, check_source(source, workers=0), name=EVIL)
    assert [p.name for p in folder.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_it_loads_nothing(page: str) -> None:
    check_loads_nothing(page)


def test_names_cannot_break_out(page: str) -> None:
    assert EVIL not in own_markup(page)
    assert "&lt;b&gt;&amp;amp;" in page


def test_every_color_is_defined_for_light_and_dark(page: str) -> None:
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", style(page)))
    used |= set(re.findall(r'"(--[a-z0-9-]+)"', own_markup(page)))
    check_colors(page, used - {"--sans", "--mono"})


def test_links_lead_somewhere(page: str) -> None:
    for anchor in re.findall(r'href="#([^"]*)"', own_markup(page)):
        assert f'id="{anchor}"' in page


def test_the_inspection_holds_its_numbers_and_charts(source: FolderSource, tmp_path: Path) -> None:
    page = written("inspect", source, tmp_path)
    images = len(source)
    assert f'<span class="value">{images}</span>' in page
    assert "text.jpg" in page  # left out at opening
    figures = embedded(page, "figures")
    assert set(figures) == {"tail", "groups", "share", "sides"}
    check_charts(figures)
    tail = figures["tail"]["data"][0]
    assert max(tail["y"]) == 21
    assert figures["tail"]["layout"]["yaxis"]["ticktext"] == ["1", "2", "5", "10", "20"]
    assert figures["sides"]["layout"]["yaxis"].get("dtick") is None
    assert tail["x"][-1] == len(source.identities)
    assert figures["share"]["data"][1]["y"][-1] == 100


def test_the_check_shows_pairs_of_duplicates_with_both_names(
    source: FolderSource, tmp_path: Path
) -> None:
    page = written("check", source, tmp_path)
    assert '<span class="value">5</span>' in page
    pairs = re.findall(r'<div class="two">(.*?)</div>', page, re.S)
    assert len(pairs) == 1
    assert pairs[0].count("<img") == 2
    assert "person 0/0.jpg" in pairs[0]
    assert "copy.jpg" in pairs[0]
    for kind in ("truncated", "unreadable", "blank", "duplicate across identities"):
        assert f">{kind}</a>" in page


def test_the_same_seed_shows_the_same_samples(source: FolderSource, tmp_path: Path) -> None:
    overview = inspect_source(source, workers=0)
    pages = []
    for number, seed in enumerate((1, 1, 2)):
        path = tmp_path / f"{number}.html"
        write_inspect_page(path, source, overview, name="faces", seed=seed)
        pages.append(re.sub(r" on \d{4}-.*? UTC", "", path.read_text(encoding="utf-8")))
    assert pages[0] == pages[1] != pages[2]


def test_one_image_is_enough_for_both_pages(tmp_path: Path) -> None:
    save(tmp_path / "faces" / "ann" / "1.png", scene(1))
    source = FolderSource(tmp_path / "faces")
    page = written("inspect", source, tmp_path / "a")
    assert "image of 1 identity" in page
    assert embedded(page, "figures")["bytes"]["layout"]["yaxis"]["dtick"] == 1  # no half image
    assert "nothing was found" in written("check", source, tmp_path / "b")


def test_an_image_that_cannot_be_shown_keeps_its_place(tmp_path: Path) -> None:
    path = save(tmp_path / "faces" / "ann" / "1.png", scene(1))
    source = FolderSource(tmp_path / "faces")
    path.write_bytes(path.read_bytes()[:200])
    page = written("inspect", source, tmp_path / "page")
    assert '<span class="broken" title="ann/1.png">unreadable</span>' in page


def test_without_plotly_the_page_says_what_to_install(
    source: FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overview = inspect_source(source, workers=0)
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setattr("centerarc.report.rendering.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'centerarc\[report\]'"):
        write_inspect_page(tmp_path / "page.html", source, overview, name="faces")
    assert list(tmp_path.iterdir()) == []
