"""One pass of the margin softmax, before anything is summed."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from centerarc.losses.checks import check_batch, check_values
from centerarc.losses.margins import Margin
from centerarc.losses.negative_logsumexp import Implementation, negatives
from centerarc.losses.target import target_angle
from centerarc.losses.unit import inverse_norm, unit


@dataclass(frozen=True)
class MarginSoftmaxTerms:
    """What one pass of the margin softmax knows of each sample, all (N,).

    Attributes:
        loss: differentiable; 0 for ignored samples.
        share: what the sample adds to the denominator of a mean: its class weight, 0 if ignored.
        known: bool, whether the label is that of a class. Labels that neither are nor equal
            ``ignore_index`` make the loss NaN where ``check_values`` cannot look at them.
        target_cosine: detached cosine to the own class, without margin.
        correct: bool, whether the own class has the largest cosine (ties count as wrong).
        own: (N, D), the prototype of each sample's class (its nearest sub-center), differentiable.
    """

    loss: Tensor
    share: Tensor
    known: Tensor
    target_cosine: Tensor
    correct: Tensor
    own: Tensor


def margin_softmax_terms(
    features: Tensor,
    prototypes: Tensor,
    labels: Tensor,
    margin: Margin,
    s: float,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    implementation: Implementation = "auto",
) -> MarginSoftmaxTerms:
    """``margin_softmax_loss`` before its reduction, with what else that pass found out."""
    classes = prototypes.shape[0]
    _check_options(prototypes, weight, label_smoothing)
    labels = check_batch(features, labels, prototypes.shape[-1])
    check_values(features, labels, classes, ignore_index)
    counted = labels != ignore_index
    known = counted & (labels >= 0) & (labels < classes)
    if classes == 0:
        raise ValueError(f"prototypes must hold a class, got {tuple(prototypes.shape)}")
    dtype = torch.promote_types(
        torch.promote_types(features.dtype, prototypes.dtype), torch.float32
    )
    # An ignored row becomes a zero vector, so that not even a NaN in it reaches a gradient.
    features = features.to(dtype).where(known.unsqueeze(1), 0.0)
    index = labels.where(known, 0)
    with torch.autocast(features.device.type, enabled=False):
        own = own_prototypes(features, prototypes, index)
        target = target_angle(features, own)
        others, hardest = negatives(features, prototypes, index, s, implementation=implementation)
        logit = s * margin(target)
        # torch's default threshold of 20 would cut float64 down to 2e-9.
        losses = F.softplus(others - logit, threshold=50.0)
        share = torch.ones_like(losses) if weight is None else weight.to(dtype)[index]
        losses = losses * share
        if label_smoothing:
            total = torch.logaddexp(others, logit)
            flat = _weighted_logit_sum(features, prototypes, weight, s)
            flat = flat + share * (logit - s * target.cos)
            mass = classes if weight is None else weight.to(dtype).sum()
            spread = (mass * total - flat) / classes
            losses = (1 - label_smoothing) * losses + label_smoothing * spread
    return MarginSoftmaxTerms(
        loss=losses.where(known, 0.0).masked_fill(counted & ~known, torch.nan),
        share=share.where(known, 0.0),
        known=known,
        target_cosine=target.cos.detach(),
        correct=known & (target.cos.detach() > hardest),
        own=own,
    )


def own_prototypes(features: Tensor, prototypes: Tensor, labels: Tensor) -> Tensor:
    """(N, D), the prototype of each label, or its nearest sub-center, in the features' dtype.

    Args:
        features: (N, D).
        prototypes: (C, D) or (C, K, D).
        labels: (N,) in [0, C).
    """
    rows = prototypes[labels].to(features.dtype)
    if rows.dim() == 2:
        return rows
    with torch.no_grad():
        cosines = (unit(rows) @ features.unsqueeze(2)).squeeze(2)
        nearest = cosines.argmax(dim=1)
    return rows[torch.arange(rows.shape[0], device=rows.device), nearest]


def _weighted_logit_sum(
    features: Tensor, prototypes: Tensor, weight: Tensor | None, s: float
) -> Tensor:
    """(N,), the sum of all scaled cosines (each times its class weight): one D-vector does it."""
    prototypes = prototypes.to(features.dtype)
    factors = inverse_norm(prototypes)
    if weight is not None:
        factors = factors * weight.to(features.dtype)
    return s * (unit(features) @ (factors @ prototypes))


def _check_options(prototypes: Tensor, weight: Tensor | None, label_smoothing: float) -> None:
    if prototypes.dim() not in (2, 3):
        raise ValueError(f"prototypes must be (C, D) or (C, K, D), got {tuple(prototypes.shape)}")
    if weight is not None and weight.shape != prototypes.shape[:1]:
        raise ValueError(
            f"weight must be ({prototypes.shape[0]},), one for each class, "
            f"got {tuple(weight.shape)}"
        )
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing!r}")
    if label_smoothing and prototypes.dim() == 3:
        raise ValueError(f"label_smoothing must be 0 with sub-centers, got {label_smoothing!r}")
