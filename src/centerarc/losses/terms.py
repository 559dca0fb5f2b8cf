"""One pass of the margin softmax, before anything is summed."""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from centerarc.losses.checks import check_batch, check_positive, check_values, is_number
from centerarc.losses.class_pass import (
    ClassPass,
    Implementation,
    check_implementation,
    class_pass,
)
from centerarc.losses.margins import Margin
from centerarc.losses.precision import reduced_products
from centerarc.losses.sampling import Sampler
from centerarc.losses.target import Target, target_angle
from centerarc.losses.unit import unit


class Shards(Protocol):
    """Classes that lie on several ranks: what the terms ask of them, see ``distributed``.

    Attributes:
        num_classes: C, of all ranks together.
        start: number of this rank's first class.
        stop: one past its last.
    """

    num_classes: int
    start: int
    stop: int

    def gather(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The batches of all ranks in their order, (N, D) and (N,), differentiable."""

    def combine(self, target: Target, found: ClassPass, here: Tensor) -> tuple[Target, ClassPass]:
        """The targets and logsumexps over all ranks' classes from those over this rank's.

        Args:
            target: of the samples whose class is here.
            found: over this rank's classes.
            here: (N,) bool, whether the class is here.
        """

    def sum(self, values: Tensor) -> Tensor:
        """Sums over the ranks of what each has computed from its classes, differentiable."""

    def collect(self, rows: Tensor) -> Tensor:
        """Rows of which each rank has some and 0 elsewhere, for every rank to compute with."""


@dataclass(frozen=True)
class MarginSoftmaxTerms:
    """What one pass of the margin softmax knows of each sample, all (N,).

    N counts the samples of all ranks where the classes are sharded.

    Attributes:
        loss: differentiable; 0 for ignored samples.
        share: what the sample adds to the denominator of a mean: its class weight, 0 if ignored.
        known: bool, whether the label is that of a class. Labels that neither are nor equal
            ``ignore_index`` make the loss NaN where ``check_values`` cannot look at them.
        target_cosine: detached cosine to the own class, without margin.
        correct: bool, whether the own class has the largest cosine (ties count as wrong).
        features: (N, D), as they came, 0 for ignored samples; differentiable.
        labels: of the own class among the classes that are here, -1 if it is not.
        own: (N, D), the prototype of each sample's class (its nearest sub-center), differentiable;
            0 where the class is not here.
    """

    loss: Tensor
    share: Tensor
    known: Tensor
    target_cosine: Tensor
    correct: Tensor
    features: Tensor
    labels: Tensor
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
    conflict_threshold: float | None = None,
    sampler: Sampler | None = None,
    shards: Shards | None = None,
    implementation: Implementation = "auto",
) -> MarginSoftmaxTerms:
    """``margin_softmax_loss`` before its reduction, with what else that pass found out.

    Args:
        sampler: draws the classes that take part; all of them do if None.
        shards: the ranks' classes, of which ``prototypes`` are this one's; all are here if None.
    """
    classes = prototypes.shape[0] if shards is None else shards.num_classes
    _check_options(prototypes, classes, weight, label_smoothing, conflict_threshold, sampler)
    check_implementation(implementation)
    check_positive("s", s)
    labels = check_batch(features, labels, prototypes.shape[-1])
    check_values(features, labels, classes, ignore_index)
    dtype = torch.promote_types(
        torch.promote_types(features.dtype, prototypes.dtype), torch.float32
    )
    reduced = dtype == torch.float32 and reduced_products(features.device)
    # An ignored row becomes a zero vector, so that not even a NaN in it reaches a gradient.
    known = (labels != ignore_index) & _is_class(labels, 0, classes)
    features = features.to(dtype).where(known.unsqueeze(1), 0.0)
    first = 0
    if shards is not None:
        features, labels = shards.gather(features, labels)
        first = shards.start
    counted = labels != ignore_index
    known = counted & _is_class(labels, 0, classes)
    here = known & _is_class(labels, first, first + prototypes.shape[0])
    places = (labels - first).where(here, -1)
    with torch.autocast(features.device.type, enabled=False):
        found = class_pass(
            features,
            prototypes,
            places,
            s,
            sample=None if sampler is None else sampler(places, prototypes.shape[0]),
            limit=torch.inf if conflict_threshold is None else conflict_threshold,
            mean=label_smoothing > 0,
            mean_weight=None if weight is None else weight.to(dtype)[first:][: len(prototypes)],
            reduced=reduced,
            implementation=implementation,
        )
        own = found.own
        target = target_angle(features, own)
        if shards is not None:
            target, found = shards.combine(target, found, here)
        logit = s * margin(target)
        # torch's default threshold of 20 would cut float64 down to 2e-9.
        losses = F.softplus(found.logsumexp - logit, threshold=50.0)
        share = torch.ones_like(losses)
        if weight is not None:
            share = weight.to(dtype)[labels.where(known, 0)]
        losses = losses * share
        if found.mean is not None:
            total = torch.logaddexp(found.logsumexp, logit)
            flat = s * (unit(features) @ found.mean)
            flat = flat if shards is None else shards.sum(flat)
            flat = flat + share * (logit - s * target.cos)
            mass = classes if weight is None else weight.to(dtype).sum()
            spread = (mass * total - flat) / classes
            losses = (1 - label_smoothing) * losses + label_smoothing * spread
    cosine = target.cos.detach()
    return MarginSoftmaxTerms(
        loss=losses.where(known, 0.0).masked_fill(counted & ~known, torch.nan),
        share=share.where(known, 0.0),
        known=known,
        target_cosine=cosine,
        correct=known & (cosine > found.hardest),
        features=features,
        labels=places,
        own=own,
    )


def _is_class(labels: Tensor, start: int, stop: int) -> Tensor:
    return (labels >= start) & (labels < stop)


def _check_options(
    prototypes: Tensor,
    classes: int,
    weight: Tensor | None,
    label_smoothing: float,
    conflict_threshold: float | None,
    sampler: Sampler | None,
) -> None:
    if prototypes.dim() not in (2, 3):
        raise ValueError(f"prototypes must be (C, D) or (C, K, D), got {tuple(prototypes.shape)}")
    if classes == 0:
        raise ValueError(f"prototypes must hold a class, got {tuple(prototypes.shape)}")
    if weight is not None and weight.shape != (classes,):
        raise ValueError(
            f"weight must be ({classes},), one for each class, got {tuple(weight.shape)}"
        )
    check_conflict_threshold(conflict_threshold)
    check_smoothing(
        label_smoothing, prototypes.dim() == 3, sampler is not None, conflict_threshold is not None
    )


def check_smoothing(
    label_smoothing: float, sub_centers: bool, sampled: bool, filtered: bool
) -> None:
    """Raise ``ValueError`` unless the smoothing is in range, and 0 where it has no meaning."""
    if not (is_number(label_smoothing) and 0.0 <= label_smoothing < 1.0):
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing!r}")
    if label_smoothing and sub_centers:
        raise ValueError(f"label_smoothing must be 0 with sub-centers, got {label_smoothing!r}")
    if label_smoothing and sampled:
        raise ValueError(
            f"label_smoothing must be 0 with a sample_rate below 1, got {label_smoothing!r}"
        )
    if label_smoothing and filtered:
        raise ValueError(
            f"label_smoothing must be 0 with a conflict_threshold, got {label_smoothing!r}"
        )


def check_conflict_threshold(threshold: float | None) -> None:
    """Raise ``ValueError`` unless it is None or a cosine above 0."""
    if threshold is not None and not (is_number(threshold) and 0.0 < threshold <= 1.0):
        raise ValueError(f"conflict_threshold must be None or in (0, 1], got {threshold!r}")


def check_shards(shards: Shards | None, num_classes: int) -> None:
    """Raise ``ValueError`` unless the shards are of as many classes."""
    if shards is not None and shards.num_classes != num_classes:
        raise ValueError(
            f"shards must be of num_classes = {num_classes} classes, got {shards.num_classes}"
        )
