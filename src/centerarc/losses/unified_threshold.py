"""One learned threshold for all people: genuine scores belong above it, impostor scores below."""

import math
from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from centerarc.losses.center import gather_samples
from centerarc.losses.checks import (
    ABSENT,
    ANY_CLASS,
    OptimizerReminder,
    PairReminder,
    Reduction,
    as_labels,
    check_centers,
    check_choice,
    check_counts,
    check_positive,
    check_tensors,
    check_values,
    is_number,
    reduce,
    refuse_idle,
    wide_dtype,
)
from centerarc.losses.head.class_pass import Implementation, class_pass, settings_of
from centerarc.losses.head.products import product, unit
from centerarc.losses.margins import CosFace, Target, register_margin, require, target_angle
from centerarc.losses.mean_centers import taking_part

if TYPE_CHECKING:
    from centerarc.losses.head.shards import ClassShards

Against = Literal["pairs", "centers", "both"]


def unified_threshold_loss(
    features: Tensor,
    labels: Tensor,
    bias: Tensor | float,
    *,
    s: float = 16.0,
    others: Tensor | None = None,
    other_labels: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compares the pairs of a batch with one threshold, b / s as a cosine.

    `loss_i = mean_{j: y_j = y_i, j != i} softplus(b - s cos_ij)
    + softplus(lse_{j: y_j != y_i}(s cos_ij) - b)`

    What a softmax over classes lacks: it only asks that a sample's own class wins, at whatever
    score; verification compares all scores with the same threshold. O(N^2 D) time, O(N^2) memory.

    Args:
        features: (N, D) embeddings of any length, floating point. A batch should hold several
            images of each person: a sample without another of its class has no first term.
        labels: (N,) integers, 0 or more, or `ignore_index`.
        bias: b, in units of s cos; a scalar, usually learned.
        s: scale of the cosines, positive.
        others: (M, D) further embeddings that each sample is compared with, for example recent ones
            from a memory; differentiable too.
        other_labels: (M,) their labels; those below 0 do not take part.
        ignore_index: the label of samples to ignore.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or (N,) for `reduction="none"`; float32 or float64.

    Raises:
        ValueError: for invalid shapes, dtypes, labels or options, and for NaN or infinite features
            (values are checked on the CPU only).

    Source:
        Jia et al. 2023, "UniTSFace: Unified Threshold Integrated Sample-to-Sample Loss", equation
        8 (whose logarithm of a sum over the genuine pairs is the mean of their terms here); Wen et
        al. 2022, "SphereFace2", for one bias shared by all.

    Example:
        >>> import torch
        >>> from centerarc.losses import unified_threshold_loss
        >>> x, labels = torch.eye(2)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1])
        >>> unified_threshold_loss(x, labels, bias=8.0)  # log(1 + e^-8) + log(1 + 2 e^-8)
        tensor(0.0010)
    """
    check_choice("reduction", reduction, Reduction)
    check_positive("s", s)
    features, labels, known = _checked(features, labels, None, ignore_index)
    if isinstance(bias, Tensor) and bias.numel() != 1:
        raise ValueError(f"bias must be a scalar, got {tuple(bias.shape)}")
    if (others is None) != (other_labels is None):
        raise ValueError("others and other_labels must be given together, got one of them")
    if others is not None and other_labels is not None:
        check_tensors(others=others, other_labels=other_labels)
        for name, value, floating in (
            ("others", others, True),
            ("other_labels", other_labels, False),
        ):
            if value.is_floating_point() != floating or value.dtype == torch.bool:
                kind = "floating point" if floating else "integers"
                raise ValueError(f"{name} must be {kind}, got {value.dtype}")
        if others.shape != (len(other_labels), features.shape[1]):
            raise ValueError(
                f"others must be ({len(other_labels)}, {features.shape[1]}), as other_labels and "
                f"features have it, got {tuple(others.shape)}"
            )
    losses, _ = pair_rows(features, labels, known, bias, s, others, other_labels)
    return reduce(losses, known.to(losses.dtype), reduction)


def pair_rows(
    features: Tensor,
    labels: Tensor,
    known: Tensor,
    bias: Tensor | float,
    s: float,
    others: Tensor | None = None,
    other_labels: Tensor | None = None,
    rows: slice | None = None,
) -> tuple[Tensor, Tensor]:
    """Losses of `unified_threshold_loss` for a batch that was checked; 0 for unknown samples.

    Only those of the samples in `rows`, against all samples; of all if None. Then whether there is
    any genuine pair, a () bool.
    """
    with torch.autocast(features.device.type, enabled=False):
        columns, owners = unit(features), labels.where(known, ABSENT)
        mine = slice(0, len(columns)) if rows is None else rows
        x, own = columns[mine], owners[mine].unsqueeze(1)
        if others is not None and other_labels is not None:
            columns = torch.cat([columns, unit(others.to(columns.dtype))])
            owners = torch.cat([owners, other_labels.clamp(min=ABSENT)])
        z = s * product(x, columns)
        places = torch.arange(len(owners), device=z.device)
        there = (owners != ABSENT) & (own != ABSENT) & (places != places[mine].unsqueeze(1))
        genuine = there & (owners == own)
        impostor = there & (owners != own)
        # What is not a genuine pair must not overflow before it is dropped: its gradient would be
        # 0 times infinity.
        below = softplus(bias - z.where(genuine, 0.0)).where(genuine, 0.0)
        pulled = below.sum(dim=1) / genuine.sum(dim=1).clamp(min=1)
        some = impostor.any(dim=1)
        # logsumexp over nothing has gradient NaN, so such a row sums over all columns, unseen.
        hidden = ~impostor & some.unsqueeze(1)
        pushed = softplus(z.masked_fill(hidden, -torch.inf).logsumexp(dim=1) - bias)
        return pulled + pushed.where(some, 0.0), genuine.any()


def softplus(values: Tensor) -> Tensor:
    """log(1 + exp(x)); torch's default threshold of 20 would cut float64 down to 2e-9."""
    return F.softplus(values, threshold=50.0)


def _checked(
    features: Tensor, labels: Tensor, classes: int | None, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(N, D) features, 0 where ignored; (N,) labels; and which of them count."""
    check_tensors(features=features, labels=labels)
    if features.dim() != 2 or not features.is_floating_point():
        raise ValueError(
            f"features must be (N, D) floating point, got {tuple(features.shape)} {features.dtype}"
        )
    labels = as_labels(labels, features)
    classes = ANY_CLASS if classes is None else classes
    labels = check_values(features, labels, classes, ignore_index)
    known = (labels != ignore_index) & (labels >= 0) & (labels < classes)
    features = features.to(wide_dtype(features)).where(known.unsqueeze(1), 0.0)
    return features, labels, known


class UnifiedThresholdLoss(nn.Module):
    """`unified_threshold_loss` with a learned threshold, over pairs, class centers, or both.

    A term to add to a margin softmax, which lets every class have a threshold of its own. Over
    centers, a sample is compared with the center of its class (above the threshold) and with all
    others (below), by one pass over the classes without an N x C array; the centers get no gradient
    from this term. Over both, the loss is the mean of the two.

    Args:
        s: scale of the cosines, positive.
        over: `"pairs"` of the batch, which should hold several images of each person (16 batches of
            training in a row without two of one, in the memory neither, are warned of once);
            `"centers"`; or `"both"`.
        memory: how many recent embeddings each sample is compared with beside the batch's; they get
            no gradient. Needs `feat_dim`.
        feat_dim: D, the embedding size; None takes any where there is no memory.
        threshold: the cosine that the threshold starts from, in (-1, 1).
        ignore_index: the label of samples to ignore.
        reduction: `"mean"`, `"sum"` or `"none"`.
        implementation: how the centers are passed over, as in `negative_logsumexp`.
        shards: the ranks that hold the classes, as in `MarginSoftmaxLoss`: pairs are then those of
            the samples of all ranks. Without, pairs are those of a rank's own samples; the memory
            holds the samples of all ranks in any case.

    Attributes:
        bias: parameter, a scalar: b, the threshold times s. Give it to the optimizer, without
            weight decay.
        memory: (M, D) buffer of unit embeddings; samples that are ignored take no place in it.
        memory_labels: (M,) int64 buffer, -1 where the memory is not filled yet.
        memory_next: int64 scalar buffer, the place that is overwritten next.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        As `unified_threshold_loss`; the memory: Wang et al. 2020, "Cross-Batch Memory".

    Example:
        >>> import torch
        >>> from centerarc import UnifiedThresholdLoss
        >>> criterion = UnifiedThresholdLoss()
        >>> loss = criterion(torch.randn(8, 16), torch.arange(8) // 2)
        >>> criterion.threshold
        0.5
    """

    memory: Tensor
    memory_labels: Tensor
    memory_next: Tensor

    def __init__(
        self,
        s: float = 16.0,
        *,
        over: Against = "pairs",
        memory: int = 0,
        feat_dim: int | None = None,
        threshold: float = 0.5,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        implementation: Implementation = "auto",
        shards: "ClassShards | None" = None,
    ) -> None:
        super().__init__()
        check_positive("s", s)
        check_choice("over", over, Against)
        check_choice("reduction", reduction, Reduction)
        settings_of(implementation)
        if not isinstance(memory, int) or isinstance(memory, bool) or memory < 0:
            raise ValueError(f"memory must be an integer, 0 or more, got {memory!r}")
        if memory and over == "centers":
            raise ValueError("memory must be 0 with over='centers': it holds samples for pairs")
        if memory and feat_dim is None:
            raise ValueError("feat_dim, the embedding size, must be given with a memory")
        if feat_dim is not None:
            check_counts(feat_dim=feat_dim)
        if not (is_number(threshold) and -1.0 < threshold < 1.0):
            raise ValueError(f"threshold must be in (-1, 1), got {threshold!r}")
        self.s = float(s)
        self.over: Against = over
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction
        self.implementation: Implementation = implementation
        self.shards = shards
        self.bias = nn.Parameter(torch.tensor(float(s * threshold)))
        self._first = float(s * threshold)
        self.register_buffer("memory", torch.zeros(memory, feat_dim or 0))
        self.register_buffer("memory_labels", torch.full((memory,), ABSENT, dtype=torch.int64))
        self.register_buffer("memory_next", torch.zeros((), dtype=torch.int64))
        self._reminder = OptimizerReminder(type(self).__name__)
        self._pair_reminder = PairReminder(type(self).__name__)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Sets the threshold to where it starts from, and empties the memory."""
        self.bias.fill_(self._first)
        self.memory.zero_()
        self.memory_labels.fill_(ABSENT)
        self.memory_next.zero_()

    @property
    def threshold(self) -> float:
        """The learned threshold as a cosine; reading it waits for the device."""
        return float(self.bias.detach()) / self.s

    def forward(
        self,
        features: Tensor,
        labels: Tensor,
        centers: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch: a scalar, or (N,) for `reduction="none"`.

        Args:
            features: (N, D), floating point.
            labels: (N,) integers, or `ignore_index`.
            centers: (C, D) class centers, for `over="centers"` or `"both"`, such as
                `criterion.centers`; with shards, those of this rank.
            seen: (C,) bool, the centers that exist already; all by default.
        """
        if self.training:
            self._reminder.check(self.bias)
        classes = self._check_centers(centers, seen)
        features, labels, known = _checked(features, labels, classes, self.ignore_index)
        if centers is not None and centers.shape[1] != features.shape[1]:
            raise ValueError(
                f"features must be (N, {centers.shape[1]}) as the centers are, "
                f"got {tuple(features.shape)}"
            )
        if self.memory.shape[1] not in (0, features.shape[1]):
            raise ValueError(
                f"features must be (N, {self.memory.shape[1]}), as feat_dim says, "
                f"got {tuple(features.shape)}"
            )
        wrong = (labels != self.ignore_index) & ~known
        counts: list[int] = []
        if self.shards is not None:
            labels = labels.where(known, ABSENT)
            counts = self.shards.counts(len(labels), labels.device)
            features, labels = self.shards.gather(features, labels, counts)
            known = labels >= 0
            wrong = torch.zeros_like(known)
        losses = []
        if self.over != "centers":
            losses.append(self._pair_rows(features, labels, known, counts))
        if centers is not None:
            losses.append(self._center_rows(features, labels, known, centers.detach(), seen))
        rows = torch.stack(losses).mean(dim=0).where(known, 0.0).masked_fill(wrong, torch.nan)
        if self.training and len(self.memory):
            self._remember(features, labels.where(known, ABSENT))
        return reduce(rows, known.to(rows.dtype), self.reduction)

    def _check_centers(self, centers: Tensor | None, seen: Tensor | None) -> int | None:
        if (centers is None) != (self.over == "pairs"):
            what = "not be given" if centers is not None else "be given"
            raise ValueError(f"centers must {what} with over={self.over!r}")
        if centers is None:
            refuse_idle(False, "without centers", seen=(seen, None))
            return None if self.shards is None else self.shards.num_classes
        check_centers(centers, seen)
        return len(centers) if self.shards is None else self.shards.num_classes

    def _pair_rows(
        self, features: Tensor, labels: Tensor, known: Tensor, counts: list[int]
    ) -> Tensor:
        others, owners = (self.memory, self.memory_labels) if len(self.memory) else (None, None)
        mine = slice(0, len(labels))
        bias: Tensor = self.bias
        if self.shards is not None:
            # Each rank takes the rows of its own samples, so that none holds all N x N scores.
            first = sum(counts[: self.shards.rank])
            mine = slice(first, first + counts[self.shards.rank])
            bias = self.shards.spread(bias)
        rows, paired = pair_rows(features, labels, known, bias, self.s, others, owners, mine)
        if self.training:
            self._pair_reminder.check(paired)
        if self.shards is None:
            return rows
        return self.shards.sum(F.pad(rows, (mine.start, len(labels) - mine.stop)))

    def _center_rows(
        self, features: Tensor, labels: Tensor, known: Tensor, centers: Tensor, seen: Tensor | None
    ) -> Tensor:
        first = 0 if self.shards is None else self.shards.start
        here = known & (labels >= first) & (labels < first + len(centers))
        places = (labels - first).where(here, ABSENT)
        sample = None
        if seen is not None:
            if len(seen):
                here = here & seen[places.clamp(min=0)]
            places, sample = places.where(here, ABSENT), taking_part(seen, None)
        found = class_pass(
            features, centers, places, self.s, sample=sample, implementation=self.implementation
        )
        with torch.autocast(features.device.type, enabled=False):
            target = target_angle(features, found.own)
            if self.shards is not None:
                target, found = self.shards.combine(target, found, here)
                # What no rank holds comes out as no angle at all.
                here = (target.cos.detach() != 0) | (target.sin.detach() != 0)
            pulled = softplus(self.bias - self.s * target.cos).where(here, 0.0)
            some = found.logsumexp.detach() > -math.inf
            pushed = softplus(found.logsumexp.where(some, 0.0) - self.bias).where(some, 0.0)
            return pulled + pushed

    @torch.no_grad()
    def _remember(self, features: Tensor, labels: Tensor) -> None:
        features = features.detach()
        distributed = dist.is_available() and dist.is_initialized()
        if self.shards is None and distributed and dist.get_world_size() > 1:
            features, labels = gather_samples(features, labels)
        size = len(self.memory)
        # Those that do not count come first and get the places before the next, which keep what
        # they hold: so none of them is dropped by its index, for which an accelerator would wait.
        order = (labels != ABSENT).long().sort(stable=True).indices[-size:]
        features, labels = unit(features[order]).to(self.memory.dtype), labels[order]
        kept = labels != ABSENT
        number = kept.sum()
        steps = torch.arange(len(labels), device=labels.device) - len(labels) + number
        places = (self.memory_next + steps) % size
        self.memory[places] = features.where(kept.unsqueeze(1), self.memory[places])
        self.memory_labels[places] = labels.where(kept, self.memory_labels[places])
        self.memory_next.add_(number).remainder_(size)

    def extra_repr(self) -> str:
        """What `print(criterion)` shows."""
        memory = f", memory={len(self.memory)}" if len(self.memory) else ""
        return f"s={self.s:g}, over={self.over}{memory}"


@register_margin("uniface")
class UniFace(nn.Module):
    """Unified cross entropy with a margin: targets belong above one threshold, the rest below.

    `loss_i = softplus(b - s psi) + balance softplus(lse_{j != y}(s cos_j) - b)`, with
    `psi = cos(theta) - m`.

    The softmax compares a sample's classes with each other, whatever their scores; here all samples
    and classes are compared with one learned b, as verification does with one threshold, b / s as
    a cosine. It goes through the same pass over the classes as every margin, and costs no more.

    The paper adds up softplus(s cos_j - b) over the other classes one by one. Here the logsumexp
    stands within one softplus, as in the same group's UniTSFace for pairs, so that the negatives of
    a sample share a gradient of at most 1 instead of 1 each. The two agree where all negatives
    are below the threshold: log(1 + sum e_j) = sum log(1 + e_j) up to products of e_j.

    `bias` is a parameter: give it to the optimizer without weight decay, and not to
    `PrototypeSGD(fused=True)`, which serves prototypes only.

    Args:
        m: the margin, a difference of cosines, in [0, 2]; 0.4 is the authors', with s = 64.
        balance: weight of the negatives, in [1e-6, 1]; the paper's lambda, 1 by default.
        bias: what b starts from, finite; the authors take log(10 C) for C classes, see `start`.

    Attributes:
        bias: parameter, a scalar: b, the threshold times s.

    Source:
        Zhou, Jia, Li, Shen, Duan 2023, "UniFace: Unified Cross-Entropy Loss for Deep Face
        Recognition", its loss with margin and balance; Jia et al. 2023, "UniTSFace", equation 8,
        for the logsumexp.

    Example:
        >>> import torch
        >>> from centerarc import MarginSoftmaxLoss
        >>> from centerarc.losses import UniFace
        >>> criterion = MarginSoftmaxLoss(10, 16, UniFace(m=0.4, bias=16.0), s=64.0)
        >>> loss = criterion(torch.randn(8, 16), torch.arange(8))
        >>> criterion.threshold
        0.25
    """

    def __init__(self, m: float = 0.4, balance: float = 1.0, bias: float = 10.0) -> None:
        super().__init__()
        require("UniFace: m", m, 0.0, 2.0, "in [0, 2]")
        # At 0 nothing would push the classes apart.
        require("UniFace: balance", balance, 1e-6, 1.0, "in [1e-6, 1]")
        if not (is_number(bias) and math.isfinite(bias)):
            raise ValueError(f"UniFace: bias must be a finite number, got {bias!r}")
        self.m = m
        self.balance = balance
        self.bias = nn.Parameter(torch.tensor(float(bias)))
        self._first = float(bias)
        self._psi = CosFace(m)
        self._reminder = OptimizerReminder(type(self).__name__)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Sets b to `bias`."""
        self.bias.fill_(self._first)

    def forward(self, target: Target) -> Tensor:
        """`cos(theta) - m`, (N,)."""
        if self.training:
            self._reminder.check(self.bias)
        return self._psi(target)

    def losses(self, logsumexp: Tensor, logit: Tensor) -> Tensor:
        """(N,) losses from the logsumexp of the other classes and the target's scaled psi."""
        bias = self.bias.to(logit.dtype)
        # torch's default threshold of 20 would cut float64 down to 2e-9.
        above = F.softplus(bias - logit, threshold=50.0)
        return above + self.balance * F.softplus(logsumexp - bias, threshold=50.0)

    @torch.no_grad()
    def start(self, classes: float) -> None:
        """Sets b to log(10 C) for C classes that take part, where the authors start it."""
        self.bias.fill_(math.log(10 * max(classes, 1.0)))

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"m={self.m:g}, balance={self.balance:g}"
