"""``centerarc evaluate --all-pairs`` and its comparison as a user meets them."""

import shlex
from pathlib import Path

import numpy as np
import pytest

from tests.cli.test_evaluate import evaluated, loaded, plain, run
from tests.evaluation.protocols.faces import (
    FLAGS,
    bin_set,
    cosine,
    embeddings,
    folder,
    lfw_pairs,
    model,
    picture,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("all_pairs")
    folder(root / "faces", images=3)
    # The same names, other pictures: numbers 11 to 13 under the names of 1 to 3.
    for path in sorted((root / "faces").rglob("*.png")):
        person, number = path.parent.name, int(path.stem[-4:])
        picture(root / "other" / person / path.name, person, number + 10)
    folder(root / "some", "Ann Bob", images=3)
    picture(root / "some" / "Cyd" / "Cyd_0001.png", "Cyd", 1)
    lfw_pairs(root / "pairs.txt")
    model(root / "m.onnx")
    return root


@pytest.fixture(autouse=True)
def _there(files, monkeypatch):
    monkeypatch.chdir(files)
    monkeypatch.setenv("COLUMNS", "200")


ONNX = ["m.onnx", *FLAGS, "--workers", 0]
ALL = ["--all-pairs", "faces", "--far", "0.1"]


def test_all_pairs_give_a_table_and_json_with_the_scores_beside(tmp_path, capsys):
    found = evaluated(tmp_path / "a.json", *ONNX, *ALL)
    numbers = found["all_pairs"]
    said = plain(capsys.readouterr().out)
    assert "18 genuine and 135 impostor pairs of 6 people, faces" in said
    assert f"{100 * numbers['tar_at_far']['0.1']['value']:.2f}%" in said
    assert "FAR 1% needs at least 100 combinations of two people, there are 15" in said
    assert "threshold spread" in said
    assert "1,000 bootstrap resamples of the 6 people" in said
    assert (numbers["num_genuine"], numbers["num_impostor"]) == (18, 135)
    assert (numbers["num_images"], numbers["num_genuine_people"]) == (18, 6)
    low, high = numbers["auc"]["interval95"]
    assert low <= numbers["auc"]["value"] <= high
    with np.load(tmp_path / found["scores"], allow_pickle=False) as stored:
        people = ("Ann", "Bob", "Cyd", "Dan", "Eve", "Fay")
        expected = [cosine((p, a), (p, b)) for p in people for a, b in ((1, 2), (1, 3), (2, 3))]
        np.testing.assert_allclose(
            stored["all_genuine_score"], sorted(expected, reverse=True), atol=1e-6
        )
    command = shlex.split(found["command"])
    (tmp_path / "a.json").unlink()
    assert run(*command[1:], "--overwrite") == 0
    assert loaded(tmp_path / "a.json") == found


def test_only_the_people_of_some_folds_are_judged(tmp_path, capsys):
    words = [*ONNX, *ALL, "--pairs", "pairs.txt"]
    found = evaluated(tmp_path / "a.json", *words, "--folds", "2")
    assert found["all_pairs"]["num_people"] == 3
    assert found["data"]["distinct_images"] == 9
    assert "faces, people of pairs.txt, fold 2" in plain(capsys.readouterr().out)
    everyone = evaluated(tmp_path / "b.json", *words)
    assert everyone["all_pairs"]["num_people"] == 6


def test_the_other_side_makes_ordered_pairs(tmp_path):
    found = evaluated(tmp_path / "a.json", *ONNX, *ALL, "--other-side", "other")
    assert found["all_pairs"]["num_genuine"] == 6 * 3 * 2
    assert found["all_pairs"]["num_impostor"] == 2 * 135
    with np.load(tmp_path / found["scores"], allow_pickle=False) as stored:
        people = ("Ann", "Bob", "Cyd", "Dan", "Eve", "Fay")
        expected = [
            cosine((p, a), (p, 10 + b))
            for p in people
            for a in (1, 2, 3)
            for b in (1, 2, 3)
            if a != b
        ]
        np.testing.assert_allclose(
            stored["all_genuine_score"], sorted(expected, reverse=True), atol=1e-6
        )


def test_embeddings_score_like_the_model_that_made_them(tmp_path):
    for name in ("faces", "other"):
        file = tmp_path / f"{name}.npz"
        assert run("embed", name, "--model", "m.onnx", *FLAGS, "-o", file, "--workers", 0) == 0
    sides = ["--all-pairs", "faces", "--other-side", "other", "--far", "0.1"]
    made = evaluated(tmp_path / "a.json", *ONNX, *sides)
    sides = ["--all-pairs", tmp_path / "faces.npz", "--other-side", tmp_path / "other.npz"]
    read = evaluated(tmp_path / "b.json", *sides, "--far", "0.1")
    assert made["all_pairs"] == read["all_pairs"]
    one = evaluated(tmp_path / "c.json", tmp_path / "faces.npz", *ALL)
    assert one["all_pairs"] == evaluated(tmp_path / "d.json", *ONNX, *ALL)["all_pairs"]


def test_a_picture_that_comes_twice_is_told(tmp_path, capsys):
    folder(tmp_path / "faces", images=2)
    picture(tmp_path / "faces" / "Ann" / "again.png", "Ann", 1)
    words = [*ONNX, "--all-pairs", tmp_path / "faces", "--resamples", "0"]
    found = evaluated(tmp_path / "a.json", *words)
    assert found["data"]["same_pictures"]["images"] == 1
    assert found["data"]["same_pictures"]["examples"] == [["Ann/Ann_0001.png", "Ann/again.png"]]
    assert "1 of 13 image is the same picture as another one; kept" in plain(
        capsys.readouterr().out
    )
    assert found["all_pairs"]["intervals"] == "No intervals were asked for."


def test_two_models_are_compared_on_the_same_people(tmp_path, capsys):
    evaluated(tmp_path / "one.json", *ONNX, *ALL)
    rng = np.random.default_rng(0)
    rows = [
        (f"{name}/{name}_{n:04d}.png", name, rng.normal(size=3).tolist())
        for name in ("Ann", "Bob", "Cyd", "Dan", "Eve", "Fay")
        for n in (1, 2, 3)
    ]
    embeddings(tmp_path / "e.npz", rows)
    evaluated(tmp_path / "two.json", tmp_path / "e.npz", "--all-pairs", "faces", "--far", "0.2")
    capsys.readouterr()
    both = [tmp_path / "one.json", tmp_path / "two.json"]
    pytest.importorskip("plotly")
    out = ["--json", tmp_path / "c.json", "--report", tmp_path / "c.html"]
    assert run("compare", *both, *out) == 0
    found = loaded(tmp_path / "c.json")
    of = [found["models"][name]["all_pairs"] for name in ("one", "two")]
    change = found["minus_first"]["two"]["all_pairs"]
    for far in ("0.1", "0.2"):
        values = [each["tar_at_far"][far]["value"] for each in of]
        assert change["tar_at_far"][far]["value"] == pytest.approx(values[1] - values[0])
    said = plain(capsys.readouterr().out)
    assert "two minus one" in said
    assert "threshold spread (less is better)" in said
    assert "same for all runs" in said
    assert "each person weighing the same" in (tmp_path / "c.html").read_text(encoding="utf-8")
    # The same model again differs in nothing.
    evaluated(tmp_path / "again.json", *ONNX, *ALL)
    assert run("compare", both[0], tmp_path / "again.json") == 0
    assert "again and one are equal" in plain(capsys.readouterr().out)


def test_what_is_not_of_the_same_images_is_not_compared(tmp_path, capsys):
    evaluated(tmp_path / "a.json", *ONNX, *ALL)
    evaluated(tmp_path / "b.json", *ONNX, "--all-pairs", "some", "--far", "0.4")
    evaluated(tmp_path / "c.json", *ONNX, *ALL, "--other-side", "other")
    evaluated(tmp_path / "d.json", *ONNX, "--pairs", "pairs.txt", "--images", "faces")
    capsys.readouterr()
    for other in ("b", "c"):
        assert run("compare", tmp_path / "a.json", tmp_path / f"{other}.json") == 2
        assert "are not of all pairs of the same images" in capsys.readouterr().err
    assert run("compare", tmp_path / "a.json", tmp_path / "d.json") == 2
    assert "are of different protocols" in capsys.readouterr().err


def test_the_page_has_the_curve_and_the_thresholds(tmp_path):
    pytest.importorskip("plotly")
    page = tmp_path / "p.html"
    assert run("evaluate", *ONNX, *ALL, "--report", page, "--no-pictures") == 0
    text = page.read_text(encoding="utf-8")
    for words in ("All pairs of images, each person weighing the same", "that each person needs"):
        assert words in text
    assert '"tars"' in text
    assert '"own"' in text
    assert "Ann_0001" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--all-pairs", "faces"], "--all-pairs is 'faces', which is not a file of embeddings"),
        ([*ONNX, *ALL, "--folds", "2"], "--folds needs --pairs, whose people are taken"),
        ([*ONNX, *ALL, "--mirror", "--ranks", "1"], "--ranks is for"),
        (
            [*ONNX, *ALL, "--fpir", "0.1,0.2"],
            "--fpir must be one rate for all pairs, got [0.1, 0.2]",
        ),
        ([*ONNX, *ALL, "--far", "1"], "--far must be in (0, 1), got 1"),
        ([*ONNX, *ALL, "--gallery", "faces"], "got --all-pairs and --gallery"),
        ([*ONNX, *ALL, "--other-side", "some"], "'some' lacks 11 of 18: 'Cyd/Cyd_0002.png'"),
        (
            [*ONNX, "--pairs", "pairs.txt", "--other-side", "other"],
            "--other-side is for --all-pairs",
        ),
        (
            [*ONNX, "--all-pairs", "some", "--pairs", "pairs.txt", "--folds", "2"],
            "pairs.txt names 3 people whom the source lacks, first 'Dan'",
        ),
        (
            [*ONNX, "--all-pairs", "one"],
            "--all-pairs needs 2 people, one of them with 2 images; 'one' has 1, with at most 1",
        ),
        ([*ONNX, *ALL, "--pairs", "cut.bin"], "'cut.bin' does not name the people of its pairs"),
        (
            ["e.npz", "--all-pairs", "e.npz", "--other-side", "faces"],
            "--other-side must be a file of embeddings as those of 'e.npz'",
        ),
    ],
)
def test_wrong_input_is_one_line(files, capsys, words, message):
    picture(Path("one") / "Ann" / "1.png", "Ann", 1)
    bin_set(files / "cut.bin", Path("faces"))
    embeddings(Path("e.npz"), [(f"Ann/Ann_000{n}.png", "Ann", [1, n]) for n in (1, 2)])
    assert run("evaluate", *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
