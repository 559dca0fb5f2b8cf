"""One run in a process of its own: `python -m centerarc.training.child CONFIG.yaml`.

A study and a tuning start such processes with `centerarc.io.children`, and look at how they end.
"""

import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from centerarc.io.children import Ended, end_with_parent
from centerarc.io.failures import in_one_line, memory_explained
from centerarc.io.memory import use_huge_pages
from centerarc.training.config import TrainConfig
from centerarc.training.settings import load_config

# Exit codes: of wrong input and of an orderly stop as those of the command line.
WRONG, DIVERGED, STOPPED = 2, 3, 130
# Seconds that a run whose parent was killed may take to finish a step and save its state.
_PATIENCE = 120.0


def child_words(config: Path) -> list[str]:
    """The words after `python` that train a configuration, or resume where it stopped."""
    return ["-m", "centerarc.training.child", str(config)]


def status_of(ended: Ended) -> str:
    """How a run ended, in a word: `finished`, `diverged`, `stopped` or `failed`."""
    return {0: "finished", DIVERGED: "diverged", STOPPED: "stopped"}.get(ended.code, "failed")


def train_or_resume(config: TrainConfig) -> None:
    """Trains a run, resumes it where it has a saved state, or leaves it if it is finished.

    Raises:
        ValueError: If its folder holds a run with other settings, or as `train` does.
        TrainingInterrupted: If asked to stop; the state is saved.
    """
    from centerarc.training.loop import train
    from centerarc.training.rundir import locked, progress_of

    folder = config.run_dir
    # One that lost its parent may still be about to end; what it saves last is read below.
    with locked(folder, patience=_PATIENCE):
        stage = progress_of(config)
    if stage == "other":
        raise ValueError(
            f"run_dir {str(folder)!r} holds a run with other settings; delete it, or give "
            "--overwrite to start again"
        )
    if stage != "finished":
        train(config, resume=stage == "saved", overwrite=stage == "begun")


def run(words: Sequence[str]) -> int:
    """Trains the configuration that the only word names; returns the exit code."""

    def work() -> None:
        from centerarc.training.step import memory_advice

        use_huge_pages()
        config = load_config(words[0])
        with memory_explained(memory_advice(config)):
            train_or_resume(config)

    return exit_code(work)


def exit_code(work: Callable[[], object]) -> int:
    """Does the work of a process and returns how it ends; says on stdout what went wrong."""
    from centerarc.training.loop import TrainingInterrupted

    try:
        work()
    except TrainingInterrupted as stopped:
        print(stopped, flush=True)
        return STOPPED
    except Exception as error:
        if (said := in_one_line(error)) is None:
            raise
        print(f"error: {said}", flush=True)
        return DIVERGED if _diverged(error) else WRONG
    return 0


def _diverged(error: BaseException) -> bool:
    """Whether numbers that are not finite are behind an error."""
    from centerarc.training.step import Diverged

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, Diverged):
            return True
        cause = cause.__cause__
    return False


def main(run: Callable[[Sequence[str]], int]) -> NoReturn:
    """Runs a module of ours as a child: it ends with its parent, and warnings are lines."""
    end_with_parent()
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main(run)
