"""Margins that grow as the images of a class become fewer."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from centerarc.losses.checks import check_tensors
from centerarc.losses.margins import Target, add_angle, register_margin, require


class ClassSizeMargin(nn.Module, ABC):
    """What the margins by class size share: a margin of each class, a buffer.

    Args:
        counts: as for `set_counts`; None until that is called.

    Attributes:
        margins: buffer, (C,) float32, of all classes, also where they are sharded; None before the
            counts are known.
    """

    def __init__(self, counts: Tensor | None) -> None:
        super().__init__()
        self.margins: Tensor | None
        self.register_buffer("margins", None)
        self._sizes: Tensor | None = None  # (C,) float64, on the host
        if counts is not None:
            self.set_counts(counts)

    def set_counts(self, counts: Tensor) -> None:
        """Sets the margins from (C,) numbers of images, integers; a class without counts as 1.

        Raises:
            ValueError: if they are not (C,) integers of at least 0.
        """
        name = f"{type(self).__name__}: counts"
        check_tensors(counts=counts)
        whole = not (counts.is_floating_point() or counts.is_complex())
        if not whole or counts.dim() != 1 or not len(counts):
            raise ValueError(
                f"{name} must be (C,) integers, the images of each class, "
                f"got {tuple(counts.shape)} {counts.dtype}"
            )
        if int(counts.min()) < 0:
            raise ValueError(f"{name} must be at least 0, got {int(counts.min())}")
        self._sizes = counts.detach().cpu().clamp(min=1).double()
        self.margins = self.margin_of(self._sizes).float().to(counts.device)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Sets the margins to those of the counts again."""
        if self.margins is not None and self._sizes is not None:
            self.margins.copy_(self.margin_of(self._sizes))

    @abstractmethod
    def margin_of(self, sizes: Tensor) -> Tensor:
        """The margins of (C,) float64 sizes of at least 1."""

    def check_classes(self, num_classes: int) -> None:
        """Raises unless the margins are those of so many classes."""
        name = type(self).__name__
        if self.margins is None:
            raise ValueError(
                f"{name} must have the number of images of each class: {name}(counts=...), "
                f"({num_classes},) integers"
            )
        if len(self.margins) != num_classes:
            raise ValueError(
                f"{name}: counts must be ({num_classes},), one for each class, "
                f"got ({len(self.margins)},)"
            )

    def own(self, target: Target) -> Tensor:
        """The margin of each sample's class, (N,); of a sample that does not count, any."""
        if target.labels is None:
            raise ValueError(f"target.labels must be given for {type(self).__name__}, got None")
        if self.margins is None:
            self.check_classes(int(target.labels.max()) + 1)
        assert self.margins is not None
        return self.margins[target.labels.clamp(min=0)].to(target.cos.dtype)


@register_margin("ldam")
class LDAM(ClassSizeMargin):
    """Label-distribution-aware margin, `psi = cos(theta) - m (n_min / n_y)^(1/4)`.

    n_y is the number of images of the sample's class and n_min that of the smallest class, whose
    margin is m. Of the margins with a given sum, these make the bound of the error smallest that
    the paper derives.

    Args:
        m: the margin of the smallest class, a difference of cosines, in [0, 2]; 0.5 is usual.
        counts: (C,) integers, the images of each class; `centerarc train` counts them.

    Attributes:
        margins: buffer, (C,) float32.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Cao, Wei, Gaidon, Arechiga, Ma 2019, "Learning Imbalanced Datasets with
        Label-Distribution-Aware Margin Loss" (NeurIPS).

    Example:
        >>> import torch
        >>> from centerarc.losses import LDAM
        >>> LDAM(m=0.5, counts=torch.tensor([1, 16, 81])).margins
        tensor([0.5000, 0.2500, 0.1667])
    """

    def __init__(self, m: float = 0.5, counts: Tensor | None = None) -> None:
        require("LDAM: m", m, 0.0, 2.0, "in [0, 2]")
        self.m = m
        super().__init__(counts)

    def margin_of(self, sizes: Tensor) -> Tensor:
        """`m (n_min / n)^(1/4)`."""
        return self.m * (sizes.min() / sizes) ** 0.25

    def forward(self, target: Target) -> Tensor:
        """Returns psi, (N,)."""
        return target.cos - self.own(target)

    def extra_repr(self) -> str:
        """What `print(margin)` shows."""
        return f"m={self.m:g}"


@register_margin("dynamic_arcface")
class DynamicArcFace(ClassSizeMargin):
    """Dynamic margin, `psi = cos(theta + m(n_y))` with `m(n) = a n^-power + b`.

    n_y is the number of images of the sample's class: the margin is a + b for a single image, and
    falls to b. Beyond theta = pi - m it continues as `ArcFace` does.

    Args:
        a: what the margin loses as classes grow, in radians, at least 0; a + b at most pi/2.
        b: the least margin, in radians, at least 0.
        power: how fast it falls, in [0, 2]; 1/4 is usual.
        counts: (C,) integers, the images of each class; `centerarc train` counts them.

    Attributes:
        margins: buffer, (C,) float32.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Ha, Liu, Liu, Liao 2020, "Google Landmark Recognition 2020 Competition Third Place
        Solution".

    Example:
        >>> import torch
        >>> from centerarc.losses import DynamicArcFace
        >>> DynamicArcFace(counts=torch.tensor([1, 16, 10_000])).margins
        tensor([0.5500, 0.3000, 0.1000])
    """

    def __init__(
        self, a: float = 0.5, b: float = 0.05, power: float = 0.25, counts: Tensor | None = None
    ) -> None:
        require("DynamicArcFace: a", a, 0.0, math.pi / 2, "in [0, pi/2] radians")
        require("DynamicArcFace: b", b, 0.0, math.pi / 2 - a, "in [0, pi/2 - a] radians")
        require("DynamicArcFace: power", power, 0.0, 2.0, "in [0, 2]")
        self.a = a
        self.b = b
        self.power = power
        super().__init__(counts)

    def margin_of(self, sizes: Tensor) -> Tensor:
        """`a n^-power + b`."""
        return self.a * sizes**-self.power + self.b

    def forward(self, target: Target) -> Tensor:
        """Returns psi, (N,)."""
        return add_angle(target, self.own(target))

    def extra_repr(self) -> str:
        """What `print(margin)` shows."""
        return f"a={self.a:g}, b={self.b:g}, power={self.power:g}"
