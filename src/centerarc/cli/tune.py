"""`centerarc tune`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from centerarc.cli.flags import by_flags, flag

if TYPE_CHECKING:
    from centerarc.training.tuning import Tuning


@by_flags
def tune(
    config: Path,
    /,
    *settings: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    trials: int | None = None,
    hours: float | None = None,
    jobs: int = 1,
    threads: int | None = None,
    overwrite: Annotated[bool, flag()] = False,
) -> int:
    """Search for the best settings of a run, or resume the search.

    Each trial is a training run. Any field of the configuration is also a flag, which overrides
    the file.

    Parameters
    ----------
    config
        YAML file of the run, with a section tune.
    trials
        Runs, those that fail included; over tune.trials.
    hours
        Start no run after so many hours of work, all runs together; over tune.hours.
    jobs
        Runs at a time.
    threads
        CPU threads of each run; by default the cores are divided.
    overwrite
        Delete another search in run_dir and start again.
    """
    from centerarc.io.children import ChildrenStopped
    from centerarc.training.search import load_tuning
    from centerarc.training.tuning import TUNED, tune_run

    file = load_tuning(config, settings, trials=trials, hours=hours)
    try:
        tuning = tune_run(file.train, file.tune, jobs=jobs, threads=threads, overwrite=overwrite)
    except ChildrenStopped:
        print("stopped; the same command resumes", file=sys.stderr)
        return 130
    _show(tuning)
    print(f"train with the best settings: centerarc train {tuning.folder / TUNED}")
    print("report a result on people who took no part in the choice, not this number")
    return 0


def _show(tuning: "Tuning") -> None:
    """Prints a table of trials, the best first."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from centerarc.io.progress import duration
    from centerarc.training.tuning import shown

    table = Table(title=f"Trials by {tuning.objective.words}")
    for column in ("trial", "value", *tuning.tune.search, "time"):
        table.add_column(column.replace(".", ".\n"), justify="right", overflow="fold")
    ranked = sorted(tuning.trials, key=lambda one: (one.value is None, -(one.value or 0.0)))
    for trial in ranked:
        number = trial.status if trial.value is None else f"{trial.value:.4f}"
        values = [shown(trial.settings[name]) for name in tuning.tune.search]
        cells = [str(trial.number + 1), number, *values, duration(trial.seconds)]
        table.add_row(*map(Text, cells))
    console = Console()
    console.print(table)
    for trial in ranked:
        if trial.reason:
            line = f"trial {trial.number + 1} {trial.status}: {trial.reason.partition(';')[0]}"
            console.print(Text(line), soft_wrap=True)
