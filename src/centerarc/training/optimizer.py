"""The optimizers, the schedule of the learning rate, and the running average of the weights."""

import copy
import math
from collections.abc import Container, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from centerarc.losses.center_arcface import CenterArcFaceLoss
from centerarc.losses.head.prototype_sgd import MOMENTUM, PrototypeSGD
from centerarc.models.backbone import Backbone, parameter_depths
from centerarc.training.config import OptimizerConfig, ScheduleConfig

# Times AdamW's rate, for the threshold: at 1e-3, a cosine of 1 / 16 in 33 steps for s = 16.
_ADAMW_THRESHOLD = 30.0


def make_optimizers(
    model: nn.Module,
    criterion: CenterArcFaceLoss,
    config: OptimizerConfig,
    terms: nn.Module | None = None,
    *,
    fused: bool = False,
) -> list[Optimizer]:
    """Builds the optimizers, with the groups `backbone`, `no_decay`, `head` and `threshold`.

    Norms, biases and PReLU slopes (every parameter of at most one dimension) are not decayed:
    decay would pull a PReLU towards a ReLU and a norm's gain towards 0. Nor is what the backbone's
    `no_weight_decay` names: a transformer's position embedding and tokens. The prototypes are a
    group of their own: only their direction counts for the loss, so decay acts on them as a raise
    of the learning rate, and the best amount differs from the backbone's. With `layer_decay` the
    first two are several, one for each layer of the backbone.

    Args:
        model: The backbone.
        criterion: The criterion. What its margin learns is in the group of the threshold.
        terms: What is added to ArcFace: a learned threshold, which is not decayed. It is in units
            of scaled cosines, and its gradient of the order of 1: SGD moves it with the rate of all
            others; AdamW, which moves every number by about its rate, with 30 times that.
        config: The optimizer's settings. With sgd the prototypes have a `PrototypeSGD` of their
            own: the same rule, but it needs no array of their size for a step, and leaves those
            alone that took no part in it.
        fused: Step the prototypes in their backward pass; sgd only.

    Raises:
        ValueError: If `layer_decay` is below 1 and the backbone has a single layer.
    """
    margin = criterion.arcface.margin
    learned = [*margin.parameters()] if isinstance(margin, nn.Module) else []
    head, head_plain = _split(
        (name, parameter)
        for name, parameter in criterion.named_parameters()
        if not any(parameter is one for one in learned)
    )
    prototypes = [criterion.arcface.prototypes] if config.name == "sgd" else []
    rest = [parameter for parameter in head if not any(parameter is p for p in prototypes)]
    head_decay = config.weight_decay * config.head_decay
    groups = [
        *_backbone_groups(model, config),
        {"name": "head", "params": rest, "weight_decay": head_decay},
        {"name": "no_decay", "params": head_plain, "weight_decay": 0.0},
        {
            "name": "threshold",
            "params": [*learned, *(() if terms is None else terms.parameters())],
            "weight_decay": 0.0,
            "lr_scale": _ADAMW_THRESHOLD if config.name == "adamw" else 1.0,
        },
    ]
    groups = [group for group in groups if group["params"]]
    if config.name == "adamw":
        return [AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999))]
    own = {"name": "head", "params": prototypes, "weight_decay": head_decay}
    lr, momentum, nesterov = config.lr, config.momentum, config.nesterov
    return [
        SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov),
        PrototypeSGD([own], lr=lr, momentum=momentum, nesterov=nesterov, fused=fused),
    ]


def _backbone_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Groups by rate: `lr_scale` is `backbone_lr_scale layer_decay^(layers after it)`."""
    spared = model.no_weight_decay() if isinstance(model, Backbone) else ()
    depths: dict[str, int] = {}
    if config.layer_decay < 1 and isinstance(model, Backbone):
        depths = parameter_depths(model)
    last = max(depths.values(), default=0)
    if config.layer_decay < 1 and last == 0:
        raise ValueError(
            f"optimizer.layer_decay is {config.layer_decay:g}, but the backbone is a single layer; "
            "let its ordered_layers() yield several, or use optimizer.backbone_lr_scale"
        )
    groups: list[dict[str, Any]] = []
    for depth in range(last + 1):
        scale = config.backbone_lr_scale * config.layer_decay ** (last - depth)
        named = [(n, p) for n, p in model.named_parameters() if depths.get(n, 0) == depth]
        for name, parameters, decay in zip(
            ("backbone", "no_decay"), _split(named, spared), (config.weight_decay, 0.0), strict=True
        ):
            groups.append(
                {"name": name, "params": parameters, "weight_decay": decay, "lr_scale": scale}
            )
    return groups


def set_rate(optimizers: Iterable[Optimizer], lr: float) -> None:
    """Sets the learning rate of all groups, each times its `lr_scale`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)


def _split(
    parameters: Iterable[tuple[str, Tensor]], spared: Container[str] = ()
) -> tuple[list[Tensor], list[Tensor]]:
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for name, parameter in parameters:
        if parameter.requires_grad:
            (decayed if parameter.ndim > 1 and name not in spared else plain).append(parameter)
    return decayed, plain


def _named(model: nn.Module, terms: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that every rank has, by the names that they have in the state."""
    added = {f"terms.{name}": parameter for name, parameter in terms.named_parameters()}
    return {**dict(model.named_parameters()), **added}


def kept_of(
    optimizers: Sequence[Optimizer], model: nn.Module, terms: nn.Module
) -> dict[str, dict[str, Tensor]]:
    """What the optimizers keep of the parameters that every rank has, by name."""
    kept = {}
    for name, parameter in _named(model, terms).items():
        for optimizer in optimizers:
            if parameter in optimizer.state:
                kept[name] = dict(optimizer.state[parameter])
    return kept


def restore_kept(
    optimizers: Sequence[Optimizer],
    model: nn.Module,
    terms: nn.Module,
    kept: dict[str, dict[str, Tensor]],
) -> None:
    """Gives the optimizers what `kept_of` was."""
    names = {parameter: name for name, parameter in _named(model, terms).items()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                values = kept.get(names.get(parameter, ""), {})
                for key, value in values.items():  # counts of steps stay on the CPU
                    if key == MOMENTUM and not group["momentum"]:
                        continue  # which would come back, old, with a momentum
                    optimizer.state[parameter][key] = (
                        value.to(parameter.device) if value.dim() else value
                    )


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
        self._models = self.module, model
        # A mask of infinities has no average.
        self._averages = [
            tensor.is_floating_point() and bool(tensor.isfinite().all())
            for tensor in (*model.parameters(), *model.buffers())
        ]
        optimizer.register_step_post_hook(lambda *_: self.update())

    @torch.no_grad()
    def update(self) -> None:
        """Averages the weights as they are now; the optimizer's steps call it."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        # Found at each step: a model may put other tensors in the place of its buffers.
        mine, theirs = ([*m.parameters(), *m.buffers()] for m in self._models)
        pairs = [*zip(self._averages, mine, theirs, strict=True)]
        averaged, weights = zip(*((a, b.detach()) for ok, a, b in pairs if ok), strict=True)
        get_ema_multi_avg_fn(decay)(averaged, weights, None)  # type: ignore[no-untyped-call]
        for is_averaged, copied, value in pairs:
            if not is_averaged:
                copied.copy_(value)
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """What a saved run needs to resume."""
        return {"steps": self.steps, "module": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what `state_dict` gave."""
        self.module.load_state_dict(state["module"])
        self.steps = state["steps"]
