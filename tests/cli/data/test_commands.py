"""What all data commands share: help that tells all, and no torch, which they do not need."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from centerarc.cli import main
from centerarc.data.alignment import arcface_template
from tests.curate.pictures import many, write_landmarks


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("inspect", ["goes to the terminal", "0 done, 2 wrong input"]),
        ("check", ["--problems", "Nothing is changed", "1 there are errors, 2 wrong input"]),
        ("align", ["OUT/alignment.csv", "the same command resumes", "130 interrupted"]),
        ("pack", ["OUT/left-out.csv", "the same command resumes", "130 interrupted"]),
        ("split", ["OUT/train.txt", "the same command gives the same", "2 wrong input"]),
    ],
)
def test_help_tells_where_results_go_how_to_go_on_and_exit_codes(
    command: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["data", command, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for text in words:
        assert text in shown


def loaded_by(*commands: tuple[object, ...]) -> set[str]:
    """Modules that commands load."""
    code = """
import json, sys
from centerarc.cli import main
for words in json.loads(sys.argv[1]):
    try:
        main(["data", *words])
    except SystemExit as end:
        assert not end.code, words
print("loaded:", *sys.modules)
"""
    words = json.dumps([[*map(str, command)] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", code, words], capture_output=True, text=True, check=True
    )
    return set(done.stdout.rpartition("loaded:")[2].split())


def test_the_list_of_commands_loads_nothing_that_they_work_with() -> None:
    loaded = loaded_by(("--help",))
    assert "centerarc.cli.data" in loaded
    assert not loaded & {"centerarc.data", "centerarc.curate", "numpy", "torch"}


# Seconds and hundreds of megabytes, in this process and in each that it would spawn.
def test_data_commands_load_no_torch(tmp_path: Path) -> None:
    root = many(tmp_path / "faces", people=3)
    photos = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*.jpg"))]
    write_landmarks(tmp_path / "l.csv", [(photo, arcface_template() / 4) for photo in photos])
    workers = ("--workers", 2)
    loaded = loaded_by(
        ("inspect", root, *workers),
        ("check", root, "--min-side", 8, *workers),
        ("pack", root, tmp_path / "rec", *workers),
        ("inspect", tmp_path / "rec", *workers),
        ("pack", root, tmp_path / "shards", "--format", "shards", *workers),
        ("check", tmp_path / "shards", "--min-side", 8, *workers),
        ("align", root, "--out", tmp_path / "a", "--landmarks", tmp_path / "l.csv", *workers),
        ("split", root, "--out", tmp_path / "lists", "--count", 1),
    )
    assert "centerarc.data.alignment" in loaded
    assert "torch" not in loaded


def test_what_a_flag_means_is_broken_only_where_the_line_is_full(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["data", "check", "--help"])
    shown = capsys.readouterr().out
    assert "file leaves that open; of an ONNX model also height x " in shown
    assert '[default: ""]' not in shown
