"""``centerarc compare`` as a user meets it."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.test_evaluate import closed_stdout, loaded, run
from tests.evaluation.protocols.faces import FLAGS, embeddings, folder, lfw_pairs, model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("compare")
    folder(root / "faces")
    model(root / "m.onnx")
    pairs = ["--pairs", lfw_pairs(root / "pairs.txt"), "--images", root / "faces"]
    onnx = [root / "m.onnx", *FLAGS, "--workers", 0]
    run("evaluate", *onnx, *pairs, "--json", root / "one.json")
    # Another model on the same pairs: one that sees red alone, and how bright it is.
    rng = np.random.default_rng(0)
    rows = [
        (f"{name}/{name}_{n:04d}.png", name, rng.normal(size=3).tolist())
        for name in ("Ann", "Bob", "Cyd", "Dan", "Eve", "Fay")
        for n in (1, 2)
    ]
    embeddings(root / "other.npz", rows)
    run("evaluate", root / "other.npz", *pairs[:2], "--json", root / "two.json")
    run("evaluate", *onnx, *pairs, "--folds", "1", "--json", root / "fold.json")
    return root


@pytest.fixture(autouse=True)
def _there(files, monkeypatch):
    monkeypatch.chdir(files)
    monkeypatch.setenv("COLUMNS", "200")


def test_differences_are_those_of_the_single_evaluations(tmp_path, capsys):
    out = tmp_path / "c.json"
    assert run("compare", "one.json", "two.json", "--json", out) == 0
    shown = capsys.readouterr().out
    assert "two minus one" in shown
    assert "The p-value is how likely" in " ".join(shown.split())
    assert "TAR at FAR 10%" in shown
    found = loaded(out)
    single = [loaded(f"{name}.json")["verification"] for name in ("one", "two")]
    for rate in ("kfold_accuracy", "auc", "eer"):
        expected = single[1][rate]["value"] - single[0][rate]["value"]
        assert found["minus_first"]["two"]["verification"][rate]["value"] == pytest.approx(expected)
        low, high = found["minus_first"]["two"]["verification"][rate]["interval95"]
        assert low <= expected <= high
    for name, numbers in zip(("one", "two"), single, strict=True):
        assert found["models"][name]["verification"]["auc"] == numbers["auc"]
    assert found["command"].startswith("centerarc compare one.json two.json")


def test_files_are_written_though_no_one_reads_what_is_printed(tmp_path, monkeypatch):
    pytest.importorskip("plotly")
    closed_stdout(monkeypatch)
    words = ["--json", tmp_path / "c.json", "--report", tmp_path / "c.html"]
    assert run("compare", "one.json", "two.json", *words) != 0
    assert (tmp_path / "c.json").exists()
    assert (tmp_path / "c.html").exists()


def test_more_than_two_models_and_their_page(tmp_path):
    pytest.importorskip("plotly")
    (tmp_path / "again.json").write_bytes(Path("one.json").read_bytes())
    (tmp_path / "one.scores.npz").write_bytes(Path("one.scores.npz").read_bytes())
    page = tmp_path / "c.html"
    words = ["one.json", "two.json", tmp_path / "again.json"]
    assert run("compare", *words, "--report", page, "--title", "Three <models>") == 0
    text = page.read_text(encoding="utf-8")
    assert "<title>Three &lt;models&gt;</title>" in text
    assert "again and one are equal: every score is the same." in text


def test_searches_of_the_same_probes_are_compared(tmp_path, capsys):
    pytest.importorskip("plotly")
    strangers = [("e", "Eve", [1, 1]), ("f", "Fay", [1, 2])]
    for name, wrong in (("a", [1, 3]), ("b", [3, 1])):
        gallery = embeddings(tmp_path / "g.npz", [("a", "Ann", [1, 0]), ("b", "Bob", [0, 1])])
        rows = [("c", "Ann", [3, 1]), ("d", "Bob", wrong), *strangers]
        probes = embeddings(tmp_path / "p.npz", rows)
        words = ["--gallery", gallery, "--probes", probes, "--ranks", "1", "2", "--fpir", "0.5"]
        assert run("evaluate", *words, "--json", tmp_path / f"{name}.json") == 0
    words = [tmp_path / "a.json", tmp_path / "b.json", "--json", tmp_path / "c.json"]
    assert run("compare", *words, "--report", tmp_path / "c.html") == 0
    assert "b minus a" in capsys.readouterr().out
    found = loaded(tmp_path / "c.json")
    difference = found["minus_first"]["b"]["identification"]["cmc"]
    assert [difference[rank]["value"] for rank in "12"] == [-0.5, 0.0]
    assert "TPIR at FPIR 50" in (tmp_path / "c.html").read_text(encoding="utf-8")
    assert run("compare", tmp_path / "a.json", "one.json") == 2
    assert "are of different protocols" in capsys.readouterr().err


def test_files_of_one_name_are_called_by_their_paths(tmp_path, capsys):
    (tmp_path / "one.json").write_bytes(Path("two.json").read_bytes())
    (tmp_path / "two.scores.npz").write_bytes(Path("two.scores.npz").read_bytes())
    assert run("compare", "one.json", tmp_path / "one.json") == 0
    assert "one.json minus one.json" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["one.json"], "OTHER"),
        (["one.json", "two.json", "--report", "c.pdf"], "--report must end in .html or .htm"),
        (["one.json", "one.json"], "'one.json' is named twice"),
        (["one.json", "gone.json"], "cannot read 'gone.json'"),
        (
            ["one.json", "pairs.txt"],
            "'pairs.txt' is not what centerarc evaluate --json writes: it",
        ),
        (["one.json", "other.json"], "'other.json' is not what centerarc evaluate --json writes"),
        (["one.json", "alone.json"], "needs its scores 'alone.scores.npz' beside it"),
        (["one.json", "cut.json"], "cannot read 'cut.scores.npz'"),
        (["one.json", "fold.json"], "are not of the same pairs"),
    ],
)
def test_wrong_input_is_one_line(capsys, words, message):
    content = loaded("two.json")
    for name in ("alone", "cut"):
        text = json.dumps({**content, "scores": f"{name}.scores.npz"})
        Path(f"{name}.json").write_text(text, encoding="utf-8")
    Path("cut.scores.npz").write_bytes(Path("two.scores.npz").read_bytes()[:-100])
    Path("other.json").write_text("{}", encoding="utf-8")
    assert run("compare", *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_pickle_in_the_scores_is_refused(capsys):
    content = loaded("two.json")
    Path("bad.json").write_text(json.dumps({**content, "scores": "bad.npz"}), encoding="utf-8")
    np.savez("bad.npz", scores=np.array([object()], dtype=object))
    assert run("compare", "one.json", "bad.json") == 2
    assert "cannot read 'bad.npz'" in capsys.readouterr().err


def test_equal_scores_are_called_equal_and_get_no_intervals(tmp_path, capsys):
    again = tmp_path / "again.json"
    again.write_bytes(Path("one.json").read_bytes())
    (tmp_path / "one.scores.npz").write_bytes(Path("one.scores.npz").read_bytes())
    out = tmp_path / "c.json"
    assert run("compare", "one.json", again, "--json", out) == 0
    shown = capsys.readouterr().out
    assert "again and one are equal: every score is the same." in shown
    assert "minus" not in shown
    assert "p-value" not in shown
    found = loaded(out)["minus_first"]["again"]["verification"]
    assert found["equal"] is True
    assert found["auc"]["interval95"] is None


def test_it_is_shown_where_the_recipes_of_runs_differ(tmp_path, capsys):
    pytest.importorskip("plotly")
    for name, margin in (("a", 0.3), ("b", 0.5)):
        content = loaded("one.json")
        recipe = {"run_dir": f"runs/{name}", "loss": {"m": margin, "s": 64}, "seed": 0}
        content["model"]["recipe"] = recipe
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "one.scores.npz").write_bytes(Path("one.scores.npz").read_bytes())
    words = [tmp_path / "a.json", tmp_path / "b.json", "--json", tmp_path / "c.json"]
    assert run("compare", *words, "--report", tmp_path / "c.html") == 0
    assert loaded(tmp_path / "c.json")["recipes"] == {"loss.m": [0.3, 0.5]}
    assert "Recipes" in capsys.readouterr().out
    assert "How the recipes differ" in (tmp_path / "c.html").read_text(encoding="utf-8")


def test_equal_scores_are_called_equal_without_intervals(tmp_path, capsys):
    words = [Path("m.onnx"), *FLAGS, "--workers", 0]
    words += ["--pairs", "pairs.txt", "--images", "faces", "--resamples", 0]
    for name in ("a", "b"):
        run("evaluate", *words, "--json", tmp_path / f"{name}.json")
    capsys.readouterr()
    assert run("compare", tmp_path / "a.json", tmp_path / "b.json") == 0
    shown = capsys.readouterr().out
    assert "Every score is the same, so nothing differs." in shown
    assert "unknown" not in shown
