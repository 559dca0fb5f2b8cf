"""One optimizer step: micro-batches, precision, gradients of all ranks, clipping, centers."""

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from centerarc.data.loader import to_input
from centerarc.distributed.process import Processes
from centerarc.losses.center_arcface import CenterArcFaceLoss
from centerarc.losses.head.products import CPU_HAS_BFLOAT16
from centerarc.losses.head.prototype_sgd import PrototypeSGD
from centerarc.losses.unified_threshold import UniFace
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


def refuse_nonfinite(values: Mapping[str, float], step: int | None = None) -> None:
    """Raises `Diverged` if a loss, or a norm of gradients, of `StepReport.read` is not finite."""
    losses = {name: values[name] for name in _LOSSES if name in values}
    if not all(map(math.isfinite, losses.values())):
        said = ", ".join(f"{n.removesuffix('_loss')} {v:g}" for n, v in losses.items())
        raise Diverged(f"the loss is not finite ({said})", step)
    if not math.isfinite(values.get("grad_norm", 0.0)):
        raise Diverged("the norm of the gradients is not finite", step)


def advice(config: TrainConfig) -> str:
    """What to say where the numbers of a training are not finite."""
    other = {"bf16": ", precision: fp32", "fp16": ", precision: bf16"}
    clip = f"below {config.clip_norm:g}" if config.clip_norm else "such as 5"
    return (
        f"the training diverges: try a lower optimizer.lr, a longer schedule.warmup_epochs, "
        f"a clip_norm {clip}" + other.get(config.precision, "")
    )


def memory_advice(config: TrainConfig) -> str:
    """What to say where memory does not suffice for a training."""
    settings = [f"batch_size below {config.batch_size}"]
    if not config.head.fused:
        settings.append(f"accumulate above {config.accumulate}")
    settings.append(f"model.image_size below {config.model.image_size}")
    if config.precision == "fp32":
        settings.append("precision: bf16")
    workspace = config.head.workspace_mb
    settings.append(f"head.workspace_mb {f'below {workspace:g}' if workspace else 'of a few'}")
    if config.loss.sub_centers > 1:
        settings.append(f"loss.sub_centers below {config.loss.sub_centers}")
    if config.data.cache_gb:
        settings.append(f"data.cache_gb below {config.data.cache_gb:g}")
    return (
        f"try {', '.join(settings)}; where the people take it: head.fused, loss.sample_rate "
        "below 1, or more processes"
    )


# What a step measures, in this order; sums over the valid labels of all ranks but for the last.
_SUMS = (
    *("arcface_loss", "center_loss", "threshold_loss", "cosine", "correct"),
    *("count", "mass", "stop"),
)
_TERMS = ("arcface", "center", "threshold")
_LOSSES = ("arcface_loss", "center_loss", "threshold_loss", "separation")
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

    def check_finite(self, norm: Tensor | None = None) -> None:
        """Waits for the device; raises `Diverged` if a loss, or a norm, is not finite."""
        numbers = [*self.sums[:3], self.separation, *([] if norm is None else [norm])]
        if not bool(torch.stack([number.float() for number in numbers]).isfinite().all()):
            found = {} if norm is None else {"grad_norm": float(norm)}
            refuse_nonfinite({**self.read(), **found})

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
        guarded: Whether a loss or gradient that is not finite raises `Diverged` before the update,
            on all ranks, and leaves everything as it was before the step; but for prototypes of a
            fused step. It takes a pass over the gradients, and waits for the device. A gradient
            that a gradient scaler leaves out does not count.
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
        guarded: bool = False,
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
        self.guarded = guarded
        margin = criterion.arcface.margin
        moving = [model, terms, *([margin] if isinstance(margin, nn.Module) else [])]
        # What a forward pass changes: statistics of a batch normalization, of a margin and so on.
        self._moving = moving

    def __call__(self, images: Tensor, labels: Tensor, *, stop: bool = False) -> StepReport:
        """Trains on this rank's share of a batch.

        Args:
            images: (N, H, W, 3) uint8.
            labels: (N,) int64; -100 is ignored.
            stop: Whether this rank wants to stop; the ranks learn of each other by the report.

        Returns:
            What was measured, summed over the ranks.

        Raises:
            Diverged: On all ranks, if embeddings on a CPU are not finite; where the step is
                guarded, also for a loss or a gradient.
        """
        before = [
            (owner, name, buffer, buffer.clone())
            for module in (self._moving if self.guarded else ())
            for owner in module.modules()
            for name, buffer in owner._buffers.items()
            if buffer is not None
        ]
        try:
            return self._train(images, labels, stop)
        except Diverged:
            if self.guarded:
                for owner, name, buffer, value in before:
                    owner._buffers[name] = buffer  # a model may have put another in its place
                    buffer.copy_(value)
                self._drop_gradients()
                for optimizer in self.optimizers:
                    if isinstance(optimizer, PrototypeSGD):
                        optimizer.step()  # of no gradient; a fused one learns of the step's end
            raise

    def _train(self, images: Tensor, labels: Tensor, stop: bool) -> StepReport:
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
                self._check_embeddings(embedding.detach())
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
        if self.sharded and not self.processes.is_main:
            sums.zero_()  # every rank has measured all samples
        sums[7] = float(stop)
        sums = self.processes.sum(torch.cat([sums, measured]))
        sums[5], sums[6] = count, mass
        report = StepReport(sums, separation, None, added)
        scaled = self.precision.scaler.is_enabled()
        if self.guarded and scaled:
            report.check_finite()
        norm = None
        if self.clip_norm > 0 or (self.guarded and not scaled):
            norm = self._gradient_norm()
        if self.guarded and not scaled:
            report.check_finite(norm)
        self._update(norm)
        if self._updates_centers:
            # The criterion gathers over ranks: all apply the one update of the whole batch.
            self.criterion.update_centers(torch.cat(features), labels)
        self.terms.update(sums[len(_SUMS) :] if self.balances else None, sums[3] / count)
        return replace(report, grad_norm=norm) if self.clip_norm > 0 else report

    def _check_embeddings(self, embedding: Tensor) -> None:
        """Raises `Diverged`, on all ranks, where a rank's embeddings on a CPU are not finite.

        Elsewhere that would wait for the device; the loss is looked at later.
        """
        if embedding.device.type == "cpu":
            bad = (~embedding.isfinite()).any().float()
            if self.processes.sum(bad) > 0:
                raise Diverged("the embeddings are not finite")

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

    def _update(self, norm: Tensor | None) -> None:
        """Steps the optimizers that have a gradient, which is clipped if that is wanted."""
        scaler = self.precision.scaler
        if self.clip_norm > 0 and norm is not None:
            factor = (self.clip_norm / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_([*itertools.chain(*self._all_gradients())], factor)
        for optimizer in self._stepping():
            scaler.step(optimizer)
        scaler.update()
        self._drop_gradients()

    def _stepping(self) -> list[Optimizer]:
        """One without any gradient, as where only the frozen backbone is in it, is left out."""
        return [one for one in self.optimizers if not self.frozen or _has_gradient(one)]

    def _drop_gradients(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def _gradient_norm(self) -> Tensor:
        """() the norm of all gradients of all ranks together, without the scale of their loss."""
        if self.clip_norm > 0:
            for optimizer in self._stepping():
                self.precision.scaler.unscale_(optimizer)
        shared, own = self._all_gradients()
        if self.sharded:
            device = self.processes.device  # where that of no gradients is not
            norms = [nn.utils.get_total_norm(some).to(device) for some in (shared, own)]
            squares = norms[0].square() + self.processes.sum(norms[1].square())
            return squares.sqrt()
        return nn.utils.get_total_norm([*shared, *own])

    def _all_gradients(self) -> tuple[list[Tensor], list[Tensor]]:
        """The gradients that every rank has, and those that are this rank's own."""
        shared = [*_gradients(self.model), *_gradients(self.terms)]
        own = _gradients(self.criterion)
        if self.sharded:
            # Every rank has the same of what the margin learns, and parts of all else.
            margin = self.criterion.arcface.margin
            alike = _gradients(margin) if isinstance(margin, nn.Module) else []
            own = [one for one in own if not any(one is other for other in alike)]
            shared += alike
        return shared, own


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
