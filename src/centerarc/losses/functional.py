"""The losses as pure functions; the modules of the same names keep their parameters."""

import math

import torch
from torch import Tensor

from centerarc.losses.centers import Space, pull_to
from centerarc.losses.checks import check_batch, check_positive, check_values
from centerarc.losses.class_pass import Implementation, check_implementation, class_pass
from centerarc.losses.margins import ArcFace, Margin
from centerarc.losses.precision import reduced_products
from centerarc.losses.reduction import Reduction, check_reduction, reduce
from centerarc.losses.target import Target
from centerarc.losses.terms import MarginSoftmaxTerms, Shards, margin_softmax_terms
from centerarc.losses.unit import unit


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
