"""The pass over the classes as one node of autograd, eager or compiled, for any device."""

import importlib.util
import logging
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, cast

import torch
from torch import Tensor

from centerarc.losses.checks import check_choice, check_counts
from centerarc.losses.head import epilogues
from centerarc.losses.head.class_blocks import (
    ClassBlocks,
    GradientArray,
    KeptApart,
    KeptEntries,
    KeptInGradient,
)
from centerarc.losses.head.epilogues import HardNegatives
from centerarc.losses.head.products import inverse_norm, own_rows
from centerarc.losses.head.prototype_sgd import StepInPlace, fused_step

Epilogues = Literal["auto", "torch", "triton"]

MIB = 1 << 20
# On a CPU a block should stay in a core's cache; on a GPU it should be long enough to fill it.
CPU_WORKSPACE, GPU_WORKSPACE = 8 * MIB, 256 * MIB

NO_SECOND_DERIVATIVE = (
    "the chunked head has no second derivative; take implementation='reference' for "
    "create_graph=True"
)

logger = logging.getLogger("centerarc")


@dataclass(frozen=True)
class Chunked:
    """Settings of the pass over blocks of classes, for `implementation=Chunked(...)`.

    Args:
        workspace: bytes for the arrays of one block of classes; by default 8 MiB on the CPU and
            256 MiB on a GPU. A block has at least one class.
        kept: bytes for exponentials kept from the forward to the backward pass if there is no
            gradient of the prototypes (`PrototypeSGD(fused=True)`); those that do not fit are
            recomputed. If there is a gradient, they are stored in its memory and cost none.
        recompute: keep nothing and recompute all exponentials: a fourth matrix product, but no
            memory between the two passes.
        epilogues: `"triton"` fuses the operations between the products into one kernel each (CUDA),
            `"torch"` uses PyTorch operations, `"auto"` uses Triton if it is available.

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
        check_choice("epilogues", self.epilogues, Epilogues)

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
    trouble = "Triton is not installed"
    if importlib.util.find_spec("triton") is not None:
        trouble = "they need a CUDA device"
    if epilogues.triton_available():
        try:
            one = torch.zeros(1, 1, device=device)
            epilogues.project(one, one, one[0], triton=True)
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


class ChunkedPass(torch.autograd.Function):
    """Own prototypes, logsumexp and mean direction of one batch, with one gradient each.

    Takes and returns what `class_pass` does: features (N, D); weight (C, D) or (C, K, D); labels
    (N,); sample (S,) or None; mean_weight (C,) or None; `hard` for scaled cosines or None; and own
    (N, D); logsumexp and hardest (N,); mean (D,) or None.

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
        hard: HardNegatives | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        here = labels >= 0
        columns = labels
        if sample is not None:
            columns = torch.searchsorted(sample, labels.clamp(min=0)).where(here, -1)
        device = features.device
        triton = settings.takes_triton(device)
        ctx.settings = (scale, limit, reduced, settings.bytes_on(device), triton, hard)
        blocks = ClassBlocks(features, weight, columns, sample, *ctx.settings)
        own, places = own_rows(features, weight, labels)
        ctx.step = ctx.kept = None
        if ctx.needs_input_grad[1]:
            ctx.step = fused_step(weight, sample, features.dtype, triton)
            if blocks.steady and not settings.recompute:
                dtype = torch.bfloat16 if reduced else features.dtype
                if ctx.step is None:
                    ctx.kept = KeptInGradient(blocks.empty_gradient(), len(features), dtype)
                else:
                    ctx.kept = KeptApart(blocks, dtype, settings.kept)
        sums = blocks.forward(
            ctx.kept, pulled=ctx.needs_input_grad[0], mean=mean, mean_weight=mean_weight
        )
        ctx.device_type = device.type
        # Only its own gradient needs it: centers without one may move before the backward pass.
        saved = weight if ctx.needs_input_grad[1] else None
        ctx.save_for_backward(
            *(features, saved, columns, sample, here, places, mean_weight),
            *(sums.logsumexp, sums.pull, sums.inverses),
        )
        ctx.mark_non_differentiable(sums.hardest)
        ctx.set_materialize_grads(False)
        return own, sums.logsumexp, sums.hardest, sums.mean

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            # What the forward pass saved counts as constant: a second derivative would be wrong.
            raise RuntimeError(NO_SECOND_DERIVATIVE)
        # Whoever calls backward inside autocast means the forward pass.
        with torch.autocast(ctx.device_type, enabled=False):
            return ChunkedPass._backward(ctx, *gradients)

    @staticmethod
    def _backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        own_gradient, gradient, _, mean_gradient = gradients
        step: StepInPlace | None = ctx.step
        if step is not None:
            step.begin()
        features, weight, columns, sample, here, places, mean_weight, *found = ctx.saved_tensors
        logsumexp, pull, inverses = found
        if step is not None:
            weight = step.weight  # what was saved may be a copy
        if gradient is None:
            gradient = torch.zeros_like(logsumexp)
        to_features = to_weight = None
        if ctx.needs_input_grad[0]:
            to_features = features_gradient(features, pull, gradient, ctx.settings[0])
        if ctx.needs_input_grad[1]:
            blocks = ClassBlocks(features, weight, columns, sample, *ctx.settings)
            kept: KeptEntries | None
            kept, ctx.kept = ctx.kept, None
            sink: GradientArray | StepInPlace
            if step is not None:
                sink = step
            elif isinstance(kept, KeptInGradient):
                sink = GradientArray(kept.release(), features.dtype, blocks.triton)
            else:
                sink = GradientArray(blocks.empty_gradient(), features.dtype, blocks.triton)
            blocks.backward(logsumexp, inverses, gradient, sink, kept, mean_weight, mean_gradient)
            if own_gradient is not None and len(weight):
                if weight.dim() == 3:
                    places = columns * weight.shape[1] + places % weight.shape[1]
                elif sample is not None:
                    places = columns
                sink.add(places.where(here, 0), own_gradient.where(here.unsqueeze(1), 0.0))
            if isinstance(sink, GradientArray):
                to_weight = sink.out
                if sample is not None:
                    # The argument `check_invariants` of a tensor would not keep torch 2.11 silent.
                    with torch.sparse.check_sparse_tensor_invariants(False):  # type: ignore[no-untyped-call]
                        to_weight = torch.sparse_coo_tensor(
                            sample.unsqueeze(0), sink.out, weight.shape, is_coalesced=True
                        )
        return to_features, to_weight, *[None] * 9


outside_graph: Any  # `ChunkedPass.apply`, which a compiler calls and does not trace


def _passed(*arguments: Any) -> Any:
    return ChunkedPass.apply(*arguments)  # type: ignore[no-untyped-call]


def __getattr__(name: str) -> Any:
    # Made when a compiler first asks for it, for it loads the compiler, which takes seconds.
    if name != "outside_graph":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = torch.compiler.disable(_passed)  # type: ignore[no-untyped-call]
    return globals()[name]


def features_gradient(features: Tensor, pull: Tensor, gradient: Tensor, scale: float) -> Tensor:
    """(N, D) gradient of the logsumexp, from the mean directions of the other classes."""
    inverse = inverse_norm(features).unsqueeze(1)
    direction = features * inverse
    along = pull * (scale * gradient.unsqueeze(1))
    radial = (along * direction).sum(dim=1, keepdim=True)
    return (along - radial * direction) * inverse


# The same as custom operators: torch.compile sees two nodes and no loop. What a compiled graph
# cannot express stays out of it: exponentials are made again in the backward pass, and single
# prototypes are gathered outside, in plain autograd.


def _blocks(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    rule: tuple[Tensor | None, Tensor | None, float],
    settings: tuple[float, float, bool, int],
    epilogues: str,
) -> ClassBlocks:
    # Asked here and not before, where torch.compile would trace the question.
    triton = Chunked(epilogues=cast(Epilogues, epilogues)).takes_triton(features.device)
    threshold, curve, most = rule
    hard = None
    if threshold is not None and curve is not None:
        hard = HardNegatives(threshold, curve, most)
    return ClassBlocks(features, weight, labels, None, *settings, triton, hard)


@torch.library.custom_op("centerarc::negative_logsumexp", mutates_args=())
def logsumexp_operator(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    threshold: Tensor | None,
    curve: Tensor | None,
    most: float,
    scale: float,
    limit: float,
    reduced: bool,
    workspace: int,
    epilogues: str,
    pulled: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The (N,) logsumexp and hardest cosine of `ChunkedPass`, and what its backward pass needs.

    That is each sample's mean negative direction, (N, D), or (0, D) if not `pulled`, and the
    prototypes' inverse lengths. `threshold`, `curve` and `most` are those of `HardNegatives`.
    """
    rule = (threshold, curve, most)
    blocks = _blocks(features, weight, labels, rule, (scale, limit, reduced, workspace), epilogues)
    sums = blocks.forward(None, pulled=pulled, mean_weight=None, mean=False)
    pull = features.new_empty(0, features.shape[1]) if sums.pull is None else sums.pull
    return sums.logsumexp, sums.hardest, pull, sums.inverses


@logsumexp_operator.register_fake
def _(features: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    pulled = others[-1]
    row = features.new_empty(features.shape[0])
    pull = features.new_empty(features.shape[0] if pulled else 0, features.shape[1])
    inverses = features.new_empty(weight.shape[:-1].numel())
    return row, torch.empty_like(row), pull, inverses


@torch.library.custom_op("centerarc::negative_logsumexp_weight_gradient", mutates_args=())
def _weight_gradient(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    logsumexp: Tensor,
    inverses: Tensor,
    gradient: Tensor,
    threshold: Tensor | None,
    curve: Tensor | None,
    most: float,
    scale: float,
    limit: float,
    reduced: bool,
    workspace: int,
    epilogues: str,
) -> Tensor:
    """The gradient of `weight`, in its shape and dtype, from (N,) logsumexp and its gradient."""
    rule = (threshold, curve, most)
    blocks = _blocks(features, weight, labels, rule, (scale, limit, reduced, workspace), epilogues)
    out = torch.empty_like(weight, memory_format=torch.contiguous_format)
    sink = GradientArray(out, features.dtype, blocks.triton)
    blocks.backward(logsumexp, inverses, gradient, sink)
    return out


@_weight_gradient.register_fake
def _(features: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    features, weight, labels, threshold, curve, *ctx.settings, _ = inputs
    logsumexp, hardest, pull, inverses = output
    ctx.mark_non_differentiable(hardest, pull, inverses)
    saved = weight if ctx.needs_input_grad[1] else None
    ctx.save_for_backward(features, saved, labels, logsumexp, pull, inverses, threshold, curve)


def _backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise RuntimeError(NO_SECOND_DERIVATIVE)
    features, weight, labels, logsumexp, pull, inverses, *rule = ctx.saved_tensors
    to_features = to_weight = None
    with torch.autocast(features.device.type, enabled=False):
        if ctx.needs_input_grad[0]:
            to_features = features_gradient(features, pull, gradient, ctx.settings[1])
        if ctx.needs_input_grad[1]:
            to_weight = _weight_gradient(
                features, weight, labels, logsumexp, inverses, gradient, *rule, *ctx.settings
            )
    return to_features, to_weight, *[None] * 10


logsumexp_operator.register_autograd(_backward, setup_context=_save)
