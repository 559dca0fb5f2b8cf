"""The criterion, its optimizer and the schedule of the learning rate."""

import math
from collections.abc import Container, Iterable

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from centerarc.io.plugins import load_installed
from centerarc.losses.center_arcface import CenterArcFaceLoss
from centerarc.losses.margins import Margin, create_margin, list_margins, margin_parameters
from centerarc.models.backbone import Backbone
from centerarc.training.config import LossConfig, OptimizerConfig, ScheduleConfig


def make_margin(config: LossConfig) -> Margin:
    """Builds the margin of the loss; installed plugins may have registered it.

    Raises:
        ValueError: If the margin or one of its parameters is unknown, or a value out of range.
    """
    problems = load_installed() if config.margin not in list_margins() else []
    try:
        options = dict(config.margin_options)
        known = margin_parameters(config.margin)
        # Margins of several parameters have no single m; their options say it all.
        if not options and "m" in known:
            options["m"] = config.m
        elif not options and config.m != LossConfig.model_fields["m"].default:
            raise ValueError(
                f"m is {config.m:g}, but margin {config.margin!r} takes "
                f"{', '.join(known) or 'no parameters'}; they go in margin_options"
            )
        return create_margin(config.margin, **options)
    except ValueError as error:
        raise ValueError(f"loss: {'; '.join([str(error), *problems])}") from error


def make_criterion(
    config: LossConfig, num_classes: int, embedding_size: int, generator: torch.Generator
) -> CenterArcFaceLoss:
    """Builds the joint loss with `reduction="sum"` and no center update of its own.

    The trainer divides by the number of valid labels over all micro-batches and processes, and
    updates the centers once a step on the features of them all; both would be wrong per forward.

    Raises:
        ValueError: If the margin or one of its parameters is unknown.
    """
    return CenterArcFaceLoss(
        num_classes,
        embedding_size,
        s=config.s,
        margin=make_margin(config),
        centers=config.centers,
        center_space=config.center_space,
        center_update=config.center_update,
        alpha=config.alpha,
        sub_centers=config.sub_centers,
        label_smoothing=config.label_smoothing,
        reduction="sum",
        update_on_forward=False,
        generator=generator,
    )


def make_optimizer(model: nn.Module, criterion: nn.Module, config: OptimizerConfig) -> Optimizer:
    """Builds SGD or AdamW with the parameter groups `backbone`, `no_decay` and `head`.

    Norms, biases and PReLU slopes (every parameter of at most one dimension) are not decayed:
    decay would pull a PReLU towards a ReLU and a norm's gain towards 0. Nor is what the backbone's
    `no_weight_decay` names: a transformer's position embedding and tokens. The prototypes are a
    group of their own: only their direction counts for the loss, so decay acts on them as a raise
    of the learning rate, and the best amount differs from the backbone's.
    """
    spared = model.no_weight_decay() if isinstance(model, Backbone) else ()
    decayed, plain = _split(model.named_parameters(), spared)
    prototypes, head_plain = _split(criterion.named_parameters())
    decay = config.weight_decay
    groups = [
        {"name": "backbone", "params": decayed, "weight_decay": decay},
        {"name": "no_decay", "params": plain + head_plain, "weight_decay": 0.0},
        {"name": "head", "params": prototypes, "weight_decay": decay * config.head_decay},
    ]
    groups = [group for group in groups if group["params"]]
    if config.name == "adamw":
        return AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999))
    return SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)


def _split(
    parameters: Iterable[tuple[str, Tensor]], spared: Container[str] = ()
) -> tuple[list[Tensor], list[Tensor]]:
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for name, parameter in parameters:
        if parameter.requires_grad:
            (decayed if parameter.ndim > 1 and name not in spared else plain).append(parameter)
    return decayed, plain


def lr_factor(step: int, total_steps: int, steps_per_epoch: int, schedule: ScheduleConfig) -> float:
    """Returns the learning rate of a step as a fraction of the peak, in [0, 1].

    It is a pure function of the step, so resuming needs no state. With W warm-up steps of
    T = `total_steps`, and t = (step - W) / (T - W):

        step < W:    (step + 1) / W
        polynomial:  (1 - t) ** power
        cosine:      (1 + cos(pi t)) / 2

    The first step has 1 / W of the rate (a rate of 0 would waste it), the last warm-up step all
    of it, and the fall would reach 0 in the step after the last.

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
