"""Processes that measure, and what becomes of them. Imports no torch."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.common.runner import ROOT
from benchmarks.head.cases import Case

TIMEOUT = 600.0


def run(cases: list[Case], end: float) -> Iterator[dict[str, Any]]:
    """Measure cases in one process, in order; another takes over where one dies.

    Args:
        cases: of equal ``thp``.
        end: ``time.monotonic()`` at which to stop, with what is there.

    Yields:
        What was found for each case; none for those that time did not suffice for.
    """
    while cases:
        for found in _run_until_death(cases, end):
            cases = cases[1:]
            yield found
        if time.monotonic() >= end:
            return


def _run_until_death(cases: list[Case], end: float) -> Iterator[dict[str, Any]]:
    environment = dict(os.environ)
    environment.pop("THP_MEM_ALLOC_ENABLE", None)
    if cases[0].thp:
        environment["THP_MEM_ALLOC_ENABLE"] = "1"
    given = json.dumps([case.as_dict() for case in cases])
    command = [sys.executable, "-m", "benchmarks.head.child", given]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        try:
            for _ in cases:
                limit = min(TIMEOUT, end - time.monotonic())
                timer = threading.Timer(max(limit, 0.0), process.kill)
                timer.daemon = True
                start = time.monotonic()
                timer.start()
                try:
                    line = _next_result(process)
                finally:
                    timer.cancel()
                if line is not None:
                    yield json.loads(line)
                    continue
                if time.monotonic() < end:
                    process.wait()
                    late = time.monotonic() - start >= limit
                    reason = f"took longer than {TIMEOUT:.0f} s" if late else _last_words(errors)
                    killed = process.returncode == -9 and not late
                    yield {"error": "killed, likely for memory" if killed else reason}
                return
        finally:
            process.kill()


def _next_result(process: subprocess.Popen[str]) -> str | None:
    assert process.stdout is not None
    # Libraries may print, too.
    return next((line for line in process.stdout if line.startswith('{"')), None)


def _last_words(errors: Any) -> str:
    errors.seek(0)
    lines = errors.read().strip().splitlines()
    return lines[-1][:200] if lines else "ended without a word"
