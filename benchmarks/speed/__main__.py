"""The runner: ``python -m benchmarks.speed TASK``; ``--help`` tells the rest. Imports no torch."""

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from benchmarks.common.runner import add_flags, parsed

# What it measures -> the module whose `main` takes the flags and returns the exit status.
TASKS = {name: f"benchmarks.speed.{name}" for name in ("demo", "embed", "loader", "training")}


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """What the user asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description="Measure what users wait for."
    )
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--before", type=Path, help="a checkout of an earlier build, to compare")
    add_flags(parser, rounds=15)
    chosen = parsed(parser, arguments)
    if chosen.before is not None and not (chosen.before / "src" / "centerarc").is_dir():
        parser.error(f"--before: {str(chosen.before)!r} is no checkout of centerarc")
    return chosen


def main(arguments: list[str] | None = None) -> int:
    """Measures and writes."""
    chosen = options(arguments)
    task: Callable[[argparse.Namespace], int] = import_module(TASKS[chosen.task]).main
    return task(chosen)


if __name__ == "__main__":
    sys.exit(main())
