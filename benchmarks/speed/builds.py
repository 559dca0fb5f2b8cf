"""Several builds of the library that take turns, each in a process of its own. Imports no torch."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.common.page import Record
from benchmarks.common.runner import ROOT

# Takes the number of the round and gives what JSON can hold.
Work = Callable[[int], Any]


class Build:
    """A process that plays what it is asked for.

    Args:
        module: a module of the benchmarks that calls `serve`.
        checkout: whose library it imports.
        arguments: for the module.
        threads: of matrix products and the like.

    Attributes:
        names: what it can play.
    """

    def __init__(self, module: str, checkout: Path, *arguments: str, threads: int = 1) -> None:
        path = os.pathsep.join([str(checkout / "src"), str(ROOT)])
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)},
            text=True,
        )
        self.names: list[str] = self._answer()

    def play(self, name: str, turn: int) -> Any:
        """Plays a turn and returns what it gave.

        Raises:
            OSError: if the process ended.
        """
        assert self.process.stdin is not None
        print(json.dumps([name, turn]), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise OSError("the process of a build ended early; see above")
        return json.loads(line)


@contextmanager
def builds(
    module: str, before: Path | None, *arguments: str, threads: int = 1, peers: bool = False
) -> Iterator[dict[str, Build]]:
    """Within it, the processes of `now`, and of `before` where there is such a checkout.

    With `peers` there is one of that name, too, in which nothing of the builds changes the process.
    """
    checkouts = {"now": ROOT} | ({"before": before.absolute()} if before else {})
    checkouts |= {"peers": ROOT} if peers else {}
    with ExitStack() as stack:
        found = {}
        for name, checkout in checkouts.items():
            found[name] = Build(module, checkout, *arguments, threads=threads)
            stack.enter_context(found[name].process)
            # It ends with its input, and so do the processes that it started.
            stack.callback(found[name].process.stdin.close)  # type: ignore[union-attr]
        yield found


def serve(works: Mapping[str, Work]) -> None:
    """Plays what comes on stdin until that ends; what is printed otherwise goes to stderr."""
    answers, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps(list(works)), file=answers, flush=True)
    for line in sys.stdin:
        name, turn = json.loads(line)
        print(json.dumps(works[name](turn)), file=answers, flush=True)


def play_round(names: list[tuple[str, str]], playing: dict[str, Build], turn: int) -> Record:
    """Seconds by `<build> <name>`, in an order of turns that is drawn."""
    seconds = {}
    for at in np.random.default_rng((1, turn)).permutation(len(names)).tolist():
        build, name = names[at]
        seconds[f"{build} {name}"] = playing[build].play(name, turn)
    return seconds
