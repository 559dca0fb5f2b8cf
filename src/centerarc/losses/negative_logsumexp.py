"""The one primitive: a logsumexp over all classes but the sample's own."""

import torch
from torch import Tensor

from centerarc.losses.checks import as_labels, check_positive
from centerarc.losses.class_pass import Implementation, check_implementation, class_pass
from centerarc.losses.precision import reduced_products


def negative_logsumexp(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    scale: float,
    *,
    implementation: Implementation = "auto",
) -> Tensor:
    """Logsumexp over the scaled cosines of every class but the label's.

    ``out_i = log sum_{j != labels_i} exp(scale <x_i / |x_i|, w_j / |w_j|>)``

    Differentiable in ``features`` and ``weight`` (once; ``"reference"`` is plain autograd and takes
    any derivative). Sums are float32 at least, whatever the inputs' dtypes; under bfloat16 autocast
    the products' operands are bfloat16.

    Args:
        features: (N, D), floating point, any length; N may be 0.
        weight: (C, D), one prototype a class, or (C, K, D) with K sub-centers, of which each sample
            takes the nearest; floating point, any length.
        labels: (N,), integers. A label outside [0, C) excludes no class.
        scale: factor of the cosines, positive.
        implementation: ``"reference"`` holds the N x C matrix; ``"chunked"`` only N x (a block of
            classes), forward and backward, and so does ``"triton"``, with kernels for CUDA where
            Triton is there; ``Chunked(...)`` is that with settings of your own. ``"auto"`` takes
            the first for small problems, Triton on CUDA and chunked elsewhere.

    Returns:
        (N,), float32 or float64. Minus infinity, with gradient 0, where no negative class exists.

    Raises:
        ValueError: if shapes or dtypes do not fit, ``scale`` is not positive, or the implementation
            is unknown.

    Example:
        >>> import torch
        >>> from centerarc import negative_logsumexp
        >>> x, w = torch.eye(3), torch.eye(3)
        >>> negative_logsumexp(x, w, torch.arange(3), scale=2.0)  # two negatives at cosine 0
        tensor([0.6931, 0.6931, 0.6931])
    """
    _check(features, weight, scale, implementation)
    labels = as_labels(labels, features)
    labels = labels.where((labels >= 0) & (labels < weight.shape[0]), -1)
    dtype = torch.promote_types(torch.promote_types(features.dtype, weight.dtype), torch.float32)
    reduced = dtype == torch.float32 and reduced_products(features.device)
    with torch.autocast(features.device.type, enabled=False):
        return class_pass(
            features.to(dtype),
            weight,
            labels,
            scale,
            reduced=reduced,
            implementation=implementation,
        ).logsumexp


def _check(features: Tensor, weight: Tensor, scale: float, implementation: object) -> None:
    check_implementation(implementation)
    check_positive("scale", scale)
    if features.dim() != 2 or not features.is_floating_point():
        raise ValueError(
            f"features must be (N, D) floating point, got {tuple(features.shape)} {features.dtype}"
        )
    fits = weight.dim() in (2, 3) and weight.shape[-1] == features.shape[1]
    if not fits or not weight.is_floating_point() or (weight.dim() == 3 and not weight.shape[1]):
        d = features.shape[1]
        raise ValueError(
            f"weight must be (C, {d}) or (C, K, {d}) floating point, "
            f"got {tuple(weight.shape)} {weight.dtype}"
        )
