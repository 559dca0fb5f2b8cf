"""The page of a study: what it says, what it shows, and what it must not load."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from centerarc.report.study_charts import (
    curve_charts,
    forest_chart,
    learning_charts,
    measure_words,
    seeds_chart,
)
from centerarc.report.study_page import asked, side_of, verdicts, write_study_page
from centerarc.report.study_result import Measured, StudyResult, StudyRow, StudyRun
from tests.report.pages import (
    check_charts,
    check_colors,
    check_loads_nothing,
    embedded,
    own_markup,
)
from tests.report.studies import drawn_study

pytest.importorskip("plotly")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(drawn_study(), tmp_path_factory.mktemp("study"))


def written(result: StudyResult, folder: Path) -> str:
    write_study_page(folder / "study.html", result)
    return (folder / "study.html").read_text(encoding="utf-8")


def words(page: str) -> str:
    """What a reader sees of a page."""
    text = re.sub(r"<style.*?</style>|<script.*?</script>", "", page, flags=re.S)
    text = re.sub(r"</(?:dt|td|th|p)>", " ", text)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", text))


def test_it_is_one_file_that_loads_nothing(page: str) -> None:
    check_loads_nothing(page)
    figures = embedded(page, "figures")
    assert set(figures) == {
        *("forest", "seeds", "trials", "tars-0"),
        *("validation", "target_cosine", "accuracy", "arcface_loss"),
    }
    check_charts(figures)
    check_colors(page, set(re.findall(r'"(--[a-z0-9-]+)"', json.dumps(figures))))
    for key in figures:
        assert f'data-chart="{key}"' in own_markup(page)
    ids = re.findall(r'\bid="([^"]*)"', own_markup(page))
    assert len(ids) == len(set(ids))


def test_it_says_what_was_asked_and_what_holds(page: str) -> None:
    text = words(page)
    question = (
        "Does arcface, shared centers, mean or unified differ from softmax in TAR at FAR 0.1%"
    )
    assert question in text
    assert "Higher TAR at FAR 0.1% than softmax: " in text
    assert re.search(r"softmax: unified \+\d\.\d\d points, mean \+\d\.\d\d and arcface", text)
    assert "the share of pairs of one person that are accepted, at the threshold" in text
    assert "how far other people and other seeds might move the number" in text
    assert "centerarc study studies/joint.yaml --jobs 2" in text
    assert "loss.s 21.43, loss.m 0.31" in text
    assert "95% intervals over people and seeds together." in text
    assert "torch 2.13.0" in text
    assert "One such interval in 20" in text


def test_a_run_that_failed_is_not_hidden(page: str) -> None:
    text = words(page)
    assert "1 of 25 runs failed" in text
    assert "mean, seed 3 Diverged: step 812: the loss is not finite" in text
    assert "4 of 5" in text


def test_a_study_in_progress_says_what_is_still_to_come(tmp_path: Path) -> None:
    result = drawn_study()
    runs = [StudyRun(run.arm, run.seed, "waiting") if run.seed > 2 else run for run in result.runs]
    text = words(written(dataclasses.replace(result, runs=runs), tmp_path))
    assert "The study is not finished: 15 of 25 runs are done." in text
    assert "unified Not done yet: seeds 3, 4" in text
    assert "failed:" not in text


def test_a_difference_of_one_seed_is_called_that(tmp_path: Path) -> None:
    result = drawn_study(arms=3)
    rows = [
        dataclasses.replace(one, pairs=1 if one.arm == "arcface" else one.pairs)
        for one in result.rows
    ]
    text = words(written(dataclasses.replace(result, rows=rows), tmp_path))
    assert re.search(r"single seed says [^:]+: arcface\.", text)


def test_an_arm_has_one_color_and_one_dash_everywhere(page: str) -> None:
    figures = embedded(page, "figures")
    seen: dict[str, set[tuple[str, str]]] = {}
    for figure in figures.values():
        for trace in figure["data"]:
            if trace.get("name"):
                line = trace["line"]
                seen.setdefault(trace["name"], set()).add((line["color"], line["dash"]))
    assert set(seen) == {"softmax", "arcface", "shared centers", "mean", "unified"}
    assert all(len(styles) == 1 for styles in seen.values())
    for name, ((color, _),) in ((name, tuple(styles)) for name, styles in seen.items()):
        assert re.search(rf'stroke:var\({color}\);[^>]*"/></svg>{name}</li>', page)


def test_what_was_tuned_is_shown_as_what_it_is(page: str) -> None:
    text = words(page)
    assert "too good to be reported" in text
    assert "judged by TAR at FAR 0.1% of fold 6" in text
    assert "1 failed" in text


def test_each_seed_is_a_point_of_the_forest() -> None:
    result = drawn_study()
    chart = forest_chart(result)
    assert chart is not None
    rows = {row.arm: row for row in result.rows_of("clean", "tar@0.001")}
    arms = [arm.name for arm in result.arms if arm.name != "softmax"]
    rings, diamonds = chart.data[::2], chart.data[1::2]
    for arm, ring, diamond in zip(reversed(arms), rings, diamonds, strict=True):
        each = {
            seed: 100 * (value - rows["softmax"].by_seed[seed])
            for seed, value in rows[arm].by_seed.items()
        }
        assert ring["x"] == pytest.approx([*each.values()], abs=1e-3)
        assert ring["text"] == [f"seed {seed}" for seed in each]
        found = rows[arm].difference
        assert found is not None
        assert found.low is not None
        assert diamond["x"] == pytest.approx([100 * found.value], abs=1e-3)
        low = diamond["x"][0] - diamond["error_x"]["arrayminus"][0]
        assert low == pytest.approx(100 * found.low, abs=1e-3)
    every = seeds_chart(result, "TAR")
    assert every is not None
    assert [len(trace["x"]) for trace in every.data[1::2]] == [5, 4, 5, 5, 5]


def test_curves_end_where_people_carry_them() -> None:
    result = drawn_study()
    data = curve_charts(result)["clean"].data
    bands = [trace for trace in data if trace.get("fill")]
    means = [trace for trace in data if trace.get("name")]
    assert len(bands) == len(means) == 5
    # 1,000 people are 499,500 couples.
    assert min(means[0]["x"]) >= 100 * 0.999 / 499_500
    assert max(means[0]["x"]) == pytest.approx(10)  # percent
    (primary,) = [trace for trace in data if trace["line"]["color"] == "--muted"]
    assert primary["x"] == [0.1, 0.1]
    assert all(band["hoverinfo"] == "skip" for band in bands)
    assert not any(t.get("fill") for t in curve_charts(drawn_study(seeds=1))["clean"].data)


def test_learning_is_the_mean_over_the_seeds() -> None:
    def run(seed: int, cosines: list[float]) -> StudyRun:
        rows = [
            {"kind": "train", "step": 10 * (k + 1), "target_cosine": cosine}
            for k, cosine in enumerate(cosines)
        ]
        return StudyRun("softmax", seed, "done", learning=rows)

    result = dataclasses.replace(
        drawn_study(arms=1), runs=[run(0, [0.1, 0.3]), run(1, [0.3, 0.5, 0.9])]
    )
    (chart,) = learning_charts(result)
    assert chart.key == "target_cosine"
    assert chart.data[0]["x"] == [10, 20]  # which both have
    assert chart.data[0]["y"] == pytest.approx([0.2, 0.4])


def row(measure: str, low: float | None, high: float | None, arm: str = "b") -> StudyRow:
    value = 0.01 if low is None or high is None else (low + high) / 2
    return StudyRow("clean", measure, arm, 5, Measured(0.2), Measured(value, low, high), 5, 0.5)


def test_better_is_less_of_an_error() -> None:
    assert side_of(row("tar@0.001", 0.01, 0.03)) == "better"
    assert side_of(row("eer", 0.01, 0.03)) == "worse"
    assert side_of(row("threshold_spread", -0.03, -0.01)) == "better"
    assert side_of(row("auc", -0.01, 0.03)) == ""
    assert side_of(row("auc", None, None)) == ""


def test_a_verdict_claims_no_more_than_its_interval() -> None:
    result = drawn_study(arms=2)
    base = result.rows_of("clean", "tar@0.001")[0]
    for low, high, said in (
        (0.01, 0.03, "Higher TAR at FAR 0.1% than softmax: arcface +2.00 points."),
        (-0.03, -0.01, "Lower TAR at FAR 0.1% than softmax: arcface \u22122.00 points."),
        (-0.01, 0.02, "Cannot be told apart from softmax, as the 95% interval of the difference"),
        (None, None, "Too few runs to say how sure a difference is: arcface +1.00 points."),
    ):
        other = row("tar@0.001", low, high, "arcface")
        (sentence,) = verdicts(dataclasses.replace(result, rows=[base, other]))
        assert sentence.startswith(said)
    assert verdicts(dataclasses.replace(result, rows=[])) == [
        "There are not enough runs yet to compare the arms."
    ]
    error = row("eer", -0.02, -0.01, "arcface")
    lower = dataclasses.replace(result, primary_measure="eer", rows=[error])
    assert verdicts(lower)[0].startswith("Lower EER than softmax, which is better: arcface")


def test_a_study_of_one_arm_or_of_nothing_yet_has_a_page(tmp_path: Path) -> None:
    alone = drawn_study(seeds=1, arms=1)
    text = words(written(dataclasses.replace(alone, tuning=None), tmp_path))
    assert "What does softmax reach in TAR at FAR 0.1%" in text
    assert re.search(r"softmax reaches \d+\.\d\d% TAR at FAR 0\.1%\.", text)
    assert asked(alone).endswith("Each arm is trained with 1 seed.")
    waiting = [StudyRun(run.arm, run.seed, "waiting") for run in alone.runs]
    empty = dataclasses.replace(alone, runs=waiting, rows=[], curves=[], tuning=None)
    text = words(written(empty, tmp_path))
    assert "No run is done yet." in text


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    result = drawn_study(arms=2)
    arms = [result.arms[0], dataclasses.replace(result.arms[1], name=evil)]
    changed = dataclasses.replace(
        result,
        title=evil,
        arms=arms,
        runs=[dataclasses.replace(r, arm=evil) if r.arm == "arcface" else r for r in result.runs],
        rows=[dataclasses.replace(r, arm=evil) if r.arm == "arcface" else r for r in result.rows],
        curves=[c for c in result.curves if c.arm == "softmax"],
        tuning=None,
    )
    page = written(changed, tmp_path)
    assert evil not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        ("tar@0.0001", "TAR at FAR 0.01%"),
        ("tpir@0.01", "TPIR at FPIR 1%"),
        ("auc", "AUC"),
        ("threshold_spread", "spread of own thresholds"),
        ("accuracy", "accuracy"),
    ],
)
def test_measures_have_names(measure: str, said: str) -> None:
    assert measure_words(measure) == said
