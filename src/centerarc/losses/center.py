"""The center loss as a module that owns its class centers."""

from typing import Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn

from centerarc.losses.centers import Space, check_alpha, check_space, update_centers
from centerarc.losses.functional import center_loss
from centerarc.losses.margin_softmax import INITIAL_STD, check_counts
from centerarc.losses.reduction import Reduction, check_reduction

CenterUpdate = Literal["paper", "gradient"]


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
        generator: draws the initial centers; torch's own by default.

    Attributes:
        centers: (C, D), buffer or parameter.

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
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_counts(num_classes=num_classes, feat_dim=feat_dim)
        check_space(space)
        check_reduction(reduction)
        if update not in get_args(CenterUpdate):
            raise ValueError(f"update must be 'paper' or 'gradient', got {update!r}")
        check_alpha(alpha)
        self.num_classes = num_classes
        self.feat_dim = feat_dim
        self.space: Space = space
        self.update: CenterUpdate = update
        self.alpha = alpha
        self.update_on_forward = update_on_forward
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction
        if update == "gradient":
            self.centers = nn.Parameter(torch.empty(num_classes, feat_dim))
        else:
            self.register_buffer("centers", torch.empty(num_classes, feat_dim))
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the centers anew, normal with standard deviation 0.01."""
        with torch.no_grad():
            self.centers.normal_(std=INITIAL_STD, generator=generator)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of (N, D) features and (N,) labels: a scalar, or (N,) for ``"none"``."""
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
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            features, labels = _gather(features, labels, self.ignore_index)
        update_centers(
            self.centers,
            features,
            labels,
            alpha=self.alpha,
            space=self.space,
            ignore_index=self.ignore_index,
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
