"""Class centers: the pull towards them, and the paper's way of moving them."""

from typing import Literal, get_args

import torch
from torch import Tensor

from centerarc.losses.checks import check_batch, check_values
from centerarc.losses.unit import unit

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
