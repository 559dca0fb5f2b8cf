"""The one primitive: a logsumexp over all classes but the sample's own."""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from centerarc.losses.checks import as_labels, check_positive
from centerarc.losses.chunked import chunked
from centerarc.losses.unit import unit

Implementation = Literal["auto", "reference", "chunked"]

# Below this many entries the N x C matrix is cheaper than the loop over blocks (measured on a CPU).
SMALL = 1 << 16


class Negatives(NamedTuple):
    """What the wrong classes say of each sample.

    Attributes:
        logsumexp: (N,), differentiable in features and weight.
        hardest: (N,), the largest of their cosines, detached; minus infinity where there is none.
    """

    logsumexp: Tensor
    hardest: Tensor


def negative_logsumexp(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    scale: float,
    *,
    implementation: Implementation = "auto",
) -> Tensor:
    """Logsumexp over the scaled cosines of every class but the label's.

    ``out_i = log sum_{j != labels_i} exp(scale <x_i / |x_i|, w_j / |w_j|>)``

    Differentiable in ``features`` and ``weight`` (once, for ``"chunked"``; ``"reference"`` is plain
    autograd and takes any derivative). Sums are float32 at least, whatever the inputs' dtypes.

    Args:
        features: (N, D), floating point, any length; N may be 0.
        weight: (C, D), one prototype a class, or (C, K, D) with K sub-centers, of which each sample
            takes the nearest; floating point, any length.
        labels: (N,), integers. A label outside [0, C) excludes no class.
        scale: factor of the cosines, positive.
        implementation: ``"reference"`` holds the N x C matrix, ``"chunked"`` only N x (a block of
            classes), forward and backward; ``"auto"`` takes the first for small problems.

    Returns:
        (N,), float32 or float64. Minus infinity, with gradient 0, where no negative class exists.

    Raises:
        ValueError: if shapes or dtypes do not fit, ``scale`` is not positive, or the implementation
            is unknown.

    Example:
        >>> import torch
        >>> from centerarc import negative_logsumexp
        >>> x, w = torch.eye(3), torch.eye(3)
        >>> negative_logsumexp(x, w, torch.arange(3), scale=2.0)  # two negatives at cosine 0
        tensor([0.6931, 0.6931, 0.6931])
    """
    return negatives(features, weight, labels, scale, implementation=implementation).logsumexp


def negatives(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    scale: float,
    *,
    implementation: Implementation = "auto",
) -> Negatives:
    """``negative_logsumexp`` with the cosine of the hardest wrong class beside it."""
    _check(features, weight, scale, implementation)
    labels = as_labels(labels, features)
    dtype = torch.promote_types(torch.promote_types(features.dtype, weight.dtype), torch.float32)
    if implementation == "auto":
        small = features.shape[0] * weight.shape[:-1].numel() <= SMALL
        implementation = "reference" if small else "chunked"
    with torch.autocast(features.device.type, enabled=False):
        compute = _reference if implementation == "reference" else chunked
        return Negatives(*compute(features.to(dtype), weight, labels, scale))


def _reference(
    features: Tensor, weight: Tensor, labels: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """The definition in plain autograd: the truth that the others are tested against."""
    classes = weight.shape[0]
    cosines = unit(features) @ unit(weight.to(features.dtype)).flatten(0, -2).T
    if weight.dim() == 3:
        cosines = cosines.view(len(features), *weight.shape[:2]).max(dim=2).values
    if classes == 0:
        nothing = cosines.sum(dim=1) - torch.inf
        return nothing, nothing.detach()
    own = labels.unsqueeze(1) == torch.arange(classes, device=labels.device)
    hardest = cosines.detach().masked_fill(own, -torch.inf).amax(dim=1)
    # logsumexp over nothing has gradient NaN, so such a row sums over its own class, unseen.
    empty = own.all(dim=1)
    logits = (scale * cosines).masked_fill(own & ~empty.unsqueeze(1), -torch.inf)
    return torch.where(empty, -torch.inf, torch.logsumexp(logits, dim=1)), hardest


def _check(features: Tensor, weight: Tensor, scale: float, implementation: str) -> None:
    if implementation not in get_args(Implementation):
        raise ValueError(
            f"implementation must be one of {', '.join(get_args(Implementation))}, "
            f"got {implementation!r}"
        )
    check_positive("scale", scale)
    if features.dim() != 2 or not features.is_floating_point():
        raise ValueError(
            f"features must be (N, D) floating point, got {tuple(features.shape)} {features.dtype}"
        )
    fits = weight.dim() in (2, 3) and weight.shape[-1] == features.shape[1]
    if not fits or not weight.is_floating_point() or (weight.dim() == 3 and not weight.shape[1]):
        d = features.shape[1]
        raise ValueError(
            f"weight must be (C, {d}) or (C, K, {d}) floating point, "
            f"got {tuple(weight.shape)} {weight.dtype}"
        )
