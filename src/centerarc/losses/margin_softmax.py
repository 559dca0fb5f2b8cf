"""The margin softmax: a function that holds the formula, and a module that owns the prototypes."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from centerarc.losses.checks import (
    ABSENT,
    Batch,
    DeferredChecks,
    DriftReminder,
    OptimizerReminder,
    Reduction,
    check_choice,
    check_counts,
    check_positive,
    check_tensors,
    classes_held,
    is_number,
    place_batch,
    reduce,
)
from centerarc.losses.class_size_margins import ClassSizeMargin
from centerarc.losses.head.class_pass import (
    Implementation,
    check_sample_rate,
    class_pass,
    draw_rows,
    sample_classes,
    settings_of,
)
from centerarc.losses.head.epilogues import HardNegatives
from centerarc.losses.head.products import own_rows, product, unit, whole
from centerarc.losses.head.prototype_sgd import has_fused_step
from centerarc.losses.margins import (
    NO_LABEL,
    ArcFace,
    Margin,
    PenalizedMargin,
    Target,
    target_angle,
)
from centerarc.losses.negative_margins import NegativeMargin
from centerarc.losses.unified_threshold import UniFace

if TYPE_CHECKING:
    from centerarc.losses.head.shards import ClassShards


def margin_softmax_loss(
    features: Tensor,
    prototypes: Tensor,
    labels: Tensor,
    margin: Margin,
    s: float,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    conflict_threshold: float | None = None,
    implementation: Implementation = "auto",
) -> Tensor:
    """Softmax cross entropy over scaled cosines, with a margin on the target's cosine.

    `loss_i = softplus(lse_{j != y}(s h(cos_j)) - s psi(theta_y))`

    This is the cross entropy of the logits `s h(cos_j)`, with `s psi` as the label's logit; h is
    the cosine itself, unless the margin makes negatives harder (`CurricularFace`). It cannot
    overflow, is computed in float32 or higher, and never allocates an N x C array for large
    problems.

    Args:
        features: (N, D) embeddings of any length, floating point.
        prototypes: (C, D), or (C, K, D) with K sub-centers per class, of which the nearest counts.
        labels: (N,) integers in [0, C), or `ignore_index`.
        margin: psi, for example `ArcFace(m=0.5)`.
        s: scale of the cosines, positive; 30 to 64 are usual.
        weight: (C,) class weights (not the prototypes), as in `cross_entropy`.
        ignore_index: the label of samples to ignore; they are not in the mean's denominator either.
        reduction: `"mean"`, `"sum"` or `"none"`.
        label_smoothing: in [0, 1), as in `cross_entropy`, over the logits with margin. Not
            available with sub-centers, `UniFace`, or a margin that makes negatives harder.
        conflict_threshold: another class whose cosine is above this is not a negative of the
            sample: with noisy labels, it is often the same person under a second name. None
            keeps all negatives.
        implementation: as in `negative_logsumexp`.

    Returns:
        A scalar, or (N,) for `reduction="none"`; float32 or float64.

    Raises:
        ValueError: for invalid shapes, dtypes, labels or options, and for NaN or infinite features.
            On an accelerator, values are not checked: a label out of range gives NaN.

    Source:
        The general form of Deng et al. 2019, "ArcFace", equation 4; sub-centers as in Deng et al.
        2020, "Sub-center ArcFace", equation 4.

    Example:
        >>> import torch
        >>> from centerarc.losses import ArcFace, margin_softmax_loss
        >>> x, labels = torch.eye(2), torch.tensor([0, 1])
        >>> margin_softmax_loss(x, torch.eye(2), labels, ArcFace(m=0.5), s=8.0)
        tensor(0.0009)
    """
    terms = checked_terms(
        features,
        prototypes,
        labels,
        margin,
        s,
        reduction,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        conflict_threshold=conflict_threshold,
        implementation=implementation,
    )
    return reduce(terms.loss, terms.share, reduction)


def checked_terms(
    features: Tensor,
    prototypes: Tensor,
    labels: Tensor,
    margin: Margin,
    s: float,
    reduction: Reduction,
    **options: Any,
) -> "Terms":
    """`margin_softmax_terms` of options that are not checked yet."""
    check_tensors(prototypes=prototypes)
    if prototypes.dim() not in (2, 3) or not len(prototypes):
        raise ValueError(
            "prototypes must be (C, D) or (C, K, D) with C at least 1, "
            f"got {tuple(prototypes.shape)}"
        )
    check_positive("s", s)
    if isinstance(margin, ClassSizeMargin):
        margin.check_classes(len(prototypes))
    check_options(len(prototypes), prototypes.dim() == 3, reduction, margin=margin, **options)
    return margin_softmax_terms(features, prototypes, labels, margin, s, **options)


def check_options(
    num_classes: int,
    sub_centers: bool,
    reduction: Reduction,
    *,
    weight: Tensor | None,
    label_smoothing: float,
    conflict_threshold: float | None,
    implementation: Implementation,
    margin: Margin | None = None,
    sampled: bool = False,
    **_: Any,
) -> None:
    """Raises unless each option is in range, and smoothing is 0 where it has no meaning."""
    if weight is not None:
        check_tensors(weight=weight)
    if weight is not None and weight.shape != (num_classes,):
        raise ValueError(
            f"weight must be ({num_classes},), one for each class, got {tuple(weight.shape)}"
        )
    check_choice("reduction", reduction, Reduction)
    threshold = conflict_threshold
    if threshold is not None and not (is_number(threshold) and 0.0 < threshold <= 1.0):
        raise ValueError(f"conflict_threshold must be None or in (0, 1], got {threshold!r}")
    if not (is_number(label_smoothing) and 0.0 <= label_smoothing < 1.0):
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing!r}")
    for without, there in (
        ("sub-centers", sub_centers),
        ("a sample_rate below 1", sampled),
        ("a conflict_threshold", threshold is not None),
        (f"the margin {type(margin).__name__}", isinstance(margin, (NegativeMargin, UniFace))),
    ):
        if label_smoothing and there:
            raise ValueError(f"label_smoothing must be 0 with {without}, got {label_smoothing!r}")
    settings_of(implementation)


@dataclass(frozen=True)
class Terms:
    """What one pass of the margin softmax knows of each of N samples, of all ranks if sharded."""

    loss: Tensor  # (N,), 0 for ignored samples; NaN for labels that are of no class
    share: Tensor  # (N,), what it adds to the denominator of a mean: its class weight, 0 if ignored
    target: Target  # the angle to the own class
    correct: Tensor  # (N,) bool, whether the own class has the largest cosine; ties are wrong
    batch: Batch
    own: Tensor  # (N, D), prototype of the own class (nearest sub-center), 0 if it is not here
    sample: Tensor | None  # (S,) ascending classes that took part; None for all


def margin_softmax_terms(
    features: Tensor,
    prototypes: Tensor,
    labels: Tensor,
    margin: Margin,
    s: float,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    conflict_threshold: float | None = None,
    sample_rate: float = 1.0,
    sample_generator: torch.Generator | None = None,
    shards: "ClassShards | None" = None,
    implementation: Implementation = "auto",
) -> Terms:
    """`margin_softmax_loss` before its reduction; the batch is checked here, the options are not.

    With shards, `prototypes` are those of this rank.
    """
    batch = place_batch(features, labels, prototypes, ignore_index, shards)
    features, labels, known, wrong, places = batch
    dtype = features.dtype
    classes, first = (len(prototypes), 0) if shards is None else (shards.num_classes, shards.start)
    sample = None
    if sample_rate < 1:
        sample = sample_classes(places, len(prototypes), sample_rate, sample_generator)
    found = class_pass(
        features,
        prototypes,
        places,
        s,
        sample=sample,
        limit=torch.inf if conflict_threshold is None else conflict_threshold,
        mean=label_smoothing > 0,
        mean_weight=None if weight is None else weight.to(dtype)[first:][: len(prototypes)],
        hard=_hard_negatives(margin, batch, prototypes, shards),
        implementation=implementation,
    )
    with torch.autocast(features.device.type, enabled=False):
        target = target_angle(features, found.own)
        if shards is not None:
            target, found = shards.combine(target, found, places != ABSENT)
        target = Target(target.cos, target.sin, target.norm, labels.where(known, NO_LABEL))
        logit = s * margin(target)
        # torch's default threshold of 20 would cut float64 down to 2e-9.
        losses = F.softplus(found.logsumexp - logit, threshold=50.0)
        if isinstance(margin, UniFace):
            losses = margin.losses(found.logsumexp, logit)
        share = torch.ones_like(losses)
        if weight is not None:
            share = weight.to(dtype)[labels.where(known, 0)]
        losses = losses * share
        if found.mean is not None:
            total = torch.logaddexp(found.logsumexp, logit)
            flat = s * product(unit(features), found.mean.unsqueeze(0)).squeeze(1)
            flat = flat if shards is None else shards.sum(flat)
            flat = flat + share * (logit - s * target.cos)
            mass = classes if weight is None else weight.to(dtype).sum()
            spread = (mass * total - flat) / classes
            losses = (1 - label_smoothing) * losses + label_smoothing * spread
        if isinstance(margin, PenalizedMargin):
            losses = losses + share * margin.penalty(target)
    return Terms(
        loss=losses.where(known, 0.0).masked_fill(wrong, torch.nan),
        share=share.where(known, 0.0),
        target=target,
        correct=known & (target.cos.detach() > found.hardest),
        batch=batch,
        own=found.own,
        sample=sample,
    )


@torch.no_grad()
def _hard_negatives(
    margin: Margin, batch: Batch, prototypes: Tensor, shards: "ClassShards | None"
) -> HardNegatives | None:
    """The margin's rule for other classes, if it has one: of the target's angle before the pass."""
    if not isinstance(margin, NegativeMargin):
        return None
    with torch.autocast(batch.features.device.type, enabled=False):
        own, _ = own_rows(batch.features, prototypes, batch.places)
        target = target_angle(batch.features, own)
        if shards is not None:
            target = shards.share(target, batch.places != ABSENT)
        labels = batch.labels.where(batch.known, NO_LABEL)
        return margin.hard_negatives(replace(target, labels=labels))


@dataclass(frozen=True)
class BatchMetrics:
    """Metrics of the last forward pass, detached. Only reading a value waits for the device.

    With shards, N is the number of samples on all ranks.

    Attributes:
        target_cosine: (N,), cosine of each sample to its own class, without margin; 0 if ignored.
        accuracy: scalar, share of the samples whose own class has the largest cosine of the classes
            that took part, so it is higher if classes are sampled. Ignored samples do not count.
        count: scalar, number of samples that were not ignored.
    """

    target_cosine: Tensor
    accuracy: Tensor
    count: Tensor


class MarginSoftmaxLoss(nn.Module):
    """`margin_softmax_loss` with learned class prototypes.

    Args:
        num_classes: C, at least 1.
        feat_dim: D, the embedding size, at least 1.
        margin: psi; by default `ArcFace(m=0.5)`. `CosFace(m=0.0)` is the plain softmax. A margin
            that is a module becomes a part of this one: its buffers are in the state dict.
        s: scale of the cosines, positive; may be changed later, for example by a schedule.
        sub_centers: K prototypes per class, of which the nearest counts for each sample.
        weight: (C,) class weights, kept as a buffer. This and `ignore_index`, `reduction`,
            `label_smoothing`, `conflict_threshold` and `implementation` are as in
            `margin_softmax_loss`.
        sample_rate: share of the classes that take part in a training step, in (0, 1]: those of the
            batch, and others drawn at random. Below 1, the prototypes' gradient is sparse (except
            with the reference implementation): use `PrototypeSGD`. In evaluation mode, all classes
            take part.
        sample_generator: draws these classes, on the device of the labels; torch's default
            generator if None. It is not in the state dict: to resume exactly, save its
            `get_state()`, on each rank.
        shards: the ranks that hold the classes, `distributed.ClassShards(C)`. This module then
            holds only the classes of its own rank, takes this rank's samples, and returns the loss
            over the samples of all ranks. Labels still number all classes.
        generator: draws the initial prototypes, on the CPU; torch's default generator if None.
            With equal seeds, ranks with shards start with the same prototypes as one process.

    Attributes:
        prototypes: parameter, (C, D), or (C, K, D) with sub-centers, where C is the number of
            classes held here. Give it to the optimizer.
        metrics: `BatchMetrics` of the last forward pass, None before it.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Deng et al. 2019, "ArcFace", equation 4; Deng et al. 2020, "Sub-center ArcFace".

    Example:
        >>> import torch
        >>> from centerarc import CosFace, MarginSoftmaxLoss
        >>> criterion = MarginSoftmaxLoss(num_classes=10, feat_dim=16, margin=CosFace(0.35), s=64)
        >>> loss = criterion(torch.randn(8, 16), torch.arange(8))
        >>> criterion.logits(torch.randn(8, 16)).shape
        torch.Size([8, 10])
    """

    def __init__(
        self,
        num_classes: int,
        feat_dim: int,
        margin: Margin | None = None,
        s: float = 64.0,
        *,
        sub_centers: int = 1,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        sample_rate: float = 1.0,
        sample_generator: torch.Generator | None = None,
        conflict_threshold: float | None = None,
        implementation: Implementation = "auto",
        shards: "ClassShards | None" = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_counts(num_classes=num_classes, feat_dim=feat_dim, sub_centers=sub_centers)
        check_sample_rate(sample_rate)
        check_options(
            num_classes,
            sub_centers > 1,
            reduction,
            weight=weight,
            label_smoothing=label_smoothing,
            conflict_threshold=conflict_threshold,
            implementation=implementation,
            margin=margin,
            sampled=sample_rate < 1,
        )
        if margin is not None and (isinstance(margin, type) or not callable(margin)):
            raise ValueError(
                "margin must be a margin such as ArcFace(0.5), or create_margin('arcface', m=0.5), "
                f"got {margin!r}"
            )
        if isinstance(margin, ClassSizeMargin):
            margin.check_classes(num_classes)
        here = classes_held(shards, num_classes)
        self.num_classes = num_classes
        self.feat_dim = feat_dim
        self.margin: Margin = ArcFace() if margin is None else margin
        self.s = s
        self.sub_centers = sub_centers
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction
        self.label_smoothing = label_smoothing
        self.sample_rate = sample_rate
        self.sample_generator = sample_generator
        self.conflict_threshold = conflict_threshold
        self.implementation: Implementation = implementation
        self.shards = shards
        shape = (here, feat_dim) if sub_centers == 1 else (here, sub_centers, feat_dim)
        self.prototypes = nn.Parameter(torch.empty(shape))
        self.weight: Tensor | None
        self.register_buffer("weight", None if weight is None else weight.detach().clone())
        self.metrics: BatchMetrics | None = None
        self._checks = DeferredChecks()
        self._reminder = OptimizerReminder(type(self).__name__)
        self._drift = DriftReminder(type(self).__name__)
        self.reset_parameters(generator)

    @property
    def s(self) -> float:
        """The scale of the cosines."""
        return self._s

    @s.setter
    def s(self, value: float) -> None:
        check_positive("s", value)
        self._s = float(value)

    @property
    def threshold(self) -> float | None:
        """The learned threshold of `UniFace` as a cosine; reading it waits for the device."""
        if not isinstance(self.margin, UniFace):
            return None
        return float(self.margin.bias.detach()) / self.s

    def name_in_warnings(self, owner: str) -> None:
        """Lets warnings speak of the module that the user made, of which this one is a part."""
        self._reminder = OptimizerReminder(owner)
        self._drift = DriftReminder(owner)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws the prototypes again, normal with standard deviation 0.01."""
        draw_rows(self.prototypes, 0 if self.shards is None else self.shards.start, generator)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of (N, D) features and (N,) labels: a scalar, or (N,) for `"none"`.

        With shards N counts the samples of all ranks on return, and the loss is the same on each.
        """
        terms = self.terms(features, labels)
        return reduce(terms.loss, terms.share, self.reduction)

    def terms(self, features: Tensor, labels: Tensor) -> Terms:
        """One pass over the classes, before the reduction; also sets `metrics`."""
        if self.training:
            self._reminder.check(self.prototypes)
            if self.shards is None:
                self._drift.check(self.prototypes)
        self._refuse_ddp()
        terms = margin_softmax_terms(
            features,
            self.prototypes,
            labels,
            self.margin,
            self.s,
            weight=self.weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            conflict_threshold=self.conflict_threshold,
            sample_rate=self.sample_rate if self.training else 1.0,
            sample_generator=self.sample_generator,
            shards=self.shards,
            implementation=self.implementation,
        )
        self._checks.watch(features, labels, self.num_classes, self.ignore_index)
        count = terms.batch.known.sum()
        accuracy = terms.correct.sum() / count.clamp_min(1)
        self.metrics = BatchMetrics(terms.target.cos.detach(), accuracy, count)
        return terms

    def _refuse_ddp(self) -> None:
        # Set while DistributedDataParallel runs the module that it wraps.
        if getattr(DistributedDataParallel, "_active_ddp_module", None) is None:
            return
        for what, there in (
            ("shards", self.shards is not None),
            ("sample_rate below 1", self.sample_rate < 1 and self.training),
            ("PrototypeSGD(fused=True)", has_fused_step(self.prototypes)),
        ):
            if there:
                raise RuntimeError(
                    f"a criterion with {what} must stay outside DistributedDataParallel, which "
                    "would make its prototypes or their gradients those of all ranks"
                )

    def logits(self, features: Tensor) -> Tensor:
        """(N, C) scaled cosines without margin, for classification; allocates all of N x C.

        With shards C counts the classes of this rank.
        """
        check_tensors(features=features)
        dtype = torch.promote_types(features.dtype, self.prototypes.dtype)
        with torch.autocast(features.device.type, enabled=False):
            rows = unit(whole(self.prototypes).to(dtype)).flatten(0, -2)
            cosines = product(unit(features.to(dtype)), rows)
            if self.sub_centers > 1:
                cosines = cosines.view(len(features), -1, self.sub_centers).amax(dim=2)
            return self.s * cosines

    def extra_repr(self) -> str:
        """What `print(criterion)` shows."""
        more = f", sub_centers={self.sub_centers}" if self.sub_centers > 1 else ""
        more += f", sample_rate={self.sample_rate:g}" if self.sample_rate < 1 else ""
        if self.shards is not None:
            more += f", classes {self.shards.start} to {self.shards.stop} here"
        return f"{self.num_classes}, {self.feat_dim}, margin={self.margin}, s={self.s:g}{more}"
