"""The center loss as a module that owns its class centers."""

from typing import Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn

from centerarc.losses.checks import (
    Reduction,
    check_batch,
    check_counts,
    check_reduction,
    check_values,
    reduce,
)
from centerarc.losses.functional import (
    Shards,
    Space,
    center_loss,
    check_alpha,
    check_shards,
    check_space,
    update_centers,
)
from centerarc.losses.head.sampling import draw_rows

CenterUpdate = Literal["paper", "gradient"]

# The place of a class that is not held here.
ABSENT = -1


class CenterLoss(nn.Module):
    """Half the squared distance of each feature to a tracked center of its class.

    ``loss_i = |x_i - c_{y_i}|^2 / 2``, see ``functional.center_loss``.

    With ``update="paper"`` the centers are a buffer that each training forward moves, once the loss
    is computed, by the paper's rule ``c_j -= alpha sum (c_j - x_i) / (1 + n_j)``. Only the rows of
    the batch's classes are touched, and under torch.distributed the samples of all ranks are
    gathered first, so that every rank holds the same centers. With ``update="gradient"`` they are a
    parameter for the optimizer.

    Args:
        num_classes: C, at least 1.
        feat_dim: D, the embedding size, at least 1.
        space: ``"raw"``, the paper's, for embeddings whose length matters; ``"unit"`` where only
            the direction does: the loss is then 1 - cos, at most 2.
        update: ``"paper"`` or ``"gradient"``.
        alpha: the paper's step, in (0, 1].
        update_on_forward: whether the training forward moves the centers; if not, call
            ``update_centers`` yourself, once for each step of an accumulated batch for example.
        ignore_index: the label of samples that do not count.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        shards: the ranks that the classes are spread over, as ``MarginSoftmaxLoss`` takes them.
        generator: draws the initial centers, on the CPU; torch's own by default.

    Attributes:
        centers: (C, D), buffer or parameter, C being the classes held here.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Wen, Zhang, Li, Qiao 2016, equations 2 and 4.

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
        shards: Shards | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_counts(num_classes=num_classes, feat_dim=feat_dim)
        check_space(space)
        check_reduction(reduction)
        if update not in get_args(CenterUpdate):
            raise ValueError(f"update must be 'paper' or 'gradient', got {update!r}")
        check_alpha(alpha)
        check_shards(shards, num_classes)
        self.num_classes = num_classes
        self.feat_dim = feat_dim
        self.space: Space = space
        self.update: CenterUpdate = update
        self.alpha = alpha
        self.update_on_forward = update_on_forward
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction
        self.shards = shards
        here = num_classes if shards is None else shards.stop - shards.start
        if update == "gradient":
            self.centers = nn.Parameter(torch.empty(here, feat_dim))
        else:
            self.register_buffer("centers", torch.empty(here, feat_dim))
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the centers anew, normal with standard deviation 0.01."""
        draw_rows(self.centers, 0 if self.shards is None else self.shards.start, generator)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of (N, D) features and (N,) labels: a scalar, or (N,) for ``"none"``."""
        if self.shards is not None:
            return self._sharded_forward(self.shards, features, labels)
        # The update changes the centers in place; autograd keeps only the rows gathered here.
        loss = center_loss(
            features,
            self.centers,
            labels,
            space=self.space,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )
        if self.training and self.update_on_forward:
            self.update_centers(features, labels)
        return loss

    def _sharded_forward(self, shards: Shards, features: Tensor, labels: Tensor) -> Tensor:
        labels = check_batch(features, labels, self.feat_dim)
        check_values(features, labels, self.num_classes, self.ignore_index)
        counted = labels != self.ignore_index
        features, labels = shards.gather(features.where(counted.unsqueeze(1), 0.0), labels)
        counted = labels != self.ignore_index
        known = counted & (labels >= 0) & (labels < self.num_classes)
        places = self._places(shards, labels)
        losses = center_loss(
            features,
            self.centers,
            places,
            space=self.space,
            ignore_index=ABSENT,
            reduction="none",
        )
        if self.training and self.update_on_forward:
            self.move(features, places)
        losses = shards.sum(losses).masked_fill(counted & ~known, torch.nan)
        return reduce(losses, known.to(losses.dtype), self.reduction)

    def _places(self, shards: Shards, labels: Tensor) -> Tensor:
        here = (labels >= shards.start) & (labels < shards.stop) & (labels != self.ignore_index)
        return (labels - shards.start).where(here, ABSENT)

    def update_centers(self, features: Tensor, labels: Tensor) -> None:
        """Move the centers by the paper's rule; nothing if they are a parameter.

        Under torch.distributed this is a collective call: every rank brings its own samples, any
        number of them.

        Args:
            features: (N, D).
            labels: (N,).
        """
        if self.update == "gradient":
            return
        features, labels = features.detach(), labels.long()
        if self.shards is not None:
            features, labels = self.shards.gather(features, labels)
            self.move(features, self._places(self.shards, labels))
            return
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            features, labels = _gather(features, labels, self.ignore_index)
        self.move(features, labels.where(labels != self.ignore_index, ABSENT))

    def move(self, features: Tensor, places: Tensor) -> None:
        """Move the centers held here by samples that every rank has already; no collective.

        Args:
            features: (N, D), of all ranks.
            places: (N,), rows of ``centers``; -1 for samples that do not count here.
        """
        if self.update == "paper":
            update_centers(
                self.centers,
                features.detach(),
                places,
                alpha=self.alpha,
                space=self.space,
                ignore_index=ABSENT,
            )

    def extra_repr(self) -> str:
        """What ``print(criterion)`` shows."""
        step = f", alpha={self.alpha:g}" if self.update == "paper" else ""
        return (
            f"{self.num_classes}, {self.feat_dim}, space={self.space}, update={self.update}{step}"
        )


def _gather(features: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """The samples of all ranks, in rank order; short ranks are filled up with ignored samples."""
    world = dist.get_world_size()
    most = torch.tensor([labels.shape[0]], device=labels.device)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    missing = int(most) - labels.shape[0]
    features = torch.cat([features, features.new_zeros(missing, features.shape[1])])
    labels = torch.cat([labels, labels.new_full((missing,), ignore_index)])
    all_features = [torch.empty_like(features) for _ in range(world)]
    all_labels = [torch.empty_like(labels) for _ in range(world)]
    dist.all_gather(all_features, features.contiguous())
    dist.all_gather(all_labels, labels.contiguous())
    return torch.cat(all_features), torch.cat(all_labels)
