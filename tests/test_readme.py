"""The code blocks of README and docs run as they stand, from top to bottom."""

import re
import shlex
from pathlib import Path

import pytest

from centerarc.cli import main
from centerarc.training import load_config

README = Path(__file__).parents[1] / "README.md"
DOCS = [README, *sorted((README.parent / "docs").rglob("*.md"))]


def blocks(path: Path) -> list[tuple[str, str]]:
    """Language and text of each fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)


BLOCKS = blocks(README)


def test_there_is_something_to_run() -> None:
    assert [kind for kind, _ in BLOCKS if kind == "python"]


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_python_blocks_run(path: Path) -> None:
    namespace: dict[str, object] = {}
    for number, (kind, code) in enumerate(blocks(path)):
        if kind == "python":
            exec(compile(code, f"{path.name}, block {number}", "exec"), namespace)


@pytest.mark.parametrize(
    "line",
    sorted(
        {
            line.strip()
            for path in DOCS
            for kind, code in blocks(path)
            if kind == "bash"
            for line in code.replace("\\\n", " ").splitlines()
            if line.strip().startswith("centerarc ")
        }
    ),
)
def test_commands_and_their_flags_exist(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line, comments=True)[1:]
    command = words[: 2 if words[0] == "data" else 1]
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert not end.value.code
    shown = capsys.readouterr().out
    if words[0] == "train":
        load_config(README.parent / words[1], words[2:])
        return
    for word in words[1:]:
        if word.startswith("--"):
            assert word in shown, f"{word} is not a flag of centerarc {' '.join(command)}"


def test_the_files_that_the_contributing_guide_names_exist() -> None:
    text = (README.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    package = README.parent / "src" / "centerarc"
    for cell in re.findall(r"^\| .* \| (.*) \|$", text, re.M):
        folder = package
        for name in re.findall(r"`([\w/]+(?:\.py|/))`", cell):
            # A name without a folder stands beside the one before it.
            place = package / name if (package / name).exists() else folder / name
            assert place.exists(), name
            folder = place.parent
