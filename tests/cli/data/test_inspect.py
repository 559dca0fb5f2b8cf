"""`centerarc data inspect`: what a user sees of their data."""

from pathlib import Path

import pytest

from centerarc.cli.data.inspect import inspect
from tests.curate.pictures import save, scene


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    root = tmp_path / "faces [b]"
    for person, count in (("ann", 12), ("bob", 3), ("cyd", 1)):
        for number in range(count):
            save(root / person / f"{number}.png", scene(number, 32))
    (root / "cyd" / "empty.jpg").touch()
    return root


def test_it_shows_counts_sizes_and_what_is_left_out(
    faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inspect(faces, workers=0)
    shown = capsys.readouterr().out
    assert f"{faces}: 16 images of 3 identities" in shown.replace("\n", "")
    for words in ("10-19", "32 x 32 pixels", "PNG", "Gini", "unreadable", "cyd/empty.jpg"):
        assert words in shown


def test_equal_counts_have_no_chart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for person in ("ann", "bob"):
        for number in range(2):
            save(tmp_path / person / f"{number}.png", scene(number, 32))
    inspect(tmp_path, workers=0)
    shown = capsys.readouterr().out
    assert "Gini" in shown
    assert "logarithmic" not in shown
    assert "█" not in shown


def test_a_terminal_without_block_characters_gets_ascii(
    faces: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rich.console.Console.encoding", "ascii")
    inspect(faces, workers=0)
    shown = capsys.readouterr().out
    assert "#####" in shown
    assert "█" not in shown


def test_the_report_is_written(faces: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    inspect(faces, report=tmp_path / "new" / "report.html", workers=0)
    assert "faces [b]" in (tmp_path / "new" / "report.html").read_text(encoding="utf-8")


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        inspect(tmp_path / "nowhere")
