"""The benchmark of what users wait for: it compares what took turns, and says what went wrong."""

from pathlib import Path
from typing import Any

import pytest
from benchmarks.speed import builds, demo, embed, loader, training
from benchmarks.speed.__main__ import main, options

KINDS = ("folder", ".rec", "shards")


def test_rows_are_ratios_within_a_round() -> None:
    rounds: list[dict[str, float]] = []
    for slow in (1.0, 10.0, 3.0):  # a machine that is slow for all
        seconds = {"now bare": 0.9, "now suited": 0.6, "before bare": 1.0}
        seconds |= {f"now {kind}: {way}": 1.2 for kind in KINDS for way in loader.WAYS}
        seconds |= {f"before {kind}: {way}": 2.0 for kind in KINDS for way in loader.WAYS}
        rounds.append({name: slow * value for name, value in seconds.items()})
    workers = {f"now {kind}: {count}": 1 / count**0.5 for kind in KINDS for count in (1, 2)}
    head, rows = loader.table({"rounds": rounds, "workers": [workers]})
    assert all(len(row) == len(head) for row in rows)
    by_name = {row[0]: row[1:] for row in rows}
    mirrored = by_name["one process, mirrored, .rec: images/s over a bare decode loop's"]
    assert mirrored == ["85%", "75%", "50%", "50%", "1.67x"]
    two = by_name["full augmentation, folder: images/s of two workers over one's"]
    assert two == ["1.85x", "1.41x", "", "", ""]


def test_a_build_that_ends_early_is_an_error_and_no_hang(tmp_path: Path, capfd: Any) -> None:
    with (
        pytest.raises(OSError, match="ended early"),
        builds.builds("benchmarks.speed.loader", None, str(tmp_path), "256", "512"),
    ):
        pass
    assert "folder" in capfd.readouterr().err


def test_builds_are_checkouts(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        options(["loader", "--before", str(tmp_path)])
    assert "is no checkout of centerarc" in capsys.readouterr().err


def test_training_is_compared_with_the_faster_of_two_loops() -> None:
    rounds = [
        {"now": slow, "before": 2 * slow, "plain": 1.5 * slow, "channels_last": 1.4 * slow}
        for slow in (1.0, 7.0, 2.0)
    ]
    memory = {"now": 60.0, "before": 100.0, "plain": 80.0, "channels_last": 120.0}
    record = {
        "speed": [{"name": "a", "size": 64, "rounds": rounds}],
        "memory": [{"name": "a", "size": 64, "batch": 8, "megabytes": memory}],
    }
    head, rows = training.table(record)
    assert all(len(row) == len(head) for row in rows)
    assert [row[-1] for row in rows] == ["2.00x", "1.40x", "", "0.60x", "0.75x", "0.50x"]
    assert [row[1].split()[-1] for row in rows[:4]] == ["1.50x", "1.30x", "1.00x", "0.80x"]


def test_embedding_is_compared_with_what_took_its_turn() -> None:
    rounds: list[dict[str, float]] = []
    for slow in (1.0, 10.0, 3.0):
        seconds = {f"now {name} {way}": 2.0 for name in embed.AMOUNTS for way in embed.OURS}
        seconds |= {f"peers {name} {way}": 3.0 for name in embed.AMOUNTS for way in embed.PEERS}
        half = {embed.OURS_HALF: "now", **dict.fromkeys(embed.PEERS_HALF, "peers")}
        seconds |= {f"{build} iresnet50 {way}": 1.0 for way, build in half.items()}
        seconds["peers iresnet50 autocast bf16"] = 0.5
        rounds.append({name: slow * value for name, value in seconds.items()})
    cosines = {"peers iresnet50 onnxruntime": 1 - 3e-9, "now iresnet50 embed bf16": 0.999}
    cosines |= {"peers iresnet50 autocast bf16": 0.99, "peers iresnet50 module bf16": 0.5}
    head, rows = embed.table({"rounds": rounds, "cosines": cosines})
    assert all(len(row) == len(head) for row in rows)
    by_name = {row[0]: row[1:] for row in rows}
    over = by_name["`embed`, iresnet50, over onnxruntime's default session"]
    assert over == ["1.20x", "1.50x", "1 - 3e-09"]
    assert by_name["`evaluate`, iresnet50, over the build before"] == ["over 1x", "", ""]
    found = by_name["`embed --precision bf16`, iresnet50, over the faster loop in bfloat16"]
    assert found == ["1.10x", "0.50x", "0.9990; the loop's 0.9900"]


def _build(folder: Path, accuracy: float, code: str = "") -> Path:
    package = folder / "src" / "centerarc"
    package.mkdir(parents=True)
    package.joinpath("__init__.py").touch()
    package.joinpath("__main__.py").write_text(
        f"import sys\n{code}\n"
        "print('this will take about 3 minutes on this machine')\n"
        f"print('accuracy on unseen people {accuracy}% (95% interval 1 to 2)', sys.argv[4:])\n"
    )
    return folder


def test_whole_demonstrations_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    before = _build(tmp_path / "before", 89.5, "import time; time.sleep(0.5)")
    monkeypatch.setattr(demo, "ROOT", _build(tmp_path / "now", 87.25))
    assert main(["demo", "--quick", "--before", str(before)]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if " | " in line]
    by_name = {row[0].removeprefix("| "): row[1:] for row in rows}
    wall = by_name["from the command to its end, of the earlier build's time"]
    assert wall[0] == "at most 30.0%"
    assert float(wall[1].rstrip("%")) < 90
    assert by_name["accuracy on unseen people"][1:] == ["87.2%", "87.2%", "89.5% |"]
    assert by_name["what it says before it starts"][1] == "about 3 minutes"


def test_a_demonstration_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"the demonstration of '.*broken' failed"):
        demo.play(_build(tmp_path / "broken", 1.0, "sys.exit(3)"), seed=0)
