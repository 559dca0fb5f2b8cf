"""One pass of a batch over the class prototypes: what every loss here is made of."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from centerarc.losses.chunked import Chunked, ChunkedPass, own_places
from centerarc.losses.opaque import opaque_logsumexp
from centerarc.losses.prototype_sgd import has_fused_step
from centerarc.losses.unit import inverse_norm, unit

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
        from centerarc.losses.outside_graph import outside_graph

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
