"""The pass over the classes as one node of autograd, for any device, never N x C."""

import importlib.util
import logging
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from centerarc.losses.checks import check_counts
from centerarc.losses.head import triton_epilogues
from centerarc.losses.head.class_blocks import (
    ClassBlocks,
    GradientArray,
    KeptApart,
    KeptEntries,
    KeptInGradient,
    Sums,
)
from centerarc.losses.head.products import inverse_norm
from centerarc.losses.head.prototype_sgd import StepInPlace, fused_step

Epilogues = Literal["auto", "torch", "triton"]

MIB = 1 << 20
# On a CPU a block should stay in a core's cache; on a GPU it should be long enough to fill it.
CPU_WORKSPACE, GPU_WORKSPACE = 8 * MIB, 256 * MIB

logger = logging.getLogger("centerarc")


@dataclass(frozen=True)
class Chunked:
    """How the head goes over blocks of classes; ``implementation=Chunked(...)`` takes it.

    Args:
        workspace: bytes for the arrays of one block of classes; by default 8 MiB on the CPU and
            256 MiB on a GPU. A block holds one class at least.
        kept: bytes for exponentials kept from the forward to the backward pass where the
            prototypes' gradient is not made (``PrototypeSGD(fused=True)``); what exceeds them is
            computed again. Where a gradient is made they lie in its memory and cost none.
        recompute: keep nothing and compute all of them again: a fourth matrix product, for no
            memory at all between the two passes.
        epilogues: ``"triton"`` fuses what stands between the products into one kernel each (CUDA),
            ``"torch"`` takes PyTorch's operations, ``"auto"`` Triton where it is.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> from centerarc import MarginSoftmaxLoss
        >>> from centerarc.losses import Chunked
        >>> lean = MarginSoftmaxLoss(1000, 16, implementation=Chunked(workspace=2 << 20))
    """

    workspace: int | None = None
    kept: int = 64 * MIB
    recompute: bool = False
    epilogues: Epilogues = "auto"

    def __post_init__(self) -> None:
        if self.workspace is not None:
            check_counts(workspace=self.workspace)
        if isinstance(self.kept, bool) or not isinstance(self.kept, int) or self.kept < 0:
            raise ValueError(f"kept must be a number of bytes, 0 or more, got {self.kept!r}")
        if not isinstance(self.recompute, bool):
            raise ValueError(f"recompute must be True or False, got {self.recompute!r}")
        if self.epilogues not in get_args(Epilogues):
            raise ValueError(
                f"epilogues must be one of {', '.join(get_args(Epilogues))}, got {self.epilogues!r}"
            )

    def bytes_on(self, device: torch.device) -> int:
        """The workspace for this device."""
        default = CPU_WORKSPACE if device.type == "cpu" else GPU_WORKSPACE
        return default if self.workspace is None else self.workspace

    def takes_triton(self, device: torch.device) -> bool:
        """Whether the kernels are wanted and there; one line is logged if they are only wanted."""
        wanted = self.epilogues == "triton" or (self.epilogues == "auto" and device.type == "cuda")
        return wanted and _triton_works(device)


@cache
def _triton_works(device: torch.device) -> bool:
    """Whether Triton's kernels are there and start; one line is logged if not."""
    trouble = "Triton is not installed"
    if importlib.util.find_spec("triton") is not None:
        trouble = "they need a CUDA device"
    if triton_epilogues.available():
        try:
            one = torch.zeros(1, 1, device=device)
            triton_epilogues.project(one, one, one[0])
        except Exception as error:  # its compiler, the driver: any reason is as good
            trouble = (str(error).strip().splitlines() or [type(error).__name__])[0]
        else:
            return True
    logger.warning(
        "the head cannot take Triton's kernels on %s (%s) and takes PyTorch's operations instead: "
        "same numbers, slower",
        device,
        trouble,
    )
    return False


def own_places(features: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """(N,) each label's prototype, its nearest sub-center, among the C K rows of ``weight``.

    Args:
        features: (N, D).
        weight: (C, D) or (C, K, D).
        labels: (N,) in [0, C).
    """
    if weight.dim() == 2:
        return labels
    rows = weight[labels].to(features.dtype)
    cosines = (rows @ features.unsqueeze(2)).squeeze(2) * inverse_norm(rows)
    return labels * weight.shape[1] + cosines.argmax(dim=1)


class ChunkedPass(torch.autograd.Function):
    """Own prototypes, logsumexp and mean direction of one batch, with one gradient each.

    Shapes: features (N, D); weight (C, D) or (C, K, D); labels (N,), -1 for a class that is not
    here; sample (S,) ascending, with every label in it, or None for all C; mean_weight (C,).

    Returns own (N, D), the rows of the labels (0 for -1); logsumexp (N,); hardest (N,), without
    gradient; mean (D,), the sum of the prototypes' directions times mean_weight, or None.

    The weight enters the graph here only, so its gradient, and that of its single rows, are one
    array, which holds the exponentials until they are used up. The features' gradient is that of
    the logsumexp alone: the target's angle is the caller's.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        labels: Tensor,
        sample: Tensor | None,
        scale: float,
        limit: float,
        mean: bool,
        mean_weight: Tensor | None,
        reduced: bool,
        settings: Chunked,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        here = labels >= 0
        columns = labels
        if sample is not None:
            columns = torch.searchsorted(sample, labels.clamp(min=0)).where(here, -1)
        triton = settings.takes_triton(features.device)
        blocks = ClassBlocks(
            features,
            weight,
            columns,
            sample,
            scale,
            limit,
            reduced,
            settings.bytes_on(features.device),
            triton,
        )
        # A weight of no class has no row to gather, and nobody's.
        if len(weight):
            places = own_places(features, weight, labels.clamp(min=0))
            own = weight.flatten(0, -2)[places].to(features.dtype).where(here.unsqueeze(1), 0.0)
        else:
            places, own = labels, torch.zeros_like(features)
        ctx.step = ctx.kept = None
        if ctx.needs_input_grad[1]:
            ctx.step = fused_step(weight, sample, features.dtype, triton)
            if blocks.steady and not settings.recompute:
                ctx.kept = _memory_to_keep(blocks, ctx.step, settings)
        sums = blocks.forward(
            ctx.kept, pulled=ctx.needs_input_grad[0], mean=mean, mean_weight=mean_weight
        )
        ctx.device_type = features.device.type
        ctx.blocks_without_tensors = (scale, limit, reduced, blocks.workspace, triton)
        ctx.save_for_backward(
            features,
            weight,
            columns,
            sample,
            here,
            places,
            mean_weight,
            sums.logsumexp,
            sums.pull,
            sums.inverses,
        )
        ctx.mark_non_differentiable(sums.hardest)
        ctx.set_materialize_grads(False)
        return own, sums.logsumexp, sums.hardest, sums.mean

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        # Whoever calls backward inside autocast means the forward pass.
        with torch.autocast(ctx.device_type, enabled=False):
            return ChunkedPass._backward(ctx, *gradients)

    @staticmethod
    def _backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            # What the forward pass saved counts as constant: a second derivative would be wrong.
            raise RuntimeError(
                "the chunked head has no second derivative; take "
                "implementation='reference' for create_graph=True"
            )
        own_gradient, gradient, _, mean_gradient = gradients
        step: StepInPlace | None = ctx.step
        if step is not None:
            step.begin()
        features, weight, columns, sample, here, places, mean_weight, *found = ctx.saved_tensors
        logsumexp, pull, inverses = found
        if step is not None:
            weight = step.weight  # what was saved may be a copy
        blocks = ClassBlocks(features, weight, columns, sample, *ctx.blocks_without_tensors)
        to_features = to_weight = None
        if gradient is None:
            gradient = torch.zeros_like(logsumexp)
        if ctx.needs_input_grad[0]:
            to_features = features_gradient(features, pull, gradient, blocks.scale)
        if ctx.needs_input_grad[1]:
            kept, ctx.kept = ctx.kept, None
            sink: GradientArray | StepInPlace
            if step is not None:
                sink = step
            else:
                memory = kept.release() if isinstance(kept, KeptInGradient) else None
                if memory is None:
                    memory = _gradient_memory(blocks)
                sink = GradientArray(memory, features.dtype, blocks.triton)
            sums = Sums(logsumexp, logsumexp, None, inverses, None)
            blocks.backward(
                sums, gradient, sink, kept, mean_weight=mean_weight, mean_gradient=mean_gradient
            )
            if own_gradient is not None and len(weight):
                if weight.dim() == 3:
                    places = columns * weight.shape[1] + places % weight.shape[1]
                elif sample is not None:
                    places = columns
                sink.add(places.where(here, 0), own_gradient.where(here.unsqueeze(1), 0.0))
            if isinstance(sink, GradientArray):
                to_weight = sink.out
                if sample is not None:
                    to_weight = torch.sparse_coo_tensor(
                        sample.unsqueeze(0),
                        sink.out,
                        weight.shape,
                        is_coalesced=True,
                        check_invariants=False,
                    )
        return to_features, to_weight, *[None] * 8


def features_gradient(features: Tensor, pull: Tensor, gradient: Tensor, scale: float) -> Tensor:
    """(N, D) gradient of the logsumexp, from the mean directions of the other classes."""
    inverse = inverse_norm(features).unsqueeze(1)
    direction = features * inverse
    along = pull * (scale * gradient.unsqueeze(1))
    radial = (along * direction).sum(dim=1, keepdim=True)
    return (along - radial * direction) * inverse


def _gradient_memory(blocks: ClassBlocks) -> Tensor:
    shape = (blocks.classes, *blocks.weight.shape[1:])
    return blocks.weight.new_empty(shape)


def _memory_to_keep(
    blocks: ClassBlocks, step: StepInPlace | None, settings: Chunked
) -> KeptEntries:
    features = blocks.features
    dtype = torch.bfloat16 if blocks.reduced else features.dtype
    if step is None:
        return KeptInGradient(_gradient_memory(blocks), len(features), dtype)
    rows = blocks.classes * blocks.sub_centers
    return KeptApart(features, rows, blocks.sub_centers, dtype, settings.kept)
