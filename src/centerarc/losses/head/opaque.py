"""The pass over the classes as custom operators: torch.compile sees two nodes and no loop.

What a compiled graph cannot express stays out of it: exponentials are made again in the backward
pass, and single prototypes are gathered outside, in plain autograd.
"""

from typing import Any, cast

import torch
from torch import Tensor

from centerarc.losses.head.chunked import Chunked, Epilogues, features_gradient
from centerarc.losses.head.class_blocks import ClassBlocks, GradientArray, Sums


def opaque_logsumexp(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    scale: float,
    limit: float,
    reduced: bool,
    settings: Chunked,
) -> tuple[Tensor, Tensor]:
    """The logsumexp and hardest cosine of ``ChunkedPass``, as an operator.

    Args:
        features: (N, D), float32 or float64.
        weight: (C, D) or (C, K, D), any floating dtype.
        labels: (N,), -1 for a class that is not here.
        scale: of the cosines.
        limit: cosine above which another class does not count.
        reduced: whether products take bfloat16 operands.
        settings: of the blocks.

    Returns:
        (N,) and (N,).
    """
    pulled = torch.is_grad_enabled() and features.requires_grad
    workspace = settings.bytes_on(features.device)
    logsumexp, hardest, _, _ = _forward(
        features, weight, labels, scale, limit, reduced, workspace, settings.epilogues, pulled
    )
    return logsumexp, hardest


def _takes_triton(epilogues: str, features: Tensor) -> bool:
    return Chunked(epilogues=cast(Epilogues, epilogues)).takes_triton(features.device)


@torch.library.custom_op("centerarc::negative_logsumexp", mutates_args=())
def _forward(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    scale: float,
    limit: float,
    reduced: bool,
    workspace: int,
    epilogues: str,
    pulled: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Also returns (N, D), each sample's mean negative direction, or (0, D) if not ``pulled``."""
    # Asked here and not before, where torch.compile would trace the question.
    triton = _takes_triton(epilogues, features)
    blocks = ClassBlocks(features, weight, labels, None, scale, limit, reduced, workspace, triton)
    sums = blocks.forward(None, pulled=pulled, mean_weight=None, mean=False)
    pull = features.new_empty(0, features.shape[1]) if sums.pull is None else sums.pull
    return sums.logsumexp, sums.hardest, pull, sums.inverses


@_forward.register_fake
def _(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    scale: float,
    limit: float,
    reduced: bool,
    workspace: int,
    epilogues: str,
    pulled: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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
    scale: float,
    limit: float,
    reduced: bool,
    workspace: int,
    epilogues: str,
) -> Tensor:
    """The gradient of ``weight``, in its shape and dtype, from (N,) logsumexp and its gradient."""
    # Asked here and not before, where torch.compile would trace the question.
    triton = _takes_triton(epilogues, features)
    blocks = ClassBlocks(features, weight, labels, None, scale, limit, reduced, workspace, triton)
    out = torch.empty_like(weight, memory_format=torch.contiguous_format)
    sink = GradientArray(out, features.dtype, triton)
    sums = Sums(logsumexp, logsumexp, None, inverses, None)
    blocks.backward(sums, gradient, sink, None, mean_weight=None, mean_gradient=None)
    return out


@_weight_gradient.register_fake
def _(features: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    features, weight, labels, *ctx.settings, _ = inputs
    logsumexp, hardest, pull, inverses = output
    ctx.mark_non_differentiable(hardest, pull, inverses)
    ctx.save_for_backward(features, weight, labels, logsumexp, pull, inverses)


def _backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the chunked head has no second derivative; take "
            "implementation='reference' for create_graph=True"
        )
    features, weight, labels, logsumexp, pull, inverses = ctx.saved_tensors
    to_features = to_weight = None
    with torch.autocast(features.device.type, enabled=False):
        if ctx.needs_input_grad[0]:
            to_features = features_gradient(features, pull, gradient, ctx.settings[0])
        if ctx.needs_input_grad[1]:
            to_weight = _weight_gradient(
                features, weight, labels, logsumexp, inverses, gradient, *ctx.settings
            )
    return to_features, to_weight, *[None] * 7


_forward.register_autograd(_backward, setup_context=_save)
