"""The running average of a backbone's weights."""

import copy
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """An exponential moving average of a model's weights, taken after each step of an optimizer:

        average = d average + (1 - d) weights,    d = min(decay, (1 + t) / (10 + t))

    where t counts the steps from 0. Without the smaller d of the first steps, the random weights
    that a run starts from would stay in the average for some multiples of 1 / (1 - decay) steps.

    Parameters and floating-point buffers are averaged alike, as in timm and in torchvision's
    recipes: the running statistics of a batch normalization then belong to the averaged weights
    about as well as those of the model belong to its own. Other buffers, such as counts, are
    copied. (`torch.optim.swa_utils.AveragedModel` copies all buffers unless it is asked not to;
    it also waits for the GPU in each step, which this class does not.)

    A step that the optimizer does not take, because a gradient scaler found an infinity, does not
    count: its weights are those of the step before. The ranks of a distributed run have equal
    weights, so each has the same average without any communication.

    Args:
        model: The model, whose tensors are changed in place from now on, as optimizers and
            `load_state_dict` do. The average is a copy of it on the same device, in the same
            precision, in eval mode.
        optimizer: Of the model's parameters.
        decay: In [0, 1), such as 0.999: the average reaches back about 1 / (1 - decay) steps.

    Attributes:
        module: The averaged model.
        steps: Steps averaged so far.

    Raises:
        ValueError: If `decay` is out of range.

    Source:
        Polyak and Juditsky 1992. The decay of the first steps is that of TensorFlow's
        `ExponentialMovingAverage`.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        >>> average = WeightAverage(model, optimizer, decay=0.999)
        >>> with torch.no_grad():
        ...     _ = model.weight.fill_(10.0), average.module.weight.fill_(0.0)
        >>> model.weight.grad = torch.zeros(1, 1)
        >>> optimizer.step()
        >>> average.module.weight.item()  # d is 1 / 10 in the first step
        9.0
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.steps = 0
        self.module = copy.deepcopy(model).requires_grad_(False).eval()
        mine, theirs = ([*m.parameters(), *m.buffers()] for m in (self.module, model))
        pairs = [(a, b.detach()) for a, b in zip(mine, theirs, strict=True)]
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]
        optimizer.register_step_post_hook(lambda *_: self.update())

    @torch.no_grad()
    def update(self) -> None:
        """Averages the weights as they are now; the optimizer's steps call it."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        averaged, weights = zip(*self._averaged, strict=True)
        get_ema_multi_avg_fn(decay)(averaged, weights, None)  # type: ignore[no-untyped-call]
        for copied, value in self._copied:
            copied.copy_(value)
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """What a saved run needs to resume."""
        return {"steps": self.steps, "module": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what `state_dict` gave."""
        self.module.load_state_dict(state["module"])
        self.steps = state["steps"]
