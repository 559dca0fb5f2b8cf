"""The report: one file, complete, safe, and true to its numbers."""

import base64
import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from centerarc.evaluation import (
    breakdown,
    cmc,
    evaluate_identification,
    evaluate_verification,
    held_out_fars,
    make_pairs,
    measure_separability,
    pair_scores,
    score_all_pairs,
    search_gallery,
)
from centerarc.evaluation.protocols import (
    AllPaired,
    AllPairsSettings,
    Evaluation,
    Settings,
    Verified,
)
from centerarc.evaluation.protocols.judging import JudgedImages
from centerarc.report import (
    FaceSample,
    ReportData,
    SearchCurves,
    write_evaluation_page,
    write_report,
)
from centerarc.report.evaluation_page import headline, model_words
from tests.report.pages import (
    check_charts,
    check_colors,
    check_loads_nothing,
    embedded,
    own_markup,
    scored,
    shown,
    style,
)

pytest.importorskip("plotly")


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
    report = evaluate_verification(scores, pairs.same, pairs.fold, people)
    groups = np.where(np.arange(len(pairs)) % 3, "<i>light</i>", "dark")
    return ReportData(
        title="A <title> & more",
        verification=report,
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
        held_out=held_out_fars(scores, pairs.same, pairs.fold, [0.1], people),
        breakdowns={
            "<b>light</b>": breakdown(
                scores, pairs.same, groups, people, threshold=report.threshold, min_pairs=5
            )
        },
        search=searched(),
        separability=measure_separability(embeddings, labels, far=0.05),
    )


def searched():
    """Six people looked up among four, the last four probes being strangers."""
    rng = np.random.default_rng(1)
    people = rng.normal(size=(6, 8))
    asked = np.repeat(np.arange(6), 2)
    probes = people[asked] + 0.3 * rng.normal(size=(12, 8))
    search = search_gallery(people[:4], np.arange(4), probes, asked)
    report = evaluate_identification(search, ranks=(1, 2), fpirs=(0.5, 0.01))
    return SearchCurves(report, cmc(search, 4), np.array([0.25, 0.5]), np.array([0.9, 1.0]))


@pytest.fixture(scope="module")
def page(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, data)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_the_page_holds_the_numbers_and_their_protocol(page, data):
    report = data.verification
    assert f"{100 * report.accuracy.value:.2f}" in page
    assert f"{100 * report.auc.interval.low:.2f} to {100 * report.auc.interval.high:.2f}" in page
    assert "not measurable" in page
    assert "1,000 bootstrap resamples of the 8 people" in page
    assert "centerarc train recipe.yaml" in page
    assert "Nobody here was trained on." in page


def test_the_page_loads_nothing(page):
    check_loads_nothing(page)
    assert len(page) < 8e6


def test_only_the_two_scripts_of_the_page_may_run(page):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page).group(1)
    rule = next(part for part in policy.split(";") if part.strip().startswith("script-src"))
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    assert rule.split()[1:] == [f"'sha256-{digest}'" for digest in digests]
    assert len(scripts) == 2


def test_the_slider_counts_what_each_threshold_accepts(page, data):
    steps = embedded(page, "steps")
    low, high, count = steps["low"], steps["high"], len(steps["far"])
    assert [low, high] == embedded(page, "figures")["scores"]["layout"]["xaxis"]["range"]
    assert -1 <= low < data.scores.min()
    assert data.scores.max() < high <= 1
    for at in range(0, count, 7):
        accepted = data.scores >= low + (high - low) * at / (count - 1)
        assert steps["far"][at] == pytest.approx(accepted[~data.same].mean(), abs=1e-4)
        assert steps["tar"][at] == pytest.approx(accepted[data.same].mean(), abs=1e-4)
    for mark in steps["marks"]:
        accepted = data.scores >= mark["threshold"]
        assert mark["far"] == pytest.approx(accepted[~data.same].mean(), abs=1e-4)
        assert mark["tar"] == pytest.approx(accepted[data.same].mean(), abs=1e-4)
    start, tenth = steps["marks"][:2]
    assert start["threshold"] == data.verification.threshold
    assert tenth["far"] == pytest.approx(data.verification.calibrated[0.1].far)


def test_every_number_of_the_sections_is_in_the_page(page, data):
    text = own_markup(page).replace("\xa0", " ")
    calibrated = data.verification.calibrated[0.1]
    assert f"{calibrated.threshold:.4f}" in text
    assert f"{data.search.report.cmc[1].value:.2%}" in text
    assert "FPIR 1% needs at least 100 probes" in text
    threshold = data.search.report.threshold_at_fpir[0.5][0]
    assert f"a cosine of {threshold:.4f}" in text
    assert f"{data.separability.compactness.mean.value:.3f}" in text
    gap = next(iter(data.breakdowns.values())).gaps["tar"]
    assert f"a gap of {100 * gap.value:.2f} points" in text


def test_a_page_of_identification_alone(tmp_path):
    nothing = np.zeros(0)
    path = tmp_path / "r.html"
    write_report(path, ReportData("t", None, nothing, nothing > 0, "probes", search=searched()))
    page = path.read_text(encoding="utf-8")
    assert "Face identification" in page
    assert "the right person comes first" in page
    assert set(embedded(page, "figures")) == {"cmc", "openset"}


def test_a_report_of_nothing_is_refused():
    with pytest.raises(ValueError, match="verification, search or all_pairs, got none of them"):
        ReportData("t", None, np.zeros(0), np.zeros(0, bool), "nothing")


def test_all_pairs_have_their_curve_and_thresholds(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(60), [1, 2, 3, 4] * 15)
    faces = rng.normal(size=(60, 8))[labels] + 0.5 * rng.normal(size=(labels.size, 8))
    settings = AllPairsSettings(resamples=100, fpir=0.1)
    found = AllPaired.of(score_all_pairs(faces, labels), settings)
    none = np.zeros(0)
    data = ReportData("t", None, none, none > 0, "60 people", all_pairs=found)
    write_report(tmp_path / "page.html", data)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    figures = embedded(page, "figures")
    check_charts(figures)
    check_loads_nothing(page)
    assert set(figures) == {"tars", "own"}
    assert sum(figures["own"]["data"][0]["y"]) == 60
    curve, dots = figures["tars"]["data"]
    assert curve["x"][-1] == 100
    assert dots["y"] == pytest.approx(
        [100 * found.record.tar_at_far(far).tar for far in (0.01, 0.001)]
    )
    words = headline(data)
    assert words.what == "TAR at FAR 0.1%"
    assert words.value == f"{100 * found.record.tar_at_far(1e-3).tar:.2f}"
    assert f"{found.record.num_genuine:,} pairs of one person" in words.counts
    said = shown(tmp_path, data)
    assert "1 in 10,000 pairs" in said or "FAR 0.01% needs at least 10,000" in said


def test_names_cannot_break_out(page):
    assert "</script><b>" not in page
    for name in ("<b>light", "<i>light"):
        assert name not in own_markup(page)
        assert name not in json.dumps(embedded(page, "figures"))
    assert "<title>A &lt;title&gt; &amp; more</title>" in page


def test_plotly_accepts_every_chart(page):
    figures = embedded(page, "figures")
    training = {"arcface_loss", "center_loss", "validation"}
    groups = {f"group-0-{measure}" for measure in ("accuracy", "tar", "far")}
    more = {"scores", "roc", "det", "promise", "identities", "cmc", "openset", "map"}
    assert set(figures) == training | groups | more
    check_charts(figures)


def test_every_color_is_defined_for_light_and_dark(page):
    used = set(re.findall(r'"(--[a-z0-9-]+)"', json.dumps(embedded(page, "figures"))))
    check_colors(page, used)


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
    write_report(tmp_path / "r.html", ReportData("t", report, scores, same, "four pairs"))
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "best accuracy (optimistic)" in page
    assert "expect less on others" in page
    assert "None at this threshold." in page
    assert set(embedded(page, "figures")) == {"scores", "roc", "det"}


def test_example_faces_fit_their_line(page):
    """No strip that scrolls: as many columns as there may be faces, fewer on a phone."""
    rules = re.findall(r"\.strip \{(.*?)\}", style(page))
    assert len(rules) == 2
    assert not any("overflow" in rule for rule in rules)
    columns = [int(re.search(r"repeat\((\d+),", rule).group(1)) for rule in rules]
    strip = re.search(r'<ul class="strip".*?</ul>', page, re.S).group(0)
    assert columns == [14, 7]
    assert 0 < strip.count("<img") <= 14
    assert "Shown two pictures" in page


def test_a_report_of_folds_without_people(tmp_path):
    rng = np.random.default_rng(0)
    same, folds = np.arange(200) % 2 == 0, np.arange(200) % 4
    scores = rng.normal(size=200) + 2 * same
    held_out = held_out_fars(scores, same, folds, [0.1])
    assert all(one.far.interval is None for one in held_out.values())
    report = evaluate_verification(scores, same, folds)
    given = ReportData("t", report, scores, same, "drawn", held_out=held_out)
    write_report(tmp_path / "p.html", given)
    assert "all folds" in (tmp_path / "p.html").read_text(encoding="utf-8")


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
    assert (
        f"The accuracy of {100 * report.accuracy.value:.2f}% does not come from a single threshold"
        in page
    )
    assert f"mean, {report.threshold:.3f}, where {100 * right:.2f}%" in page


def test_the_hash_of_embeddings_is_that_of_the_model_that_made_them():
    facts = {"file": "out/e.parquet", "kind": "embeddings", "model": "abc"}
    assert model_words(facts) == (
        "out/e.parquet, a file of embeddings, made by a model with SHA-256 abc."
    )
    assert "unknown model" in model_words({"file": "e.npz", "kind": "embeddings"})
    assert model_words({"file": "m.onnx", "sha256": "abc"}) == "m.onnx, SHA-256 abc."


def judged(picture=None, **more):
    scores, same, report = scored(6, 6)
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


def test_the_page_of_a_run_shows_how_it_learned(tmp_path, data):
    """From what the run wrote beside its weights, a line that was cut off left aside."""
    rows = [{"kind": "train", "step": k, "arcface_loss": 5.0 - k} for k in range(3)]
    rows += [{"kind": "validation", "step": k, "auc": 0.9 + k / 100} for k in range(3)]
    text = "\n".join(map(json.dumps, rows)) + '\n{"kind": "tra'
    (tmp_path / "metrics.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "config.yaml").write_text("loss: {m: 0.4}\n", encoding="utf-8")
    index = np.arange(data.same.size)
    verified = Verified(
        *(data.verification, data.scores, data.same, None, None, ""),
        *((index, index), {}, {}, Settings()),
    )
    places = [str(number) for number in index]
    images = JudgedImages(np.ones((index.size, 2), np.float32), None, [], places, None)
    page = tmp_path / "page.html"
    for file, learned in (("last.safetensors", True), ("m.onnx", False)):
        model = {"file": str(tmp_path / file)}
        write_evaluation_page(
            page, Evaluation(model, {"protocol": "pairs"}, "drawn", images, verified)
        )
        text = page.read_text(encoding="utf-8")
        assert ("How it learned" in text) == learned
        assert ("loss: {m: 0.4}" in text) == learned
