"""Training runs: configuration, loop, checkpoints, logs.

The configuration loads without torch, so that a command line can check one at once; the rest
loads torch on first use.
"""

from typing import TYPE_CHECKING, Any

from centerarc.training.config import TrainConfig
from centerarc.training.settings import check_config, dump_config, load_config

if TYPE_CHECKING:
    from centerarc.training.loop import Trainer, TrainingInterrupted, train
    from centerarc.training.rundir import RunResult

__all__ = [
    "RunResult",
    "TrainConfig",
    "Trainer",
    "TrainingInterrupted",
    "check_config",
    "dump_config",
    "load_config",
    "train",
]

_LAZY = {
    "RunResult": "rundir",
    "Trainer": "loop",
    "TrainingInterrupted": "loop",
    "train": "loop",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'centerarc.training' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"centerarc.training.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
