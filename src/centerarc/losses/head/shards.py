"""Classes spread over the ranks: what a step exchanges, and the state of all classes."""

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from centerarc.losses.center import CenterLoss
from centerarc.losses.checks import check_counts
from centerarc.losses.head.class_pass import ClassPass
from centerarc.losses.head.prototype_sgd import MOMENTUM, PrototypeSGD
from centerarc.losses.margin_softmax import MarginSoftmaxLoss
from centerarc.losses.margins import Target
from centerarc.losses.mean_centers import MeanCenterLoss

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

# The newer names; the older ones warn where both are.
all_gather_single = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter_single = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class ClassShards:
    """The classes of a head, cut into one run of consecutive classes a rank.

    Rank r of W holds the classes from r ceil(C / W) on, at most ceil(C / W) of them: the last ranks
    may hold fewer, or none. Give it to a criterion, which then holds this rank's classes only:

    - it takes this rank's samples and returns the loss of the samples of all ranks, the same on
      each (`reduction="none"` returns all of them, in the order of the ranks);
    - the gradient of the prototypes is complete: keep the criterion outside
      DistributedDataParallel, and step its parameters on each rank;
    - the gradient of the features is W times that of this loss, because DistributedDataParallel,
      which belongs around the backbone, divides the sum over the ranks by W.

    With N samples a rank, W N of them in all and b bytes a number, a step exchanges: the features
    and labels, gathered once, W N (D b + 8) bytes on each rank; two all-reduces, of 2 and of 4 rows
    of W N numbers; label smoothing, and a center term in raw space or to separate centers, one
    more each, of one row; a margin that makes negatives harder, one of 3 rows; and in the backward
    pass the features' gradient, W N D b, reduced once. Nothing depends on C. `head_costs` has the
    sum.

    All ranks must call the criterion alike: every forward and backward pass is collective. Input
    that is refused on one rank raises there, and the others wait until their group's timeout; where
    that can happen, let `Processes.agree` look at the batches first.

    Args:
        num_classes: C, of all ranks together.
        group: the ranks; all by default.
        equal_batches: whether every rank always brings the same number of samples. If not (the
            default) the numbers are exchanged before the samples, for which a GPU has to wait.

    Attributes:
        start: number of this rank's first class.
        stop: one past its last.

    Raises:
        ValueError: if `num_classes` is not positive or there is no process group.

    Source:
        The exchange of Deng et al. 2020, "Sub-center ArcFace", and An et al. 2022, "Partial FC".
    """

    def __init__(
        self,
        num_classes: int,
        group: dist.ProcessGroup | None = None,
        *,
        equal_batches: bool = False,
    ) -> None:
        check_counts(num_classes=num_classes)
        if not (dist.is_available() and dist.is_initialized()):
            raise ValueError(
                "ClassShards needs a process group; call torch.distributed.init_process_group, "
                "or centerarc.distributed.init_from_env under torchrun"
            )
        self.num_classes = num_classes
        self.group = group
        self.equal_batches = equal_batches
        self.world_size = dist.get_world_size(group)
        self.rank = dist.get_rank(group)
        # As torch.chunk and DTensor cut, so that a checkpoint knows where each class lies.
        size = -(-num_classes // self.world_size)
        self.start = min(num_classes, self.rank * size)
        self.stop = min(num_classes, self.start + size)

    def __deepcopy__(self, memo: dict[int, Any]) -> "ClassShards":
        return self  # a process group cannot be copied

    def __repr__(self) -> str:
        return (
            f"ClassShards({self.num_classes}, rank {self.rank} of {self.world_size}: "
            f"{self.start} to {self.stop})"
        )

    def gather(
        self, features: Tensor, labels: Tensor, counts: list[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """(N, D) and (N,) samples of all ranks, in their order, from each (N_r, D) and (N_r,).

        Differentiable in the features, see the class for the factor W. With D = 0 only the labels
        are of interest, and N_r may differ in any case.
        """
        if counts is None:
            counts = self.counts(len(labels), labels.device, features.shape[1] == 0)
        return (
            _Gather.apply(features, counts, self),  # type: ignore[no-untyped-call]
            _gather_rows(labels, counts, self.group),
        )

    def counts(self, count: int, device: torch.device, unequal: bool = False) -> list[int]:
        """How many samples each rank brings, given this rank's number.

        `unequal` says that they may differ even with `equal_batches`, as the anchors of a
        separation do: rows of no features, as many as the rank has classes.
        """
        if self.equal_batches and not unequal:
            return [count] * self.world_size
        mine = torch.tensor([count], device=device)
        table = torch.empty(self.world_size, dtype=mine.dtype, device=device)
        all_gather_single(table, mine, group=self.group)
        found: list[int] = table.tolist()
        return found

    def spread(self, value: Tensor) -> Tensor:
        """A value that all ranks hold, for each to compute a part of the loss with; any shape.

        The backward pass adds up the parts of its gradient, which is then complete on every rank.
        """
        return _Spread.apply(value, self)  # type: ignore[no-untyped-call, no-any-return]

    def share(self, target: Target, here: Tensor) -> Target:
        """The targets of all samples, without gradient, before the pass; one all-reduce of 3 rows.

        `here` is as in `combine`.
        """
        mine = [part.detach().where(here, 0.0) for part in (target.cos, target.sin, target.norm)]
        cos, sin, norm = _all_reduce(torch.stack(mine), self)
        return Target(cos=cos, sin=sin, norm=norm)

    def combine(self, target: Target, found: ClassPass, here: Tensor) -> tuple[Target, ClassPass]:
        """Targets and logsumexps over all classes from those over each rank's; two all-reduces.

        `here` says of which samples this rank holds the class; others' targets do not matter.
        """
        tops = torch.stack([found.logsumexp.detach(), found.hardest])
        dist.all_reduce(tops, op=dist.ReduceOp.MAX, group=self.group)
        top, hardest = tops
        # Where no rank has a negative, the maximum is minus infinity and must not meet itself.
        top = top.where(top > -torch.inf, 0.0)
        mine = [part.where(here, 0.0) for part in (target.cos, target.sin, target.norm)]
        total, cos, sin, norm = self.sum(torch.stack([(found.logsumexp - top).exp(), *mine]))
        some = total != 0
        logsumexp = (top + total.where(some, 1.0).log()).where(some, -torch.inf)
        found = found._replace(logsumexp=logsumexp, hardest=hardest)
        return Target(cos=cos, sin=sin, norm=norm), found

    def sum(self, values: Tensor) -> Tensor:
        """Adds up over the ranks what each has computed from its own classes; any shape.

        The result goes into a loss that is the same on every rank, so each rank's gradient of it is
        complete: the backward pass exchanges nothing.
        """
        return _Sum.apply(values, self, True)  # type: ignore[no-untyped-call, no-any-return]

    def collect(self, values: Tensor) -> Tensor:
        """Adds up over the ranks what each then computes with, its own classes for example.

        Here a rank's gradient is a part only: the backward pass adds them up too.
        """
        return _Sum.apply(values, self, False)  # type: ignore[no-untyped-call, no-any-return]

    def as_dtensor(self, rows: Tensor) -> "DTensor":
        """This rank's (stop - start, ...) rows as its part of a (C, ...) `DTensor`, `Shard(0)`.

        It shares their memory; torch.distributed.checkpoint saves and loads it on any number of
        ranks.
        """
        group = dist.group.WORLD if self.group is None else self.group
        assert group is not None
        from torch.distributed.device_mesh import DeviceMesh
        from torch.distributed.tensor import DTensor, Shard

        mesh = DeviceMesh.from_group(group, rows.device.type)
        shape = torch.Size((self.num_classes, *rows.shape[1:]))
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(
            rows.detach(), mesh, [Shard(0)], run_check=False, shape=shape, stride=stride
        )


def _gather_rows(rows: Tensor, counts: list[int], group: dist.ProcessGroup | None) -> Tensor:
    """Rows of all ranks, in their order, from the (N_r, ...) of each; no gradient."""
    most = max(counts)
    if all(count == most for count in counts):
        out = rows.new_empty(most * len(counts), *rows.shape[1:])
        if out.numel():
            all_gather_single(out, rows.contiguous(), group=group)
        return out
    # Backends want equal pieces: short ones are filled up, and cut again.
    filled = rows.new_zeros(most, *rows.shape[1:])
    filled[: len(rows)] = rows
    out = rows.new_empty(len(counts), most, *rows.shape[1:])
    all_gather_single(out.flatten(0, 1), filled, group=group)
    return torch.cat([piece[:count] for piece, count in zip(out, counts, strict=True)])


def _all_reduce(values: Tensor, shards: ClassShards) -> Tensor:
    out = values.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(out, group=shards.group)
    return out


class _Gather(torch.autograd.Function):
    """(N_r, D) features of each rank to (N, D) of all.

    backward: each rank has a part of the (N, D) gradient, of its own classes. One all-reduce (a
    reduce-scatter where ranks are even and the backend has it) adds them up; each rank keeps its
    N_r rows, times W.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, counts: list[int], shards: ClassShards) -> Tensor:
        ctx.counts, ctx.shards = counts, shards
        return _gather_rows(features, counts, shards.group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        counts, shards = ctx.counts, ctx.shards
        gradient = gradients[0].contiguous()
        world, rank = shards.world_size, shards.rank
        even = all(count == counts[0] for count in counts)
        if even and gradient.is_cuda and gradient.numel():
            mine = gradient.new_empty(counts[rank], *gradient.shape[1:])
            reduce_scatter_single(mine, gradient, group=shards.group)
        else:
            mine = torch.split(_all_reduce(gradient, shards), counts)[rank]
        return mine * world, None, None


class _Sum(torch.autograd.Function):
    """forward: one all-reduce; backward: another, unless each rank's gradient is complete."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, shards: ClassShards, complete: bool) -> Tensor:
        ctx.shards, ctx.complete = shards, complete
        return _all_reduce(values, shards)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradients[0]
        return gradient if ctx.complete else _all_reduce(gradient, ctx.shards), None, None


class _Spread(torch.autograd.Function):
    """forward: the value itself; backward: one all-reduce."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, shards: ClassShards) -> Tensor:
        ctx.shards = shards
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _all_reduce(gradients[0], ctx.shards), None


def class_state(criterion: nn.Module, *optimizers: Optimizer) -> dict[str, Tensor]:
    """The tensors of a criterion, and their momentum, as torch.distributed.checkpoint wants them.

    What is spread over the ranks comes as a `DTensor` of all classes, everything else as it is.
    All share their memory with the criterion and the optimizers, so loading into them restores both
    in place, on any number of ranks, or in one process by a criterion without shards: names and
    shapes are those of all classes in any case. The optimizers' rates and the samplers' generators
    are not among them.

    Args:
        criterion: a criterion, with or without `shards`, or a module that contains some.
        *optimizers: `torch.optim.SGD`, `PrototypeSGD`, `Adam` or `AdamW`; what they keep of the
            criterion's parameters is taken in too, as `<parameter>.momentum_buffer` for example.
            What does not exist yet is made, full of zeros, which is what it starts from.

    Returns:
        Name -> tensor; `torch.distributed.checkpoint.save` or `load` takes it, on all ranks.

    Raises:
        ValueError: if an optimizer is of another kind, or has a dampening, with which momentum
            does not start from zeros.

    Example:
        >>> from centerarc import MarginSoftmaxLoss, PrototypeSGD
        >>> from centerarc.distributed import class_state
        >>> criterion = MarginSoftmaxLoss(num_classes=10, feat_dim=16)
        >>> optimizer = PrototypeSGD(criterion.parameters(), lr=0.1, momentum=0.9)
        >>> sorted(class_state(criterion, optimizer))
        ['prototypes', 'prototypes.momentum_buffer']
    """
    tensors: dict[str, Tensor] = criterion.state_dict(keep_vars=True)
    spread: dict[Tensor, ClassShards] = {}  # of which this rank has its classes only
    for module in criterion.modules():
        if isinstance(module, MarginSoftmaxLoss) and module.shards is not None:
            spread[module.prototypes] = module.shards
        elif isinstance(module, CenterLoss) and module.shards is not None:
            spread[module.centers] = module.shards
        elif isinstance(module, MeanCenterLoss) and module.shards is not None:
            spread |= {module.centers: module.shards, module.counts: module.shards}
    own: set[Tensor] = set(criterion.parameters())
    kept: dict[Tensor, dict[str, Tensor]] = {}
    for optimizer in optimizers:
        kept |= _kept(optimizer, own)
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found = {name: tensor.detach()}
        found |= {f"{name}.{key}": value for key, value in kept.get(tensor, {}).items()}
        shards = spread.get(tensor)
        for key, value in found.items():
            is_spread = shards is not None and value.dim() > 0  # a count of steps is not
            state[key] = shards.as_dtensor(value) if shards is not None and is_spread else value
    return state


def _kept(optimizer: Optimizer, parameters: set[Tensor]) -> dict[Tensor, dict[str, Tensor]]:
    """Parameter -> what the optimizer keeps of it, by name; made where there is none yet."""
    found = {}
    for group in optimizer.param_groups:
        if isinstance(optimizer, (SGD, PrototypeSGD)):
            if group.get("dampening"):
                raise ValueError(f"dampening must be 0, got {group['dampening']!r}")
            names = [MOMENTUM] if group["momentum"] else []
        elif isinstance(optimizer, (Adam, AdamW)) and not group["amsgrad"]:
            names = ["step", "exp_avg", "exp_avg_sq"]
        else:
            raise ValueError(
                "optimizer must be torch.optim.SGD, PrototypeSGD, Adam or AdamW (without amsgrad), "
                f"got {type(optimizer).__name__}"
            )
        for parameter in group["params"]:
            if parameter not in parameters:
                continue
            state = optimizer.state[parameter]
            for name in names:
                if state.get(name) is not None:
                    continue
                if name == "step":
                    device = parameter.device if group["capturable"] or group["fused"] else "cpu"
                    state[name] = torch.zeros((), device=device)
                else:
                    layout = torch.contiguous_format
                    state[name] = torch.zeros_like(parameter, memory_format=layout)
            found[parameter] = {name: state[name] for name in names}
    return found
