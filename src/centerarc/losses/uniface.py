"""UniFace: one learned threshold between the targets' cosines and those of all other classes."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from centerarc.losses.checks import OptimizerReminder, is_number
from centerarc.losses.margins import CosFace, Target, register_margin, require


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
