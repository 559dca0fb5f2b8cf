"""The primitive block by block: torch operations only, any device, never N x C.

Classes are taken a block at a time. The forward pass makes the block's scaled cosines Z and
E = exp(Z), and adds up E's rows and, for the features' gradient, E W: the row factor 1 / sum E,
known only at the end, multiplies that small sum. The backward pass makes each block's softmax once
more, for the prototypes' gradient. Four products in all, and a workspace of a few (N, block)
arrays; lengths are divided out of the cosines and the gradient, so W is never copied whole.

Cosines are at most 1, so for scales up to ``PLAIN_SCALE`` exp(Z) fits float32 and needs no running
maximum; beyond, the sums are rescaled as the maximum grows.

Both passes are custom operators: torch.compile sees one opaque node each and not the loop.
"""

from typing import Any

import torch
from torch import Tensor

from centerarc.losses.unit import inverse_norm

PLAIN_SCALE = 64.0

# Entries of one (N, block) array: 0.5 MiB in float32, which with the block's rows and their
# gradient stays in a core's cache. From 256 to 4096 classes at N = 128 the time hardly changes.
BLOCK_ENTRIES = 1 << 17


def block_classes(samples: int, sub_centers: int) -> int:
    """Classes a block, so that its cosines have about ``BLOCK_ENTRIES`` entries."""
    return min(4096, max(256, BLOCK_ENTRIES // max(1, samples * sub_centers)))


def chunked(
    features: Tensor, weight: Tensor, labels: Tensor, scale: float, block: int | None = None
) -> tuple[Tensor, Tensor]:
    """The logsumexp and the hardest cosine of ``negative_logsumexp``, block by block.

    Args:
        features: (N, D), float32 or float64, the dtype of all sums.
        weight: (C, D) or (C, K, D), any floating dtype; converted a block at a time.
        labels: (N,) integers.
        scale: factor of the cosines.
        block: classes a block; by default a few MiB of cosines.

    Returns:
        (N,) logsumexp and (N,) hardest cosine, in the features' dtype.
    """
    if block is None:
        block = block_classes(features.shape[0], weight.shape[1] if weight.dim() == 3 else 1)
    pulled = torch.is_grad_enabled() and features.requires_grad
    logsumexp, hardest, _ = _forward(features, weight, labels, float(scale), block, pulled)
    return logsumexp, hardest


def _rows(weight: Tensor, start: int, block: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(B K, D) prototypes of one block of classes, and (B K,) their inverse lengths."""
    rows = weight[start : start + block].to(dtype).flatten(0, -2)
    return rows, inverse_norm(rows)


def _logits(
    directions: Tensor, rows: Tensor, inverse: Tensor, labels: Tensor, sub_centers: int
) -> tuple[Tensor, Tensor | None]:
    """(N, B) scaled cosines, minus infinity at the labels (counted from the block's first class).

    With sub-centers, also (N, B): which of them was the nearest.
    """
    z = (directions @ rows.T).mul_(inverse)
    nearest = None
    if sub_centers > 1:
        z, nearest = z.view(len(z), len(rows) // sub_centers, sub_centers).max(dim=2)
    own = ((labels >= 0) & (labels < z.shape[1])).unsqueeze(1)
    # Boolean indexing would wait for a GPU. So every row overwrites one entry: its own label's with
    # minus infinity or, if the label lies in another block, the first with itself.
    column = labels.unsqueeze(1).where(own, 0)
    return z.scatter_(1, column, z.gather(1, column).masked_fill_(own, -torch.inf)), nearest


def _at_sub_centers(entries: Tensor, nearest: Tensor | None, sub_centers: int) -> Tensor:
    """(N, B) entries of classes, put at their nearest sub-center: (N, B K), 0 elsewhere."""
    if nearest is None:
        return entries
    wide = entries.new_zeros(*entries.shape, sub_centers)
    return wide.scatter_(2, nearest.unsqueeze(2), entries.unsqueeze(2)).flatten(1)


@torch.library.custom_op("centerarc::negative_logsumexp", mutates_args=())
def _forward(
    features: Tensor, weight: Tensor, labels: Tensor, scale: float, block: int, pulled: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Also returns (N, D), each sample's mean negative direction, or (0, D) if not ``pulled``."""
    samples = features.shape[0]
    sub_centers = weight.shape[1] if weight.dim() == 3 else 1
    directions = features * (scale * inverse_norm(features)).unsqueeze(1)
    total = features.new_zeros(samples)
    pull = features.new_zeros(samples if pulled else 0, features.shape[1])
    hardest = features.new_full((samples,), -torch.inf)
    rescale = scale > PLAIN_SCALE
    shift = features.new_full((samples,), -scale if rescale else 0.0)
    for start in range(0, weight.shape[0], block):
        rows, inverse = _rows(weight, start, block, features.dtype)
        z, nearest = _logits(directions, rows, inverse, labels - start, sub_centers)
        top = z.amax(dim=1)
        hardest = torch.maximum(hardest, top)
        if rescale:
            higher = torch.maximum(shift, top)
            faded = (shift - higher).exp_()
            total *= faded
            if pulled:
                pull *= faded.unsqueeze(1)
            shift = higher
            z -= shift.unsqueeze(1)
        e = z.exp_()
        total += e.sum(dim=1)
        if pulled:
            pull.addmm_(_at_sub_centers(e, nearest, sub_centers).mul_(inverse), rows)
    if pulled:
        pull *= torch.where(total > 0, total.reciprocal(), 0.0).unsqueeze(1)
    return total.log().add_(shift), hardest / scale, pull


@_forward.register_fake
def _(
    features: Tensor, weight: Tensor, labels: Tensor, scale: float, block: int, pulled: bool
) -> tuple[Tensor, Tensor, Tensor]:
    row = features.new_empty(features.shape[0])
    pull = features.new_empty(features.shape[0] if pulled else 0, features.shape[1])
    return row, torch.empty_like(row), pull


@torch.library.custom_op("centerarc::negative_logsumexp_weight_gradient", mutates_args=())
def _weight_gradient(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    logsumexp: Tensor,
    gradient: Tensor,
    scale: float,
    block: int,
) -> Tensor:
    """The gradient of ``weight``, in its shape and dtype, from (N,) logsumexp and its gradient."""
    sub_centers = weight.shape[1] if weight.dim() == 3 else 1
    directions = features * (scale * inverse_norm(features)).unsqueeze(1)
    pushes = directions * gradient.unsqueeze(1)
    # Where no class is negative every entry is exp(-inf), and must not become exp(-inf + inf).
    finite = logsumexp.where(logsumexp > -torch.inf, 0.0).unsqueeze(1)
    out = torch.empty_like(weight, memory_format=torch.contiguous_format)
    for start in range(0, weight.shape[0], block):
        rows, inverse = _rows(weight, start, block, features.dtype)
        z, nearest = _logits(directions, rows, inverse, labels - start, sub_centers)
        p = _at_sub_centers(z.sub_(finite).exp_(), nearest, sub_centers)
        # d/dw of w / |w|: the part of the gradient across w, over |w|.
        along = p.T @ pushes
        radial = (along * rows).sum(dim=1).mul_(inverse.square())
        along.addcmul_(rows, radial.unsqueeze(1), value=-1).mul_(inverse.unsqueeze(1))
        out[start : start + block] = along.view_as(out[start : start + block])
    return out


@_weight_gradient.register_fake
def _(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    logsumexp: Tensor,
    gradient: Tensor,
    scale: float,
    block: int,
) -> Tensor:
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


def _save(
    ctx: Any,
    inputs: tuple[Tensor, Tensor, Tensor, float, int, bool],
    output: tuple[Tensor, Tensor, Tensor],
) -> None:
    features, weight, labels, ctx.scale, ctx.block, _ = inputs
    logsumexp, hardest, pull = output
    ctx.mark_non_differentiable(hardest, pull)
    ctx.save_for_backward(features, weight, labels, logsumexp, pull)


def _backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        # What the forward pass saved counts as constant here: a second derivative would be wrong.
        raise RuntimeError(
            "the chunked negative_logsumexp has no second derivative; take "
            "implementation='reference' for create_graph=True"
        )
    features, weight, labels, logsumexp, pull = ctx.saved_tensors
    scale, block = ctx.scale, ctx.block
    to_features = to_weight = None
    with torch.autocast(features.device.type, enabled=False):
        if ctx.needs_input_grad[0]:
            inverse = inverse_norm(features).unsqueeze(1)
            direction = features * inverse
            along = pull * (scale * gradient.unsqueeze(1))
            radial = (along * direction).sum(dim=1, keepdim=True)
            to_features = (along - radial * direction) * inverse
        if ctx.needs_input_grad[1]:
            to_weight = _weight_gradient(
                features, weight, labels, logsumexp, gradient, scale, block
            )
    return to_features, to_weight, None, None, None, None


_forward.register_autograd(_backward, setup_context=_save)
