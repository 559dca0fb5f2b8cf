"""What a loss asks of its input, and how it reduces its output."""

import math
from collections import deque
from numbers import Integral, Real
from typing import Literal, get_args

import torch
from torch import Tensor

# What a loss asks of its input, and how it says so without stalling a GPU.


def check_batch(features: Tensor, labels: Tensor, feat_dim: int) -> Tensor:
    """Raise ``ValueError`` unless features are (N, feat_dim) floats beside (N,) integer labels.

    Returns:
        The labels as int64.
    """
    if features.dim() != 2 or features.shape[1] != feat_dim:
        raise ValueError(f"features must be (N, {feat_dim}), got {tuple(features.shape)}")
    if not features.is_floating_point():
        raise ValueError(f"features must be floating point, got {features.dtype}")
    return as_labels(labels, features)


def as_labels(labels: Tensor, features: Tensor) -> Tensor:
    """The labels as int64, (N,); ``ValueError`` unless they are integers, one a row of features."""
    if labels.shape != features.shape[:1]:
        raise ValueError(
            f"labels must be ({features.shape[0]},), one for each row of features, "
            f"got {tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if labels.device != features.device:
        raise ValueError(
            f"labels must be on the features' device {features.device}, got {labels.device}"
        )
    # Narrow integers wrap around when compared, and uint8 would index as a mask.
    return labels.long()


def is_number(value: object) -> bool:
    """Whether this is a real number, and no truth value."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_positive(name: str, value: float) -> None:
    """Raise ``ValueError`` unless ``value`` is positive and finite."""
    if not (is_number(value) and 0 < value < math.inf):
        raise ValueError(f"{name} must be positive and finite, got {value!r}")


def check_counts(**counts: int) -> None:
    """Raise ``ValueError`` for the first argument that is not a positive integer."""
    for name, value in counts.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")


def check_values(features: Tensor, labels: Tensor, num_classes: int, ignore_index: int) -> None:
    """Raise ``ValueError`` for labels out of range or features that are not finite, on the CPU.

    Reading a value back from an accelerator would stall it, so elsewhere this does nothing: there,
    a bad row makes the loss NaN, and the modules report it a few batches later by
    ``DeferredChecks``.
    """
    if features.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if (message := _complaint(features, labels, num_classes, ignore_index)) is not None:
        raise ValueError(message)


def _complaint(features: Tensor, labels: Tensor, num_classes: int, ignore_index: int) -> str | None:
    kept = labels != ignore_index
    outside = kept & ((labels < 0) | (labels >= num_classes))
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        return (
            f"labels must be in [0, {num_classes}) or ignore_index {ignore_index}, "
            f"got {int(labels[row])} at row {row}"
        )
    # A sum is finite unless a term is not (or it overflows): one pass instead of three.
    if not bool(features.detach().sum(dtype=torch.float64).isfinite()):
        wrong = ~features.detach().isfinite().all(dim=1) & kept
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            return f"features must be finite, got NaN or infinity at row {row}"
    return None


class DeferredChecks:
    """Checks on an accelerator that report bad input a few batches late, and never wait.

    Each batch leaves one flag on the device and starts its copy to the host; a flag that has
    arrived is looked at when a later batch comes by.
    """

    def __init__(self) -> None:
        self._batch = 0
        self._pending: deque[tuple[int, Tensor, torch.Event]] = deque()

    def __deepcopy__(self, memo: dict[int, object]) -> "DeferredChecks":
        return DeferredChecks()

    def __getstate__(self) -> dict[str, object]:
        return {}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__()  # type: ignore[misc]

    def watch(self, features: Tensor, labels: Tensor, num_classes: int, ignore_index: int) -> None:
        """Queue the checks of this batch, and raise what earlier ones found.

        Raises:
            ValueError: naming the number of the batch that was bad, counted from 0.
        """
        if features.device.type in ("cpu", "meta") or torch.compiler.is_compiling():
            return
        kept = labels != ignore_index
        outside = (kept & ((labels < 0) | (labels >= num_classes))).any()
        infinite = ~(features.detach().isfinite().all(dim=1) | ~kept).all()
        flags = torch.stack([outside, infinite]).to("cpu", non_blocking=True)
        event = torch.Event(features.device)
        event.record()
        self._pending.append((self._batch, flags, event))
        self._batch += 1
        while self._pending and self._pending[0][2].query():
            batch, flags, _ = self._pending.popleft()
            outside_host, infinite_host = flags.tolist()
            if outside_host:
                raise ValueError(
                    f"labels must be in [0, {num_classes}) or ignore_index {ignore_index}; "
                    f"batch {batch} had one outside"
                )
            if infinite_host:
                raise ValueError(
                    f"features must be finite; batch {batch} had NaN or infinity in them"
                )


# From a loss a sample to what the caller asked for, as ``cross_entropy`` does it.

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
