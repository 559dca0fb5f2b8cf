"""The command line in processes of their own, forked from one that has imported PyTorch.

They begin at once, where `python -m centerarc` imports for seconds. A few tests start that too.
"""

import importlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import types
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from centerarc.io import children
from tests.distributed import pool as _preloads  # noqa: F401

# Instead of a file: the end of a pipe that is not read.
UNREAD = ""
MAIN = str(Path(__file__).parents[1] / "src/centerarc/__main__.py")


class Command:
    """A command that was started; what tests use of `subprocess.Popen`, and the end of a `with`.

    Args:
        words: After `centerarc`.
        folder: Where it runs; the current one by default.
        environment: Is added to that of this process.
        path: Comes first on its `sys.path` and `PYTHONPATH`.
        errors: Where it writes errors instead of what `communicate` returns; or `UNREAD`.
        module: Whose `main` takes the words.
        forks: Whether what it starts by `centerarc.io.children` is forked from it.
    """

    def __init__(
        self,
        *words: str,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        path: Path | None = None,
        errors: str | None = None,
        module: str = "centerarc.cli",
        forks: bool = False,
    ) -> None:
        self._said = tempfile.TemporaryDirectory()
        self._files = [str(Path(self._said.name, name)) for name in ("out", "err")]
        self._words = words
        paths = [*([str(path)] if path else []), *filter(None, sys.path)]
        self._process = multiprocessing.get_context("forkserver").Process(
            target=_become,
            args=(
                module,
                words,
                str(folder or Path.cwd()),
                {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(environment or {})},
                paths,
                [self._files[0], self._files[1] if errors is None else errors],
                forks,
            ),
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            self.signal_all(signal.SIGKILL)
        self._process.kill()
        self._process.join()
        self._said.cleanup()

    @property
    def returncode(self) -> int | None:
        """The exit code, or the number of the signal that killed it below 0."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float = 600) -> int:
        """Waits for its end and returns the exit code."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(list(self._words), timeout)
        return self._process.exitcode

    def communicate(self, timeout: float = 600) -> tuple[str, str]:
        """Waits for its end and returns what it wrote to stdout and stderr."""
        self.wait(timeout)
        out, err = (Path(name).read_text() if Path(name).exists() else "" for name in self._files)
        return out, err

    def send_signal(self, number: int) -> None:
        """Signals it, not what it started."""
        os.kill(self.pid, number)

    def signal_all(self, number: int) -> None:
        """Signals it and what it started, as a terminal does."""
        os.killpg(self.pid, number)


class Child:
    """What `centerarc.io.children` uses of `subprocess.Popen`, for processes that are forked.

    Args:
        method: "fork" from a `Command`, so that it ends with it; "forkserver" from a process that
            has computed gradients, as pytest's has.
        command: `python -m` and a module with its words.
        stdout: The log.
        env: Its environment.
    """

    def __init__(
        self, method: str, command: list[str], *, stdout: Any, env: dict[str, str], **_: Any
    ) -> None:
        option, *words = command[1:]
        assert option == "-m"
        if method != "fork":  # its parent is another, which stays
            env = {name: value for name, value in env.items() if name != "CENTERARC_PARENT"}
        context: Any = multiprocessing.get_context(method)
        self._process = context.Process(target=_run_module, args=(words, env, stdout.name))
        self._process.start()

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        code: int | None = self._process.exitcode
        return code

    def terminate(self) -> None:
        """Asks it to end."""
        self._process.terminate()

    def wait(self) -> None:
        """Waits for its end."""
        self._process.join()


def forking(method: str) -> types.SimpleNamespace:
    """What to put for `subprocess` in `centerarc.io.children`, see `Child`."""
    return types.SimpleNamespace(Popen=partial(Child, method), DEVNULL=None, STDOUT=None)


def run(*words: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Runs a command, see `Command`."""
    with Command(*words, **options) as command:
        out, err = command.communicate()
        return subprocess.CompletedProcess(list(words), command.wait(), out, err)


def torchrun(
    *words: str, program: str = MAIN, ranks: int = 2, restarts: int = 0, **options: Any
) -> Command:
    """Starts `torchrun` with processes of a program, which it forks."""
    launcher = ["--standalone", f"--nproc-per-node={ranks}", f"--max-restarts={restarts}"]
    launcher += ["--start-method=fork", "--run-path", program]
    return Command(*launcher, *words, module="torch.distributed.run", **options)


def main(words: list[str]) -> None:
    """Runs a program with its words."""
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def _become(
    module: str,
    words: tuple[str, ...],
    folder: str,
    environment: dict[str, str],
    paths: list[str],
    outputs: list[str],
    forks: bool,
) -> None:
    os.setsid()  # what it starts is in its group
    for place, name in enumerate(outputs, 1):
        if name == UNREAD:
            read, to = os.pipe()
            os.close(read)
        else:
            to = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(to, place)
        os.close(to)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = paths
    sys.argv = [module, *words]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if forks:
        children.subprocess = forking("fork")  # type: ignore[attr-defined]
    importlib.import_module(module).main(list(words))


def _run_module(words: list[str], environment: dict[str, str], log: str) -> None:
    os.setsid()
    to = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(to, 1)
    os.dup2(to, 2)
    os.close(to)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = words
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.modules.pop(words[0], None)  # or Python warns
    runpy.run_module(words[0], run_name="__main__")
