"""`centerarc tune`: what it refuses before anything is trained."""

from pathlib import Path

import pytest

from centerarc.cli import main

pytest.importorskip("optuna")


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        main(["tune", *words])
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "words", "message"),
    [
        ("", [], "has no section tune"),
        ("tune: {search: {loss.m: [0, 0.3]}}\n", [], "tuning needs a section validation"),
        ("tune: {search: {loss.n: [0, 0.3]}}\n", [], "unknown field loss.n"),
        ("tune: {search: {loss.m: [0, 0.3]}}\n", ["--jobs", "0"], "jobs must be at least 1, got 0"),
        ("tune: {search: {loss.m: [0, 0.3]}}\n", ["--trials", "0"], "tune.trials must be"),
        ("tune: {search: {loss.m: [0, 0.3]}}\n", ["--loss.s", "x"], "--loss.s is 'x'; it must be"),
    ],
)
def test_wrong_input_is_one_line(
    tmp_path: Path,
    extra: str,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "config.yaml"
    valid = "" if "validation" in message else "validation: {identities: 4}\n"
    text = f"run_dir: {tmp_path / 'run'}\ndata: {{source: synthetic}}\n{valid}{extra}"
    path.write_text(text, encoding="utf-8")
    error = said([str(path), *words], capsys)
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_configuration_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "give a configuration: centerarc tune CONFIG.yaml" in said([], capsys)
