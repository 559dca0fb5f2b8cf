"""The README's code blocks run as they stand, from top to bottom."""

import re
import shlex
from pathlib import Path

import pytest

from centerarc.cli import main

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)


def test_there_is_something_to_run() -> None:
    assert [kind for kind, _ in BLOCKS if kind == "python"]


def test_python_blocks_run() -> None:
    namespace: dict[str, object] = {}
    for number, (kind, code) in enumerate(BLOCKS):
        if kind == "python":
            exec(compile(code, f"README.md, block {number}", "exec"), namespace)


@pytest.mark.parametrize(
    "line",
    sorted(
        {
            line.strip()
            for kind, code in BLOCKS
            if kind == "bash"
            for line in code.replace("\\\n", " ").splitlines()
            if line.strip().startswith("centerarc ")
        }
    ),
)
def test_commands_and_their_flags_exist(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line, comments=True)[1:]
    with pytest.raises(SystemExit) as end:
        main([words[0], "--help"])
    assert not end.value.code
    shown = capsys.readouterr().out
    for word in words[1:]:
        if word.startswith("--") and "." not in word:
            assert word in shown, f"{word} is not a flag of centerarc {words[0]}"
