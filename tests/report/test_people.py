"""Groups, the map of faces and the faces on it."""

import numpy as np
import pytest

from centerarc.evaluation import breakdown
from centerarc.report import FaceSample, ReportData
from centerarc.report.people import breakdown_parts, face_map
from tests.report.pages import scored, shown

pytest.importorskip("plotly")


def test_groups_that_are_too_small_say_so_and_leave_no_empty_table(tmp_path):
    scores, same, report = scored(60, 60)
    groups = np.arange(120) // 2 % 20  # 6 pairs each
    found = breakdown(scores, same, groups, threshold=report.threshold)
    data = ReportData("t", report, scores, same, "pairs", breakdowns={"age": found})
    (part,) = breakdown_parts(data.breakdowns)
    assert (part.gaps, part.charts, part.rows) == ([], [], [])
    page = shown(tmp_path, data)
    section = page[page.index("By age") : page.index("Where it goes wrong")]
    assert "TAR is known for none of the 20 groups" in section
    most = max(int(same[groups == group].sum()) for group in range(20))
    assert f"needs at least 30 pairs of one person, there are {most}." in section
    assert "<table" not in section
    assert "<details" not in section
    assert 'class="plot"' not in section


def test_one_group_that_is_large_enough_is_listed():
    scores, same, report = scored(60, 60)
    groups = np.where(np.arange(120) % 20, "many", "few")
    found = breakdown(scores, same, groups, threshold=report.threshold)
    (part,) = breakdown_parts({"age": found})
    assert [name for name, _, _ in part.rows] == ["few", "many"]
    assert part.charts == []
    assert all("one of the 2 groups: “few”, the largest other, needs" in s for s in part.lacking)
    assert len(part.lacking) == 3


def test_charts_of_a_column_can_be_laid_side_by_side():
    rng = np.random.default_rng(0)
    same = np.arange(600) % 2 == 0
    scores = rng.normal(size=600) + 2 * same
    groups = np.arange(600) // 2 % 3
    # One group has no impostor pairs to speak of: two charts have fewer rows.
    kept = same | (groups > 0)
    found = breakdown(scores[kept], same[kept], groups[kept], threshold=1.0)
    (part,) = breakdown_parts({"light": found})
    charts = [chart for chart, _, _ in part.charts]
    accuracy, tar, far = (chart.layout["xaxis"] for chart in charts)
    assert len({chart.height for chart in charts}) == 1
    assert accuracy["range"] == tar["range"]
    assert all(axis["tickangle"] == 0 for axis in (accuracy, tar, far))
    assert all(axis["title"]["text"] for axis in (accuracy, tar, far))
    heights = {np.ptp(chart.layout["yaxis"]["range"]) for chart in charts}
    assert len(heights) == 1
    for chart in charts:
        low, high = chart.layout["xaxis"]["range"]
        assert low < min(chart.data[0]["x"])
        assert max(chart.data[0]["x"]) < high


def test_far_groups_leave_no_wide_empty_strip_in_the_map():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 10)
    # Two families of people, opposite to each other: t-SNE puts a gulf between them.
    family = np.where(labels < 3, 1.0, -1.0)[:, None] * np.eye(8)[0]
    embeddings = family + 0.3 * rng.normal(size=(6, 8))[labels] + 0.05 * rng.normal(size=(60, 8))
    images = [np.zeros((4, 4, 3), np.uint8)] * 60
    names = [str(label) for label in range(6)]
    chart, _ = face_map(FaceSample(images, labels, names, embeddings.astype(np.float32)))
    x, y = (np.concatenate([trace[axis] for trace in chart.data]) for axis in "xy")
    for values in (x, y):
        assert np.diff(np.sort(values)).max() < 0.25 * np.ptp(values)
    # Neighbors stay neighbors: the nearest other face is the same person's.
    distance = np.hypot(x[:, None] - x, y[:, None] - y) + np.diag(np.full(60, np.inf))
    assert np.mean(labels[distance.argmin(axis=1)] == labels) > 0.9


def test_unequal_faces_are_refused():
    with pytest.raises(ValueError, match="equally many, got 1, 2 and 1"):
        FaceSample([np.zeros((4, 4, 3), np.uint8)], np.zeros(2, np.int64), ["a"], np.ones((1, 2)))
