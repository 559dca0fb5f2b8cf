"""How far work is: honest about the rate, silent for short work, and never a division by zero."""

import re
import threading
from collections.abc import Callable

import pytest

from centerarc.io import progress
from centerarc.io.progress import Lines, Pace, counting, duration, stages, waiting


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the clock."""
    now = 1000.0

    def set_clock(seconds: float) -> None:
        nonlocal now
        now = 1000.0 + seconds

    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    return set_clock


def test_what_an_earlier_run_did_does_not_count_for_the_rate(at: Callable[[float], None]) -> None:
    pace = Pace("images")
    assert pace.tell(9_000, 12_000) == "9,000 of 12,000"
    at(10)
    assert pace.tell(10_000, 12_000) == "10,000 of 12,000, 100 images/s, 0:00:20 left"
    at(20)
    assert pace.tell(12_000, 12_000) == "12,000 of 12,000, 150 images/s, 0:00:00 left"


def test_bytes_are_told_as_a_part_and_records_after_them_begin_anew(
    at: Callable[[float], None],
) -> None:
    pace = Pace()
    assert pace.tell(0, 0) == ""
    assert pace.tell(0, 10**9) == "0%"
    at(30)
    assert pace.tell(3 * 10**8, 10**9) == "30%, 0:01:10 left"
    assert pace.tell(4096, 8192) == "50%"
    at(31)
    assert pace.tell(6144, 8192) == "75%, 0:00:01 left"
    assert pace.tell(0, 8192) == "0%"  # a second pass over as many


def test_a_line_comes_every_thirty_seconds(
    at: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = Lines("reading", "images")
    for second in range(100):
        at(second)
        lines(second, 200)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"reading: {done} of 200, 1 images/s, {duration(200 - done)} left" for done in (30, 60, 90)
    ]


def test_work_that_does_not_begin_says_nothing(
    at: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = Lines("opening")
    at(100)
    lines(0, 0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("seconds", [0, 59.6, 3599, 86_400])
def test_a_duration_is_hours_minutes_and_seconds(seconds: float) -> None:
    match = re.fullmatch(r"(\d+):([0-5]\d):([0-5]\d)", duration(seconds))
    assert match
    hours, minutes, rest = map(int, match.groups())
    assert 3600 * hours + 60 * minutes + rest == round(seconds)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("centerarc.io.progress._DRAW_SECONDS", 0)


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
