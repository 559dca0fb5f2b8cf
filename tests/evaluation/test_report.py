"""The report: one file, complete, safe, and true to its numbers."""

import json
import re
import sys

import numpy as np
import pytest

from centerarc.evaluation import evaluate_verification, make_pairs, pair_scores
from centerarc.evaluation.report import FaceSample, ReportData, require_report_extra, write_report

go = pytest.importorskip("plotly.graph_objects")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 6)
    images = rng.integers(0, 256, size=(48, 16, 16, 3), dtype=np.uint8)
    embeddings = (rng.normal(size=(8, 8))[labels] + rng.normal(size=(48, 8))).astype(np.float32)
    pairs = make_pairs(labels, 80, folds=2)
    scores = pair_scores(embeddings, pairs.index_a, pairs.index_b)
    people = (labels[pairs.index_a], labels[pairs.index_b])
    names = [f"</script><b>{i}" for i in range(8)]
    return ReportData(
        title="A <title> & more",
        verification=evaluate_verification(scores, pairs.same, pairs.fold, people),
        scores=scores,
        same=pairs.same,
        dataset="drawn pairs",
        pair_names=[(names[a], names[b]) for a, b in zip(*people, strict=True)],
        pair_images=lambda i: (images[pairs.index_a[i]], images[pairs.index_b[i]]),
        history=[
            {"step": i, "epoch": 0, "arcface_loss": 5.0 - i / 50, "center_loss": 0.5, "lr": 0.1}
            for i in range(100)
        ],
        validation=[{"step": 50, "accuracy": 0.8}, {"step": 100, "accuracy": 0.9}],
        faces=FaceSample(list(images), labels, names, embeddings),
        protocol=[("Held out", "Nobody here was trained on.")],
        config="loss:\n  m: 0.5",
        command="centerarc train recipe.yaml",
    )


@pytest.fixture(scope="module")
def page(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, data)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def embedded(page, key):
    text = re.search(rf'<script type="application/json" id="{key}">(.*?)</script>', page, re.S)
    return json.loads(text.group(1))


def own_markup(page):
    """The page without plotly's library."""
    return re.sub(r"<script>.*?</script>", "", page, flags=re.S)


def test_the_page_holds_the_numbers_and_their_protocol(page, data):
    report = data.verification
    assert f"{100 * report.accuracy.value:.2f}" in page
    assert f"{100 * report.auc.interval.low:.2f} to {100 * report.auc.interval.high:.2f}" in page
    assert "not measurable" in page
    assert "1,000 bootstrap resamples of the 8 people" in page
    assert "centerarc train recipe.yaml" in page
    assert "Nobody here was trained on." in page


def test_the_page_loads_nothing(page):
    assert "default-src 'none'" in page
    for address in re.findall(r'(?:src|href)="([^"]*)"', own_markup(page)):
        assert address.startswith(("data:", "#"))
    assert "url(" not in re.search(r"<style>(.*?)</style>", page, re.S).group(1)
    assert len(page) < 8e6


def test_names_cannot_break_out(page):
    assert "</script><b>" not in page
    assert "<title>A &lt;title&gt; &amp; more</title>" in page


def test_plotly_accepts_every_chart(page):
    figures = embedded(page, "figures")
    assert set(figures) == {"arcface_loss", "center_loss", "validation", "scores", "roc", "map"}
    for figure in figures.values():
        text = re.sub(r'"--[a-z0-9-]+"', '"#123456"', json.dumps(figure))
        go.Figure(json.loads(text))  # refuses unknown properties and values


def test_every_colour_is_defined_for_light_and_dark(page):
    style = re.search(r"<style>(.*?)</style>", page, re.S).group(1)
    light, dark = style.split("@media (prefers-color-scheme: dark)")[:2]
    used = set(re.findall(r'"(--[a-z0-9-]+)"', json.dumps(embedded(page, "figures"))))
    assert used
    for name in used:
        assert f"{name}:" in light
        assert f"{name}:" in dark.split("}")[0]


def test_every_point_of_the_map_has_its_picture(page):
    pictures = embedded(page, "pictures")
    traces = embedded(page, "figures")["map"]["data"]
    assert [len(group) for group in pictures] == [len(trace["x"]) for trace in traces]
    assert sum(map(len, pictures)) == 48


def test_the_hardest_mistakes_come_first(page, data):
    accepted = data.scores >= data.verification.threshold
    worst = data.scores[accepted & ~data.same].max()
    listed = re.findall(r'class="score">(-?[\d.]+)<', page)
    assert listed[0] == f"{worst:.3f}"
    assert f"{data.scores[~accepted & data.same].min():.3f}" in listed


def test_a_report_of_scores_alone(tmp_path):
    scores, same = np.array([0.9, 0.8, 0.2, 0.1]), np.array([True, True, False, False])
    report = evaluate_verification(scores, same)
    path = tmp_path / "r.html"
    write_report(path, ReportData("t", report, scores, same, "four pairs"))
    page = path.read_text(encoding="utf-8")
    assert "best accuracy (optimistic)" in page
    assert "expect less on others" in page
    assert "None at this threshold." in page
    assert set(embedded(page, "figures")) == {"scores", "roc"}


def test_a_missing_extra_is_one_clear_sentence(monkeypatch):
    require_report_extra()
    from centerarc.evaluation.report import page as module

    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "plotly" else object())
    with pytest.raises(ImportError, match=r"needs plotly: pip install 'centerarc\[report\]'"):
        require_report_extra()


def test_plotly_is_not_loaded_with_the_package():
    import subprocess

    code = "import sys, centerarc.evaluation; sys.exit('plotly' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_loss_that_was_not_finite_leaves_the_other_points(tmp_path):
    scores, same = np.array([0.9, 0.8, 0.2, 0.1]), np.array([True, True, False, False])
    losses = [float("nan"), *np.linspace(3, 1, 20), float("inf")]
    history = [{"step": step, "arcface_loss": loss} for step, loss in enumerate(losses)]
    report = evaluate_verification(scores, same)
    path = tmp_path / "r.html"
    write_report(path, ReportData("t", report, scores, same, "four pairs", history=history))
    raw, smooth = embedded(path.read_text(encoding="utf-8"), "figures")["arcface_loss"]["data"]
    assert raw["x"] == list(range(1, 21))
    assert np.isfinite(smooth["y"]).all()


def test_smoothed_curves_begin_and_end_with_the_measured_ones(tmp_path):
    scores, same = np.array([0.9, 0.8, 0.2, 0.1]), np.array([True, True, False, False])
    losses = np.linspace(9, 1, 200)
    history = [{"step": step, "arcface_loss": loss} for step, loss in enumerate(losses)]
    report = evaluate_verification(scores, same)
    path = tmp_path / "r.html"
    write_report(path, ReportData("t", report, scores, same, "four pairs", history=history))
    raw, smooth = embedded(path.read_text(encoding="utf-8"), "figures")["arcface_loss"]["data"]
    assert smooth["x"] == raw["x"]
    assert smooth["y"][0] == raw["y"][0] == 9
    # 200 values: means of 25, so at a straight line's end the middle of its last 25.
    assert smooth["y"][-1] == pytest.approx(losses[-13], rel=1e-4)
    assert smooth["y"][2] == pytest.approx(losses[1], rel=1e-4)


def test_far_groups_leave_no_wide_empty_strip_in_the_map():
    from centerarc.evaluation.report.face_map import face_map

    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 10)
    # Two families of people, opposite to each other: t-SNE puts a gulf between them.
    family = np.where(labels < 3, 1.0, -1.0)[:, None] * np.eye(8)[0]
    embeddings = family + 0.3 * rng.normal(size=(6, 8))[labels] + 0.05 * rng.normal(size=(60, 8))
    images = [np.zeros((4, 4, 3), np.uint8)] * 60
    names = [str(label) for label in range(6)]
    made = face_map(FaceSample(images, labels, names, embeddings.astype(np.float32)))
    x, y = (np.concatenate([trace[axis] for trace in made.chart.data]) for axis in "xy")
    for values in (x, y):
        assert np.diff(np.sort(values)).max() < 0.25 * np.ptp(values)
    # Neighbours stay neighbours: the nearest other face is the same person's.
    distance = np.hypot(x[:, None] - x, y[:, None] - y) + np.diag(np.full(60, np.inf))
    assert np.mean(labels[distance.argmin(axis=1)] == labels) > 0.9


@pytest.mark.parametrize("threshold", [-0.9, 0.0, 0.7, 0.95])
def test_the_threshold_is_named_inside_the_histogram(threshold):
    """The axis ends with the scores, so the name must stand on the side with more room."""
    from centerarc.evaluation.report.score_charts import score_chart

    chart = score_chart(np.linspace(-1, 1, 50), np.arange(50) > 20, threshold)
    low, high = chart.layout["xaxis"]["range"]
    assert (low, high) == pytest.approx((-1, 1))
    to_the_left = chart.layout["annotations"][0]["xanchor"] == "right"
    assert (threshold - low if to_the_left else high - threshold) >= (high - low) / 2 - 1e-6


def test_example_faces_fit_their_line(page):
    """No strip that scrolls: as many columns as there may be faces, fewer on a phone."""
    style = re.search(r"<style>(.*?)</style>", page, re.S).group(1)
    rules = re.findall(r"\.strip \{(.*?)\}", style)
    assert len(rules) == 2
    assert not any("overflow" in rule for rule in rules)
    columns = [int(re.search(r"repeat\((\d+),", rule).group(1)) for rule in rules]
    strip = re.search(r'<ul class="strip".*?</ul>', page, re.S).group(0)
    assert columns == [14, 7]
    assert 0 < strip.count("<img") <= 14
    assert "Shown two pictures" in page


def test_unequal_faces_are_refused():
    with pytest.raises(ValueError, match="equally many, got 1, 2 and 1"):
        FaceSample([np.zeros((4, 4, 3), np.uint8)], np.zeros(2, np.int64), ["a"], np.ones((1, 2)))
