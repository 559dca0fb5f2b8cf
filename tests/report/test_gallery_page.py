"""The page of a gallery's calibration."""

from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from centerarc.gallery import Gallery
from centerarc.report.gallery_page import write_gallery_page


class Words(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.pictures = 0
        self.hidden = False
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden = tag in ("script", "style")
        self.pictures += tag == "img" and (dict(attrs).get("src") or "").startswith("data:")

    def handle_endtag(self, tag: str) -> None:
        self.hidden = False

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.words.append(data)


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    rng = np.random.default_rng(1)
    owner = np.repeat(np.arange(150), 1 + np.arange(150) % 3)
    centers = rng.standard_normal((150, 12))
    rows = centers[owner] + 0.5 * rng.standard_normal((len(owner), 12))
    places = [str(tmp_path / f"{number}.png") for number in range(len(owner))]
    for place in places[:-1]:
        cv2.imwrite(place, rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
    made = Gallery.create(tmp_path / "a.db", embedding_size=12)
    made.add_embeddings([f"<b>P{one}</b>" for one in owner], rows, places)
    return made


def test_the_page_says_what_was_measured(gallery: Gallery, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    found = gallery.calibrate(0.2, unsure=True, margin=True)
    write_gallery_page(tmp_path / "page.html", found, name="Choir")
    page = Words((tmp_path / "page.html").read_text())
    assert found.chosen is not None
    assert f"{found.thresholds.accept:.3f} least score of a face that has a name" in page.text
    assert f"Scores from {found.thresholds.reject:.3f} on are unsure" in page.text
    assert "300 photos of 150 people" in page.text
    assert "20% was asked for" in page.text
    assert f"{100 * found.chosen.fpir.value:.3g}% get a name here" in page.text
    assert "<b>P" in page.text  # as text, not as a tag
    assert page.pictures >= 2 * min(24, len(found.weak.alike)) - 2
    assert "All 50" in page.text


def test_an_extrapolation_is_marked(gallery: Gallery, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    found = gallery.calibrate(0.001, extrapolate=True)
    write_gallery_page(tmp_path / "page.html", found, name="Choir")
    page = Words((tmp_path / "page.html").read_text())
    assert "Extrapolated: the highest scores of strangers follow a distribution" in page.text
    assert "Too few people: FPIR 0.001 needs more people: 150 vouch for" in page.text
