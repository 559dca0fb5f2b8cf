"""Margins that are drawn anew for each sample and step, from a normal distribution."""

import math
from typing import TypeVar

import torch
from torch import Tensor

from centerarc.losses.checks import is_number
from centerarc.losses.margins import (
    NO_LABEL,
    BatchMargin,
    Target,
    add_angle,
    register_margin,
    require,
)

_WORD = 0xFFFFFFFF
_Bits = TypeVar("_Bits", int, Tensor)


class ElasticMargin(BatchMargin):
    """What the elastic margins share: m plus normal noise for each sample, in training mode.

    What is drawn is a function of the seed, the number of the forward pass and the place of the
    sample in the batch (of all ranks, with sharded classes), computed where the batch is: a run
    that is resumed, and any number of ranks, draw alike, and nothing waits for a GPU.
    """

    def __init__(self, m: float, sigma: float, plus: bool, seed: int, most: float) -> None:
        super().__init__()
        name = type(self).__name__
        require(f"{name}: sigma", sigma, 0.0, 1.0, "in [0, 1]")
        if plus not in (False, True):
            raise ValueError(f"{name}: plus must be true or false, got {plus!r}")
        if not (is_number(seed) and float(seed).is_integer()):
            raise ValueError(f"{name}: seed must be an integer, got {seed!r}")
        self.m = m
        self.sigma = sigma
        self.plus = bool(plus)
        self.seed = int(seed)
        self._most = most
        self.passes: Tensor
        self.register_buffer("passes", torch.tensor(0))

    def reset_parameters(self) -> None:
        """Starts the draws from the beginning."""
        self.passes.zero_()

    def draw(self, target: Target) -> Tensor:
        """Returns the margin of each sample, (N,), and counts the pass; m in evaluation mode."""
        if not self.training:
            return torch.full_like(target.cos, self.m)
        with torch.no_grad():
            noise = _drawn(self.passes, self.seed, len(target.cos)).to(target.cos)
            margins = (self.m + self.sigma * noise).clamp(0.0, self._most)
            self.passes += 1
            return self._by_nearness(margins, target) if self.plus else margins

    def _by_nearness(self, margins: Tensor, target: Target) -> Tensor:
        """The same margins, the smallest to the sample that is nearest to its prototype."""
        cos = target.cos.detach()
        if target.labels is not None:  # those that do not count come last in both orders
            counts = target.labels != NO_LABEL
            cos, margins = cos.where(counts, -torch.inf), margins.where(counts, torch.inf)
        nearest_first = cos.argsort(descending=True, stable=True)
        given = torch.empty_like(margins)
        given[nearest_first] = margins.sort().values
        return given.clamp(max=self._most)

    def extra_repr(self) -> str:
        """What `print(margin)` shows."""
        plus = ", plus=True" if self.plus else ""
        return f"m={self.m:g}, sigma={self.sigma:g}{plus}, seed={self.seed}"


@register_margin("elastic_arcface")
class ElasticArcFace(ElasticMargin):
    """ElasticFace-Arc: `psi = cos(theta + m_i)` with m_i drawn from N(m, sigma) in each step.

    The margins are clipped to [0, pi/2]. In evaluation mode all are m, as for `ArcFace`, which
    psi is with sigma = 0, and beyond theta = pi - m_i.

    Args:
        m: mean of the margins in radians, in [0, pi/2].
        sigma: their standard deviation, in [0, 1]; usual are 0.05, with `plus` 0.0175.
        plus: ElasticFace-Arc+: within a batch, the sample nearest to its prototype gets the
            smallest of the drawn margins, and so on. (The authors' code looks its sorted margins
            up by the inverse of that order.)
        seed: with another one, other margins are drawn; `centerarc train` gives the run's.

    Attributes:
        passes: buffer, forward passes in training mode so far.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Boutros, Damer, Kirchbuchner, Kuijper 2022, "ElasticFace: Elastic Margin Loss for Deep Face
        Recognition" (CVPR Workshops).

    Example:
        >>> import torch
        >>> from centerarc.losses import ElasticArcFace, Target
        >>> zero = Target(cos=torch.ones(3), sin=torch.zeros(3), norm=torch.ones(3))
        >>> margin = ElasticArcFace(m=0.5, sigma=0.05)
        >>> margin(zero).unique().numel(), margin.eval()(zero).unique().numel()
        (3, 1)
    """

    def __init__(
        self, m: float = 0.5, sigma: float = 0.05, plus: bool = False, seed: int = 0
    ) -> None:
        require("ElasticArcFace: m", m, 0.0, math.pi / 2, "in [0, pi/2] radians")
        super().__init__(m, sigma, plus, seed, most=math.pi / 2)

    def forward(self, target: Target) -> Tensor:
        """Returns psi, (N,)."""
        return add_angle(target, self.draw(target))


@register_margin("elastic_cosface")
class ElasticCosFace(ElasticMargin):
    """ElasticFace-Cos: `psi = cos(theta) - m_i` with m_i drawn from N(m, sigma) in each step.

    The margins are clipped to [0, 2]. In evaluation mode all are m, as for `CosFace`.

    Args:
        m: mean of the margins, differences of cosines, in [0, 2].
        sigma: their standard deviation, in [0, 1]; usual are 0.05, with `plus` 0.025.
        plus: ElasticFace-Cos+, as in `ElasticArcFace`.
        seed: as in `ElasticArcFace`.

    Attributes:
        passes: buffer, forward passes in training mode so far.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Boutros, Damer, Kirchbuchner, Kuijper 2022, "ElasticFace" (CVPR Workshops).
    """

    def __init__(
        self, m: float = 0.35, sigma: float = 0.05, plus: bool = False, seed: int = 0
    ) -> None:
        require("ElasticCosFace: m", m, 0.0, 2.0, "in [0, 2]")
        super().__init__(m, sigma, plus, seed, most=2.0)

    def forward(self, target: Target) -> Tensor:
        """Returns psi, (N,)."""
        return target.cos - self.draw(target)


def normal_noise(seed: int, number: Tensor, count: int) -> Tensor:
    """(count,) float32 values of N(0, 1), a function of the seed, a 0-dim number and the place.

    torch's generators have a state, which a run would have to save on each rank, and a GPU's
    cannot be set to a number that is on the GPU without waiting for it.

    Source:
        Box, Muller 1958, on words from a counter that a mixer of 32 bits scatters (in the manner of
        Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
    """
    key = _mix((number & _WORD) ^ _mix(_mix(seed & _WORD) ^ (seed >> 32 & _WORD)))
    places = torch.arange(2 * count, device=number.device)
    words = _mix(_mix(places ^ 0x5BD1E995) ^ key)
    # In (0, 1], of which the logarithm is finite.
    first, second = (((words >> 8).float() + 0.5) / 2**24).view(2, count)
    normal: Tensor = (-2 * first.log()).sqrt() * (2 * math.pi * second).cos()
    return normal


@torch.library.custom_op("centerarc::normal_noise", mutates_args=())
def _drawn(number: Tensor, seed: int, count: int) -> Tensor:
    """`normal_noise` as one operation.

    A compiled backward pass would compute it again from the number, which has moved on by then, and
    so have the gradient of other margins than the loss.
    """
    return normal_noise(seed, number, count)


@_drawn.register_fake
def _(number: Tensor, seed: int, count: int) -> Tensor:
    return number.new_empty(count, dtype=torch.float32)


def _mix(word: _Bits) -> _Bits:
    """A one-to-one map of words of 32 bits in which each bit depends on all."""
    word = _times(word ^ (word >> 16), 0x7FEB352D)
    word = _times(word ^ (word >> 15), 0x846CA68B)
    return word ^ (word >> 16)


def _times(word: _Bits, factor: int) -> _Bits:
    """The lowest 32 bits of a product, without overflow of 64."""
    low = (word & 0xFFFF) * factor
    high = ((word >> 16) * factor & 0xFFFF) << 16
    return (low + high) & _WORD
