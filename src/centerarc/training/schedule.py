"""The learning rate as a pure function of the optimiser step, so that resuming needs no state."""

import math

from centerarc.training.config import ScheduleConfig


def lr_factor(step: int, total_steps: int, steps_per_epoch: int, schedule: ScheduleConfig) -> float:
    """Returns what the peak learning rate is multiplied by in one optimiser step.

    With W warm-up steps of T in all, and t = (step - W) / (T - W):

        step < W:    (step + 1) / W
        polynomial:  (1 - t) ** power
        cosine:      (1 + cos(pi t)) / 2

    so the first step has 1 / W of the rate (a rate of 0 would waste it), the last warm-up step all
    of it, and the fall would reach 0 in the step after the last.

    Args:
        step: Number of optimiser steps before this one, from 0.
        total_steps: T, optimiser steps in the whole run.
        steps_per_epoch: Optimiser steps in an epoch.
        schedule: Shape, power and warm-up.

    Returns:
        A factor in [0, 1].

    Source:
        Warm-up: Goyal et al. 2017, section 2.2. Cosine: Loshchilov and Hutter 2017, equation 5.

    Example:
        >>> plan = ScheduleConfig(epochs=10, warmup_epochs=1)
        >>> [lr_factor(step, 40, 4, plan) for step in range(5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return (step + 1) / warmup
    progress = min((step - warmup) / max(total_steps - warmup, 1), 1.0)
    if schedule.shape == "cosine":
        return (1.0 + math.cos(math.pi * progress)) / 2.0
    return float((1.0 - progress) ** schedule.power)
