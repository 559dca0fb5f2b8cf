"""One warning for the commonest mistake: the loss's own parameters never reach an optimizer."""

import warnings
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

# Steps of any optimizer that may pass without a change before we speak: a loop may step several
# optimizers in turn, and the first of them may not be the one that holds the loss.
PATIENCE = 5

_steps = 0


def _count(*_: Any) -> None:
    global _steps
    _steps += 1


class OptimizerReminder:
    """Warns once if optimizers step again and again while a trained parameter never changes.

    It compares the parameter's version counter, which every in-place update moves on (also one at
    learning rate 0), so nothing is read from the device. Frozen parameters, evaluation, gradient
    accumulation, skipped steps and optimizers that are not PyTorch's never cause a warning.
    """

    _hooked = False

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._since: tuple[int, int] | None = None
        self._done = False
        if not OptimizerReminder._hooked:
            register_optimizer_step_post_hook(_count)
            OptimizerReminder._hooked = True

    def check(self, parameter: nn.Parameter) -> None:
        """Look at ``parameter`` at the start of a training step."""
        if self._done or torch.compiler.is_compiling() or not parameter.requires_grad:
            return
        if parameter.grad is None or self._since is None:
            self._since = (_steps, parameter._version)
            return
        steps, version = self._since
        if parameter._version != version:
            self._done = True
        elif _steps - steps >= PATIENCE:
            self._done = True
            warnings.warn(
                f"the parameters of {self._owner} have a gradient but no optimizer changes them: "
                "give the optimizer criterion.parameters() too, for example "
                "torch.optim.SGD([*model.parameters(), *criterion.parameters()], lr=0.1)",
                stacklevel=6,
            )
