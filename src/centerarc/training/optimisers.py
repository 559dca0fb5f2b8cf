"""The optimiser of backbone and criterion together."""

from collections.abc import Iterable

from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from centerarc.training.config import OptimizerConfig


def make_optimizer(model: nn.Module, criterion: nn.Module, config: OptimizerConfig) -> Optimizer:
    """Builds one optimiser for the backbone and the class prototypes.

    Norms, biases and PReLU slopes (every parameter of at most one dimension) are not decayed:
    decay would pull a PReLU towards a ReLU and a norm's gain towards 0. The prototypes are a
    group of their own: only their direction counts for the loss, so decay acts on them as a raise
    of the learning rate, and how much one wants differs from the backbone.

    Args:
        model: The backbone.
        criterion: The loss; its parameters are the prototypes.
        config: Kind of optimiser, rate and decay.

    Returns:
        SGD or AdamW with the groups `backbone`, `no_decay` and `head`.
    """
    decayed, plain = _split(model.parameters())
    prototypes, head_plain = _split(criterion.parameters())
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


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Sets the learning rate of every group to `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def _split(parameters: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for parameter in parameters:
        if parameter.requires_grad:
            (decayed if parameter.ndim > 1 else plain).append(parameter)
    return decayed, plain
