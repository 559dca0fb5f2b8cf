"""The demonstration, small: what it leaves, and that it judges on people it did not train on."""

from pathlib import Path

import pytest

from centerarc.cli import main
from centerarc.training import demo, load_config

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
        "_MODEL": {"name": "mobilefacenet_small", "embedding_size": 16, "image_size": 32},
    }.items():
        monkeypatch.setattr(demo, name, value)


def test_writes_one_page_and_replaces_it(
    tmp_path: Path, small: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    words = ["demo", "--run-dir", str(run_dir), "--people", "6", "--epochs", "1"]
    with pytest.raises(SystemExit) as end:
        main(words)
    assert not end.value.code
    out = capsys.readouterr().out
    page = run_dir / "report.html"
    assert f"page: {page}" in out
    text = page.read_text(encoding="utf-8")
    assert "<script src" not in text
    assert "<link rel" not in text
    assert "Center + ArcFace" in text
    assert "person-000010" in text  # The first person after the 6 and the 4 of the training.
    assert "person-000009" not in text
    config = load_config(run_dir / "config.yaml", [])
    assert config.loss.center_weight > 0
    with pytest.raises(SystemExit) as end:
        main([*words, "--seed", "1"])
    assert not end.value.code
    assert page.read_text(encoding="utf-8") != text


def test_says_before_training_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise ImportError("a report needs plotly: pip install 'centerarc[report]'")

    monkeypatch.setattr(demo, "require_report_extra", missing)
    with pytest.raises(ImportError, match="pip install"):
        demo.run_demo(demo.demo_config(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
