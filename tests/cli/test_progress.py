"""What is shown of long work, on a terminal and in the log of a job."""

import threading

import pytest

from centerarc.cli.progress import counting, stages, waiting


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("centerarc.cli.progress._DRAW_SECONDS", 0)


@pytest.mark.usefixtures("terminal")
def test_a_terminal_has_a_bar_for_each_stage_and_no_thread_that_draws(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = threading.active_count()
    with stages("[b]images") as show:
        for stage in ("reading", "writing"):
            for done in range(0, 1001, 500):
                show(stage, done, 1000)
        assert threading.active_count() == before
    out, err = capsys.readouterr()
    assert out == ""
    for words in ("reading", "writing", "500 of 1,000", "1,000 of 1,000", "[b]images/s", "left"):
        assert words in err


@pytest.mark.usefixtures("terminal")
def test_a_terminal_shows_at_once_what_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting("opening"):
        assert "opening" in capsys.readouterr().err


def test_short_work_writes_nothing_to_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with counting("decoding", "images", 3) as advance:
        advance(3)
    assert capsys.readouterr() == ("", "")


def test_long_work_writes_lines_to_a_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("centerarc.io.progress._LINE_SECONDS", 0)
    with counting("decoding", "images", 3) as advance:
        advance(1)
        advance(2)
    out, err = capsys.readouterr()
    assert out == ""
    first, second, third = err.splitlines()
    assert first == "decoding: 0 of 3"
    assert second.startswith("decoding: 1 of 3, ")
    assert third.startswith("decoding: 3 of 3, ")
    assert third.endswith(" images/s, 0:00:00 left")
