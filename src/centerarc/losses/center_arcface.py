"""The joint Center + ArcFace loss."""

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from centerarc.losses.center import (
    CenterLoss,
    CenterUpdate,
    Space,
    center_separation,
    pull_rows,
)
from centerarc.losses.checks import (
    Reduction,
    check_choice,
    check_positive,
    place_batch,
    reduce,
    refuse_idle,
)
from centerarc.losses.head.class_pass import Implementation
from centerarc.losses.head.products import own_rows
from centerarc.losses.head.prototype_sgd import has_fused_step
from centerarc.losses.margin_softmax import BatchMetrics, MarginSoftmaxLoss, Terms, checked_terms
from centerarc.losses.margins import ArcFace, Margin
from centerarc.losses.mean_centers import MeanCenterLoss, check_momentum

if TYPE_CHECKING:
    from centerarc.losses.head.shards import ClassShards

Centers = Literal["shared", "separate", "mean"]


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

    Train on `arcface_loss + lambda * center_loss`.

    Args:
        features: (N, D), floating point.
        prototypes: (C, D), or (C, K, D) with K sub-centers a class.
        labels: (N,) integers in [0, C), or `ignore_index`.
        s: scale of the cosines.
        m: ArcFace's margin in radians; 0 is the plain normalized softmax.
        margin: another margin instead of ArcFace; `m` is then left out.
        centers: (C, D), separate centers for the center term; by default, the prototypes.
        center_space: `"unit"` or `"raw"`, as in `center_loss`.
        weight, ignore_index, reduction, label_smoothing, conflict_threshold, implementation: as in
            `margin_softmax_loss`; `ignore_index` and `reduction` apply to both terms.

    Returns:
        `(arcface_loss, center_loss)`, scalars, or (N,) each for `reduction="none"`.

    Raises:
        ValueError: as `margin_softmax_loss` and `center_loss`.

    Example:
        >>> import torch
        >>> from centerarc.losses import center_arcface_loss
        >>> x, labels = torch.eye(2), torch.tensor([0, 1])
        >>> arcface, center = center_arcface_loss(x, torch.eye(2), labels, s=8.0)
        >>> center
        tensor(0.)
    """
    check_choice("center_space", center_space, Space)
    refuse_idle(margin is None, "with a margin of its own", m=(m, 0.5))
    terms = checked_terms(
        features,
        prototypes,
        labels,
        ArcFace(m) if margin is None else margin,
        s,
        reduction,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        conflict_threshold=conflict_threshold,
        implementation=implementation,
    )
    return joint_losses(terms, centers, center_space, reduction)


def joint_losses(
    terms: Terms,
    centers: Tensor | None,
    space: Space,
    reduction: Reduction,
    shards: "ClassShards | None" = None,
) -> tuple[Tensor, Tensor]:
    """The ArcFace term, and the pull to the prototypes, or to `centers`, of one pass."""
    batch = terms.batch
    if centers is None and space == "unit":
        pull = terms.target.one_minus_cos.where(batch.known, 0.0)
    else:
        own = terms.own
        if centers is not None:
            own, _ = own_rows(batch.features, centers, batch.places)
        pull = pull_rows(batch, own, space, shards)
    return (
        reduce(terms.loss, terms.share, reduction),
        reduce(pull, batch.known.to(pull.dtype), reduction),
    )


class CenterArcFaceLoss(nn.Module):
    """ArcFace, which separates the classes, plus center loss, which makes each one compact.

    `arcface_loss, center_loss = criterion(features, labels)`; train on their weighted sum, for
    example `arcface_loss + 1.0 * center_loss`. Give `criterion.parameters()` to the optimizer.

    The centers are ArcFace's prototypes (`"shared"`), separate vectors (`"separate"`), or the
    running means of the classes' own embeddings (`"mean"`). In unit space, the default, the center
    term is 1 - cos to the sample's center, at most 2, and needs a weight of about s / 30 to s / 5;
    the often quoted 0.01 does nothing visible there. In raw space, it is half the squared distance,
    grows with the length of the embeddings, and needs the paper's 0.003 to 0.01. With means, it
    also pushes away from the other centers, a softmax over the centers as `mean_center_loss` has
    it, with a weight of about 1. docs/losses.md explains how to choose, and what to expect.

    Args:
        num_classes: C, at least 1.
        feat_dim: D, the embedding size, at least 1.
        s: scale of the cosines, positive.
        m: ArcFace's margin in radians, in [0, pi/2]; 0 is the plain normalized softmax.
        margin: another margin instead of ArcFace; `m` is then left out.
        centers: `"shared"`, `"separate"` or `"mean"`.
        center_space: `"unit"` or `"raw"`; means are of unit vectors.
        center_update: how separate centers move: `"paper"` (a buffer) or `"gradient"` (a
            parameter), see `CenterLoss`.
        alpha: step of the paper's update of separate centers, in (0, 1].
        center_negatives, center_temperature, center_momentum: of mean centers, as `negatives`,
            `temperature` and `momentum` of `MeanCenterLoss`. An option of other centers than
            these is an error.
        update_on_forward: whether a forward pass in training mode applies the paper's update, or
            moves the means.
        sub_centers: K prototypes per class; the center term then pulls towards the nearest of them,
            or towards the separate center.
        weight, ignore_index, reduction, label_smoothing: as in `MarginSoftmaxLoss`; `ignore_index`
            and `reduction` apply to both terms.
        sample_rate, sample_generator, conflict_threshold, implementation, shards: as in
            `MarginSoftmaxLoss`; a separate center is on the rank of its class.
        generator: draws the initial prototypes and centers; torch's own by default.

    Attributes:
        arcface: the `MarginSoftmaxLoss` with the prototypes.
        center: the `CenterLoss` with the separate centers, the `MeanCenterLoss` with the means, or
            None.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Deng et al. 2019, "ArcFace"; Wen et al. 2016, center loss; `mean_center_loss` has those of
        the means.

    Example:
        >>> import torch
        >>> from centerarc import CenterArcFaceLoss
        >>> criterion = CenterArcFaceLoss(num_classes=10, feat_dim=16)
        >>> features = torch.randn(8, 16, requires_grad=True)
        >>> arcface_loss, center_loss = criterion(features, torch.arange(8))
        >>> (arcface_loss + 1.0 * center_loss).backward()  # 0.01 is for center_space="raw"
    """

    def __init__(
        self,
        num_classes: int,
        feat_dim: int,
        s: float = 30.0,
        m: float = 0.5,
        *,
        margin: Margin | None = None,
        centers: Centers = "shared",
        center_space: Space = "unit",
        center_update: CenterUpdate = "paper",
        alpha: float = 0.5,
        center_negatives: bool = True,
        center_temperature: float = 16.0,
        center_momentum: float = 0.9,
        update_on_forward: bool = True,
        sub_centers: int = 1,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        sample_rate: float = 1.0,
        sample_generator: torch.Generator | None = None,
        conflict_threshold: float | None = None,
        implementation: Implementation = "auto",
        shards: "ClassShards | None" = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_choice("centers", centers, Centers)
        check_choice("center_space", center_space, Space)
        check_choice("center_update", center_update, CenterUpdate)
        if centers == "mean" and center_space != "unit":
            raise ValueError(
                "center_space must be 'unit' with centers='mean', whose means are of unit vectors, "
                f"got {center_space!r}"
            )
        refuse_idle(margin is None, "with a margin of its own", m=(m, 0.5))
        refuse_idle(
            centers == "separate",
            "without centers='separate'",
            center_update=(center_update, "paper"),
            alpha=(alpha, 0.5),
        )
        refuse_idle(
            centers == "mean",
            "without centers='mean'",
            center_negatives=(center_negatives, True),
            center_momentum=(center_momentum, 0.9),
        )
        refuse_idle(
            centers == "mean" and center_negatives,
            "without centers='mean' and center_negatives=True",
            center_temperature=(center_temperature, 16.0),
        )
        self.center_space: Space = center_space
        self.arcface = MarginSoftmaxLoss(
            num_classes,
            feat_dim,
            ArcFace(m) if margin is None else margin,
            s,
            sub_centers=sub_centers,
            weight=weight,
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
            sample_rate=sample_rate,
            sample_generator=sample_generator,
            conflict_threshold=conflict_threshold,
            implementation=implementation,
            shards=shards,
            generator=generator,
        )
        self.arcface.name_in_warnings(type(self).__name__)
        self.center: CenterLoss | MeanCenterLoss | None = None
        if centers == "mean":
            check_positive("center_temperature", center_temperature)
            check_momentum("center_momentum", center_momentum)
            self.center = MeanCenterLoss(
                num_classes,
                feat_dim,
                negatives=center_negatives,
                temperature=center_temperature,
                momentum=center_momentum,
                update_on_forward=update_on_forward,
                ignore_index=ignore_index,
                reduction=reduction,
                implementation=implementation,
                shards=shards,
            )
        if centers == "separate":
            self.center = CenterLoss(
                num_classes,
                feat_dim,
                space=center_space,
                update=center_update,
                alpha=alpha,
                update_on_forward=update_on_forward,
                ignore_index=ignore_index,
                reduction=reduction,
                shards=shards,
                generator=generator,
            )

    @property
    def centers(self) -> Tensor:
        """(C, D), or (C, K, D): centers of their own, or the prototypes if they are shared."""
        return self.arcface.prototypes if self.center is None else self.center.centers

    @property
    def metrics(self) -> BatchMetrics | None:
        """Target cosines and accuracy of the last forward pass, None before it."""
        return self.arcface.metrics

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """`(arcface_loss, center_loss)` of (N, D) features and (N,) labels.

        Scalars, or (N,) each for `reduction="none"`.
        """
        if self.center is not None:
            self.center.watch()
        terms = self.arcface.terms(features, labels)
        shards, reduction = self.arcface.shards, self.arcface.reduction
        if isinstance(self.center, MeanCenterLoss):
            pull = self.center.rows(terms.batch, terms.sample)
            losses = (
                reduce(terms.loss, terms.share, reduction),
                reduce(pull, terms.batch.known.to(pull.dtype), reduction),
            )
        else:
            centers = None if self.center is None else self.center.centers
            losses = joint_losses(terms, centers, self.center_space, reduction, shards)
        if self.center is not None and self.training and self.center.update_on_forward:
            self.center.follow(terms.batch)
        return losses

    def center_pull(self, features: Tensor, labels: Tensor) -> Tensor:
        """(N,) center terms alone, differentiable in the features only; of all ranks with shards.

        O(N D); a pass over the classes for means with negatives. Its gradient beside that of the
        whole loss tells the share of the term, before the backward pass of the loss if a fused step
        moves the prototypes there.
        """
        shards = self.arcface.shards
        batch = place_batch(
            features, labels, self.centers.detach(), self.arcface.ignore_index, shards
        )
        if isinstance(self.center, MeanCenterLoss):
            return self.center.rows(batch)
        own, _ = own_rows(batch.features, self.centers.detach(), batch.places)
        return pull_rows(batch, own, self.center_space, shards)

    def update_centers(self, features: Tensor, labels: Tensor) -> None:
        """Moves centers of their own, as `update_centers` of `CenterLoss` or `MeanCenterLoss`."""
        if self.center is not None:
            self.center.update_centers(features, labels)

    def separation(self, labels: Tensor | None = None) -> Tensor:
        """How close the centers come to each other, a scalar in [-2, 0]; see `center_separation`.

        Add it to the loss with a weight to push the classes apart. Separate centers that follow the
        paper's update, and means, take no gradient: then the prototypes are pushed.

        Args:
            labels: (A,), the classes looked at, such as the batch's labels; all by default.
        """
        centers = self.centers if self.centers.requires_grad else self.arcface.prototypes
        if torch.is_grad_enabled() and has_fused_step(centers):
            raise RuntimeError(
                "separation needs a gradient of the prototypes, which PrototypeSGD(fused=True) "
                "does not make; use fused=False"
            )
        shards = self.arcface.shards
        if labels is None:
            first = 0 if shards is None else shards.start
            labels = torch.arange(first, first + centers.shape[0], device=centers.device)
        return center_separation(
            centers, labels, implementation=self.arcface.implementation, shards=shards
        )

    def logits(self, features: Tensor) -> Tensor:
        """(N, C) scaled cosines without margin, see `MarginSoftmaxLoss.logits`."""
        return self.arcface.logits(features)
