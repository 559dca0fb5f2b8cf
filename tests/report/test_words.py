"""What the page says in words: the headline, reasons, names and verdicts."""

import re
from dataclasses import replace

import numpy as np
import pytest

from centerarc.evaluation.comparison import Difference
from centerarc.evaluation.groups import breakdown
from centerarc.evaluation.intervals import Estimate, Interval
from centerarc.evaluation.protocols import Evaluation
from centerarc.evaluation.protocols.judging import JudgedImages
from centerarc.evaluation.separability import measure_separability
from centerarc.evaluation.verification import evaluate_verification
from centerarc.report.comparison_page import verdicts
from centerarc.report.evaluation_page import (
    ReportData,
    headline,
    model_words,
    write_evaluation_page,
    write_report,
)
from centerarc.report.numbers import ComparedRow, separability_rows
from centerarc.report.people import breakdown_parts
from centerarc.report.rendering import tied, typed

pytest.importorskip("plotly")


def scored(genuine, impostor, folds=None):
    """Scores that tell nothing, as many as wanted of each kind."""
    rng = np.random.default_rng(0)
    same = np.arange(genuine + impostor) < genuine
    scores = rng.normal(size=same.size)
    fold = None if folds is None else np.arange(same.size) % folds
    return scores, same, evaluate_verification(scores, same, fold)


def shown(tmp_path, data):
    path = tmp_path / "page.html"
    write_report(path, data)
    page = path.read_text(encoding="utf-8")
    page = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    page = re.sub('<span class="tied">(.*?)</span>', r"\1", page)
    return page.replace("&nbsp;", " ").replace("\xa0", " ")


@pytest.mark.parametrize("folds", [None, 5])
@pytest.mark.parametrize(("genuine", "impostor"), [(40, 160), (160, 40)])
def test_a_useless_model_does_not_shine_by_unbalanced_pairs(folds, genuine, impostor):
    scores, same, report = scored(genuine, impostor, folds)
    found = headline(ReportData("t", report, scores, same, "pairs"))
    assert found.what == "AUC"
    assert found.value == f"{100 * report.auc.value:.2f}"
    answer = "one person" if genuine > impostor else "two people"
    assert f"always answering “{answer}” would be right in 80.0" in found.further[0]
    assert f"{100 * report.accuracy.value:.2f}" in found.further[0]


@pytest.mark.parametrize(
    ("genuine", "impostor", "baseline"), [(100, 100, "50.0"), (90, 110, "55.0"), (80, 120, "60.0")]
)
def test_the_headline_says_what_one_answer_for_all_reaches(genuine, impostor, baseline):
    scores, same, report = scored(genuine, impostor, 5)
    found = headline(ReportData("t", report, scores, same, "pairs"))
    assert found.what == "accuracy"
    assert re.search(rf"always .* would be right in {baseline}", found.sentence)


def test_the_accuracy_and_the_answers_at_the_sliders_start_are_told_apart(tmp_path):
    scores, same, report = scored(60, 60, 3)
    page = shown(tmp_path, ReportData("t", report, scores, same, "pairs"))
    right = ((scores >= report.threshold) == same).mean()
    assert f"The accuracy of {100 * report.accuracy.value:.2f} % is not of one threshold" in page
    assert f"mean, {report.threshold:.3f}, where {100 * right:.2f} %" in page


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


def test_every_row_on_identities_says_what_stands_behind_it():
    rng = np.random.default_rng(0)
    labels = np.array([0, 0, 0, 1, 1, 2, 3, 4, 5])  # four people with one image
    found = measure_separability(rng.normal(size=(9, 4)), labels, bootstrap=100)
    how = {row.name: row.how for row in separability_rows(found)}
    assert how["compactness"].endswith("5 images of 2 people.")
    assert how["margin"].endswith("5 images of 2 people.")
    assert how["nearest center is the own"].endswith("5 images of 2 people.")
    assert how["separation"].endswith(" 6 people.")


def test_the_hash_of_embeddings_is_that_of_the_model_that_made_them():
    facts = {"file": "out/e.parquet", "kind": "embeddings", "model": "abc"}
    assert model_words(facts) == (
        "out/e.parquet, a file of embeddings, made by a model with SHA-256 abc."
    )
    assert "unknown model" in model_words({"file": "e.npz", "kind": "embeddings"})
    assert model_words({"file": "m.onnx", "sha256": "abc"}) == "m.onnx, SHA-256 abc."


def judged(picture=None, **more):
    scores, same, report = scored(6, 6)
    from centerarc.evaluation.protocols import Settings, Verified

    places = [f"p{number}/<b>{number}.jpg" for number in range(24)]
    rng = np.random.default_rng(1)
    images = JudgedImages(rng.normal(size=(24, 4)).astype(np.float32), None, [], places, picture)
    index = np.arange(0, 24, 2), np.arange(1, 24, 2)
    verified = Verified(report, scores, same, None, None, "who", index, {}, {}, Settings())
    data = {"protocol": "pairs", "distractors_images": 200}
    model = {"file": "runs/a/best.safetensors", "sha256": "abc"}
    return Evaluation(model, data, "pairs.csv", images, verified, **more)


def written(tmp_path, evaluation):
    path = tmp_path / "page.html"
    write_evaluation_page(path, evaluation)
    page = path.read_text(encoding="utf-8")
    return re.sub(r"<script.*?</script>", "", page, flags=re.S)


def test_mistakes_without_pictures_are_named(tmp_path):
    evaluation = judged()
    page = written(tmp_path, evaluation)
    pairs = evaluation.verification
    wrong = (pairs.scores >= pairs.report.threshold) & ~pairs.same
    assert wrong.any()
    worst = int(np.argmax(np.where(wrong, pairs.scores, -np.inf)))
    first = f"p{2 * worst}/&lt;b&gt;{2 * worst}.jpg"
    assert f">{pairs.scores[worst]:.3f}</span>" in page
    assert first in page
    assert '<span class="tied">--images</span> with their folder shows them' in page
    assert "<h1>Evaluation of a</h1>" in page
    assert "images of distractors: 200" in page


def test_what_was_left_out_on_purpose_is_not_named(tmp_path):
    evaluation = judged()
    nameless = replace(evaluation.images, places=[""] * 24)
    page = written(tmp_path, replace(evaluation, images=nameless))
    assert "Pictures and names were left out of this page." in page
    assert "--images" not in page
    assert 'class="named"' not in page


def test_pages_of_templates_say_that_one_image_stands_for_many(tmp_path):
    evaluation = judged(lambda number: np.zeros((4, 4, 3), np.uint8), templates={"convention": "x"})
    page = written(tmp_path, evaluation)
    assert "Of each template one image is shown" in page


def test_the_page_has_its_date(tmp_path):
    page = written(tmp_path, judged())
    assert re.search(r"Written by centerarc \S+ on \d{4}-\d\d-\d\d \d\d:\d\d UTC\.", page)


def test_numbers_and_flags_are_not_broken():
    assert tied("95 % of <b> --folds and -1.5 to +2") == (
        '95&nbsp;% of &lt;b&gt; <span class="tied">--folds</span> and '
        '<span class="tied">-1.5</span> to +2'
    )
    # Who copies a command must get what was typed.
    assert typed("--title '5 % a-b'") == '<span class="tied">--title</span> &#39;5 % a-b&#39;'


def test_no_rate_is_written_as_a_fraction(tmp_path):
    scores, same, report = scored(60, 60)
    page = shown(tmp_path, ReportData("t", report, scores, same, "pairs"))
    assert "FAR 0.1 % needs at least 1,000 pairs of two people, there are 60." in page
    assert not re.search(r"FAR 0\.\d+(?! %)\b", page)
    assert not re.search(r"\d%", re.sub(r"<style>.*?</style>|data:\S+", "", page, flags=re.S))


def compared(**rates):
    """Rates of a and b, by the value, interval and doubt of their differences."""
    return [
        ComparedRow(
            name.replace("_", " "),
            [Estimate(0.5), Estimate(0.5)],
            {"b": Difference(value, Interval(low, high), doubt)},
        )
        for name, (value, low, high, doubt) in rates.items()
    ]


def test_a_verdict_names_what_is_sure_and_what_is_not():
    unsure = (0.0058, -0.036, 0.05, 0.8)
    found = compared(accuracy=unsure, AUC=(0.036, -0.001, 0.07, 0.06))
    (sentence,) = verdicts(found, ["a", "b"])
    assert sentence.startswith("b and a cannot be told apart by these people")
    assert "Accuracy differs by +0.58 points" in sentence
    assert "nearest to a difference comes AUC with +3.60 points" in sentence

    sure = {"AUC": (0.036, 0.001, 0.07, 0.04), "EER": (0.02, 0.01, 0.03, 0.0)}
    (sentence,) = verdicts(compared(accuracy=unsure, **sure), ["a", "b"])
    assert "b is better in AUC (+3.60 points, 95 % interval +0.10 to +7.00)" in sentence
    # More errors are worse.
    assert "and worse in EER (+2.00 points" in sentence
    assert sentence.endswith("The other measure cannot be told apart.")


def test_all_measures_in_one_direction_read_as_a_sentence():
    found = compared(accuracy=(0.1, 0.05, 0.15, 0.0), AUC=(0.1, 0.05, 0.15, 0.0))
    (sentence,) = verdicts(found, ["a", "b"])
    assert re.fullmatch(
        r"b is better in accuracy \(\+10\.00 points.*\) and AUC \(.*\) than a\.", sentence
    )


def test_the_edge_that_stands_for_none_is_named_so():
    from centerarc.report.curves import Curve, curve_charts

    scores, same, report = scored(5, 5)
    _, det = curve_charts({"": Curve.of(scores, same, report)})
    axis = det.layout["yaxis"]
    assert axis["tickvals"][0] == pytest.approx(10)  # half a pair of 5
    assert axis["ticktext"][0] == "0\xa0%"
    # A curve that runs along 100 % is not cut.
    assert axis["range"][1] > 2
