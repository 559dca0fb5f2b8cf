"""The entry point of the head: one pass of a batch over the class prototypes, and what it draws."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from centerarc.losses.checks import as_labels, check_positive, check_tensors, is_number, wide_dtype
from centerarc.losses.head import chunked
from centerarc.losses.head.chunked import Chunked, ChunkedPass, logsumexp_operator
from centerarc.losses.head.epilogues import HardNegatives
from centerarc.losses.head.products import (
    first_row,
    inverse_norm,
    local,
    own_rows,
    product,
    reduced_products,
    unit,
)
from centerarc.losses.head.prototype_sgd import has_fused_step

Implementation = Literal["auto", "reference", "chunked", "triton"] | Chunked
SETTINGS = {
    "auto": Chunked(),
    "reference": Chunked(),
    "chunked": Chunked(epilogues="torch"),
    "triton": Chunked(epilogues="triton"),
}

# Below this many entries the N x C matrix is cheaper than the loop over blocks (measured on a CPU).
SMALL = 1 << 16
# And only where copies of the prototypes, of which it makes several, are negligible.
SMALL_WEIGHT = 1 << 18

# The recipes of the field (arcface_torch and its descendants) start from this and tune their
# learning rates to it: the gradient of a direction is inversely proportional to the length.
INITIAL_STD = 0.01

# Classes drawn from one seed. A shard draws only the groups that it has a part of.
GROUP = 1024


class ClassPass(NamedTuple):
    """The outputs of one pass over the classes, per sample; all but `hardest` differentiable."""

    own: Tensor  # (N, D), the prototype of each label, its nearest sub-center; 0 for label -1
    logsumexp: Tensor  # (N,), over the scaled cosines of all other classes, as they count
    hardest: Tensor  # (N,), the largest of their cosines; minus infinity where there is none
    mean: Tensor | None  # (D,), the sum of all directions times their weights, if asked for


def settings_of(implementation: Implementation) -> Chunked:
    """The settings that an implementation stands for; raises where there is no such one."""
    if isinstance(implementation, Chunked):
        return implementation
    if not isinstance(implementation, str) or implementation not in SETTINGS:
        raise ValueError(
            f"implementation must be one of {', '.join(SETTINGS)} or a Chunked(...), "
            f"got {implementation!r}"
        )
    return SETTINGS[implementation]


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
    hard: HardNegatives | None = None,
    implementation: Implementation = "auto",
) -> ClassPass:
    """Goes over the classes once; inside bfloat16 autocast, with operands of bfloat16.

    Args:
        features: (N, D), float32 or float64: the dtype of all sums.
        weight: the prototypes, (C, D), or (C, K, D) with sub-centers; any floating dtype.
        labels: (N,) int64 in [0, C), or -1 for a class that is not among these.
        scale: of the cosines, positive.
        sample: (S,) ascending classes that take part, every label among them; all if None.
        limit: cosine above which another class does not count; infinity to count all.
        mean: whether `ClassPass.mean` is wanted; not with `sample` or sub-centers.
        mean_weight: (C,) class weights of it, ones if None.
        hard: how cosines above each sample's threshold count in the logsumexp; as they are if None.
        implementation: `"auto"` takes the reference for small problems.
    """
    assert not mean or (sample is None and weight.dim() == 2)
    settings = settings_of(implementation)
    if implementation == "auto":
        rows = weight.shape[:-1].numel()
        small = features.shape[0] * rows <= SMALL and features.shape[1] * rows <= SMALL_WEIGHT
        if small and sample is None and not has_fused_step(weight):
            implementation = "reference"
    if implementation == "reference" and has_fused_step(weight):
        raise ValueError(
            "implementation must not be 'reference' where PrototypeSGD(fused=True) has the "
            "prototypes: plain autograd makes their gradient"
        )
    reduced = features.dtype == torch.float32 and reduced_products(features.device)
    with torch.autocast(features.device.type, enabled=False):
        if hard is not None:
            hard = hard.at(scale, features.dtype)
        if implementation == "reference":
            return _reference(
                features, weight, labels, scale, sample, limit, mean, mean_weight, hard
            )
        if torch.compiler.is_compiling() and sample is None:
            pulled = torch.is_grad_enabled() and features.requires_grad
            workspace = settings.bytes_on(features.device)
            logsumexp, hardest, _, _ = logsumexp_operator(
                *(features, weight, labels, *((None, None, 1.0) if hard is None else hard)),
                *(scale, limit, reduced, workspace, settings.epilogues),
                pulled,
            )
            own, _ = own_rows(features, weight, labels)
            direction = _mean(features, weight, mean_weight) if mean else None
            return ClassPass(own, logsumexp, hardest, direction)
        if not torch.is_grad_enabled():  # which a Function cannot see
            features, weight = features.detach(), weight.detach()
        arguments = (
            *(features, weight, labels, sample, scale, limit, mean, mean_weight, reduced),
            *(settings, hard),
        )
        if torch.compiler.is_compiling():  # what leaves a sparse gradient is not for a graph
            return ClassPass(*chunked.outside_graph(*arguments))
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
    hard: HardNegatives | None,
) -> ClassPass:
    """The definition in plain autograd: the truth that the others are tested against."""
    own, _ = own_rows(features, weight, labels)
    direction = _mean(features, weight, mean_weight) if mean else None
    classes = torch.arange(weight.shape[0], device=labels.device)
    if sample is not None:
        weight, classes = weight[sample], classes[sample]
    cosines = product(unit(features), unit(weight.to(features.dtype)).flatten(0, -2))
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
    logits = scale * cosines
    logits = logits if hard is None else hard.counted(logits)
    logits = logits.masked_fill(out & ~empty.unsqueeze(1), -torch.inf)
    logsumexp = torch.where(empty, -torch.inf, torch.logsumexp(logits, dim=1))
    return ClassPass(own, logsumexp, hardest, direction)


def _mean(features: Tensor, weight: Tensor, mean_weight: Tensor | None) -> Tensor:
    rows = weight.to(features.dtype)
    factors = inverse_norm(rows)
    factors = factors if mean_weight is None else factors * mean_weight
    return product(factors.unsqueeze(0), rows.T).squeeze(0)


def negative_logsumexp(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    scale: float,
    *,
    implementation: Implementation = "auto",
) -> Tensor:
    """Log of the summed exponentials over all classes except the label's.

    `out_i = log sum_{j != labels_i} exp(scale <x_i / |x_i|, w_j / |w_j|>)`

    Differentiable in `features` and `weight` once; `"reference"`, any number of times. Sums are in
    float32 or higher; under bfloat16 autocast, the operands of the products are bfloat16.

    Args:
        features: (N, D), floating point, any length; N may be 0.
        weight: the prototypes, (C, D), or (C, K, D) with K sub-centers per class, of which the
            nearest counts for each sample; floating point, any length.
        labels: (N,), integers. A label outside [0, C) excludes no class.
        scale: factor of the cosines, positive.
        implementation: `"reference"` allocates the N x C matrix; `"chunked"` only N x (a block of
            classes), forward and backward; `"triton"` is the same with CUDA kernels, if Triton is
            installed; `Chunked(...)` is the same with your settings. `"auto"` uses the reference
            for small problems, Triton on CUDA, and chunked elsewhere.

    Returns:
        (N,), float32 or float64. Minus infinity, with gradient 0, if there is no negative class.

    Raises:
        ValueError: if shapes or dtypes are invalid, `scale` is not positive, or the implementation
            is unknown.

    Example:
        >>> import torch
        >>> from centerarc import negative_logsumexp
        >>> x, w = torch.eye(3), torch.eye(3)
        >>> negative_logsumexp(x, w, torch.arange(3), scale=2.0)  # two negatives at cosine 0
        tensor([0.6931, 0.6931, 0.6931])
    """
    settings_of(implementation)
    check_positive("scale", scale)
    check_tensors(features=features, weight=weight, labels=labels)
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
    labels = as_labels(labels, features)
    labels = labels.where((labels >= 0) & (labels < weight.shape[0]), -1)
    features = features.to(wide_dtype(features, weight))
    return class_pass(features, weight, labels, scale, implementation=implementation).logsumexp


def check_sample_rate(rate: float) -> None:
    """Raises unless the rate is in (0, 1]."""
    if not (is_number(rate) and 0.0 < rate <= 1.0):
        raise ValueError(f"sample_rate must be in (0, 1], got {rate!r}")


def sample_classes(
    labels: Tensor, num_classes: int, rate: float, generator: torch.Generator | None = None
) -> Tensor:
    """Draws a share of the classes without replacement, always including those of the labels.

    Args:
        labels: (N,) integers; those outside [0, num_classes) are ignored.
        num_classes: C, 0 or more.
        rate: the share, in (0, 1].
        generator: on the labels' device; torch's default generator if None.

    Returns:
        (S,) int64, ascending, with S = round(rate C), but at least min(N, C), so that any labels
        fit without waiting for the device.

    Raises:
        ValueError: if the rate is out of range.

    Source:
        An et al. 2022, "Partial FC", section 3.2.

    Example:
        >>> import torch
        >>> g = torch.Generator().manual_seed(0)
        >>> sample_classes(torch.tensor([3, 7]), num_classes=10, rate=0.2, generator=g)
        tensor([3, 7])
    """
    check_sample_rate(rate)
    check_tensors(labels=labels)
    if labels.dim() != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be (N,) integers, got {tuple(labels.shape)} {labels.dtype}")
    if not isinstance(num_classes, int) or num_classes < 0:
        raise ValueError(f"num_classes must be an integer, 0 or more, got {num_classes!r}")
    labels = labels.long()
    size = min(num_classes, max(round(rate * num_classes), labels.shape[0]))
    keys = torch.rand(num_classes + 1, generator=generator, device=labels.device)
    # Labels of no class mark the entry behind the last.
    keys[labels.where((labels >= 0) & (labels < num_classes), num_classes)] = 2.0
    return keys[:num_classes].topk(size, sorted=False).indices.sort().values


@torch.no_grad()
def draw_rows(out: Tensor, first: int, generator: torch.Generator | None = None) -> None:
    """Fills (B, ...) rows of classes from `first` on with normal numbers of deviation 0.01.

    A class's row depends on its number and on one draw from the generator (on the CPU), not on
    which other rows are here: ranks that hold different classes start as one process with all of
    them does, if their generators are alike.
    """
    if out.is_meta:  # its values come later, as from load_state_dict(assign=True)
        return
    seed = int(torch.randint(2**62, (), generator=generator, device="cpu"))
    first, out = first + first_row(out), local(out)
    last = first + len(out)
    for group in range(first // GROUP, -(-last // GROUP)):
        stream = torch.Generator("cpu").manual_seed((seed + group) % 2**63)
        rows = torch.empty(GROUP, *out.shape[1:], device="cpu")
        rows.normal_(std=INITIAL_STD, generator=stream)
        start = max(first, group * GROUP)
        stop = min(last, (group + 1) * GROUP)
        out[start - first : stop - first] = rows[start - group * GROUP : stop - group * GROUP]
