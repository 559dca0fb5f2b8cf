"""Class centers that are running means of their own embeddings, with each other as negatives."""

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from centerarc.losses.center import ClassGroups, gather_samples
from centerarc.losses.checks import (
    ABSENT,
    Batch,
    DriftReminder,
    Reduction,
    check_centers,
    check_choice,
    check_counts,
    check_positive,
    classes_held,
    is_number,
    place_batch,
    reduce,
    refuse_idle,
)
from centerarc.losses.head.class_pass import Implementation, class_pass, settings_of
from centerarc.losses.head.products import own_rows, unit
from centerarc.losses.margins import target_angle

if TYPE_CHECKING:
    from centerarc.losses.head.shards import ClassShards


def mean_center_loss(
    features: Tensor,
    centers: Tensor,
    labels: Tensor,
    *,
    seen: Tensor | None = None,
    negatives: bool = True,
    temperature: float = 16.0,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    implementation: Implementation = "auto",
) -> Tensor:
    """Contrast of each feature with the center of its class against all other centers.

    `loss_i = -log( exp(t cos(x_i, c_{y_i})) / sum_j exp(t cos(x_i, c_j)) )`

    j goes over the centers seen so far. Computed as `softplus` of `negative_logsumexp` minus the
    own logit: exact where the loss is small, and never an N x C array for large problems.

    Args:
        features: (N, D) embeddings of any length, floating point.
        centers: (C, D) of any length. They get no gradient: they follow the features.
        labels: (N,) integers in [0, C), or `ignore_index`.
        seen: (C,) bool, centers that exist already; all by default. The others are no negatives,
            and a sample of such a class has loss 0 (it still counts in the mean).
        negatives: if false, the loss is the pull alone, `1 - cos(x_i, c_{y_i})`.
        temperature: t, positive: a scale of the cosines, like s of the margin softmax.
        ignore_index: the label of samples to ignore.
        reduction: `"mean"`, `"sum"` or `"none"`.
        implementation: as in `negative_logsumexp`.

    Returns:
        A scalar, or (N,) for `reduction="none"`; float32 or float64.

    Raises:
        ValueError: for invalid shapes, dtypes, labels or options, and for NaN or infinite features
            (values are checked on the CPU only).

    Source:
        Running class means as further anchors: stage 2 of You et al. 2025, "LVFace"; Deng et al.
        2021, "Variational Prototype Learning" (VPL). docs/losses.md says what is done differently.

    Example:
        >>> import torch
        >>> from centerarc.losses import mean_center_loss
        >>> x, labels = torch.eye(2), torch.tensor([0, 1])
        >>> mean_center_loss(x, torch.eye(2), labels, temperature=2.0)  # log(1 + exp(-2))
        tensor(0.1269)
    """
    check_choice("reduction", reduction, Reduction)
    check_positive("temperature", temperature)
    refuse_idle(negatives, "with negatives=False", temperature=(temperature, 16.0))
    settings_of(implementation)
    check_centers(centers, seen)
    batch = place_batch(features, labels, centers, ignore_index, None)
    losses = contrast_rows(
        batch, centers, seen, temperature, negatives=negatives, implementation=implementation
    )
    losses = losses.masked_fill(batch.wrong, torch.nan)
    return reduce(losses, batch.known.to(losses.dtype), reduction)


def contrast_rows(
    batch: Batch,
    centers: Tensor,
    seen: Tensor | None,
    temperature: float,
    *,
    negatives: bool,
    sample: Tensor | None = None,
    implementation: Implementation = "auto",
    shards: "ClassShards | None" = None,
) -> Tensor:
    """(N,) losses of `mean_center_loss` for a batch that was checked, 0 for unknown samples.

    `sample` has the (S,) ascending classes that take part, those of the batch among them.
    """
    features, places, centers = batch.features, batch.places, centers.detach()
    if seen is not None:
        if len(seen):
            places = places.where(seen[places.clamp(min=0)], ABSENT)
        sample = taking_part(seen, sample)
    here = places != ABSENT
    found = None
    if negatives:
        found = class_pass(
            features,
            centers,
            places,
            temperature,
            sample=sample,
            implementation=implementation,
        )
    with torch.autocast(features.device.type, enabled=False):
        own = found.own if found is not None else own_rows(features, centers, places)[0]
        target = target_angle(features, own)
        if found is None:
            pull = target.one_minus_cos.where(here, 0.0)
            return pull if shards is None else shards.sum(pull)
        if shards is not None:
            target, found = shards.combine(target, found, here)
            # What no rank holds comes out as no angle at all.
            here = (target.cos.detach() != 0) | (target.sin.detach() != 0)
        # torch's default threshold of 20 would cut float64 down to 2e-9.
        losses = F.softplus(found.logsumexp - temperature * target.cos, threshold=50.0)
        return losses.where(here, 0.0)


def check_momentum(name: str, value: float) -> None:
    """Raises unless a running mean can have this momentum."""
    if not (is_number(value) and 0.0 <= value < 1.0):
        raise ValueError(f"{name} must be in [0, 1), got {value!r}")


def taking_part(seen: Tensor, sample: Tensor | None) -> Tensor | None:
    """The classes of the pass: those of the sample, or all, that were seen; None for all."""
    if sample is not None:
        return sample[seen[sample]]
    return None if bool(seen.all()) else seen.nonzero().squeeze(1)


class MeanCenterLoss(nn.Module):
    """`mean_center_loss` to centers that are the running means of the unit embeddings.

    After computing the loss, each forward pass in training mode moves the centers of the batch's
    classes: `c_j <- c_j + r (mean of the batch's x / |x| of class j - c_j)`, where r is the share
    of these samples among all that class j has had so far, at least 1 - momentum. A center starts
    as the plain mean of the first embeddings, and then forgets the old ones exponentially. It is a
    buffer: no gradient, no optimizer. Only the rows of the batch's classes change. Under
    torch.distributed, the samples of all ranks are gathered first, so that every rank holds the
    same centers. An embedding of length 0 has no direction and does not count.

    Args:
        num_classes: C, at least 1.
        feat_dim: D, the embedding size, at least 1.
        negatives: whether the other centers seen so far are negatives; if not, the loss is the pull
            to the own center, 1 - cos.
        temperature: t, the scale of the cosines, positive.
        momentum: in [0, 1); the larger, the further back the mean goes. 0.9 remembers about ten
            batches that had the class, 0 only the last one.
        update_on_forward: whether a forward pass in training mode moves the centers; if not, call
            `update_centers` yourself, for example once per step with gradient accumulation.
        ignore_index: the label of samples to ignore.
        reduction: `"mean"`, `"sum"` or `"none"`.
        implementation: as in `negative_logsumexp`.
        shards: the ranks that hold the classes, as in `MarginSoftmaxLoss`.

    Attributes:
        centers: (C, D) buffer, means of unit vectors, so of length 1 at most; zeros for classes not
            seen yet. C is the number of classes held here.
        counts: (C,) int64 buffer, how many samples of each class the mean has had.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        As `mean_center_loss`.

    Example:
        >>> import torch
        >>> from centerarc import MeanCenterLoss
        >>> criterion = MeanCenterLoss(num_classes=10, feat_dim=16)
        >>> loss = criterion(torch.randn(8, 16), torch.arange(8))
        >>> int(criterion.seen.sum())
        8
    """

    centers: Tensor
    counts: Tensor

    def __init__(
        self,
        num_classes: int,
        feat_dim: int,
        *,
        negatives: bool = True,
        temperature: float = 16.0,
        momentum: float = 0.9,
        update_on_forward: bool = True,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        implementation: Implementation = "auto",
        shards: "ClassShards | None" = None,
    ) -> None:
        super().__init__()
        check_counts(num_classes=num_classes, feat_dim=feat_dim)
        check_choice("reduction", reduction, Reduction)
        check_positive("temperature", temperature)
        check_momentum("momentum", momentum)
        refuse_idle(negatives, "with negatives=False", temperature=(temperature, 16.0))
        settings_of(implementation)
        here = classes_held(shards, num_classes)
        self.num_classes = num_classes
        self.feat_dim = feat_dim
        self.negatives = negatives
        self.temperature = float(temperature)
        self.momentum = float(momentum)
        self.update_on_forward = update_on_forward
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction
        self.implementation: Implementation = implementation
        self.shards = shards
        self.register_buffer("centers", torch.zeros(here, feat_dim))
        self.register_buffer("counts", torch.zeros(here, dtype=torch.int64))
        self._drift = DriftReminder(type(self).__name__)

    @property
    def seen(self) -> Tensor:
        """(C,) bool, the classes that have a center."""
        return self.counts > 0

    def reset_parameters(self) -> None:
        """Forgets all centers."""
        self.centers.zero_()
        self.counts.zero_()

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of (N, D) features and (N,) labels: a scalar, or (N,) for `"none"`."""
        self.watch()
        batch = place_batch(features, labels, self.centers, self.ignore_index, self.shards)
        losses = self.rows(batch).masked_fill(batch.wrong, torch.nan)
        if self.training and self.update_on_forward:
            self.follow(batch)
        return reduce(losses, batch.known.to(losses.dtype), self.reduction)

    def rows(self, batch: Batch, sample: Tensor | None = None) -> Tensor:
        """(N,) losses of a batch that was checked; `sample` as the head draws it."""
        return contrast_rows(
            batch,
            self.centers,
            self.seen,
            self.temperature,
            negatives=self.negatives,
            sample=sample,
            implementation=self.implementation,
            shards=self.shards,
        )

    def watch(self) -> None:
        """Warns, in training, of centers that differ between ranks."""
        if self.training and self.shards is None:
            self._drift.check(self.centers)

    def update_centers(self, features: Tensor, labels: Tensor) -> None:
        """Takes the samples into the means of their classes.

        Under torch.distributed this is a collective call: every rank brings its own (N, D) features
        and (N,) labels, any number of them.
        """
        self.follow(place_batch(features, labels, self.centers, self.ignore_index, self.shards))

    @torch.no_grad()
    def follow(self, batch: Batch) -> None:
        """`update_centers` with a batch that has been validated."""
        features, places = batch.features.detach(), batch.places
        distributed = dist.is_available() and dist.is_initialized()
        if self.shards is None and distributed and dist.get_world_size() > 1:
            features, places = gather_samples(features, places)
        if places.numel() == 0 or len(self.centers) == 0:
            return
        points = unit(features.to(torch.promote_types(self.centers.dtype, torch.float32)))
        # A vector without a direction would only shorten the mean.
        groups = ClassGroups(places.where((points != 0).any(dim=1), ABSENT))
        kept = groups.kept.to(points.dtype).unsqueeze(1)
        total, number = groups.sum(groups.sorted(points)), groups.sum(kept)
        before = self.counts[groups.rows]
        rate = (number / (before.unsqueeze(1) + number)).clamp(min=1 - self.momentum)
        old = self.centers[groups.rows].to(points.dtype)
        new = old + rate * (total / number.clamp(min=1) - old)
        self.centers[groups.rows] = new.where(number > 0, old).to(self.centers.dtype)
        self.counts[groups.rows] = before + number.squeeze(1).long()

    def extra_repr(self) -> str:
        """What `print(criterion)` shows."""
        kind = f"temperature={self.temperature:g}" if self.negatives else "negatives=False"
        return f"{self.num_classes}, {self.feat_dim}, {kind}, momentum={self.momentum:g}"
