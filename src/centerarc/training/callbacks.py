"""Code of a user's own that is called while a run trains."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from centerarc.distributed.process import Processes
from centerarc.io.plugins import Registry, described
from centerarc.training.config import CallbackConfig

if TYPE_CHECKING:
    from centerarc.training.loop import Trainer
    from centerarc.training.rundir import RunResult

_REGISTRY = Registry("callback")
_Builder = TypeVar("_Builder", bound=Callable[..., "Callback"])


class Callback:
    """Base class: every method does nothing until it is overridden.

    Each is called on every process of a run, in the order of the callbacks, and given the
    `Trainer`. What writes or prints should ask `trainer.processes.is_main`. An exception stops the
    run on all processes, with the name of the callback and a state that can be resumed.

    Example:
        >>> class StopAt(Callback):
        ...     def __init__(self, *, loss: float):
        ...         self.loss = loss
        ...     def on_step_end(self, trainer, row):
        ...         if row is not None and row["loss"] < self.loss:
        ...             trainer.request_stop(f"the loss is below {self.loss:g}")
    """

    def on_train_start(self, trainer: "Trainer") -> None:
        """Before the first step of a run, or of a resumed one; its state is loaded already.

        Also after a rewind (`on_nonfinite: rewind`), which resumes a run within its process.
        """

    def on_step_end(self, trainer: "Trainer", row: dict[str, Any] | None) -> None:
        """After each optimizer step, also one that was skipped.

        Args:
            trainer: `trainer.step` steps are done.
            row: What `metrics.jsonl` says after this step, means since the last row; None between
                logged steps (`log.every`), which do not wait for the device.
        """

    def on_validation_end(
        self, trainer: "Trainer", results: dict[str, dict[str, Any]], best: bool
    ) -> None:
        """After each validation.

        Args:
            trainer: The run; `trainer.best` is the best validation, with this one.
            results: What each set gave, by its name: `auc`, `eer`, an accuracy and so on.
            best: Whether this is the best validation so far.
        """

    def on_epoch_end(self, trainer: "Trainer") -> None:
        """After each epoch and its validation; `trainer.epochs_done` whole ones are over."""

    def on_save(self, trainer: "Trainer") -> None:
        """After the state was written: at the end of an epoch, and every `save_every` steps.

        What a callback changes here is in the next state, not in this one.
        """

    def on_interrupt(self, trainer: "Trainer") -> None:
        """After Ctrl-C or SIGTERM, when the state is saved and before the run ends."""

    def on_train_end(self, trainer: "Trainer", result: "RunResult") -> None:
        """After the last step, when weights and results are written; not when interrupted."""

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run needs: numbers, text, tensors, and lists and dicts of them.

        It is called on the main process only, and loaded on all of them.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` returned when the state was saved."""


def register_callback(name: str) -> Callable[[_Builder], _Builder]:
    """Registers a callback under `name`, as a decorator of its class.

    The arguments of its constructor are the options that users can give.

    Raises:
        ValueError: If the name belongs to another callback.

    Example:
        >>> @register_callback("greet")
        ... class Greet(Callback):
        ...     def on_train_start(self, trainer):
        ...         print("hello")
        >>> _REGISTRY.names()
        ['greet']
        >>> del _REGISTRY["greet"]
    """
    return _REGISTRY.register(name)


def check_callbacks(configured: Sequence[CallbackConfig]) -> None:
    """Raises a `ValueError` for an unknown name or option."""
    for config in configured:
        _REGISTRY.check(config.name, config.options)


class Callbacks:
    """The callbacks of a run.

    Args:
        configured: Registered ones, from the configuration; called first.
        given: Further ones, from Python.
        processes: The processes of the run, which must all have the same callbacks.

    Attributes:
        reason: Why a callback asked to stop; None if none did. On another process it is known
            after the next hook between steps.

    Raises:
        ValueError: If a name or an option is unknown, one is no callback, or processes differ.
    """

    def __init__(
        self, configured: Sequence[CallbackConfig], given: Sequence[Callback], processes: Processes
    ) -> None:
        self._processes = processes
        self._all: dict[str, Callback] = {}
        self.reason: str | None = None
        self._failure: ValueError | None = None
        for config in configured:
            self._add(config.name, _REGISTRY.build(config.name, config.options))
        for callback in given:
            self._add(getattr(type(callback), "__name__", ""), callback)
        first, *others = processes.gather_objects(list(self._all))
        for rank, names in enumerate(others, 1):
            if names != first:
                raise ValueError(
                    f"callbacks must be the same on every process, got {first} on rank 0 and "
                    f"{names} on rank {rank}"
                )

    def _add(self, name: str, callback: Any) -> None:
        if not isinstance(callback, Callback):
            if isinstance(callback, type):
                name = callback.__name__
            raise ValueError(f"callback {name!r} must be an instance of Callback, got {callback!r}")
        # Two of a kind have states of their own.
        names = (name, *(f"{name} {number}" for number in range(2, len(self._all) + 2)))
        self._all[next(key for key in names if key not in self._all)] = callback

    def __bool__(self) -> bool:
        return bool(self._all)

    def has(self, hook: str) -> bool:
        """Whether a callback does something in a hook."""
        base = getattr(Callback, hook)
        return any(getattr(type(callback), hook) is not base for callback in self._all.values())

    @property
    def stopping(self) -> bool:
        """Whether a callback of this process failed or asked to stop."""
        return self._failure is not None or self.reason is not None

    def after_step(self, trainer: "Trainer", row: dict[str, Any] | None) -> None:
        """Calls `on_step_end`, without a word to other processes.

        A failure is kept until `everywhere`: the other processes learn of it as they do of a
        signal, with the report of a step.
        """
        self._call("on_step_end", trainer, row)

    def everywhere(self, hook: str, trainer: "Trainer", *values: Any) -> None:
        """Calls a hook on all processes, which then agree on whether to stop.

        Raises:
            ValueError: On every process, if a callback failed on any, now or since the last call.
        """
        if not self._all:
            return
        self._call(hook, trainer, *values)
        message = None if self._failure is None else str(self._failure)
        answers = self._processes.gather_objects((message, self.reason))
        self.reason = next((reason for _, reason in answers if reason is not None), None)
        for rank, (failed, _) in enumerate(answers):
            if failed is not None:
                if rank == self._processes.rank and self._failure is not None:
                    raise self._failure
                raise ValueError(f"rank {rank}: {failed}" if rank else failed)

    def _call(self, hook: str, trainer: "Trainer", *values: Any) -> None:
        if self._failure is not None:
            return
        for name, callback in self._all.items():
            try:
                getattr(callback, hook)(trainer, *values)
            except Exception as error:
                self._failure = ValueError(
                    f"callback {name!r} failed in {hook}: {described(error)}; "
                    "the run can be resumed"
                )
                self._failure.__cause__ = error
                return

    def state(self) -> dict[str, Any]:
        """Returns the states of all callbacks by name, on the main process; else nothing.

        Raises:
            ValueError: On every process, if a callback fails or its state could not be read back.
        """
        states: dict[str, Any] = {}

        def collect() -> None:
            for name, callback in self._all.items():
                try:
                    states[name] = callback.state_dict()
                except Exception as error:
                    raise ValueError(
                        f"callback {name!r} failed in state_dict: {described(error)}"
                    ) from error
                if problem := _unreadable(states[name], ""):
                    raise ValueError(f"the state of callback {name!r} cannot be saved: {problem}")

        if self._all:
            self._processes.on_main(collect)
        return states

    def load(self, states: dict[str, Any]) -> list[str]:
        """Gives each callback its state back; one that has none yet starts afresh.

        Returns:
            A line for each state that has no callback now.

        Raises:
            ValueError: If a callback does not take its state.
        """
        for name, callback in self._all.items():
            if name in states:
                try:
                    callback.load_state_dict(states[name])
                except Exception as error:
                    raise ValueError(
                        f"cannot resume: callback {name!r} failed in load_state_dict: "
                        f"{described(error)}"
                    ) from error
        return [
            f"the state of callback {name!r} is dropped: the run has it no more"
            for name, state in states.items()
            if name not in self._all and state
        ]


def _unreadable(value: Any, place: str) -> str:
    """Says what in a state is read back by no safe loader; empty if nothing."""
    if type(value) is dict:
        for key, inner in value.items():
            if type(key) not in (str, int):
                return f"the key {key!r}{place} must be text or a whole number"
            if problem := _unreadable(inner, f" at {key!r}{place}"):
                return problem
    elif type(value) in (list, tuple):
        return next((p for p in (_unreadable(inner, place) for inner in value) if p), "")
    # numpy's numbers pass for Python's, and are not.
    elif not isinstance(value, Tensor) and type(value) not in (int, float, bool, str, type(None)):
        kind = f"{type(value).__module__}.{type(value).__name__}"
        return f"a {kind}{place} must be a number, text, tensor, list or dict"
    return ""
