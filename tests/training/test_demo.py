"""The demonstration, small: what it leaves, and that it judges on people it did not train on."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from centerarc.cli import main
from centerarc.training import DryRun, TrainConfig, demo, load_config

pytestmark = pytest.mark.slow


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "_TEST_PEOPLE": 8,
        "_TEST_IMAGES": 4,
        "_TEST_PAIRS": 40,
        "_TEST_FOLDS": 2,
        "_MAP_PEOPLE": 6,
        "_HELD_OUT": 4,
        "_TRAIN_IMAGES": 4,
        "_VALIDATION_PAIRS": 20,
        "_BATCH": 8,
        "_TIMED_SECONDS": 0.0,
        "_MODEL": {"name": "mobilefacenet_small", "embedding_size": 16, "image_size": 32},
    }.items():
        monkeypatch.setattr(demo, name, value)


def test_one_page_is_written_and_replaced_only_where_asked_for(
    tmp_path: Path,
    small: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_dir = tmp_path / "run"
    words = ["demo", "--run-dir", str(run_dir), "--people", "6", "--epochs", "1"]
    with pytest.raises(SystemExit) as end:
        main(words)
    assert not end.value.code
    out = capsys.readouterr().out
    page = run_dir / "report.html"
    assert f"page: {page}" in out
    assert re.search(r"^this will take about \d+ minutes? on this machine$", out, re.M)
    text = page.read_text(encoding="utf-8")
    assert "<script src" not in text
    assert "<link rel" not in text
    assert "Center + ArcFace" in text
    assert "person-000010" in text  # The first person after the 6 and the 4 of the training.
    assert "person-000009" not in text
    config = load_config(run_dir / "config.yaml", [])
    assert config.loss.center_weight > 0

    def run(*more: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as end:
            main([*words, *more])
        assert (end.value.code or 0) == code
        said = capsys.readouterr()
        return said.err if code else said.out

    weights = run_dir / "last.safetensors"
    written = weights.stat().st_mtime_ns
    shown = run()  # the same command again
    assert "finished; --overwrite trains it again" in shown
    assert shown.splitlines()[-2:] == out.splitlines()[-2:]  # the numbers and the page
    assert "this will take" not in shown
    another = "which holds another run; --overwrite replaces it, or give another --run-dir"
    assert another in run("--seed", "1", code=2)
    with monkeypatch.context() as earlier:  # as of an earlier version
        earlier.setattr(demo, "_MODEL", {**demo._MODEL, "embedding_size": 24})
        assert another in run(code=2)
    assert page.read_text(encoding="utf-8") == text
    assert weights.stat().st_mtime_ns == written
    page.unlink()
    run()  # only what is missing
    assert page.read_text(encoding="utf-8") == text
    assert weights.stat().st_mtime_ns == written
    run("--seed", "1", "--overwrite")
    assert page.read_text(encoding="utf-8") != text


def test_a_page_of_something_else_is_not_replaced(tmp_path: Path, small: None) -> None:
    (tmp_path / "report.html").write_text("precious")
    config = demo.demo_config(tmp_path, people=6, epochs=1)
    with pytest.raises(ValueError, match=r"report\.html', which exists already; --overwrite"):
        demo.run_demo(config)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_says_before_training_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise ImportError("a report needs plotly: pip install 'centerarc[report]'")

    monkeypatch.setattr(demo, "require_report_extra", missing)
    with pytest.raises(ImportError, match="pip install"):
        demo.run_demo(demo.demo_config(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_how_long_it_takes_is_said_before_the_first_step(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    rehearsed = demo.dry_run
    threads = torch.get_num_threads()

    def slow(config: TrainConfig, **how: Any) -> DryRun:
        steps = {"step_seconds": 59.0, "wait_seconds": 1.0, "first_seconds": 0.0}
        judging = {"judged": 16, "validation_seconds": 60.0, "validations": 1}  # 64 are to follow
        rest = {"save_seconds": 0.0, "opening_seconds": 0.0}
        return replace(rehearsed(config, **how), **steps, **judging, **rest)

    def stopped(config: TrainConfig, **how: Any) -> None:
        assert torch.get_num_threads() == 1
        said.append(f"training, overwrite {how['overwrite']}")
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "dry_run", slow)
    monkeypatch.setattr(demo, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(demo.demo_config(tmp_path / "run", people=6, epochs=2), say=said.append)
    # 2 x 3 steps, a validation, and the 8 people's 4 images and mirror images: 6 + 1 + 4 minutes.
    first, *rest = said
    assert first.startswith("taking a few steps")
    assert torch.get_num_threads() == threads
    assert rest == ["this will take about 11 minutes on this machine", "training, overwrite False"]
