"""The benchmark of calibration says what was measured."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from benchmarks import calibration
from benchmarks.calibration import (
    TABLES,
    a_real_round,
    best_scores,
    coverage_row,
    draw,
    main,
    own_scores,
)

from centerarc.evaluation import leave_one_out

PAGE = Path(__file__).parents[1] / "docs" / "results" / "calibration.md"


def rows(page: str, name: str) -> list[list[str]]:
    """The cells of a table on the page, without its head."""
    region = page.split(f"<!-- begin: {name} -->")[1].split(f"<!-- end: {name} -->")[0]
    lines = [line for line in region.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_page_has_a_place_for_every_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in TABLES:
        assert rows(text, name), name


def test_intervals_on_the_page_hold_as_often_as_it_promises() -> None:
    found = rows(PAGE.read_text(encoding="utf-8"), "coverage")
    assert len(found) == 18
    for row in found:
        assert float(row[3].strip("*%")) >= 93, row


@pytest.mark.slow
def test_a_quick_run_fills_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    shutil.copyfile(PAGE, page)
    assert main(["--quick", "--page", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert len(rows(text, "coverage")) == 18
    assert len(rows(text, "enrolled")) == len(rows(text, "beyond")) == 9
    # Of real faces nothing was measured.
    assert rows(text, "real") == rows(PAGE.read_text(encoding="utf-8"), "real")


@pytest.mark.parametrize("world", list(calibration.WORLDS))
def test_the_truth_is_measured_by_the_same_scores(world: str) -> None:
    generator = np.random.default_rng(0)
    faces, who = draw(world, generator, 30)
    counts = np.bincount(who)
    assert counts.min() >= 1
    assert counts.max() <= 10
    left = leave_one_out(faces, who)
    assert own_scores(faces, who) == pytest.approx(left.genuine, abs=1e-5, nan_ok=True)
    first = who < 15
    alone = best_scores(faces[first], faces[~first])
    cosine = faces[~first].astype(np.float64) @ faces[first].astype(np.float64).T
    assert alone == pytest.approx(cosine.max(axis=1), abs=1e-5)


def test_a_row_counts_the_intervals_that_hold() -> None:
    one = {"below": False, "above": False, "plain": True, "true": 0.01, "width": 0.02}
    other = {**one, "above": True, "plain": False, "true": 0.03}
    found = coverage_row(["20"], [{**each, "ideal": 0.01} for each in (one, one, one, other)])
    assert found == ["20", "**75.0%**", "0.0% / 25.0%", "75.0%", "1.5%", "2%", "1%"]


def test_real_people_are_strangers_or_enrolled_and_no_one_has_too_many_photos(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = np.random.default_rng(1)
    who = np.repeat(np.arange(60), generator.integers(1, 40, 60))
    faces = calibration.unit(generator.normal(size=(who.size, 8)))
    seen: list[np.ndarray] = []

    def note(left_faces, people):
        seen.append(people)
        return leave_one_out(left_faces, people)

    monkeypatch.setattr(calibration, "leave_one_out", note)
    found = a_real_round(faces, who, 50, seed=3)
    assert np.unique(seen[0]).size == 50
    assert np.bincount(seen[0]).max() == 10
    assert 0 <= found["true"] <= 1
