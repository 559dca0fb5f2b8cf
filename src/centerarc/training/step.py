"""One optimizer step: micro-batches, precision, gradients of all ranks, clipping, centers."""

import hashlib
import inspect
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from centerarc.data.loader import to_input
from centerarc.distributed.batchnorm import convert_batchnorm
from centerarc.distributed.process import Processes
from centerarc.io.tables import counted
from centerarc.losses.center_arcface import CenterArcFaceLoss
from centerarc.losses.head.products import CPU_HAS_BFLOAT16
from centerarc.losses.head.prototype_sgd import PrototypeSGD
from centerarc.losses.uniface import UniFace
from centerarc.models.backbone import Backbone, create_model
from centerarc.training.config import TrainConfig
from centerarc.training.terms import AddedTerms, StepWeights


def seed_step(seed: int, rank: int, step: int) -> None:
    """Seeds torch's global generators, which dropout draws from, for one optimizer step.

    What a step draws is a function of these three numbers alone: a resumed run needs no saved
    generator, and other draws from the global ones (a data loader's, when it starts) change
    nothing. Ranks draw differently.
    """
    digest = hashlib.sha256(f"{seed}/{rank}/{step}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def fast_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 itself; where a CPU does not, PyTorch emulates it."""
    return device.type != "cpu" or CPU_HAS_BFLOAT16


class Precision:
    """Autocast of the backbone and, for fp16, the scaling of the gradients.

    Weights, gradients and sums stay float32; the backbone's forward and backward passes run in
    half precision, and with bf16 the head's products too. fp16 is for CUDA only: its narrow range
    needs gradient scaling, and the CPU gains nothing over bf16, which needs none.

    Args:
        name: `fp32`, `bf16` or `fp16`.
        device: Where the model is.
        sharded: Whether processes hold different classes. They must then agree to leave out a step
            whose gradient overflowed in one of them.

    Attributes:
        note: What the user should know about it, in one line; empty if nothing.

    Raises:
        ValueError: If fp16 is asked for on another device than CUDA.
    """

    def __init__(self, name: str, device: torch.device, *, sharded: bool = False) -> None:
        if name == "fp16" and device.type != "cuda":
            raise ValueError(
                f"precision is 'fp16', which needs CUDA; on {device.type} use 'bf16' or 'fp32'"
            )
        self.device = device
        self.note = ""
        if name == "bf16" and not fast_bf16(device):
            self.note = (
                "precision is bf16, which this processor has no instructions for: "
                "many times slower than fp32"
            )
        self.dtype = _DTYPES.get(name)
        make = ShardedGradScaler if sharded else GradScaler
        self.scaler = make("cuda", enabled=name == "fp16")

    def autocast(self) -> AbstractContextManager[None]:
        """Returns the context for the forward passes."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)


class Diverged(ValueError):
    """Numbers of a training that are not finite any more.

    Args:
        what: What is not finite.
        step: After how many steps; None is the present one.
    """

    def __init__(self, what: str, step: int | None = None) -> None:
        super().__init__(what)
        self.step = step


def advice(config: TrainConfig, lr: float) -> str:
    """What to say where the numbers of a training are not finite at a learning rate."""
    other = {"bf16": ", precision: fp32", "fp16": ", precision: bf16"}
    clip = f"below {config.clip_norm:g}" if config.clip_norm else "such as 5"
    return (
        f" at a learning rate of {lr:.3g}; the training diverges: try "
        f"a lower optimizer.lr, a longer schedule.warmup_epochs, a clip_norm {clip}"
        + other.get(config.precision, "")
    )


def check_finite(processes: Processes, *modules: nn.Module) -> None:
    """Raises `Diverged`, on all processes, if a tensor of a module is not finite on any."""
    named = [item for module in modules for item in module.state_dict().items()]
    # A sum is finite unless a term is not: one pass, and no mask of the tensor's size.
    sums = {name: t.sum() for name, t in named if t.is_floating_point()}
    found = next((name for name, total in sums.items() if not bool(total.isfinite())), None)
    for name in processes.gather_objects(found):
        if name is not None:
            raise Diverged(f"the weights are not finite ({name})")


# What a step measures, in this order; sums over the valid labels of all ranks but for the last.
_SUMS = (
    *("arcface_loss", "center_loss", "threshold_loss", "cosine", "correct"),
    *("count", "mass", "stop"),
)
_TERMS = ("arcface", "center", "threshold")
_SQUARES = tuple(f"{name}_square" for name in _TERMS)
_MEASURED = (*_SQUARES, *(f"{name}_samples" for name in _TERMS))
IGNORED = -100


@dataclass(frozen=True)
class StepReport:
    """What one step measured, still on the device.

    Args:
        sums: (14,) float64 or float32: arcface, center and threshold loss, target cosine, right
            answers, valid labels and their class weights, each summed over all ranks; how many
            ranks want to stop; and the squared gradients of the three losses at the embedding, of
            the added ones before their weights, and the samples that have each; 0 if not measured.
        separation: The separation term.
        grad_norm: Norm of all gradients before clipping; None without clipping.
        added: What the step adds to ArcFace.
    """

    sums: Tensor
    separation: Tensor
    grad_norm: Tensor | None
    added: StepWeights

    def read(self) -> dict[str, float]:
        """Waits for the device and returns means by name, with `count` and `stop`."""
        sums = dict(zip((*_SUMS, *_MEASURED), self.sums.tolist(), strict=True))
        count = max(sums["count"], 1.0)
        means = {
            "arcface_loss": sums["arcface_loss"] / (sums["mass"] or 1.0),
            "center_loss": sums["center_loss"] / count,
            "separation": float(self.separation),
            "target_cosine": sums["cosine"] / count,
            "accuracy": sums["correct"] / count,
            "count": sums["count"],
            "stop": sums["stop"],
        }
        if self.grad_norm is not None:
            means["grad_norm"] = float(self.grad_norm)
        added = self.added.read()
        if "threshold" in added:
            means["threshold_loss"] = sums["threshold_loss"] / count
        lengths = {
            name: math.sqrt(sums[square]) * added.get(f"{name}_weight", 1.0)
            for name, square in zip(_TERMS, _SQUARES, strict=True)
            if name in ("arcface", "center", *added)
        }
        total = sum(lengths.values())
        if 0 < total < math.inf:
            means |= {f"{name}_share": length / total for name, length in lengths.items()}
        return means | added


# What newer versions of PyTorch call it; the old name warns there.
_SYNC_BUFFERS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)


def in_parallel(model: nn.Module, processes: Processes, *, compiled: bool) -> nn.Module:
    """Returns what trains a model on all processes, in training mode; it shares the parameters.

    With several processes the model's batch normalization becomes that of the whole batch.
    """
    parallel = model
    if processes.world_size > 1:
        convert_batchnorm(model)
    if compiled:
        parallel = torch.compile(parallel)  # type: ignore[assignment]
    if processes.world_size > 1:
        # The buffers are equal on all ranks already: their statistics are global.
        own_buffers: dict[str, Any] = {_SYNC_BUFFERS: False}
        parallel = DistributedDataParallel(parallel, **own_buffers)
    return parallel.train()


def make_model(config: TrainConfig, generator: torch.Generator | None = None) -> Backbone:
    """Builds the backbone of a run; a `ValueError` for an unknown name or option."""
    return create_model(
        config.model.name,
        embedding_size=config.model.embedding_size,
        image_size=config.model.image_size,
        generator=generator,
        **config.model.options,
    )


def check_parts(model: nn.Module, batch_size: int, accumulate: int, world_size: int) -> None:
    """Refuses a batch that ranks or micro-batches do not divide.

    Also one of which a part has a single image, if the model has batch normalization.
    """
    share = batch_size // world_size
    if batch_size % world_size or share < accumulate:
        raise ValueError(
            f"batch_size is {batch_size}; it must be a multiple of the {world_size} processes, "
            f"with at least {counted(accumulate, 'image')} each, such as "
            f"{world_size * max(share, accumulate)}"
        )
    has_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    smallest = min(len(part) for part in torch.arange(share).chunk(accumulate))
    # Its statistics are those of all processes, so only one alone can be short of images.
    if has_norm and smallest * world_size < 2:
        raise ValueError(
            f"batch_size is {batch_size} and accumulate is {accumulate}; this model's batch "
            "normalization needs at least 2 images in each part of a batch, as with batch_size "
            f"{accumulate * max(share // accumulate, 2)}"
        )


class TrainStep:
    """Trains backbone and criterion on one global batch.

    The loss is the sum over the valid labels of all micro-batches and ranks divided by their
    number, so how a batch is cut changes the result by rounding only (and by batch normalization,
    whose statistics are those of a micro-batch, and by pairs of images, which are within one):

        loss = sum arcface / mass + center_weight sum center / count
               + threshold_weight sum threshold / count + separation_weight separation

    The mass is the sum of the labels' class weights; without weights, their number. A weight that
    is not the same in all steps comes from the steps before.

    Args:
        model: The backbone, wrapped by DDP where there are several ranks.
        criterion: With `reduction="sum"`; outside DDP. Where its classes are spread over the ranks,
            so are its gradients; where each rank has them all, the gradients are summed here.
        optimizers: Of the parameters of both.
        terms: What is added to ArcFace, and its weights.
        precision: Autocast and gradient scaling.
        processes: The ranks.
        accumulate: Micro-batches a step.
        clip_norm: Limit of the norm of all gradients together; 0 is none.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: CenterArcFaceLoss,
        optimizers: Sequence[Optimizer],
        terms: AddedTerms,
        precision: Precision,
        processes: Processes,
        *,
        accumulate: int = 1,
        clip_norm: float = 0.0,
    ) -> None:
        self.model = model
        self.criterion = criterion
        self.optimizers = optimizers
        self.terms = terms
        self.config = terms.config
        self.precision = precision
        self.processes = processes
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        self.sharded = criterion.arcface.shards is not None
        self.frozen = False
        # The gradient of each loss at the embedding: to report it, and to balance them.
        self.measures = self.balances = False
        self._seen = False  # whether a first backward pass was looked at
        self._updates_centers = terms.updates_centers

    def __call__(self, images: Tensor, labels: Tensor, *, stop: bool = False) -> StepReport:
        """Trains on this rank's share of a batch.

        Args:
            images: (N, H, W, 3) uint8.
            labels: (N,) int64; -100 is ignored.
            stop: Whether this rank wants to stop; the ranks learn of each other by the report.

        Returns:
            What was measured, summed over the ranks.
        """
        device, ranks = self.processes.device, self.processes.world_size
        images = images.to(device, non_blocking=True)
        labels = labels.to(device, non_blocking=True)
        count, mass = self.processes.sum(self._counts(labels)).unbind()
        # DDP averages over ranks, the loss is a sum over them: make up for it here, and average
        # the criterion's gradients too. A loss over shards does so itself.
        scale = (1 if self.sharded else ranks) / count.clamp(min=1)
        added = self.terms.in_force()
        head = self.criterion.arcface
        if isinstance(head.margin, UniFace):
            added = replace(added, margin=head.margin.bias.detach() / head.s)
        arcface_scale = scale * (count / mass.where(mass > 0, 1))
        sums = torch.zeros(len(_SUMS), device=device)
        measured = torch.zeros(len(_MEASURED), device=device)
        features = []
        parts = list(zip(images.chunk(self.accumulate), labels.chunk(self.accumulate), strict=True))
        for number, (part, part_labels) in enumerate(parts):
            last = number == len(parts) - 1
            if isinstance(self.model, DistributedDataParallel):
                self.model.require_backward_grad_sync = last
            with self.precision.autocast():
                embedding = self._embed(to_input(part))
                # Elsewhere that would wait for the device; the loss is looked at later.
                if embedding.device.type == "cpu" and not bool(embedding.detach().isfinite().all()):
                    raise Diverged("the embeddings are not finite")
                if self.measures or self.balances:
                    embedding.requires_grad_()  # a frozen backbone needs none
                arcface, center = self.criterion(embedding, part_labels)
                threshold = self.terms.threshold_loss(embedding, part_labels, self.criterion)
            loss = arcface * arcface_scale + added.center * center * scale
            if added.threshold is not None:
                loss = loss + added.threshold * threshold * scale
            pulled = self._center_gradient(embedding, center, part_labels, scale)
            pushed = self._gradient(threshold * scale, embedding)
            if pulled is not None or pushed is not None:
                embedding.retain_grad()  # not before: it would retain the parts, too
            self.precision.scaler.scale(loss).backward()
            if pulled is not None or pushed is not None:
                measured += _measured(embedding, added, pulled, pushed)
            metrics = self.criterion.metrics
            assert metrics is not None
            right = metrics.accuracy * metrics.count
            cosine = metrics.target_cosine.sum()
            values = (arcface.detach(), center.detach(), threshold.detach(), cosine, right)
            sums[:5] += torch.stack([value.to(sums.dtype) for value in values])
            if self._updates_centers:
                features.append(embedding.detach())
        if not (self._seen or self.frozen):
            self._check_gradients()
        separation = self._separate(labels)
        if not self.sharded:
            self._sum_head_gradients()
        grad_norm = self._update()
        if self._updates_centers:
            # The criterion gathers over ranks: all apply the one update of the whole batch.
            self.criterion.update_centers(torch.cat(features), labels)
        if self.sharded and not self.processes.is_main:
            sums.zero_()  # every rank has measured all samples
        sums[7] = float(stop)
        sums = self.processes.sum(torch.cat([sums, measured]))
        sums[5], sums[6] = count, mass
        self.terms.update(sums[len(_SUMS) :] if self.balances else None, sums[3] / count)
        return StepReport(sums, separation, grad_norm, added)

    def _gradient(self, loss: Tensor, embedding: Tensor) -> Tensor | None:
        """(N, D) gradient of a part of the loss at the embedding, if wanted and if there is one."""
        if not (self.measures or self.balances) or not loss.requires_grad:
            return None
        scaled = self.precision.scaler.scale(loss)
        return torch.autograd.grad(scaled, embedding, retain_graph=True)[0].float()

    def _center_gradient(
        self, embedding: Tensor, center: Tensor, labels: Tensor, scale: Tensor
    ) -> Tensor | None:
        """`_gradient` of the center term.

        By a graph of its own where the term shares the pass over the prototypes, which a fused step
        moves in their backward pass.
        """
        if not (self.measures or self.balances) or self.config.center_weight == 0:
            return None
        if self.config.centers == "mean":
            return self._gradient(center * scale, embedding)
        leaf = embedding.detach().float().requires_grad_()
        pull = self.criterion.center_pull(leaf, labels).sum() * scale
        return torch.autograd.grad(self.precision.scaler.scale(pull), leaf)[0]

    def freeze(self, frozen: bool) -> None:
        """Keeps the backbone as it is from now on, in eval mode, or lets it learn again."""
        if frozen != self.frozen:
            self.model.train(not frozen)
            self.frozen = frozen

    def _embed(self, images: Tensor) -> Tensor:
        if not self.frozen:
            output: Tensor = self.model(images)
            return output
        # DistributedDataParallel would wait for gradients.
        ddp = isinstance(self.model, DistributedDataParallel)
        model: nn.Module = self.model.module if ddp else self.model  # type: ignore[assignment]
        with torch.no_grad():
            frozen: Tensor = model(images)
        return frozen

    def _check_gradients(self) -> None:
        """Refuses what DistributedDataParallel cannot train, after the first backward pass."""
        self._seen = True
        if self.processes.world_size == 1:
            return
        model = getattr(self.model, "module", self.model)
        idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        if idle:
            raise ValueError(
                f"the backbone does not use its parameter {idle[0]!r}"
                + (f" and {len(idle) - 1} more" if len(idle) > 1 else "")
                + ", which several processes cannot train; freeze it with requires_grad_(False)"
            )

    def _counts(self, labels: Tensor) -> Tensor:
        """(2,) valid labels of this rank, and the sum of their class weights."""
        valid = labels != IGNORED
        weight = self.criterion.arcface.weight
        count = valid.sum()
        mass = count if weight is None else weight[labels.where(valid, 0)][valid].sum()
        return torch.stack([count.float(), mass.float()])

    def _separate(self, labels: Tensor) -> Tensor:
        """Adds the gradient of the separation term, over the classes of this rank's share."""
        if self.config.separation_weight == 0:
            return torch.zeros((), device=self.processes.device)
        separation = self.criterion.separation(labels)
        # A mean over equal shares, averaged over ranks with the criterion's other gradients; over
        # shards of the classes it is the mean of all.
        loss = self.config.separation_weight * separation
        self.precision.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.sharded:
            return separation.detach()
        return self.processes.sum(separation.detach().clone()) / self.processes.world_size

    def _sum_head_gradients(self) -> None:
        if self.processes.world_size == 1:
            return
        for parameter in self.criterion.parameters():
            if parameter.grad is not None:
                self.processes.sum(parameter.grad).div_(self.processes.world_size)

    def _update(self) -> Tensor | None:
        scaler = self.precision.scaler
        grad_norm = None
        # One without any gradient, as where only the backbone is in it and frozen, is left out.
        optimizers = [one for one in self.optimizers if not self.frozen or _has_gradient(one)]
        if self.clip_norm > 0:
            for optimizer in optimizers:
                scaler.unscale_(optimizer)
            grad_norm = self._clip()
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        return grad_norm

    def _clip(self) -> Tensor:
        """Limits the norm of all gradients of all ranks together; returns what it was."""
        shared = [*_gradients(self.model), *_gradients(self.terms)]
        own = _gradients(self.criterion)
        if self.sharded:
            # Every rank has the same of what the margin learns, and parts of all else.
            margin = self.criterion.arcface.margin
            alike = _gradients(margin) if isinstance(margin, nn.Module) else []
            own = [one for one in own if not any(one is other for other in alike)]
            shared += alike
            norms = nn.utils.get_total_norm(shared), nn.utils.get_total_norm(own)
            squares = norms[0].square() + self.processes.sum(norms[1].square())
            grad_norm = squares.sqrt()
        else:
            grad_norm = nn.utils.get_total_norm([*shared, *own])
        factor = (self.clip_norm / (grad_norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_([*shared, *own], factor)
        return grad_norm


def _measured(
    embedding: Tensor, added: StepWeights, pulled: Tensor | None, pushed: Tensor | None
) -> Tensor:
    """(6,) squared norms at the embedding, of what is left of its gradient and of the terms.

    Then how many samples have each.
    """
    assert embedding.grad is not None
    rest = embedding.grad.float()
    parts = []
    for weight, gradient in ((added.center, pulled), (added.threshold, pushed)):
        if gradient is None or weight is None:
            parts.append(rest.new_zeros(1, 1))
        else:
            rest = rest - weight * gradient
            parts.append(gradient)
    squares = [part.square().sum() for part in (rest, *parts)]
    samples = [(part != 0).any(dim=1).float().sum() for part in (rest, *parts)]
    return torch.stack([*squares, *samples])


def _has_gradient(optimizer: Optimizer) -> bool:
    if isinstance(optimizer, PrototypeSGD):
        return True  # a fused step keeps none
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])


def _gradients(module: nn.Module) -> list[Tensor]:
    """The gradients of a module; of a sparse one its rows."""
    found = []
    for parameter in module.parameters():
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            found.append(parameter.grad.values())
        else:
            found.append(parameter.grad)
    return found
