"""Margins: functions that make the target cosine smaller, so that the network must beat it.

A margin maps the angle between a sample and its own prototype to the value that replaces the
target's cosine in the softmax. It sees N numbers only and is plain autograd. To add one, write a
frozen dataclass with a `__call__` here and name it in `MARGINS`, or register it from outside with
`register_margin`: the fused loss and the command line take it from there. A parameter out of range
is a `ValueError` that names it. Margins that look at more than the angle have files of their own.
"""

import difflib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from centerarc.losses.checks import is_number
from centerarc.losses.head.products import SMALLEST_NORM, unit

# The label of a sample that does not count, in `Target.labels`.
NO_LABEL = -1


@dataclass(frozen=True)
class Target:
    """What a margin may use: one entry per sample, all (N,) and differentiable.

    Attributes:
        cos: cosine of the angle theta between the feature and its class prototype, in [-1, 1].
        sin: sine of the same angle, in [0, 1], accurate for small angles too.
        norm: length of the feature before normalization.
        labels: int64 class of each sample, among all classes; -1 for a sample that does not count,
            of which the other entries mean nothing. None where a margin is called by hand without.
    """

    cos: Tensor
    sin: Tensor
    norm: Tensor
    labels: Tensor | None = None

    @property
    def theta(self) -> Tensor:
        """The angle in radians, in [0, pi], with a finite gradient everywhere."""
        return torch.atan2(self.sin, self.cos)

    @property
    def one_minus_cos(self) -> Tensor:
        """Half the squared distance of the unit vectors, in [0, 2], accurate for small angles."""
        # The difference would cancel away the digits of a cosine near 1.
        acute = self.sin.square() / (1 + self.cos.clamp(min=0))
        return torch.where(self.cos > 0, acute, 1 - self.cos)


def target_angle(features: Tensor, prototypes: Tensor) -> Target:
    """Cosine and sine between each (N, D) feature and the prototype beside it.

    With unit vectors x and w, `cos = <x, w>` and `sin = |x - w| |x + w| / 2`. The usual
    `sqrt(1 - cos^2)` loses the small angles: at theta = 1e-3 it is off by tens of percent in
    float32, where this form keeps six digits; and its derivative at cos = +-1 is infinite, where
    this one's stays at most 1. A zero feature or prototype counts as orthogonal: cos 0, sin 1, and
    no gradient.
    """
    x, w = unit(features), unit(prototypes)
    norm = torch.linalg.vector_norm(features, dim=-1)
    apart = torch.linalg.vector_norm(x - w, dim=-1)
    opposed = torch.linalg.vector_norm(x + w, dim=-1)
    shortest = torch.minimum(norm, torch.linalg.vector_norm(prototypes, dim=-1)).detach()
    # Clamping would zero the gradient of cosines that rounding put a hair outside [-1, 1].
    cos = (x * w).sum(dim=-1)
    sin = torch.where(shortest > SMALLEST_NORM, apart * opposed / 2, 1.0)
    return Target(cos=cos, sin=sin, norm=norm)


class Margin(Protocol):
    """Any callable from the target angle to psi, the target's cosine reduced by the margin."""

    def __call__(self, target: Target, /) -> Tensor:
        """Returns psi, (N,)."""


@runtime_checkable
class PenalizedMargin(Protocol):
    """A margin with a regularizer of its own, which is added to the loss of each sample."""

    def __call__(self, target: Target, /) -> Tensor:
        """Returns psi, (N,)."""

    def penalty(self, target: Target, /) -> Tensor:
        """Returns what is added to each sample's loss, (N,), before class weights."""


class BatchMargin(nn.Module):
    """A margin whose psi depends on other samples of the batch, or on batches before.

    Such a margin keeps its state in buffers, which are saved with the criterion, and changes them
    in training mode only. It must see the samples of all ranks, in their order, as it does with
    sharded classes: `centerarc train` refuses `head.sharded: false` on several processes with it.
    Under DistributedDataParallel each rank looks at its own samples, and the state is rank 0's.
    """


def add_angle(target: Target, angle: Tensor) -> Tensor:
    """`cos(theta + angle)` with an (N,) angle of each sample in [-pi/2, pi/2], never rising.

    For a positive angle it continues beyond theta = pi - angle as `ArcFace` does. For a negative
    one, cos(theta + angle) would rise from theta = 0 to theta = -angle: it is 1 there.
    """
    cos_m = angle.cos()
    inside = target.cos * cos_m - target.sin * angle.sin()
    beyond = torch.where(target.cos > -cos_m, inside, target.cos + (cos_m - 1))
    return torch.where(angle < 0, inside.where(target.cos < cos_m, 1.0), beyond)


def require(name: str, value: float, low: float, high: float, allowed: str) -> None:
    """Raises unless a margin's parameter is a number in [low, high]."""
    if not (is_number(value) and low <= value <= high):
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


@dataclass(frozen=True)
class ArcFace:
    """Additive angular margin, `psi = cos(theta + m)`.

    Computed as `cos(theta) cos(m) - sin(theta) sin(m)`, so no `acos` and no infinite gradient.
    From theta = pi - m on, where cos(theta + m) would rise again, it continues as
    `cos(theta) + cos(m) - 1`: continuous there (both sides are -1), falling all the way to
    theta = pi, and with the gradient of the plain cosine, so the network still learns from its
    worst samples.
    (The usual fallback, `cos(theta) - m sin(m)`, jumps down by 7.5 logits at s = 64, m = 0.5.)

    Args:
        m: the margin in radians, in [0, pi/2]; 0 is the plain normalized softmax.

    Source:
        Deng, Guo, Xue, Zafeiriou 2019, "ArcFace", equation 3.

    Example:
        >>> import torch
        >>> from centerarc.losses import ArcFace, Target
        >>> zero = Target(cos=torch.ones(1), sin=torch.zeros(1), norm=torch.ones(1))
        >>> round(ArcFace(m=0.5)(zero).item(), 4)
        0.8776
    """

    m: float = 0.5

    def __post_init__(self) -> None:
        require("ArcFace: m", self.m, 0.0, math.pi / 2, "in [0, pi/2] radians")

    def __call__(self, target: Target) -> Tensor:
        cos_m = math.cos(self.m)
        inside = target.cos * cos_m - target.sin * math.sin(self.m)
        return torch.where(target.cos > -cos_m, inside, target.cos + (cos_m - 1))


@dataclass(frozen=True)
class CosFace:
    """Additive cosine margin, `psi = cos(theta) - m`.

    Args:
        m: the margin, a difference of cosines, in [0, 2]; 0 is the plain normalized softmax.

    Source:
        Wang, Wang, Zhou et al. 2018, "CosFace", equation 4.
    """

    m: float = 0.35

    def __post_init__(self) -> None:
        require("CosFace: m", self.m, 0.0, 2.0, "in [0, 2]")

    def __call__(self, target: Target) -> Tensor:
        return target.cos - self.m


@dataclass(frozen=True)
class CombinedMargin:
    """The three margins in one, `psi = cos(m1 theta + m2) - m3`.

    Where m1 theta + m2 exceeds pi, at theta0 = (pi - m2) / m1, it continues as
    `cos(theta) - cos(theta0) - 1 - m3`: continuous and falling, as for `ArcFace`.

    Args:
        m1: factor of the angle, in [1, 4].
        m2: addend to the angle in radians, in [0, pi/2].
        m3: subtrahend from the cosine, in [0, 2].

    Source:
        Deng, Guo, Xue, Zafeiriou 2019, "ArcFace", equation 4.
    """

    m1: float = 1.0
    m2: float = 0.3
    m3: float = 0.2

    def __post_init__(self) -> None:
        require("CombinedMargin: m1", self.m1, 1.0, 4.0, "in [1, 4]")
        require("CombinedMargin: m2", self.m2, 0.0, math.pi / 2, "in [0, pi/2] radians")
        require("CombinedMargin: m3", self.m3, 0.0, 2.0, "in [0, 2]")

    def __call__(self, target: Target) -> Tensor:
        if self.m1 == 1.0:
            return ArcFace(self.m2)(target) - self.m3
        turn = (math.pi - self.m2) / self.m1
        inside = torch.cos(self.m1 * target.theta + self.m2)
        beyond = target.cos - (math.cos(turn) + 1)
        return torch.where(target.cos > math.cos(turn), inside, beyond) - self.m3


@dataclass(frozen=True)
class SphereFaceR:
    """Multiplicative angular margin, `psi = (-1)^k cos(m theta) - 2k`, k = floor(m theta / pi).

    The steps keep it continuous and decreasing over all of [0, pi]. It is used with a fixed scale
    s, as in the revised SphereFace with hard feature normalization. (The authors' code stops the
    gradient at the margin; here the gradient is exact.)

    Args:
        m: factor of the angle, a real number in [1, 4]; 1 is the plain normalized softmax.

    Source:
        Liu, Wen, Raj, Singh, Weller 2022, "SphereFace Revived"; the characteristic function of
        Liu et al. 2017, "SphereFace", equation 7.
    """

    m: float = 1.5

    def __post_init__(self) -> None:
        require("SphereFaceR: m", self.m, 1.0, 4.0, "in [1, 4]")

    def __call__(self, target: Target) -> Tensor:
        if self.m == 1.0:
            return target.cos
        angle = self.m * target.theta
        k = (angle.detach() / math.pi).floor()
        return (1 - 2 * (k % 2)) * torch.cos(angle) - 2 * k


MARGINS: dict[str, Callable[..., Margin]] = {
    "arcface": ArcFace,
    "cosface": CosFace,
    "combined": CombinedMargin,
    "sphereface_r": SphereFaceR,
}

_Builder = TypeVar("_Builder", bound=Callable[..., Any])


def register_margin(name: str) -> Callable[[_Builder], _Builder]:
    """Registers a margin under `name`, as a decorator of its class.

    The class, best a frozen dataclass, maps a `Target` to psi when it is called; the parameters of
    its constructor are those that users can give. psi must fall as the angle grows. The same
    definition may be registered again.

    Raises:
        ValueError: If the name belongs to another margin.

    Example:
        >>> @register_margin("half")
        ... @dataclass(frozen=True)
        ... class Half:
        ...     m: float = 0.2
        ...     def __call__(self, target: Target) -> Tensor:
        ...         return target.cos - self.m * (1 + target.cos) / 2
        >>> create_margin("half", m=0.3)
        Half(m=0.3)
        >>> del MARGINS["half"]
    """

    def registered(builder: _Builder) -> _Builder:
        before = MARGINS.get(name, builder)
        if before is not builder and _definition(before) != _definition(builder):
            raise ValueError(
                f"a margin named {name!r} is registered already: {_definition(before)}"
            )
        MARGINS[name] = builder
        return builder

    return registered


def _definition(builder: Callable[..., Any]) -> str:
    name = getattr(builder, "__qualname__", repr(builder))
    # What functions make inside of them shares a name.
    return f"{builder.__module__}.{name}" + (f" at {id(builder):#x}" if "<" in name else "")


def list_margins() -> list[str]:
    """The names that `create_margin` knows."""
    return list(MARGINS)


def margin_parameters(name: str) -> dict[str, bool]:
    """The parameters that the margin of a name takes, and whether it needs them.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in MARGINS:
        close = difflib.get_close_matches(name, MARGINS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"margin must be one of {', '.join(MARGINS)}, got {name!r}{hint}")
    parameters = inspect.signature(MARGINS[name]).parameters.values()
    return {p.name: p.default is p.empty for p in parameters}


def create_margin(name: str, **parameters: float | bool) -> Margin:
    """Builds a margin by its name, one of `list_margins()`, with what its class takes (`m=0.4`).

    Raises:
        ValueError: for an unknown name or parameter, or a value out of range.
    """
    known = margin_parameters(name)
    for parameter in parameters:
        if parameter not in known:
            raise ValueError(
                f"margin {name!r} takes {', '.join(known) or 'no parameters'}, "
                f"got the parameter {parameter!r}"
            )
    if missing := [key for key, needed in known.items() if needed and key not in parameters]:
        raise ValueError(f"margin {name!r} needs the parameter {missing[0]!r}")
    return MARGINS[name](**parameters)
