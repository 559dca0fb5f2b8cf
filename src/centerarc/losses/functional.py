"""The losses as pure functions."""

import math
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from centerarc.losses.checks import (
    Reduction,
    check_batch,
    check_positive,
    check_reduction,
    check_values,
    is_number,
    reduce,
)
from centerarc.losses.head.class_pass import (
    ClassPass,
    Implementation,
    check_implementation,
    class_pass,
)
from centerarc.losses.head.products import reduced_products, unit
from centerarc.losses.head.sampling import Sampler
from centerarc.losses.margins import ArcFace, Margin, Target, target_angle

# Class centers: the pull towards them, and the paper's way of moving them.

Space = Literal["unit", "raw"]


def pull_to(features: Tensor, own: Tensor, space: Space) -> Tensor:
    """(N,) half squared distances between (N, D) rows, in raw or unit space."""
    check_space(space)
    if space == "unit":
        features, own = unit(features), unit(own)
    # The difference first: expanding the square cancels away the digits of close points.
    return (features - own).square().sum(dim=1) / 2


def check_alpha(alpha: float) -> None:
    """Raise ``ValueError`` unless the step is in (0, 1]."""
    if not 0.0 < alpha <= 1.0:
        raise ValueError(f"alpha must be in (0, 1], got {alpha!r}")


def check_space(space: str) -> None:
    """Raise ``ValueError`` unless ``space`` is unit or raw."""
    if space not in get_args(Space):
        raise ValueError(f"space must be 'unit' or 'raw', got {space!r}")


def update_centers(
    centers: Tensor,
    features: Tensor,
    labels: Tensor,
    *,
    alpha: float = 0.5,
    space: Space = "raw",
    ignore_index: int = -100,
) -> None:
    """Move the centers of a batch's classes towards its features, in place.

    ``c_j <- c_j - alpha sum_{y_i = j} (c_j - x_i) / (1 + n_j)``, n_j the samples of class j

    Only the rows of classes in the batch are read or written: O(N D) time and memory at any C. It
    never waits for an accelerator.

    Args:
        centers: (C, D), changed in place, outside autograd.
        features: (N, D), floating point.
        labels: (N,) integers in [0, C), or ``ignore_index``.
        alpha: step in (0, 1]; the paper's 0.5.
        space: ``"unit"`` moves the centers towards ``x / |x|``.
        ignore_index: the label of samples that do not count.

    Raises:
        ValueError: for shapes, dtypes, labels or options that do not fit, and for NaN or infinite
            features (values are looked at on the CPU only); the centers are then as they were.

    Source:
        Wen et al. 2016, equation 4.
    """
    check_space(space)
    check_alpha(alpha)
    if centers.dim() != 2:
        raise ValueError(f"centers must be (C, D), got {tuple(centers.shape)}")
    labels = check_batch(features, labels, centers.shape[1])
    check_values(features, labels, centers.shape[0], ignore_index)
    if labels.numel() == 0 or centers.shape[0] == 0:
        return
    with torch.no_grad():
        known = (labels != ignore_index) & (labels >= 0) & (labels < centers.shape[0])
        points = features.to(torch.promote_types(centers.dtype, torch.float32))
        points = unit(points) if space == "unit" else points
        # A sample that does not count joins a class of the batch with nothing to add, so that its
        # write repeats another's. Where none counts, class 0 is written back as it was.
        first = known.long().argmax(dim=0, keepdim=True)
        stand_in = labels.gather(0, first).where(known.any(), 0)
        rows, order = labels.where(known, stand_in).sort(stable=True)
        kept = known[order].to(points.dtype).unsqueeze(1)
        group = (rows[1:] != rows[:-1]).long().cumsum(0)
        group = torch.cat([group.new_zeros(1), group])
        old = centers[rows].to(points.dtype)
        away = (old - points[order].where(known[order].unsqueeze(1), 0.0)) * kept
        count = torch.zeros_like(kept).index_add_(0, group, kept)[group]
        delta = torch.zeros_like(away).index_add_(0, group, away)[group] / (1 + count)
        centers[rows] = (old - alpha * delta).to(centers.dtype)


# One pass of the margin softmax, before anything is summed.


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


# The losses as pure functions; the modules of the same names keep their parameters.


def margin_softmax_loss(
    features: Tensor,
    prototypes: Tensor,
    labels: Tensor,
    margin: Margin,
    s: float,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    conflict_threshold: float | None = None,
    implementation: Implementation = "auto",
) -> Tensor:
    """Softmax cross entropy over scaled cosines, the target's lessened by a margin.

    ``loss_i = softplus(lse_{j != y}(s cos_j) - s psi(theta_y))``

    which is the cross entropy of the logits ``s cos_j`` with ``s psi`` in the label's place, and
    cannot overflow. Computed in float32 at least; no N x C array is made for large problems.

    Args:
        features: (N, D) embeddings of any length, floating point.
        prototypes: (C, D), or (C, K, D) with K sub-centers a class of which the nearest counts.
        labels: (N,) integers in [0, C), or ``ignore_index``.
        margin: psi, for example ``ArcFace(m=0.5)``.
        s: scale of the cosines, positive; 30 to 64 are usual.
        weight: (C,) class weights, as ``cross_entropy`` has them.
        ignore_index: the label of samples that do not count, not in the mean's denominator either.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        label_smoothing: in [0, 1), as ``cross_entropy`` defines it, over the logits with margin.
            Not defined here for sub-centers.
        conflict_threshold: cosine above which another class's prototype does not count as wrong:
            where labels are noisy it is often the same person under two names. None counts all.
        implementation: of ``negative_logsumexp``.

    Returns:
        A scalar, or (N,) for ``reduction="none"``; float32 or float64.

    Raises:
        ValueError: for shapes, dtypes, labels or options that do not fit, and for NaN or infinite
            features. On an accelerator values are not looked at: a label out of range gives NaN.

    Source:
        The general form of Deng et al. 2019, "ArcFace", equation 4; sub-centers as in Deng et al.
        2020, "Sub-center ArcFace", equation 4.

    Example:
        >>> import torch
        >>> from centerarc.losses import ArcFace
        >>> from centerarc.losses.functional import margin_softmax_loss
        >>> x, labels = torch.eye(2), torch.tensor([0, 1])
        >>> margin_softmax_loss(x, torch.eye(2), labels, ArcFace(m=0.5), s=8.0)
        tensor(0.0009)
    """
    check_reduction(reduction)
    terms = margin_softmax_terms(
        features,
        prototypes,
        labels,
        margin,
        s,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        conflict_threshold=conflict_threshold,
        implementation=implementation,
    )
    return reduce(terms.loss, terms.share, reduction)


def center_loss(
    features: Tensor,
    centers: Tensor,
    labels: Tensor,
    *,
    space: Space = "raw",
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    """Half the squared distance of each feature to the center of its class.

    ``loss_i = |x_i - c_{y_i}|^2 / 2`` and, in unit space, the same of ``x / |x|`` and ``c / |c|``,
    which is ``1 - cos``. Time and memory O(N D): one center a sample is gathered.

    Args:
        features: (N, D), floating point.
        centers: (C, D). Differentiable, if it requires a gradient.
        labels: (N,) integers in [0, C), or ``ignore_index``.
        space: ``"raw"`` (the paper's) or ``"unit"``.
        ignore_index: the label of samples that do not count.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or (N,) for ``reduction="none"``; float32 or float64.

    Raises:
        ValueError: for shapes, dtypes, labels or options that do not fit, and for NaN or infinite
            features (values are looked at on the CPU only).

    Source:
        Wen, Zhang, Li, Qiao 2016, "A Discriminative Feature Learning Approach for Deep Face
        Recognition", equation 2 (a sum there, a mean here).

    Example:
        >>> import torch
        >>> from centerarc.losses.functional import center_loss
        >>> center_loss(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2), torch.tensor([0]))
        tensor(12.5000)
    """
    check_reduction(reduction)
    if centers.dim() != 2:
        raise ValueError(f"centers must be (C, D), got {tuple(centers.shape)}")
    labels = check_batch(features, labels, centers.shape[1])
    check_values(features, labels, centers.shape[0], ignore_index)
    counted = labels != ignore_index
    known = counted & (labels >= 0) & (labels < centers.shape[0])
    dtype = torch.promote_types(torch.promote_types(features.dtype, centers.dtype), torch.float32)
    features = features.to(dtype).where(known.unsqueeze(1), 0.0)
    if len(centers):
        own = centers[labels.where(known, 0)].to(dtype)
    else:
        own = _nothing(centers, features)
    losses = pull_to(features, own, space).where(known, 0.0)
    return reduce(losses.masked_fill(counted & ~known, torch.nan), known.to(dtype), reduction)


def center_separation(
    centers: Tensor,
    anchors: Tensor,
    *,
    temperature: float = 10.0,
    implementation: Implementation = "auto",
    shards: Shards | None = None,
) -> Tensor:
    """How close the other classes' centers come to those of some anchor classes.

    ``mean_{a} log( mean_{j != a} exp(t (cos(c_a, c_j) - 1)) ) / t``

    The logarithm of the Gaussian energy of the centers on the unit sphere, since
    ``exp(-t |c_a - c_j|^2 / 2) = exp(t (cos - 1))``; a smooth maximum of the cosine, less 1. It is
    about -1 for spread centers and 0 when all coincide. It is the library's one primitive applied
    to the centers themselves: O(A C D) time for A anchors, O(A) blocks of memory, never C x C.

    Args:
        centers: (C, D), or (C, K, D) with sub-centers, whose mean direction stands for the class.
        anchors: (A,) class indices, for example the labels of a batch; those outside [0, C), as
            ignored labels are, do not count.
        temperature: t, positive. Large values look at the nearest center only (RegularFace), small
            ones at the mean of all (the island loss).
        implementation: of ``negative_logsumexp``.

    Returns:
        A scalar in [-2, 0]; 0 where there is no pair.

    Raises:
        ValueError: if shapes do not fit or the temperature is not positive.

    Source:
        The uniformity of Wang, Isola 2020, "Understanding Contrastive Representation Learning
        through Alignment and Uniformity on the Hypersphere", equation 2, over class centers, as
        the Riesz energy is in Liu et al. 2018, "Learning towards Minimum Hyperspherical Energy".
        docs/losses.md says why this one.

    Example:
        >>> import torch
        >>> from centerarc.losses.functional import center_separation
        >>> center_separation(torch.eye(4), torch.arange(4))  # orthogonal
        tensor(-1.)
    """
    check_positive("temperature", temperature)
    check_implementation(implementation)
    centers = centers.to(torch.promote_types(centers.dtype, torch.float32))
    if centers.dim() == 3:
        centers = unit(centers).mean(dim=1)
    integers = not (anchors.is_floating_point() or anchors.dtype == torch.bool)
    if centers.dim() != 2 or anchors.dim() != 1 or not integers:
        raise ValueError(
            "centers must be (C, D) or (C, K, D) and anchors (A,) integers, "
            f"got {tuple(centers.shape)} and {tuple(anchors.shape)} {anchors.dtype}"
        )
    anchors = anchors.long()
    classes, first = centers.shape[0], 0
    if shards is not None:
        classes, first = shards.num_classes, shards.start
        _, anchors = shards.gather(centers.detach()[:0].new_zeros(len(anchors), 0), anchors)
    if classes < 2:
        return centers.sum() * 0
    known = (anchors >= 0) & (anchors < classes)
    here = known & (anchors >= first) & (anchors < first + centers.shape[0])
    places = (anchors - first).where(here, -1)
    reduced = centers.dtype == torch.float32 and reduced_products(centers.device)
    with torch.autocast(centers.device.type, enabled=False):
        if len(centers):
            rows = centers[places.clamp(min=0)].where(here.unsqueeze(1), 0.0)
        else:
            rows = _nothing(centers, centers.new_empty(len(anchors), centers.shape[1]))
        if shards is not None:
            rows = shards.collect(rows)
        found = class_pass(
            rows, centers, places, temperature, reduced=reduced, implementation=implementation
        )
        if shards is not None:
            nothing = torch.zeros_like(found.logsumexp)
            _, found = shards.combine(Target(nothing, nothing, nothing), found, here)
    terms = (found.logsumexp - math.log(classes - 1)) / temperature - 1
    return reduce(terms.where(known, 0.0), known.to(terms.dtype), "mean")


def center_arcface_loss(
    features: Tensor,
    prototypes: Tensor,
    labels: Tensor,
    *,
    s: float = 30.0,
    m: float = 0.5,
    margin: Margin | None = None,
    centers: Tensor | None = None,
    center_space: Space = "unit",
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    conflict_threshold: float | None = None,
    implementation: Implementation = "auto",
) -> tuple[Tensor, Tensor]:
    """Both components of the joint loss from one pass over the classes.

    Train on ``arcface_loss + lambda * center_loss``.

    Args:
        features: (N, D), floating point.
        prototypes: (C, D), or (C, K, D) with K sub-centers a class.
        labels: (N,) integers in [0, C), or ``ignore_index``.
        s: scale of the cosines.
        m: ArcFace's margin in radians; 0 is the plain normalised softmax.
        margin: another margin in ArcFace's place; ``m`` is then not used.
        centers: (C, D) of their own for the center term; by default the prototypes serve.
        center_space: ``"unit"`` or ``"raw"``, as in ``center_loss``.
        weight: (C,) class weights of the ArcFace term.
        ignore_index: the label of samples that do not count.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, of both terms.
        label_smoothing: of the ArcFace term.
        conflict_threshold: cosine above which another class's prototype does not count as wrong:
            where labels are noisy it is often the same person under two names. None counts all.
        implementation: of ``negative_logsumexp``.

    Returns:
        ``(arcface_loss, center_loss)``, scalars, or (N,) each for ``reduction="none"``.

    Raises:
        ValueError: as ``margin_softmax_loss`` and ``center_loss``.

    Example:
        >>> import torch
        >>> from centerarc.losses.functional import center_arcface_loss
        >>> x, labels = torch.eye(2), torch.tensor([0, 1])
        >>> arcface, center = center_arcface_loss(x, torch.eye(2), labels, s=8.0)
        >>> center
        tensor(0.)
    """
    check_reduction(reduction)
    terms = margin_softmax_terms(
        features,
        prototypes,
        labels,
        ArcFace(m) if margin is None else margin,
        s,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        conflict_threshold=conflict_threshold,
        implementation=implementation,
    )
    pull = center_terms(terms, centers, center_space)
    return (
        reduce(terms.loss, terms.share, reduction),
        reduce(pull, terms.known.to(pull.dtype), reduction),
    )


def center_terms(terms: MarginSoftmaxTerms, centers: Tensor | None, space: Space) -> Tensor:
    """(N,) center losses of the samples of ``terms``; to the prototypes unless ``centers``.

    0 where the class is not among those that are here.
    """
    here = terms.labels >= 0
    own = terms.own
    if centers is not None:
        if len(centers):
            own = centers[terms.labels.clamp(min=0)].to(own.dtype).where(here.unsqueeze(1), 0.0)
        else:
            own = _nothing(centers, own)
    return pull_to(terms.features, own, space).where(here, 0.0)


def _nothing(centers: Tensor, like: Tensor) -> Tensor:
    """Zeros that depend on (0, D) centers: a rank without classes joins in the backward pass."""
    return centers.sum(dim=0).to(like.dtype).expand_as(like)
