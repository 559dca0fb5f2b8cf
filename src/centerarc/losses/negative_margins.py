"""Margins that make the negatives harder too, and not the target's cosine alone."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from centerarc.losses.head.epilogues import HardNegatives
from centerarc.losses.margins import (
    ArcFace,
    BatchMargin,
    CombinedMargin,
    Target,
    register_margin,
    require,
)


class NegativeMargin(nn.Module, ABC):
    """A margin that also says how the cosines of other classes count: psi, and a rule for them.

    The head finds the target's angle before the pass over the classes, asks for the rule, and
    evaluates it inside the pass, so no N x C array is needed. It costs the own prototypes, gathered
    twice, and with shards one more all-reduce of 3 rows of N numbers.
    """

    @abstractmethod
    def forward(self, target: Target) -> Tensor:
        """Returns psi, (N,)."""

    @abstractmethod
    def hard_negatives(self, target: Target) -> HardNegatives:
        """The rule for one batch; `target` has no gradient and all samples of all ranks.

        It is asked once a forward pass, before psi. Ignored samples have a norm of 0.
        """


@register_margin("curricularface")
class CurricularFace(NegativeMargin, BatchMargin):
    """ArcFace whose hard negatives count for more as the training gets on.

    `psi = cos(theta + m)`, continued as in `ArcFace`. Another class whose cosine z is above psi
    counts as `z (t + z)`, where t is the running mean of the batches' mean target cosines,
    `t <- momentum t + (1 - momentum) mean(cos theta)`. At first, t is 0 and hard negatives count
    for less than their cosine; from t + z = 1 on, for more.

    As in the authors' code, t is updated by the batch before it is used, and neither t nor the
    comparison with psi has a gradient; that of `z (t + z)` is exact. Beyond theta = pi - m, where
    cos(theta + m) rises again, the comparison is with the falling continuation. Samples that are
    ignored do not count in the mean, and it rests in evaluation mode. Each forward pass in training
    mode counts as a batch.

    What counts is below 2 s: up to s = 32 the head keeps exponentials, above it takes a running
    maximum and a fourth product.

    Args:
        m: the margin in radians, in [0, pi/2]; 0.5 is usual, with s = 64.
        momentum: of the running mean, in [0, 1); 0.99 is the paper's.

    Attributes:
        t: buffer, a scalar in [-1, 1], 0 at first.

    Source:
        Huang, Wang, Tai, Liu, Shen, Li, Li, Huang 2020, "CurricularFace", equations 5 to 8.

    Example:
        >>> import torch
        >>> from centerarc import MarginSoftmaxLoss
        >>> from centerarc.losses import CurricularFace
        >>> criterion = MarginSoftmaxLoss(10, 16, CurricularFace(m=0.5), s=64.0)
        >>> loss = criterion(torch.randn(8, 16), torch.arange(8))
        >>> sorted(criterion.state_dict())
        ['margin.t', 'prototypes']
    """

    def __init__(self, m: float = 0.5, momentum: float = 0.99) -> None:
        super().__init__()
        require("CurricularFace: m", m, 0.0, math.pi / 2, "in [0, pi/2] radians")
        # At 1 the mean would stay 0.
        require("CurricularFace: momentum", momentum, 0.0, math.nextafter(1.0, 0.0), "in [0, 1)")
        self.m = m
        self.momentum = momentum
        self.t: Tensor
        self.register_buffer("t", torch.zeros(()))
        self._arc = ArcFace(m)

    def reset_parameters(self) -> None:
        """Starts the running mean from 0."""
        self.t.zero_()

    def forward(self, target: Target) -> Tensor:
        """`cos(theta + m)`, (N,)."""
        return self._arc(target)

    @torch.no_grad()
    def hard_negatives(self, target: Target) -> HardNegatives:
        """`z (t + z)` above psi; in training mode, t takes in this batch first."""
        if self.training:
            self._follow(target)
        curve = torch.stack([torch.ones_like(self.t), self.t, torch.zeros_like(self.t)])
        return HardNegatives(self(target), curve, most=2.0)

    def _follow(self, target: Target) -> None:
        counted = target.norm > 0
        mean = target.cos.where(counted, 0.0).sum() / counted.sum()
        moved = self.momentum * self.t + (1 - self.momentum) * mean.to(self.t.dtype)
        # An empty batch has no mean, and one that is refused later must not stay in t.
        self.t.copy_(torch.where(mean.isfinite(), moved, self.t))

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"m={self.m:g}, momentum={self.momentum:g}"


@register_margin("mv_softmax")
class MVSoftmax(NegativeMargin):
    """Misclassified vectors guide the softmax: negatives above psi count as `t z + t - 1`.

    `psi = cos(theta + m2) - m3`, continued as in `CombinedMargin`. With t above 1, a hard
    negative of cosine z counts as `t z + t - 1`, which is z + (t - 1)(z + 1): the nearer it is, the
    more is added. MV-Arc-Softmax is `MVSoftmax(m2=0.5, m3=0)`, MV-AM-Softmax
    `MVSoftmax(m2=0, m3=0.35)`.

    The comparison has no gradient; that of what counts is exact. (The authors' code gives targets
    of negative cosine no margin; here the margin continues.)

    What counts is at most (2 t - 1) s: if that is at most 64 the head keeps exponentials, else it
    takes a running maximum and a fourth product.

    Args:
        m2: addend to the angle in radians, in [0, pi/2]; 0.5 is usual.
        m3: subtrahend from the cosine, in [0, 2]; 0.35 is usual, with m2 = 0.
        t: how much hard negatives are stressed, in [1, 2]; 1 is the margin alone, 1.1 to 1.2 are
            usual, with s = 32.

    Source:
        Wang, Zhang, Wang, Fu, Shi, Mei 2020, "Mis-classified Vector Guided Softmax Loss for Face
        Recognition", equations 8 to 10, the adaptive re-weighting.

    Example:
        >>> from centerarc.losses import MVSoftmax
        >>> MVSoftmax(m2=0.0, m3=0.35, t=1.2)
        MVSoftmax(m2=0, m3=0.35, t=1.2)
    """

    def __init__(self, m2: float = 0.5, m3: float = 0.0, t: float = 1.2) -> None:
        super().__init__()
        require("MVSoftmax: m2", m2, 0.0, math.pi / 2, "in [0, pi/2] radians")
        require("MVSoftmax: m3", m3, 0.0, 2.0, "in [0, 2]")
        require("MVSoftmax: t", t, 1.0, 2.0, "in [1, 2]")
        self.m2 = m2
        self.m3 = m3
        self.t = t
        self._margin = CombinedMargin(1.0, m2, m3)

    def forward(self, target: Target) -> Tensor:
        """`cos(theta + m2) - m3`, (N,)."""
        return self._margin(target)

    @torch.no_grad()
    def hard_negatives(self, target: Target) -> HardNegatives:
        """`t z + t - 1` above psi."""
        # Filled on the device: a copy of host memory would wait for a GPU.
        curve = torch.stack([target.cos.new_full((), c) for c in (0.0, self.t, self.t - 1)])
        return HardNegatives(self(target), curve, most=2 * self.t - 1)

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"m2={self.m2:g}, m3={self.m3:g}, t={self.t:g}"
