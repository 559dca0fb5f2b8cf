"""Training runs: configuration, loop, checkpoints, logs, searches for settings.

The configuration loads without torch, so that a command line can check one at once; the rest
loads torch on first use.
"""

from typing import TYPE_CHECKING, Any

from centerarc.training.config import TrainConfig
from centerarc.training.search import TuneConfig, load_tuning
from centerarc.training.settings import check_config, dump_config, load_config

if TYPE_CHECKING:
    from centerarc.training.callbacks import Callback, register_callback
    from centerarc.training.loop import Trainer, TrainingInterrupted, train
    from centerarc.training.proposals import Trial
    from centerarc.training.rundir import RunResult
    from centerarc.training.tuning import Tuning, tune_run

__all__ = [
    "Callback",
    "RunResult",
    "TrainConfig",
    "Trainer",
    "TrainingInterrupted",
    "Trial",
    "TuneConfig",
    "Tuning",
    "check_config",
    "dump_config",
    "load_config",
    "load_tuning",
    "register_callback",
    "train",
    "tune_run",
]

_LAZY = {
    "Callback": "callbacks",
    "RunResult": "rundir",
    "Trainer": "loop",
    "TrainingInterrupted": "loop",
    "Trial": "proposals",
    "Tuning": "tuning",
    "register_callback": "callbacks",
    "train": "loop",
    "tune_run": "tuning",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'centerarc.training' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"centerarc.training.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
