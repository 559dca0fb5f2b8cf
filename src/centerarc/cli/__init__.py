"""The command line. Everything else is imported inside `main`, so that Ctrl-C is handled."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command and ends the process: 0 done, 1 with failed parts, 2 wrong input, 130 stopped.

    Args:
        argv: Words after `centerarc`; those of this process by default.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words or os.environ.get("CENTERARC_DEBUG", "0") not in ("", "0")
    words = [word for word in words if word != "--debug"]
    try:
        _prepare()
        from centerarc.cli.commands import run

        result = run(words)
    except KeyboardInterrupt:
        _stop()
    except (ImportError, SystemError, ValueError, OSError) as error:
        if _broke_an_import(error):
            _stop()
        if debug or isinstance(error, SystemError):
            raise
        line = f"error: {' '.join(str(error).split())}"
        _say(line, "red")
        _tell_launcher(line)
        sys.exit(2)
    sys.exit(result if isinstance(result, int) else 0)


def _prepare() -> None:
    import io
    import warnings

    # OpenMP's threads spin while they wait for each other. On cores shared with anything else, such
    # as our own loader's workers, that costs far more than the tenth it gains on idle ones.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # The names of files and people may hold what the terminal's encoding lacks.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # A warning is a line to read, not a place in our code.
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"


def _broke_an_import(error: BaseException) -> bool:
    """Whether Ctrl-C came while a module in C was loading, which makes another error of it."""
    cause: BaseException | None = error
    while isinstance(cause, ImportError | SystemError):
        cause = cause.__cause__ or cause.__context__
    return isinstance(cause, KeyboardInterrupt)


def _stop() -> NoReturn:
    _say("interrupted", "yellow")
    sys.exit(130)


def _tell_launcher(line: str) -> None:
    """Leaves an error where torchrun looks for it, to end its own report with.

    Else that report, which is long and comes last, only says that a process failed.
    """
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        import json
        import time
        from contextlib import suppress

        extra = {"py_callstack": line, "timestamp": str(int(time.time()))}
        with suppress(OSError), open(path, "w", encoding="utf-8") as file:
            json.dump({"message": {"message": line, "extraInfo": extra}}, file)


def _say(text: str, style: str) -> None:
    from rich.console import Console

    # No wrapping and no markup: one line, whatever paths and values it holds.
    Console(stderr=True, highlight=False).print(text, style=style, markup=False, soft_wrap=True)
