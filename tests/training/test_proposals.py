"""What is tried: the same for the same seed, wherever it was stopped, and better than chance."""

from pathlib import Path
from typing import Any

import pytest

from centerarc.training.proposals import Proposals, Trial
from centerarc.training.search import Choices, Range, Space

pytest.importorskip("optuna")

SPACE: dict[str, Space] = {
    "loss.s": Range(low=8, high=64, log=True),
    "loss.m": Range(low=0, high=0.5),
    "schedule.epochs": Range(low=1, high=5),
    "data.people": Choices(choices=[[6, 7], None, "all", 3]),
}


def opened(folder: Path, **more: Any) -> Proposals:
    return Proposals(
        folder / "trials.db",
        SPACE,
        **{"seed": 0, "whole": frozenset({"schedule.epochs"}), **more},
    )


def value(trial: Trial) -> float:
    """Best at s = 32, m = 0.1."""
    s, m = trial.settings["loss.s"], trial.settings["loss.m"]
    return 1 - abs(s - 32) / 64 - abs(m - 0.1)


def test_values_are_within_their_spaces(tmp_path: Path) -> None:
    found = opened(tmp_path)
    for _ in range(10):
        trial = found.propose()
        assert trial.status == "running"
        assert 8 <= trial.settings["loss.s"] <= 64
        assert 0 <= trial.settings["loss.m"] <= 0.5
        assert type(trial.settings["schedule.epochs"]) is int
        assert trial.settings["data.people"] in ([6, 7], None, "all", 3)
        found.end(trial.number, "done", value(trial))
    assert {str(t.settings["data.people"]) for t in found.trials} == {"[6, 7]", "None", "all", "3"}


def test_a_search_that_was_stopped_goes_on_as_if_it_were_not(tmp_path: Path) -> None:
    whole = opened(tmp_path / "whole")
    for _ in range(12):
        trial = whole.propose()
        whole.end(trial.number, "done", value(trial))
    parts = opened(tmp_path / "parts")
    for number in range(12):
        if number in (1, 7, 11):  # before and after chance ends
            parts = opened(tmp_path / "parts")
        trial = parts.propose()
        parts.end(trial.number, "done", value(trial))
    assert opened(tmp_path / "parts").trials == whole.trials
    other = opened(tmp_path / "other", seed=1)
    assert other.propose().settings != whole.trials[0].settings


def test_the_first_trial_is_what_was_given(tmp_path: Path) -> None:
    first = {"loss.s": 30.0, "loss.m": 0.5, "schedule.epochs": 2, "data.people": [6, 7]}
    found = opened(tmp_path, first=first)
    assert found.trials == []
    assert found.propose().settings == first
    found = opened(tmp_path, first=first)
    assert found.propose().settings != first


def test_how_trials_ended_is_kept(tmp_path: Path) -> None:
    found = opened(tmp_path)
    for _ in range(4):
        found.propose()
    found.add_seconds(0, 1.5)
    found.add_seconds(0, 2.0)
    found.end(0, "done", 0.25)
    found.end(1, "diverged", None, "the loss is not finite")
    found.end(2, "failed", None, "no space is left")
    again = opened(tmp_path).trials
    assert [(t.number, t.status, t.value, t.reason) for t in again] == [
        (0, "done", 0.25, ""),
        (1, "diverged", None, "the loss is not finite"),
        (2, "failed", None, "no space is left"),
        (3, "running", None, ""),
    ]
    assert again[0].seconds == 3.5


def test_later_proposals_are_better_than_chance(tmp_path: Path) -> None:
    space: dict[str, Space] = {"loss.m": Range(low=0, high=1)}
    found = Proposals(tmp_path / "trials.db", space, seed=0)
    for _ in range(20):
        trial = found.propose()
        found.end(trial.number, "done", -abs(trial.settings["loss.m"] - 0.3))
    off = [abs(trial.settings["loss.m"] - 0.3) for trial in found.trials]
    # Of values drawn evenly from 0 to 1 it is (0.3^2 + 0.7^2) / 2 = 0.29.
    assert sum(off[-8:]) / 8 < 0.15


def test_a_damaged_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "trials.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(ValueError, match=r"cannot read .*--overwrite starts over"):
        opened(tmp_path)


def killed_at_third(found: Proposals) -> Any:
    """What keeps two settings of a trial and then ends the process."""
    keep, left = found._study._storage.set_trial_param, [1, 2]

    def kept(*setting: Any) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        keep(*setting)

    return kept


def test_a_kill_between_two_settings_of_a_trial_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {"loss.s": 30.0, "loss.m": 0.5, "schedule.epochs": 2, "data.people": [6, 7]}

    def search(name: str, killed: tuple[int, ...] = ()) -> list[Trial]:
        found = opened(tmp_path / name, first=first)
        for number in range(12):
            if number in killed:  # as `propose` does, but only the first two settings are kept
                found._study.sampler = found._sampler(number)
                given = {one: found._distribution(one) for one in SPACE}
                monkeypatch.setattr(
                    found._study._storage, "set_trial_param", killed_at_third(found)
                )
                with pytest.raises(KeyboardInterrupt):
                    found._study.ask(given)
                monkeypatch.undo()
                found = opened(tmp_path / name, first=first)
                trial = found.trials[number]
            else:
                trial = found.propose()
            found.end(trial.number, "done", value(trial))
        return found.trials

    assert search("killed", (0, 5, 11)) == search("whole")
