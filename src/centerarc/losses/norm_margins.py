"""Margins that look at the length of an embedding, which grows with the quality of the image."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from centerarc.losses.checks import check_positive
from centerarc.losses.margins import (
    NO_LABEL,
    BatchMargin,
    Target,
    add_angle,
    register_margin,
    require,
)

# Lengths that AdaFace's statistics look at, and what keeps its deviation from 0.
_SHORTEST, _LONGEST, _EPSILON = 1e-3, 100.0, 1e-3


@register_margin("adaface")
class AdaFace(BatchMargin):
    """Margin by image quality: angular for short embeddings, subtracted for long ones.

    `psi = cos(theta - m z) - m (1 + z)`, where z says how long an embedding is among the others:

        z = clip(h (|x| - mean) / (deviation + 0.001), -1, 1)

    At z = -1 (short, as of unrecognizable images) this is ArcFace's cos(theta + m), at z = 0
    CosFace's cos(theta) - m, and at z = 1 cos(theta - m) - 2m, which weighs hard samples most. No
    gradient goes through z. Mean and deviation are running ones over batches,
    `alpha new + (1 - alpha) old`, of lengths clipped to [0.001, 100], and are updated before they
    are used. In evaluation mode they stay as they are. A batch of fewer than two samples, or with a
    length that is NaN, does not change them. For theta < m z, where cos(theta - m z) would rise, it
    is 1.

    Args:
        m: the margin, in radians and as a difference of cosines, in [0, 1]; 0 is the plain
            normalized softmax, 0.4 usual.
        h: how much of the range of z the lengths fill, positive: at 1/3, three deviations.
        alpha: weight of the newest batch in the running statistics, in (0, 1].

    Attributes:
        mean: buffer, running mean of the lengths; starts at 20, as the authors' does.
        deviation: buffer, running standard deviation; starts at 100.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Kim, Jain, Liu 2022, "AdaFace: Quality Adaptive Margin for Face Recognition" (CVPR).

    Example:
        >>> import torch
        >>> from centerarc.losses import AdaFace, MarginSoftmaxLoss
        >>> criterion = MarginSoftmaxLoss(num_classes=10, feat_dim=16, margin=AdaFace(m=0.4))
        >>> loss = criterion(torch.randn(8, 16), torch.arange(8))
        >>> round(criterion.margin.mean.item(), 1) < 20
        True
    """

    def __init__(self, m: float = 0.4, h: float = 0.333, alpha: float = 0.01) -> None:
        super().__init__()
        require("AdaFace: m", m, 0.0, 1.0, "in [0, 1]")
        check_positive("AdaFace: h", h)
        check_positive("AdaFace: alpha", alpha)
        require("AdaFace: alpha", alpha, 0.0, 1.0, "in (0, 1]")
        self.m = m
        self.h = h
        self.alpha = alpha
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.empty(()))
        self.register_buffer("deviation", torch.empty(()))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Forgets the lengths seen so far."""
        self.mean.fill_(20.0)
        self.deviation.fill_(100.0)

    def forward(self, target: Target) -> Tensor:
        """Returns psi, (N,); in training mode it updates the statistics first."""
        length = target.norm.detach().clamp(_SHORTEST, _LONGEST)
        if self.training:
            self._follow(length, target.labels)
        z = self.h * (length - self.mean) / (self.deviation + _EPSILON)
        z = z.to(length.dtype).clamp(-1.0, 1.0)
        return add_angle(target, -self.m * z) - self.m * (1 + z)

    @torch.no_grad()
    def _follow(self, length: Tensor, labels: Tensor | None) -> None:
        counts = torch.ones_like(length, dtype=torch.bool)
        if labels is not None:
            counts = labels != NO_LABEL
        number = counts.sum()
        mean = length.where(counts, 0.0).sum() / number.clamp(min=1)
        squares = (length - mean).where(counts, 0.0).square().sum()
        deviation = (squares / (number - 1).clamp(min=1)).sqrt()
        fits = (number > 1) & mean.isfinite()
        for buffer, new in ((self.mean, mean), (self.deviation, deviation)):
            moved = torch.lerp(buffer, new.to(buffer.dtype), self.alpha)
            buffer.copy_(moved.where(fits, buffer))

    def extra_repr(self) -> str:
        """What `print(margin)` shows."""
        return f"m={self.m:g}, h={self.h:g}, alpha={self.alpha:g}"


@register_margin("magface")
@dataclass(frozen=True)
class MagFace:
    """Margin that grows with the length of the embedding, and a regularizer that rewards length.

    `psi = cos(theta + m(a))` with a = |x| clipped to [l_a, u_a], m(a) linear from l_m at l_a to u_m
    at u_a, and on each sample's loss

        lambda_g (a / u_a^2 + 1 / a)

    so that easy samples become long and the length measures the quality of an image. Gradients go
    through the length, outside [l_a, u_a] none: choose the two around the lengths that your
    backbone gives. Beyond theta = pi - m(a) it continues as `ArcFace` does. From
    `lambda_g = s (u_m - l_m) / (u_a - l_a) * u_a^2 l_a^2 / (u_a^2 - l_a^2)` on (22.6 with the
    defaults and s = 64), a sample of length l_a always gains by growing.

    Args:
        l_m: margin in radians of the shortest, in [0, pi/2].
        u_m: margin in radians of the longest, in [l_m, pi/2].
        l_a: length up to which embeddings count as shortest, positive.
        u_a: length from which they count as longest, above l_a.
        lambda_g: weight of the regularizer, at least 0; the authors use 35 in the paper, 20 in
            their code.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Meng, Zhao, Huang, Zhou 2021, "MagFace: A Universal Representation for Face Recognition and
        Quality Assessment" (CVPR).

    Example:
        >>> import torch
        >>> from centerarc.losses import MagFace, Target
        >>> one = torch.ones(2)
        >>> target = Target(cos=one, sin=0 * one, norm=torch.tensor([10.0, 110.0]))
        >>> MagFace()(target).acos()
        tensor([0.4500, 0.8000])
    """

    l_m: float = 0.45
    u_m: float = 0.8
    l_a: float = 10.0
    u_a: float = 110.0
    lambda_g: float = 35.0

    def __post_init__(self) -> None:
        require("MagFace: l_m", self.l_m, 0.0, math.pi / 2, "in [0, pi/2] radians")
        require("MagFace: u_m", self.u_m, self.l_m, math.pi / 2, f"in [{self.l_m:g}, pi/2] radians")
        check_positive("MagFace: l_a", self.l_a)
        check_positive("MagFace: u_a", self.u_a)
        if self.u_a <= self.l_a:
            raise ValueError(f"MagFace: u_a must be above l_a, {self.l_a:g}, got {self.u_a!r}")
        require("MagFace: lambda_g", self.lambda_g, 0.0, 1e9, "in [0, 1e9]")

    def __call__(self, target: Target) -> Tensor:
        slope = (self.u_m - self.l_m) / (self.u_a - self.l_a)
        return add_angle(target, self.l_m + slope * (self._length(target) - self.l_a))

    def penalty(self, target: Target) -> Tensor:
        """Returns `lambda_g (a / u_a^2 + 1 / a)`, (N,)."""
        length = self._length(target)
        return self.lambda_g * (length / self.u_a**2 + 1 / length)

    def _length(self, target: Target) -> Tensor:
        return target.norm.clamp(self.l_a, self.u_a)
