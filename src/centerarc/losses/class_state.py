"""The state of a head for torch.distributed.checkpoint, whatever the number of ranks."""

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from centerarc.losses.center import CenterLoss
from centerarc.losses.head.prototype_sgd import PrototypeSGD
from centerarc.losses.head.shards import ClassShards
from centerarc.losses.margin_softmax import MarginSoftmaxLoss

MOMENTUM = "momentum_buffer"


def class_state(criterion: nn.Module, optimizer: Optimizer | None = None) -> dict[str, Tensor]:
    """The tensors of a criterion, and their momentum, as torch.distributed.checkpoint wants them.

    What is spread over the ranks comes as a ``DTensor`` of all classes, everything else as it is.
    All share their memory with the criterion and the optimizer, so that loading into them restores
    both in place. A checkpoint can be loaded on any number of ranks, or by a criterion without
    shards in one process: names and shapes are those of all classes in any case.

    The optimizer's rates and the samplers' generators are not among them.

    Args:
        criterion: a criterion, with or without ``shards``, or a module that contains some.
        optimizer: ``torch.optim.SGD`` or ``PrototypeSGD``; its momentum buffers of the criterion's
            parameters are taken in too, as ``<parameter>.momentum_buffer``. Those that do not exist
            yet are made, full of zeros, which is what they begin from.

    Returns:
        Name -> tensor; ``torch.distributed.checkpoint.save`` or ``load`` takes it, on all ranks.

    Raises:
        ValueError: if the optimizer is of another kind, or has a dampening, with which momentum
            does not begin from zeros.

    Example:
        >>> from centerarc import MarginSoftmaxLoss, PrototypeSGD
        >>> from centerarc.distributed import class_state
        >>> criterion = MarginSoftmaxLoss(num_classes=10, feat_dim=16)
        >>> optimizer = PrototypeSGD(criterion.parameters(), lr=0.1, momentum=0.9)
        >>> sorted(class_state(criterion, optimizer))
        ['prototypes', 'prototypes.momentum_buffer']
    """
    tensors: dict[str, Tensor] = criterion.state_dict(keep_vars=True)
    spread = _spread(criterion)
    momenta = {} if optimizer is None else _momenta(optimizer)
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found = {name: tensor.detach()}
        if tensor in momenta:
            found[f"{name}.{MOMENTUM}"] = momenta[tensor]
        shards = spread.get(tensor)
        for key, value in found.items():
            state[key] = value if shards is None else shards.as_dtensor(value)
    return state


def _spread(criterion: nn.Module) -> dict[Tensor, ClassShards]:
    """The tensors of which this rank has its classes only."""
    found: dict[Tensor, ClassShards] = {}
    for module in criterion.modules():
        if isinstance(module, MarginSoftmaxLoss) and isinstance(module.shards, ClassShards):
            found[module.prototypes] = module.shards
        elif isinstance(module, CenterLoss) and isinstance(module.shards, ClassShards):
            found[module.centers] = module.shards
    return found


def _momenta(optimizer: Optimizer) -> dict[Tensor, Tensor]:
    """Parameter -> momentum, made where there is none yet."""
    if not isinstance(optimizer, (SGD, PrototypeSGD)):
        raise ValueError(
            f"optimizer must be torch.optim.SGD or PrototypeSGD, got {type(optimizer).__name__}"
        )
    found = {}
    for group in optimizer.param_groups:
        if group.get("dampening"):
            raise ValueError(f"dampening must be 0, got {group['dampening']!r}")
        for parameter in group["params"] if group["momentum"] else ():
            state = optimizer.state[parameter]
            if state.get(MOMENTUM) is None:
                state[MOMENTUM] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
            found[parameter] = state[MOMENTUM]
    return found
