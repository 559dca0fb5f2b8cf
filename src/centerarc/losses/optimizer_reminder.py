"""One warning for the commonest mistake: the loss's own parameters never reach an optimizer."""

import warnings
import weakref
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

# Forward passes, each after a step of some other optimizer, that may go by before we speak: the
# optimizer that holds the loss may step more seldom, as under gradient accumulation.
PATIENCE = 16


class OptimizerReminder:
    """Warns once if optimizers step again and again, but none that holds the parameter.

    Nothing is read from the device. No warning comes for a frozen parameter, in evaluation, while
    no optimizer steps, when the parameter changes in another way, or when the optimizers are not
    PyTorch's (their steps are not seen).
    """

    _watching: ClassVar[weakref.WeakSet["OptimizerReminder"]] = weakref.WeakSet()
    _hooked: ClassVar[bool] = False

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._done = False
        self._parameter: weakref.ref[nn.Parameter] | None = None
        self._version = 0
        self._stepped = False
        self._missed = 0

    def __getstate__(self) -> dict[str, Any]:
        # A copy has parameters of its own, and watches them from the start.
        return {**OptimizerReminder(self._owner).__dict__}

    def check(self, parameter: nn.Parameter) -> None:
        """Look at ``parameter`` at the start of a training step."""
        if self._done or torch.compiler.is_compiling() or not parameter.requires_grad:
            return
        if self._parameter is None or self._parameter() is not parameter:
            self._watch(parameter)
        elif parameter._version != self._version:
            self._done = True
        elif parameter.grad is not None and self._stepped:
            self._stepped = False
            self._missed += 1
            if self._missed == PATIENCE:
                self._done = True
                warnings.warn(
                    f"the parameters of {self._owner} have a gradient but no optimizer has them: "
                    "give it criterion.parameters() too, for example "
                    "torch.optim.SGD([*model.parameters(), *criterion.parameters()], lr=0.1)",
                    stacklevel=6,
                )

    def _watch(self, parameter: nn.Parameter) -> None:
        self._parameter = weakref.ref(parameter)
        self._version, self._stepped, self._missed = parameter._version, False, 0
        OptimizerReminder._watching.add(self)
        if not OptimizerReminder._hooked:
            register_optimizer_step_post_hook(_after_step)
            OptimizerReminder._hooked = True

    def after_step(self, optimizer: Optimizer) -> None:
        """Take note of a step of any optimizer."""
        parameter = None if self._parameter is None else self._parameter()
        held = any(p is parameter for group in optimizer.param_groups for p in group["params"])
        self._done = self._done or held
        self._stepped = not held


def _after_step(optimizer: Optimizer, *_: Any) -> None:
    for reminder in list(OptimizerReminder._watching):
        reminder.after_step(optimizer)
        if reminder._done:
            OptimizerReminder._watching.discard(reminder)
