"""`centerarc study` as a user meets it."""

import json
import re
from pathlib import Path

import pytest

from centerarc.cli import main
from centerarc.cli.tables import show_study
from centerarc.training import study as study_module
from centerarc.training.data_config import SyntheticData
from centerarc.training.judged import DrawnPeople
from centerarc.training.rundir import setting_differences
from centerarc.training.study import plan_study
from centerarc.training.study_config import DRAWN, load_study
from centerarc.training.study_run import run
from tests.report.test_study_result import small_result
from tests.training.helpers import write_faces

pytestmark = pytest.mark.usefixtures("wide")


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    faces = write_faces(tmp_path / "faces")
    path = tmp_path / "study.yaml"
    path.write_text(
        f"study_dir: {tmp_path / 'study'}\n"
        "train:\n"
        "  model: {name: mobilefacenet_small, embedding_size: 8, image_size: 16}\n"
        f"  data: {{source: folder, root: {faces}}}\n"
        "  schedule: {epochs: 1}\n"
        "  batch_size: 12\n"
        "  workers: 0\n"
        "  device: cpu\n"
        "seeds: [0]\n"
        "threads: 1\n"
        "arms:\n"
        "  softmax: {loss.m: 0, loss.center_weight: 0}\n"
        "  arcface: {loss: {m: 0.2, center_weight: 0}}\n"
        f"evaluate: {{all_pairs: {faces}, primary: auc}}\n"
    )
    return path


def called(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["study", *words])
    code = end.value.code
    out, err = capsys.readouterr()
    return (code if isinstance(code, int) else 0), out, err


def test_a_dry_run_lists_what_there_is_to_do(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = called(capsys, str(file), "--dry-run")
    assert code == 0
    assert "2 runs" in out
    assert out.count("to be trained") == 2
    assert not (file.parent / "study").exists()


def test_a_dry_run_finds_what_runs_would_refuse(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(file.read_text().replace("{m: 0.2,", "{margin: arcfase, m: 0.2,"))
    code, _, err = called(capsys, str(file), "--dry-run")
    assert code == 2
    assert err.startswith("error: arm 'arcface': loss: margin must be one of arcface, ")


def test_the_result_is_a_table_and_a_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = load_study(file)
    softmax, arcface = plan_study(study)
    assert run(study_module._words(study, softmax)[2:]) == 0
    capsys.readouterr()
    code, out, _ = called(capsys, str(file), "--report-only")
    assert code == 1  # a run is missing
    assert "1 run of 2 not done yet, first arcface, seed 0." in out
    assert run(study_module._words(study, arcface)[2:]) == 0
    code, out, _ = called(capsys, str(file))  # nothing is left to train
    assert code == 0
    assert "all_pairs: 6 people, 6 people with genuine pairs, 36 images" in out
    assert "auc *" in out
    assert re.search(r"minus\b.*\n.*\bsoftmax\b", out)
    assert "auc of all_pairs is the measure that decides" in out
    assert f"page: {file.parent / 'study/study.html'}" in out
    assert ": every run" in (file.parent / "study/study.html").read_text(encoding="utf-8")
    result = json.loads((file.parent / "study/study.json").read_text())
    assert result["command"] == f"centerarc study {file}"
    assert {run["status"] for run in result["runs"]} == {"done"}
    code, _, err = called(capsys, str(file), "--jobs", "0")
    assert (code, err) == (2, "error: --jobs must be at least 1, got 0\n")


def test_what_is_still_to_be_searched_is_said(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    faces = file.parent / "faces"
    search = "{loss.s: [8, 16], loss.m: {low: 0.1, high: 0.5}}"  # the arms set m
    tune = f"tune: {{search: {search}, evaluate: {{all_pairs: {faces}}}}}\n"
    file.write_text(file.read_text() + tune)
    code, out, _ = called(capsys, str(file), "--dry-run")
    assert code == 0
    assert "softmax: still to be searched: loss.s; loss.m is set by the arm\n" in out
    assert "arcface: still to be searched: loss.s; loss.m is set by the arm\n" in out
    code, _, err = called(capsys, str(file), "--report-only")
    assert (code, err) == (
        2,
        "error: settings of the arms softmax, arcface are still to be searched; give the command "
        "without --report-only\n",
    )


def test_what_is_wrong_is_one_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(file.read_text().replace("loss.m: 0,", "loss.mm: 0,"))
    code, _, err = called(capsys, str(file))
    assert code == 2
    assert err == f"error: {file}:12: arm 'softmax': unknown field loss.mm; did you mean loss.m?\n"
    code, _, err = called(capsys, str(file.parent / "none.yaml"))
    assert (code, err.count("\n")) == (2, 1)


def test_without_a_file_it_is_a_study_on_drawn_faces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = called(capsys, "--dry-run")
    assert code == 0
    assert out.count("to be trained") == 12
    study = load_study(DRAWN)
    run = study.config_of("threshold", 0)
    judged = study.evaluate.sets["all_pairs"].all_pairs
    assert isinstance(run.data, SyntheticData)
    assert isinstance(judged, DrawnPeople)
    assert (judged.first >= run.data.num_identities, judged.seed) == (True, run.data.seed)
    # Arms differ in the loss alone.
    for arm in study.arms:
        changed = setting_differences(run, study.config_of(arm, 0))
        assert all(name.startswith("loss.") for name in changed)


def test_what_a_search_chose_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    show_study(small_result())
    out = capsys.readouterr().out
    assert "arcface: searches chose loss.m 0.2." in out
    assert "arcface, seed 1: diverged." in out
