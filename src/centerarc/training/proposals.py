"""Trials of a search, proposed by Optuna and kept in an SQLite file.

Each proposal is drawn with a generator of its own, from the seed of the search and the number of
the trial, so that a search that was stopped proposes what it would have proposed otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from centerarc.training.search import Choices, Space, label_of

if TYPE_CHECKING:
    import optuna

Status = Literal["done", "diverged", "failed", "running"]


@dataclass(frozen=True)
class Trial:
    """One run of a search.

    Args:
        number: From 0 on; the first has the settings that the configuration gives, if it can.
        settings: The searched settings by their dotted names.
        status: `done`; `diverged` where numbers were not finite; `failed`; `running`, also of one
            that was stopped.
        value: What the search raises; None but for `done`.
        reason: Why it failed; else empty.
        seconds: How long it ran.
    """

    number: int
    settings: dict[str, Any]
    status: Status
    value: float | None = None
    reason: str = ""
    seconds: float = 0.0


def require_tune_extra() -> None:
    """Says how to install what a search needs, if it is not there.

    Raises:
        ImportError: Optuna is missing.
    """
    if find_spec("optuna") is None:
        raise ImportError("a search needs optuna: pip install 'centerarc[tune]'")


class Proposals:
    """The trials in a file, and what to try next.

    Optuna's TPE proposes: 10 trials at random, then where trials were good. One that diverged is a
    bad one to it; one that failed otherwise tells it nothing.

    Args:
        path: The SQLite file, made if it is not there.
        space: What is searched, by dotted setting.
        seed: Of the search.
        first: The settings of the first trial; None proposes them too.
        whole: The settings that take whole numbers only.
        parallel: Several trials run at once: those that run count as bad, so that the next is
            another one.

    Raises:
        ImportError: If Optuna is not installed.
        ValueError: If the file cannot be read.
    """

    def __init__(
        self,
        path: Path,
        space: Mapping[str, Space],
        *,
        seed: int,
        first: Mapping[str, Any] | None = None,
        whole: frozenset[str] = frozenset(),
        parallel: bool = False,
    ) -> None:
        require_tune_extra()
        import optuna

        self._space, self._seed, self._whole, self._parallel = space, seed, whole, parallel
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._study = optuna.create_study(
                storage=f"sqlite:///{path}",
                study_name="tuning",
                direction="maximize",
                load_if_exists=True,
            )
            known = self._study.get_trials(deepcopy=False)
        except Exception as error:  # of any layer below: SQLite, its driver, Optuna's own checks
            problem = str(error).splitlines()[0]
            raise ValueError(
                f"cannot read {str(path)!r}: {problem}; --overwrite starts over"
            ) from error
        if first is not None and not known:
            self._study.enqueue_trial({name: self._stored(name, v) for name, v in first.items()})
        for number, frozen in enumerate(known):
            if frozen.state.name == "RUNNING" and any(name not in frozen.params for name in space):
                self._complete(number)

    @property
    def trials(self) -> list[Trial]:
        """All trials so far, in the order of their numbers."""
        found = self._study.get_trials(deepcopy=False)
        return [self._trial(frozen) for frozen in found if frozen.state.name != "WAITING"]

    def propose(self) -> Trial:
        """Starts a trial, which is `running` from now on."""
        number = len(self.trials)
        self._study.sampler = self._sampler(number)
        self._study.ask({name: self._distribution(name) for name in self._space})
        return self.trials[number]

    def _sampler(self, number: int) -> "optuna.samplers.BaseSampler":
        """What draws the proposal of a trial."""
        import optuna

        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        return optuna.samplers.TPESampler(seed=seed, constant_liar=self._parallel)

    def _complete(self, number: int) -> None:
        """Gives a trial the settings that it lacks, since a kill came while they were drawn.

        It is drawn again among the trials before it, in memory.
        """
        import optuna

        known = self._study.get_trials()
        again = optuna.create_study(direction="maximize", sampler=self._sampler(number))
        again.add_trials(known[:number])
        if (first := known[number].system_attrs.get("fixed_params")) is not None:
            again.enqueue_trial(first)
        kinds = {name: self._distribution(name) for name in self._space}
        drawn, storage = again.ask(kinds).params, self._study._storage
        for name, kind in kinds.items():
            if name not in known[number].params:
                value = kind.to_internal_repr(drawn[name])
                storage.set_trial_param(known[number]._trial_id, name, value, kind)

    def add_seconds(self, number: int, seconds: float) -> None:
        """Records how long a trial has run, beyond what is recorded."""
        before = self.trials[number].seconds
        self._handle(number).set_user_attr("seconds", before + seconds)

    def end(self, number: int, status: Status, value: float | None, reason: str = "") -> Trial:
        """Ends a trial and returns it as it is now.

        Args:
            number: Of the trial.
            status: How it ended.
            value: What the search raises, of one that is `done`.
            reason: Why it failed.
        """
        from optuna.trial import TrialState

        handle = self._handle(number)
        handle.set_user_attr("status", status)
        handle.set_user_attr("reason", reason)
        states = {"done": TrialState.COMPLETE, "diverged": TrialState.PRUNED}
        self._study.tell(number, value, state=states.get(status, TrialState.FAIL))
        return self.trials[number]

    def _handle(self, number: int) -> "optuna.Trial":
        import optuna

        frozen = self._study.get_trials(deepcopy=False)[number]
        return optuna.trial.Trial(self._study, frozen._trial_id)

    def _distribution(self, name: str) -> Any:
        from optuna.distributions import (
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        space = self._space[name]
        if isinstance(space, Choices):
            return CategoricalDistribution([label_of(value) for value in space.choices])
        if name in self._whole:
            return IntDistribution(int(space.low), int(space.high), log=space.log)
        return FloatDistribution(space.low, space.high, log=space.log)

    def _stored(self, name: str, value: Any) -> Any:
        return label_of(value) if isinstance(self._space[name], Choices) else value

    def _trial(self, frozen: "optuna.trial.FrozenTrial") -> Trial:
        settings: dict[str, Any] = {}
        for name, space in self._space.items():
            value = frozen.params.get(name)
            if isinstance(space, Choices):
                value = next(choice for choice in space.choices if label_of(choice) == value)
            settings[name] = value
        known, state = frozen.user_attrs, frozen.state.name
        return Trial(
            frozen.number,
            settings,
            "running" if state == "RUNNING" else known.get("status", "failed"),
            frozen.value if state == "COMPLETE" else None,
            known.get("reason", ""),
            known.get("seconds", 0.0),
        )
