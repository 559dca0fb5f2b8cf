"""Training runs: configuration, loop, checkpoints, logs, searches for settings, studies.

The configuration loads without torch, so that a command line can check one at once; the rest
loads torch on first use.
"""

from typing import TYPE_CHECKING, Any

from centerarc.training.config import TrainConfig
from centerarc.training.search import TuneConfig, load_tuning
from centerarc.training.settings import check_config, dump_config, load_config
from centerarc.training.study_config import StudyConfig, check_study, load_study

if TYPE_CHECKING:
    from centerarc.training.callbacks import Callback, register_callback
    from centerarc.training.loop import Trainer, TrainingInterrupted, train
    from centerarc.training.proposals import Trial
    from centerarc.training.rehearsal import DryRun, dry_run
    from centerarc.training.rundir import RunResult
    from centerarc.training.study import PlannedRun, plan_study, run_study
    from centerarc.training.study_run import RunRecord
    from centerarc.training.study_table import summarize_study
    from centerarc.training.study_tuning import chosen_settings, tune_study
    from centerarc.training.tuning import Tuning, tune_run

__all__ = [
    "Callback",
    "DryRun",
    "PlannedRun",
    "RunRecord",
    "RunResult",
    "StudyConfig",
    "TrainConfig",
    "Trainer",
    "TrainingInterrupted",
    "Trial",
    "TuneConfig",
    "Tuning",
    "check_config",
    "check_study",
    "chosen_settings",
    "dry_run",
    "dump_config",
    "load_config",
    "load_study",
    "load_tuning",
    "plan_study",
    "register_callback",
    "run_study",
    "summarize_study",
    "train",
    "tune_run",
    "tune_study",
]

_LAZY = {
    "Callback": "callbacks",
    "DryRun": "rehearsal",
    "PlannedRun": "study",
    "RunRecord": "study_run",
    "RunResult": "rundir",
    "Trainer": "loop",
    "TrainingInterrupted": "loop",
    "Trial": "proposals",
    "Tuning": "tuning",
    "chosen_settings": "study_tuning",
    "dry_run": "rehearsal",
    "plan_study": "study",
    "register_callback": "callbacks",
    "run_study": "study",
    "summarize_study": "study_table",
    "train": "loop",
    "tune_run": "tuning",
    "tune_study": "study_tuning",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'centerarc.training' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"centerarc.training.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
