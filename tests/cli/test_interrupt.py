"""Ctrl-C at any moment is one line and exit 130."""

import subprocess
import sys

import pytest

STOPPED = """
import sys

class Stop:
    def find_spec(self, name, path, target=None):
        if name == sys.argv[1]:
            if sys.argv[2] == "c":  # as modules in C tell it
                raise ImportError("initialization failed") from KeyboardInterrupt()
            raise KeyboardInterrupt

sys.meta_path.insert(0, Stop())
from centerarc.cli import main
main(["embed", "faces", "--model", "runs/one", "-o", "e.npz"])
"""


@pytest.mark.parametrize(
    ("module", "kind"),
    [("cyclopts", "python"), ("centerarc.cli.data", "python"), ("numpy", "c"), ("torch", "c")],
)
def test_ctrl_c_while_modules_load_is_one_line(module: str, kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, module, kind], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
