"""The searches of a study: one for each arm, all with the same budget, before its runs."""

from collections.abc import Callable, Mapping
from typing import Any

from centerarc.io.children import Children
from centerarc.io.files import locked_folder
from centerarc.io.jobs import read_json
from centerarc.training.search import TuneConfig
from centerarc.training.settings import check_config
from centerarc.training.study_config import StudyConfig
from centerarc.training.tuning import TRIALS, Objective, Tuning, objective_of, run_tunings


def tune_study(
    study: StudyConfig, *, overwrite: bool = False, say: Callable[[str], Any] = print
) -> dict[str, Tuning]:
    """Searches settings for the arms of a study, or resumes that.

    An arm's trials run one after the other, so that they depend on the seed of the search alone;
    trials of several arms run at the same time. They are trained with `trial_seed`.

    Args:
        study: The study.
        overwrite: Delete searches that are there with other settings.
        say: Called with what is still to be searched, and with a line for each trial that ends.

    Returns:
        The searches by arm; none for an arm of which nothing is searched.

    Raises:
        ImportError: If Optuna is not installed.
        ValueError: If another process runs the study, a search that is there is another one, or an
            arm has no trial with a number.
        ChildrenStopped: If a signal asked to stop; the same call resumes.
    """
    if study.tune is None:
        return {}
    if untuned(study):
        for line in search_lines(study):
            say(line)
    folder = study.study_dir
    taken = f"study_dir {str(folder)!r} is in use: another process runs this study"
    with (
        locked_folder(folder, taken, patience=2.0),
        Children(study.jobs, study.threads) as children,
    ):
        found = _opened(study, overwrite)
        run_tunings(found, children, say)
        for arm, tuning in found.items():
            tuning.write()
            if tuning.best is None:
                why = tuning.hopeless or f"none of {len(tuning.trials)} trials has a number"
                raise ValueError(f"arm {arm!r}: {why}; see {str(tuning.folder)!r}")
    return found


def trial_seed(study: StudyConfig) -> int:
    """The seed with which trials are trained: one that no run of the study has."""
    return max(study.seeds) + 1


def chosen_settings(study: StudyConfig) -> dict[str, dict[str, Any]]:
    """The settings that finished searches chose, by arm, read from their files.

    Raises:
        DamagedError: If a file cannot be read.
    """
    return {arm: found["chosen"] for arm, found in tried(study).items() if found["finished"]}


def tried(study: StudyConfig) -> dict[str, dict[str, Any]]:
    """What the searches of a study tried so far, by arm, as their files have it."""
    found = {}
    for arm in study.arms:
        if study.tune_of(arm) is None:
            continue
        content = read_json(study.tuning_dir(arm) / TRIALS)
        if content is not None:
            found[arm] = content
    return found


def untuned(study: StudyConfig) -> list[str]:
    """The arms whose searches are not finished."""
    chosen = chosen_settings(study)
    return [arm for arm in study.arms if study.tune_of(arm) is not None and arm not in chosen]


def search_lines(study: StudyConfig) -> list[str]:
    """What is still to be searched for each arm, and what is not since the arm sets it."""
    if study.tune is None:
        return []
    lines, open_arms = [], untuned(study)
    for arm in study.arms:
        tune = study.tune_of(arm)
        if tune is not None and arm not in open_arms:
            continue
        search = {} if tune is None else tune.search
        fixed = [name for name in study.tune.search if name not in search]
        found = f"still to be searched: {', '.join(search)}" if search else "nothing is searched"
        verb = "is" if len(fixed) == 1 else "are"
        own = f"; {', '.join(fixed)} {verb} set by the arm" if fixed else ""
        lines.append(f"{arm}: {found}{own}")
    return lines


def _opened(study: StudyConfig, overwrite: bool) -> dict[str, Tuning]:
    base = study.base()
    searches: Mapping[str, TuneConfig] = {
        arm: tune for arm in study.arms if (tune := study.tune_of(arm)) is not None
    }
    found: dict[str, Tuning] = {}
    objectives: dict[str, Objective] = {}
    for arm, tune in searches.items():
        given = study.config_of(arm, trial_seed(study), base=base)
        content = given.model_dump(mode="json", exclude_unset=True)
        config = check_config({**content, "run_dir": str(study.tuning_dir(arm))}, f"arm {arm!r}")
        kind = str(config.validation) if tune.evaluate is None else "evaluate"
        if kind not in objectives:  # sets are opened once, not for each arm
            objectives[kind] = objective_of(config, tune)
        found[arm] = Tuning(
            config,
            tune,
            study.tuning_dir(arm),
            objective=objectives[kind],
            at_once=max(1, study.jobs // len(searches)),
            overwrite="changed" if overwrite else False,
        )
    return found
