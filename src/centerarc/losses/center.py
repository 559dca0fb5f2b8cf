"""Class centers: the pull towards them, the paper's way of moving them, how close they come."""

import math
from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from centerarc.losses.checks import (
    ABSENT,
    Batch,
    DriftReminder,
    OptimizerReminder,
    Reduction,
    check_centers,
    check_choice,
    check_counts,
    check_positive,
    check_tensors,
    classes_held,
    place_batch,
    reduce,
    refuse_idle,
    wide_dtype,
)
from centerarc.losses.head.class_pass import Implementation, class_pass, draw_rows, settings_of
from centerarc.losses.head.products import own_rows, unit, whole
from centerarc.losses.margins import Target

if TYPE_CHECKING:
    from centerarc.losses.head.shards import ClassShards

Space = Literal["unit", "raw"]
CenterUpdate = Literal["paper", "gradient"]


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

    `loss_i = |x_i - c_{y_i}|^2 / 2`; in unit space, the same for `x / |x|` and `c / |c|`, which
    equals `1 - cos`. Gathers one center per sample: O(N D) time and memory.

    Args:
        features: (N, D), floating point.
        centers: (C, D), differentiable if it requires a gradient.
        labels: (N,) integers in [0, C), or `ignore_index`.
        space: `"raw"` (the paper's) or `"unit"`.
        ignore_index: the label of samples to ignore.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or (N,) for `reduction="none"`; float32 or float64.

    Raises:
        ValueError: for invalid shapes, dtypes, labels or options, and for NaN or infinite features
            (values are checked on the CPU only).

    Source:
        Wen, Zhang, Li, Qiao 2016, "A Discriminative Feature Learning Approach for Deep Face
        Recognition", equation 2 (a sum there, a mean here).

    Example:
        >>> import torch
        >>> from centerarc.losses import center_loss
        >>> center_loss(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2), torch.tensor([0]))
        tensor(12.5000)
    """
    check_choice("reduction", reduction, Reduction)
    check_choice("space", space, Space)
    check_centers(centers)
    batch = place_batch(features, labels, centers, ignore_index, None)
    own, _ = own_rows(batch.features, centers, batch.places)
    losses = pull_rows(batch, own, space).masked_fill(batch.wrong, torch.nan)
    return reduce(losses, batch.known.to(losses.dtype), reduction)


def pull_rows(
    batch: Batch, own: Tensor, space: Space, shards: "ClassShards | None" = None
) -> Tensor:
    """(N,) half squared distances of a batch's features to their own (N, D) centers."""
    features = batch.features
    if space == "unit":
        features, own = unit(features), unit(own)
    # The difference first: expanding the square cancels away the digits of close points.
    pull = ((features - own).square().sum(dim=1) / 2).where(batch.places != ABSENT, 0.0)
    return pull if shards is None else shards.sum(pull)


def update_centers(
    centers: Tensor,
    features: Tensor,
    labels: Tensor,
    *,
    alpha: float = 0.5,
    space: Space = "raw",
    ignore_index: int = -100,
) -> None:
    """Moves the centers of a batch's classes towards its features, in place.

    `c_j <- c_j - alpha sum_{y_i = j} (c_j - x_i) / (1 + n_j)`, n_j the samples of class j

    Only the rows of classes in the batch are read or written: O(N D) time and memory for any C. It
    never waits for an accelerator.

    Args:
        centers: (C, D), changed in place, outside autograd.
        features: (N, D), floating point.
        labels: (N,) integers in [0, C), or `ignore_index`.
        alpha: the step, in (0, 1]; 0.5 in the paper.
        space: `"unit"` moves the centers towards `x / |x|`.
        ignore_index: the label of samples to ignore.

    Raises:
        ValueError: as `center_loss`; the centers are then unchanged.

    Source:
        Wen et al. 2016, equation 4.
    """
    check_choice("space", space, Space)
    check_alpha(alpha)
    check_centers(centers)
    batch = place_batch(features, labels, centers, ignore_index, None)
    move_centers(centers, batch.features, batch.places, alpha, space)


def check_alpha(alpha: float) -> None:
    """Raises unless the step is in (0, 1]."""
    if not 0.0 < alpha <= 1.0:
        raise ValueError(f"alpha must be in (0, 1], got {alpha!r}")


@torch.no_grad()
def move_centers(
    centers: Tensor, features: Tensor, places: Tensor, alpha: float, space: Space
) -> None:
    """`update_centers` without its checks; samples at `ABSENT` do not count."""
    if places.numel() == 0 or centers.shape[0] == 0:
        return
    points = features.to(torch.promote_types(centers.dtype, torch.float32))
    points = unit(points) if space == "unit" else points
    groups = ClassGroups(places)
    old = centers[groups.rows].to(points.dtype)
    kept = groups.kept.to(points.dtype).unsqueeze(1)
    away = (old - groups.sorted(points)) * kept
    delta = groups.sum(away) / (1 + groups.sum(kept))
    centers[groups.rows] = (old - alpha * delta).to(centers.dtype)


class ClassGroups:
    """The samples of a batch by class, for changes in place that never wait for an accelerator.

    A sample at `ABSENT` joins a class of the batch with nothing to add, so that its write repeats
    another's. Where none counts, all join class 0, which is written back as it was.

    Args:
        places: (N,) rows of the samples' classes, or `ABSENT`; N at least 1.

    Attributes:
        rows: (N,) rows to read and write, ascending, some of them repeatedly.
        kept: (N,) bool, whether the sample beside a row counts.
    """

    def __init__(self, places: Tensor) -> None:
        known = places != ABSENT
        first = known.long().argmax(dim=0, keepdim=True)
        stand_in = places.gather(0, first).where(known.any(), 0)
        self.rows, self._order = places.where(known, stand_in).sort(stable=True)
        self.kept = known[self._order]
        group = (self.rows[1:] != self.rows[:-1]).long().cumsum(0)
        self._group = torch.cat([group.new_zeros(1), group])

    def sorted(self, values: Tensor) -> Tensor:
        """(N, D) values of the samples in the order of `rows`, 0 where a sample does not count."""
        return values[self._order].where(self.kept.unsqueeze(1), 0.0)

    def sum(self, values: Tensor) -> Tensor:
        """(N, D) sums of sorted values over each class, beside each of its rows."""
        return torch.zeros_like(values).index_add_(0, self._group, values)[self._group]


def center_separation(
    centers: Tensor,
    anchors: Tensor,
    *,
    temperature: float = 10.0,
    implementation: Implementation = "auto",
    shards: "ClassShards | None" = None,
) -> Tensor:
    """How close the centers of other classes come to those of some anchor classes.

    `mean_{a} log( mean_{j != a} exp(t (cos(c_a, c_j) - 1)) ) / t`

    The logarithm of the Gaussian energy of the centers on the unit sphere, a smooth maximum of the
    cosine, less 1: about -1 for spread centers, 0 when all coincide. It is `negative_logsumexp` of
    the centers themselves: O(A C D) time for A anchors, and never a C x C array.

    Args:
        centers: (C, D), or (C, K, D) with sub-centers, whose mean direction represents the class.
        anchors: (A,) class indices, for example the labels of a batch. Those outside [0, C), such
            as ignored labels, do not count.
        temperature: t, positive. For large values only the nearest center matters (as in
            RegularFace), for small ones the mean over all (as in the island loss).
        implementation: as in `negative_logsumexp`.
        shards: the ranks that hold the centers; `centers` are then those of this rank.

    Returns:
        A scalar in [-2, 0]; 0 if there is no pair.

    Raises:
        ValueError: if shapes do not fit or the temperature is not positive.

    Source:
        The uniformity of Wang, Isola 2020, "Understanding Contrastive Representation Learning
        through Alignment and Uniformity on the Hypersphere", equation 2, over class centers.
        docs/losses.md compares it with others.

    Example:
        >>> import torch
        >>> from centerarc.losses import center_separation
        >>> center_separation(torch.eye(4), torch.arange(4))  # orthogonal
        tensor(-1.)
    """
    check_positive("temperature", temperature)
    settings_of(implementation)
    check_tensors(centers=centers, anchors=anchors)
    centers = whole(centers)
    centers = centers.to(wide_dtype(centers))
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
    places = (anchors - first).where(here, ABSENT)
    rows, _ = own_rows(centers.new_empty(len(places), centers.shape[1]), centers, places)
    if shards is not None:
        rows = shards.collect(rows)
    found = class_pass(rows, centers, places, temperature, implementation=implementation)
    if shards is not None:
        nothing = torch.zeros_like(found.logsumexp)
        _, found = shards.combine(Target(nothing, nothing, nothing), found, here)
    terms = (found.logsumexp - math.log(classes - 1)) / temperature - 1
    return reduce(terms.where(known, 0.0), known.to(terms.dtype), "mean")


class CenterLoss(nn.Module):
    """`center_loss` to a center that is tracked for each class.

    With `update="paper"`, the centers are a buffer. After computing the loss, each forward pass in
    training mode moves them by the paper's rule `c_j -= alpha sum (c_j - x_i) / (1 + n_j)`. Only
    the rows of the batch's classes change. Under torch.distributed, the samples of all ranks are
    gathered first, so that every rank holds the same centers. With `update="gradient"`, the centers
    are a parameter for the optimizer.

    Args:
        num_classes: C, at least 1.
        feat_dim: D, the embedding size, at least 1.
        space: `"raw"`, as in the paper, for embeddings whose length matters; `"unit"` if only the
            direction does: the loss is then 1 - cos, at most 2.
        update: `"paper"` or `"gradient"`.
        alpha: the step of the paper's update, in (0, 1].
        update_on_forward: whether a forward pass in training mode moves the centers; if not, call
            `update_centers` yourself, for example once per step with gradient accumulation.
        ignore_index: the label of samples to ignore.
        reduction: `"mean"`, `"sum"` or `"none"`.
        shards: the ranks that hold the classes, as in `MarginSoftmaxLoss`.
        generator: draws the initial centers, on the CPU; torch's own by default.

    Attributes:
        centers: (C, D), buffer or parameter, where C is the number of classes held here.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import torch
        >>> from centerarc import CenterLoss
        >>> criterion = CenterLoss(num_classes=10, feat_dim=16)
        >>> loss = criterion(torch.randn(8, 16), torch.arange(8))
    """

    centers: Tensor

    def __init__(
        self,
        num_classes: int,
        feat_dim: int,
        *,
        space: Space = "raw",
        update: CenterUpdate = "paper",
        alpha: float = 0.5,
        update_on_forward: bool = True,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        shards: "ClassShards | None" = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_counts(num_classes=num_classes, feat_dim=feat_dim)
        check_choice("space", space, Space)
        check_choice("reduction", reduction, Reduction)
        check_choice("update", update, CenterUpdate)
        check_alpha(alpha)
        refuse_idle(update == "paper", "with update='gradient'", alpha=(alpha, 0.5))
        here = classes_held(shards, num_classes)
        self.num_classes = num_classes
        self.feat_dim = feat_dim
        self.space: Space = space
        self.update: CenterUpdate = update
        self.alpha = alpha
        self.update_on_forward = update_on_forward
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction
        self.shards = shards
        if update == "gradient":
            self.centers = nn.Parameter(torch.empty(here, feat_dim))
        else:
            self.register_buffer("centers", torch.empty(here, feat_dim))
        self._reminder = OptimizerReminder(type(self).__name__)
        self._drift = DriftReminder(type(self).__name__)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws the centers again, normal with standard deviation 0.01."""
        draw_rows(self.centers, 0 if self.shards is None else self.shards.start, generator)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of (N, D) features and (N,) labels: a scalar, or (N,) for `"none"`."""
        self.watch()
        batch = place_batch(features, labels, self.centers, self.ignore_index, self.shards)
        own, _ = own_rows(batch.features, self.centers, batch.places)
        losses = pull_rows(batch, own, self.space, self.shards)
        losses = losses.masked_fill(batch.wrong, torch.nan)
        # The update changes the centers in place; autograd keeps only the rows gathered above.
        if self.training and self.update_on_forward:
            self.follow(batch)
        return reduce(losses, batch.known.to(losses.dtype), self.reduction)

    def watch(self) -> None:
        """Warns, in training, of centers that no optimizer has or that differ between ranks."""
        if self.training and isinstance(self.centers, nn.Parameter):
            self._reminder.check(self.centers)
        if self.training and self.shards is None:
            self._drift.check(self.centers)

    def update_centers(self, features: Tensor, labels: Tensor) -> None:
        """Moves the centers by the paper's rule; nothing if they are a parameter.

        Under torch.distributed this is a collective call: every rank brings its own (N, D) features
        and (N,) labels, any number of them.
        """
        if self.update == "paper":
            self.follow(place_batch(features, labels, self.centers, self.ignore_index, self.shards))

    def follow(self, batch: Batch) -> None:
        """`update_centers` with a batch that has been validated."""
        if self.update == "gradient":
            return
        features, places = batch.features.detach(), batch.places
        distributed = dist.is_available() and dist.is_initialized()
        if self.shards is None and distributed and dist.get_world_size() > 1:
            features, places = gather_samples(features, places)
        move_centers(self.centers, features, places, self.alpha, self.space)

    def extra_repr(self) -> str:
        """What `print(criterion)` shows."""
        step = f", alpha={self.alpha:g}" if self.update == "paper" else ""
        return (
            f"{self.num_classes}, {self.feat_dim}, space={self.space}, update={self.update}{step}"
        )


def gather_samples(features: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """The samples of all ranks, in rank order; short ranks are filled up with ignored samples."""
    world = dist.get_world_size()
    most = torch.tensor([len(places)], device=places.device)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    missing = int(most) - len(places)
    features = torch.cat([features, features.new_zeros(missing, features.shape[1])])
    places = torch.cat([places, places.new_full((missing,), ABSENT)])
    all_features = [torch.empty_like(features) for _ in range(world)]
    all_places = [torch.empty_like(places) for _ in range(world)]
    dist.all_gather(all_features, features.contiguous())
    dist.all_gather(all_places, places.contiguous())
    return torch.cat(all_features), torch.cat(all_places)
