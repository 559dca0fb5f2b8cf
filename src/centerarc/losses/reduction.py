"""From a loss a sample to what the caller asked for, as ``cross_entropy`` does it."""

from typing import Literal, get_args

from torch import Tensor

Reduction = Literal["mean", "sum", "none"]


def check_reduction(reduction: str) -> None:
    """Raise ``ValueError`` unless ``reduction`` is one of mean, sum, none."""
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


def reduce(losses: Tensor, shares: Tensor, reduction: Reduction) -> Tensor:
    """Sum, average or return the losses of a batch.

    Args:
        losses: (N,), 0 for samples that do not count.
        shares: (N,), what each sample adds to the denominator of the mean: 0 if it is ignored, its
            class weight otherwise.
        reduction: ``"mean"`` divides by the sum of shares; a batch with none in it has loss 0, not
            NaN, so that one empty batch cannot end a run.

    Returns:
        A scalar, or (N,) for ``"none"``.
    """
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    total = shares.sum()
    return losses.sum() / total.where(total > 0, 1.0)
