"""The folder tree is the architecture: imports point down, and the losses stand alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from scripts.house import ENTRY_POINTS, JOURNEYS, LONGEST, SHORTEST, House

import centerarc

PACKAGE = Path(centerarc.__file__).parent
# From the ground up. A layer may import those before it.
LAYERS = [
    "losses",
    "distributed",
    "io",
    "data",
    "models",
    "evaluation",
    "curate",
    "gallery",
    "report",
    "training",
    "cli",
]


def imported(path: Path) -> set[str]:
    """Layers of ours that a module imports, anywhere in it (types for checkers included)."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import; write it out"
            names = [node.module or ""]
            if node.module == "centerarc":
                names += [f"centerarc.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "centerarc" and len(parts) > 1 and parts[1] in LAYERS:
                found.add(parts[1])
    return found


def test_every_folder_is_a_layer() -> None:
    folders = {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists()}
    assert folders == set(LAYERS)


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_down(layer: str) -> None:
    allowed = set(LAYERS[: LAYERS.index(layer) + 1])
    for path in sorted((PACKAGE / layer).rglob("*.py")):
        assert imported(path) <= allowed, path


HEAVY = {"PIL", "cyclopts", "jinja2", "plotly", "pydantic", "rich", "simplejpeg", "sklearn", "yaml"}
HEAVY |= {"sympy"}  # comes with PyTorch's compiler
# What each part loads on top of those before it, in one process.
NUMBERS = """
import numpy as np
from centerarc.evaluation import evaluate_verification
import centerarc.evaluation.identification, centerarc.evaluation.templates
import centerarc.evaluation.files, centerarc.evaluation.protocols
evaluate_verification(np.array([0.9, 0.1]), np.array([True, False]))
"""
HELP = """
import contextlib, io
from centerarc.cli import main
commands = ("train", "tune", "evaluate", "compare", "embed", "export", "push", "serve", "study")
commands += ("demo",)
for words in (["--help"], *([name, "--help"] for name in commands)):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main(words)
        except SystemExit as end:
            assert not end.code, end.code
    assert "centerarc" in out.getvalue()
"""


def loaded_by(*parts: str) -> list[set[str]]:
    """The packages that are loaded after each part of a program."""
    show = "import sys\nprint(*sorted(m.split('.')[0] for m in sys.modules))\n"
    program = "".join(f"{part}\n{show}" for part in parts)
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return [set(line.split()) for line in out.stdout.splitlines()]


def test_the_losses_load_torch_and_nothing_heavier() -> None:
    alone, losses = loaded_by("import centerarc", "from centerarc import CenterArcFaceLoss")
    assert not alone & {*HEAVY, "torch", "numpy"}
    assert "torch" in losses
    assert not losses & HEAVY


def test_neither_numbers_from_arrays_nor_the_help_of_the_command_line_need_torch() -> None:
    for loaded in loaded_by(NUMBERS, HELP):
        assert "torch" not in loaded


def test_a_journey_through_the_code_reads_few_files() -> None:
    house = House(PACKAGE)
    for name, (starts, most) in JOURNEYS.items():
        assert len(house.closure(starts)) <= most, name


def test_a_file_is_neither_a_book_nor_a_note() -> None:
    for path in PACKAGE.rglob("*.py"):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= LONGEST, path
        assert lines >= SHORTEST or path.name in ENTRY_POINTS, path
