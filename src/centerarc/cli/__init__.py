"""The command line. Commands load on use, so that `centerarc --help` needs no torch."""

import difflib
import io
import os
import sys
import warnings
from collections.abc import Sequence

from cyclopts import App, CycloptsError
from rich.console import Console

from centerarc import __version__
from centerarc.cli.data import app as data_app

__all__ = ["app", "main"]

app = App(
    name="centerarc",
    version=__version__,
    help="Train face-recognition models with the joint Center + ArcFace loss.",
    help_epilogue="--debug with any command, or CENTERARC_DEBUG=1, shows where an error came from.",
    print_error=False,
    exit_on_error=False,
    # Training turns Ctrl-C into an orderly stop of its own.
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)
app.command(
    "centerarc.cli.train:train",
    name="train",
    help="Train a model, or go on with a run.",
    help_epilogue="""Any field of the configuration is also a flag, which overrides the file:

    centerarc train config.yaml --data.root faces --loss.m 0.4 --schedule.epochs 3

--list-settings shows them all. On several GPUs or in several processes:

    torchrun --nproc-per-node 2 -m centerarc train config.yaml""",
    help_format="plaintext",
)
app.command(
    "centerarc.cli.evaluate:evaluate",
    name="evaluate",
    help="Measure how well a model tells people apart.",
    help_format="plaintext",
)
app.command(
    "centerarc.cli.compare:compare",
    name="compare",
    help="Show evaluations side by side, and how sure their differences are.",
    help_format="plaintext",
)
app.command(
    "centerarc.cli.embed:embed",
    name="embed",
    help="Embed all images of a source into one file, by any model.",
    help_format="plaintext",
)
app.command(
    "centerarc.cli.export:export",
    name="export",
    help="Write a model to one ONNX file, checked against PyTorch.",
    help_format="plaintext",
)
app.command(
    "centerarc.cli.demo:demo", name="demo", help="Train on drawn faces and show the result."
)
app.command(data_app)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command and ends the process: 0 done, 2 wrong input, 130 interrupted.

    Args:
        argv: Words after `centerarc`; those of this process by default.
    """
    # OpenMP's threads spin while they wait for each other. On cores shared with anything else, such
    # as our own loader's workers, that costs far more than the tenth it gains on idle ones.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # The names of files and people may hold what the terminal's encoding lacks.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # A warning is a line to read, not a place in our code.
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words or os.environ.get("CENTERARC_DEBUG", "0") not in ("", "0")
    words = [word for word in words if word != "--debug"]
    try:
        _check_command(words)
        result = app(words)
    except KeyboardInterrupt:
        _say("interrupted", "yellow")
        sys.exit(130)
    except (CycloptsError, ImportError, ValueError, OSError) as error:
        if debug:
            raise
        _say(f"error: {' '.join(str(error).split())}", "red")
        sys.exit(2)
    sys.exit(result if isinstance(result, int) else 0)


def _check_command(words: Sequence[str]) -> None:
    # Cyclopts would import every command to word this error.
    _check_word(app, words[:1], "command")
    if words[:1] == ["data"]:
        _check_word(data_app, words[1:2], "data command")


def _check_word(app: App, words: Sequence[str], kind: str) -> None:
    commands = [name for name in app if not name.startswith("-")]
    if words and not words[0].startswith("-") and words[0] not in commands:
        close = difflib.get_close_matches(words[0], commands, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(
            f"unknown {kind} {words[0]!r}; {hint}{kind}s: {', '.join(sorted(commands))}"
        )


def _say(text: str, style: str) -> None:
    # No wrapping and no markup: one line, whatever paths and values it holds.
    Console(stderr=True, highlight=False).print(text, style=style, markup=False, soft_wrap=True)
