"""`centerarc train`."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def train(
    config: Path,
    /,
    *settings: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    resume: Annotated[bool, Parameter(negative="")] = False,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    list_settings: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Train a model, or go on with a run.

    Any field of the configuration can be given as a flag, which overrides the file:
    `centerarc train config.yaml --data.root faces --loss.m 0.4 --schedule.epochs 3`.

    On several GPUs or processes: `torchrun --nproc-per-node 2 -m centerarc train config.yaml`.

    Args:
        config: YAML file of the run; a run writes its own as <run_dir>/config.yaml.
        resume: Go on with the run in run_dir from its saved state.
        overwrite: Delete the run that run_dir holds and start anew.
        list_settings: Print every field with its default and meaning, and the values of CONFIG.
    """
    from centerarc.training.settings import load_config

    loaded = load_config(config, settings)
    if list_settings:
        from centerarc.cli.settings_table import print_settings

        print_settings(loaded)
        return 0
    from centerarc.training.interrupts import TrainingInterrupted
    from centerarc.training.loop import train as run

    try:
        run(loaded, resume=resume, overwrite=overwrite)
    except TrainingInterrupted as stopped:
        print(stopped, file=sys.stderr)
        return 130
    return 0
