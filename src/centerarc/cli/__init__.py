"""The command line. Everything else is imported inside `main`, so that Ctrl-C is handled."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

__all__ = ["main"]

# Files that a process may open, where the system lets it.
_FILES = 65536
# What a shell says of a program that SIGPIPE ended.
_NOT_READ = 141


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command and ends the process.

    The exit code is 0 where all is done, 1 where parts failed, 2 for wrong input and for what the
    system refused, 130 for an orderly stop, and 141 where what it prints is not read any more, as
    in `centerarc ... | head`.

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
        sys.stdout.flush()
    except KeyboardInterrupt:
        _stop()
    except BrokenPipeError:
        _end_unread()
    except SystemExit as stop:
        # So rich ends a program whose output is not read.
        if isinstance(stop.__context__, BrokenPipeError):
            _end_unread()
        raise
    except Exception as error:
        if _broke_an_import(error):
            _stop()
        from centerarc.io.failures import in_one_line

        said = in_one_line(error)
        if debug or said is None:
            raise
        from centerarc.cli.launcher import first_to_say, tell_launcher

        line = f"error: {said}"
        lost = isinstance(error, ConnectionError)
        if first_to_say(line, lost=lost):
            _say(line, "red")
        tell_launcher(line, lost=lost)
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
    # Tensors from the loader's workers are files; the usual 1,024 are too few for many of them.
    with suppress(ImportError, OSError, ValueError):  # Windows has no such limits
        import resource

        soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _FILES if most == resource.RLIM_INFINITY else min(_FILES, most)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
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


def _end_unread() -> NoReturn:
    # What is left in its buffer would fail once more when Python ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(_NOT_READ)


def _say(text: str, style: str) -> None:
    from rich.console import Console

    # No wrapping and no markup: one line, whatever paths and values it holds.
    Console(stderr=True, highlight=False).print(text, style=style, markup=False, soft_wrap=True)
