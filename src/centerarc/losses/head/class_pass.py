"""One pass of a batch over the class prototypes: what every loss here is made of."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from centerarc.losses.checks import as_labels, check_positive
from centerarc.losses.head.chunked import Chunked, ChunkedPass, own_places
from centerarc.losses.head.opaque import opaque_logsumexp
from centerarc.losses.head.products import inverse_norm, reduced_products, unit
from centerarc.losses.head.prototype_sgd import has_fused_step

# The pass over the classes where torch.compile meets what it cannot compile.


@torch.compiler.disable  # type: ignore[untyped-decorator]
def outside_graph(*arguments: Any) -> Any:
    """``ChunkedPass`` between two graphs."""
    return ChunkedPass.apply(*arguments)  # type: ignore[no-untyped-call]


# One pass of a batch over the class prototypes: what every loss here is made of.

Implementation = Literal["auto", "reference", "chunked", "triton"] | Chunked
NAMES = ("auto", "reference", "chunked", "triton")

# Below this many entries the N x C matrix is cheaper than the loop over blocks (measured on a CPU).
SMALL = 1 << 16
# And only where copies of the prototypes, of which it makes several, are nothing to speak of.
SMALL_WEIGHT = 1 << 18


class ClassPass(NamedTuple):
    """What the classes say of each sample.

    Attributes:
        own: (N, D), the prototype of each label, its nearest sub-center; 0 for label -1.
            Differentiable.
        logsumexp: (N,), over the scaled cosines of all other classes; differentiable.
        hardest: (N,), the largest of their cosines, detached; minus infinity where there is none.
        mean: (D,), the sum of all directions times their weights, differentiable; or None.
    """

    own: Tensor
    logsumexp: Tensor
    hardest: Tensor
    mean: Tensor | None


def check_implementation(implementation: object) -> None:
    """Raise ``ValueError`` unless it is a name or a ``Chunked``."""
    if not isinstance(implementation, Chunked) and implementation not in NAMES:
        raise ValueError(
            f"implementation must be one of {', '.join(NAMES)} or a Chunked(...), "
            f"got {implementation!r}"
        )


def class_pass(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    scale: float,
    *,
    sample: Tensor | None = None,
    limit: float = torch.inf,
    mean: bool = False,
    mean_weight: Tensor | None = None,
    reduced: bool = False,
    implementation: Implementation = "auto",
) -> ClassPass:
    """Go over the classes once; to be called outside autocast.

    Args:
        features: (N, D), float32 or float64: the dtype of all sums.
        weight: (C, D), or (C, K, D) with sub-centers; any floating dtype.
        labels: (N,) int64 in [0, C), or -1 for a class that is not among these.
        scale: of the cosines, positive.
        sample: (S,) ascending classes that take part, every label among them; all if None.
        limit: cosine above which another class does not count; infinity to count all.
        mean: whether ``ClassPass.mean`` is wanted; not with ``sample`` or sub-centers.
        mean_weight: (C,) weights of it, ones if None.
        reduced: whether products take bfloat16 operands, see ``precision``.
        implementation: ``"auto"`` takes the reference for small problems.
    """
    settings = implementation if isinstance(implementation, Chunked) else Chunked()
    if implementation == "auto":
        rows = weight.shape[:-1].numel()
        small = features.shape[0] * rows <= SMALL and features.shape[1] * rows <= SMALL_WEIGHT
        if small and sample is None and not has_fused_step(weight):
            implementation = "reference"
    elif implementation == "chunked":
        settings = Chunked(epilogues="torch")
    elif implementation == "triton":
        settings = Chunked(epilogues="triton")
    if implementation == "reference":
        if has_fused_step(weight):
            raise ValueError(
                "implementation must not be 'reference' where PrototypeSGD(fused=True) has the "
                "prototypes: plain autograd makes their gradient"
            )
        return _reference(features, weight, labels, scale, sample, limit, mean, mean_weight)
    if torch.compiler.is_compiling() and sample is None:
        found = opaque_logsumexp(features, weight, labels, scale, limit, reduced, settings)
        own = _own(features, weight, labels)
        return ClassPass(own, *found, _mean(features, weight, mean_weight) if mean else None)
    if not torch.is_grad_enabled():  # which a Function cannot see
        features, weight = features.detach(), weight.detach()
    arguments = (
        *(features, weight, labels, sample, scale, limit, mean, mean_weight, reduced),
        settings,
    )
    if torch.compiler.is_compiling():
        # What leaves a sparse gradient is not for a compiled graph. Imported here, because it
        # brings the compiler along, which whoever does not compile should not have to load.

        return ClassPass(*outside_graph(*arguments))
    return ClassPass(*ChunkedPass.apply(*arguments))  # type: ignore[no-untyped-call]


def _reference(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    scale: float,
    sample: Tensor | None,
    limit: float,
    mean: bool,
    mean_weight: Tensor | None,
) -> ClassPass:
    """The definition in plain autograd: the truth that the others are tested against."""
    own = _own(features, weight, labels)
    direction = _mean(features, weight, mean_weight) if mean else None
    classes = torch.arange(weight.shape[0], device=labels.device)
    if sample is not None:
        weight, classes = weight[sample], classes[sample]
    cosines = unit(features) @ unit(weight.to(features.dtype)).flatten(0, -2).T
    if weight.dim() == 3:
        cosines = cosines.view(len(features), *weight.shape[:2]).max(dim=2).values
    if len(classes) == 0:
        nothing = cosines.sum(dim=1) - torch.inf
        return ClassPass(own, nothing, nothing.detach(), direction)
    out = labels.unsqueeze(1) == classes
    hardest = cosines.detach().masked_fill(out, -torch.inf).amax(dim=1)
    out = out | (cosines.detach() > limit)
    # logsumexp over nothing has gradient NaN, so such a row sums over all classes, unseen.
    empty = out.all(dim=1)
    logits = (scale * cosines).masked_fill(out & ~empty.unsqueeze(1), -torch.inf)
    logsumexp = torch.where(empty, -torch.inf, torch.logsumexp(logits, dim=1))
    return ClassPass(own, logsumexp, hardest, direction)


def _own(features: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    if len(weight) == 0:
        return torch.zeros_like(features)
    with torch.no_grad():
        places = own_places(features, weight, labels.clamp(min=0))
    rows = weight.flatten(0, -2)[places].to(features.dtype)
    return rows.where((labels >= 0).unsqueeze(1), 0.0)


def _mean(features: Tensor, weight: Tensor, mean_weight: Tensor | None) -> Tensor:
    rows = weight.to(features.dtype)
    factors = inverse_norm(rows)
    return (factors if mean_weight is None else factors * mean_weight) @ rows


# The one primitive: a logsumexp over all classes but the sample's own.


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
