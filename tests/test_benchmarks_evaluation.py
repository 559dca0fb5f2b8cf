"""The benchmark of evaluation says what was measured."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.evaluation import curves, template_scores
from benchmarks.evaluation.__main__ import main
from benchmarks.evaluation.cases import CURVE_CASES
from benchmarks.evaluation.goals import goals_table
from benchmarks.evaluation.page import TABLES
from benchmarks.evaluation.tables import faster

PAGE = Path(__file__).parents[1] / "docs" / "results" / "evaluation.md"
WHO = ("ours", "sklearn")


def rows(page: str, name: str) -> list[list[str]]:
    """The cells of a table on the page, without its head."""
    region = page.split(f"<!-- begin: {name} -->")[1].split(f"<!-- end: {name} -->")[0]
    lines = [line for line in region.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.slow
def test_a_quick_run_fills_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    shutil.copyfile(PAGE, page)
    assert main(["--quick", "--page", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    table = rows(text, "curves")
    assert len(table) == 4 * len(CURVE_CASES)
    assert all(row[3] == "1.0x" for row in table if "scikit-learn" in row[1])
    assert len(rows(text, "templates")) == 2
    # The small amounts of a quick run meet no goal and miss none.
    assert rows(text, "goals") == rows(PAGE.read_text(encoding="utf-8"), "goals")


def test_the_page_has_a_place_for_every_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in TABLES:
        assert rows(text, name), name


def record(ours: float, **amounts: int) -> dict[str, Any]:
    """Rounds of a machine that is ten times slower in one of them."""
    seconds = {f"{case}: sklearn": 1.0 for case in CURVE_CASES}
    seconds |= {f"{case}: ours": ours for case in CURVE_CASES}
    slow = {name: 10 * value for name, value in seconds.items()}
    return {"curves": [seconds, slow, dict(seconds)], "scores": 2_000_000, **amounts}


def test_a_slow_round_of_the_machine_changes_no_ratio() -> None:
    found = faster(record(0.1), "curves", *(f"{next(iter(CURVE_CASES))}: {w}" for w in WHO))
    assert found is not None
    assert (found.least, found.middle, found.most) == pytest.approx((10, 10, 10))


@pytest.mark.parametrize(
    ("ours", "verdict"), [(0.0999, "**10.0x**, met"), (0.1015, "**9.9x**, missed")]
)
def test_a_goal_missed_by_little_is_missed(ours: float, verdict: str) -> None:
    table = goals_table(record(ours))
    assert table is not None
    assert [row[2] for row in table[1]] == [verdict]


def test_the_slowest_case_is_the_one_that_counts() -> None:
    found = record(0.05)
    for seconds in found["curves"]:
        seconds["float32, half of them genuine: ours"] *= 3
    table = goals_table(found)
    assert table is not None
    assert table[1][0][2] == "**6.7x**, missed"


def test_fewer_scores_than_the_goal_speaks_of_say_nothing_about_it() -> None:
    assert goals_table(record(0.05) | {"scores": 250_000}) is None


def test_other_curves_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def slightly_off(scores: Any, same: Any) -> Any:
        far, tar, threshold = curves.plain(scores, same)
        return far, np.nextafter(tar, 0), threshold

    monkeypatch.setattr(curves, "ours", slightly_off)
    with pytest.raises(AssertionError, match="ours is not scikit-learn's curve of float64, half"):
        curves.works(250_000)


def test_template_pairs_are_drawn_as_the_page_says() -> None:
    _, first, second, same = template_scores.problem(40_000)
    assert first.max() < template_scores.FIRST <= second.min()
    assert second.max() < template_scores.FIRST + template_scores.SECOND
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == 40_000
    assert np.all(np.diff(first) >= 0)
    assert 0 < same.sum() < 100


def test_other_scores_are_not_compared() -> None:
    found = {"sample": [0.5], "found": [0.1]}
    template_scores.check_alike(found, {"sample": [0.500001], "found": [0.1]})
    with pytest.raises(AssertionError, match="scores differ"):
        template_scores.check_alike(found, {"sample": [0.51], "found": [0.1]})
    with pytest.raises(AssertionError, match="other TARs"):
        template_scores.check_alike(found, {"sample": [0.5], "found": [0.2]})
