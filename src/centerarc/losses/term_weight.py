"""The weight of a term that is added to ArcFace: a number, or balanced by gradients; a schedule."""

import math
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from centerarc.losses.checks import check_positive, is_number, refuse_idle


class TermWeight(nn.Module):
    """What to multiply an added term by in each step.

    `w_t = base_t ramp_t`. The base is a number, or with `"auto"`

        base_t = ratio <|g_arcface|> / <|g_term|>

    where |g| is the length of a sample's gradient of the term at the embedding, as the root of the
    mean square over the batch, and <> an exponentially smoothed mean over the steps before t: the
    added term then has `ratio` times the gradient of ArcFace, whatever the scale, the space and the
    number of people. Samples without any gradient do not count: while few classes have a mean
    center, those that have one are not pulled the harder. Before the first measurement the weight
    is 0. The ramp is 1, rises linearly from 0 over `ramp_steps` steps, and with `from_cosine` does
    so (or is 1 at once) only from the step after the smoothed mean target cosine has passed a level
    for the first time; before, it is 0.

    In a loop of your own, call it with the two losses, which measures by two backward passes to the
    features and returns the weight of this step:

        loss = arcface_loss + weight(arcface_loss, center_loss, features) * center_loss

    Everything that it knows is in buffers on the device: nothing waits for an accelerator, and a
    `state_dict` resumes to the last bit. Under torch.distributed the call is a collective one, and
    the ranks agree.

    Args:
        weight: the base, 0 or more, or `"auto"`.
        ratio: with `"auto"`, the added term's gradient over ArcFace's, positive.
        smoothing: how much of the smoothed values stays in a measurement, in [0, 1); of the
            gradients and of the target cosine, so with `"auto"` or `from_cosine`.
        ramp_steps: length of the ramp in steps, 0 or more.
        from_cosine: the level of the mean target cosine, in [-1, 1]; None starts at once.

    Attributes:
        norms: (2,) float32, smoothed gradients of ArcFace and of the term; 0 before the first
            measurement, and with a common factor that their ratio does not have.
        cosine: () float32, the smoothed mean target cosine; 0 before the first step.
        started: () bool, whether the ramp has begun.
        steps: () int64, steps since then.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        The ratio of gradients at the last shared layer: Esser et al. 2021, "Taming Transformers for
        High-Resolution Image Synthesis", equation 7; here smoothed. The later start: You et al.
        2025, "LVFace".

    Example:
        >>> import torch
        >>> from centerarc.losses import TermWeight
        >>> weight = TermWeight(0.5, ramp_steps=2)
        >>> shown = []
        >>> for step in range(4):
        ...     shown.append(weight.value.item())
        ...     weight.update()
        >>> shown
        [0.0, 0.25, 0.5, 0.5]
    """

    norms: Tensor
    cosine: Tensor
    cosine_mass: Tensor
    started: Tensor
    steps: Tensor

    def __init__(
        self,
        weight: float | Literal["auto"] = 1.0,
        *,
        ratio: float = 0.5,
        smoothing: float = 0.9,
        ramp_steps: int = 0,
        from_cosine: float | None = None,
    ) -> None:
        super().__init__()
        if weight != "auto" and not (is_number(weight) and 0 <= weight < math.inf):
            raise ValueError(f"weight must be a number of at least 0, or 'auto', got {weight!r}")
        check_positive("ratio", ratio)
        if not (is_number(smoothing) and 0 <= smoothing < 1):
            raise ValueError(f"smoothing must be in [0, 1), got {smoothing!r}")
        if isinstance(ramp_steps, bool) or not isinstance(ramp_steps, int) or ramp_steps < 0:
            raise ValueError(f"ramp_steps must be an integer of at least 0, got {ramp_steps!r}")
        if from_cosine is not None and not (is_number(from_cosine) and -1 <= from_cosine <= 1):
            raise ValueError(f"from_cosine must be in [-1, 1] or None, got {from_cosine!r}")
        auto = weight == "auto"
        refuse_idle(auto, "without a weight of 'auto'", ratio=(ratio, 0.5))
        refuse_idle(
            auto or from_cosine is not None,
            "without a weight of 'auto' or from_cosine",
            smoothing=(smoothing, 0.9),
        )
        refuse_idle(
            weight != 0,
            "with a weight of 0",
            ramp_steps=(ramp_steps, 0),
            from_cosine=(from_cosine, None),
        )
        self.weight: float | Literal["auto"] = weight
        self.ratio = ratio
        self.smoothing = smoothing
        self.ramp_steps = ramp_steps
        self.from_cosine = from_cosine
        self.register_buffer("norms", torch.zeros(2))
        self.register_buffer("cosine", torch.zeros(()))
        self.register_buffer("cosine_mass", torch.zeros(()))  # weight of all cosines so far
        self.register_buffer("started", torch.tensor(from_cosine is None))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def reset_parameters(self) -> None:
        """Forgets all steps."""
        for buffer in (self.norms, self.cosine, self.cosine_mass, self.steps):
            buffer.zero_()
        self.started.fill_(self.from_cosine is None)

    @property
    def is_auto(self) -> bool:
        """Whether gradients are to be measured."""
        return self.weight == "auto"

    @property
    def constant(self) -> float | None:
        """The weight of every step, if it is the same in all; `update` then does nothing."""
        if self.weight == "auto" or self.ramp_steps or self.from_cosine is not None:
            return None
        return self.weight

    @property
    def value(self) -> Tensor:
        """() float32, the weight of the present step; on the device, without a gradient."""
        if self.weight == "auto":
            arcface, term = self.norms.unbind()
            base = (self.ratio * arcface / term).where(term > 0, 0.0)
        else:
            base = torch.full_like(self.cosine, self.weight)
        if self.ramp_steps:
            base = base * (self.steps.to(base.dtype) / self.ramp_steps).clamp(max=1.0)
        return base.where(self.started, 0.0)

    @torch.no_grad()
    def update(
        self,
        arcface_norm: Tensor | None = None,
        term_norm: Tensor | None = None,
        target_cosine: Tensor | None = None,
    ) -> None:
        """Ends a step, from which the following ones have their weight.

        Values that are not finite, as of a step that a gradient scaler leaves out, and a term
        without a gradient do not count.

        Args:
            arcface_norm: (), |g| of the ArcFace term at the embedding; None where it is not
                measured in this step.
            term_norm: (), the same of the added term, before its weight. Common factors of both
                (a loss scale, a number of ranks) do not matter.
            target_cosine: (), mean target cosine of the batch.
        """
        if self.constant is not None:
            return
        self.steps += self.started.long()
        if self.is_auto and arcface_norm is not None and term_norm is not None:
            found = torch.stack([arcface_norm.to(self.norms), term_norm.to(self.norms)])
            counts = found.isfinite().all() & (found[1] > 0)
            mixed = self.norms.lerp(found.where(counts, 0.0), 1 - self.smoothing)
            self.norms.copy_(mixed.where(counts, self.norms))
        if self.from_cosine is not None and target_cosine is not None:
            # Beside the sum its mass, so that the first steps weigh as much as later ones.
            now = target_cosine.to(self.cosine)
            counts = now.isfinite()
            total = (self.cosine * self.cosine_mass).lerp(now.where(counts, 0.0), self._share)
            mass = self.cosine_mass.lerp(torch.ones_like(now), self._share)
            self.cosine.copy_((total / mass).where(counts, self.cosine))
            self.cosine_mass.copy_(mass.where(counts, self.cosine_mass))
            passed = (self.cosine > self.from_cosine) & (self.cosine_mass > 0)
            self.started.logical_or_(passed)

    @property
    def _share(self) -> float:
        return 1 - self.smoothing

    def forward(
        self,
        arcface_loss: Tensor,
        term: Tensor,
        features: Tensor,
        *,
        target_cosine: Tensor | None = None,
        measure: bool = True,
    ) -> Tensor:
        """Returns the weight of this step, in training after measuring for the next ones.

        Measuring is a backward pass of each loss to the features, without the backbone: of ArcFace
        two products over the classes more a step, as the loss itself has in its backward pass. With
        very many classes, measure every few steps only. Not with `PrototypeSGD(fused=True)`, whose
        prototypes would be stepped twice: there, give `update` the norms of
        `CenterArcFaceLoss.center_pull` and of the features' whole gradient.

        Args:
            arcface_loss: (), the first term, with its graph.
            term: (), the added term, likewise.
            features: (N, D), what both were computed from.
            target_cosine: (), or (N,) of which the mean is taken, such as
                `criterion.metrics.target_cosine`; needed with `from_cosine`. Of the N, those that
                are exactly 0, as of samples that are ignored, do not count.
            measure: whether to measure in this step; a number as weight never does.

        Raises:
            ValueError: if the target cosine is missing, or a loss that is measured is no scalar or
                has no gradient at the features.
        """
        value = self.value
        if not self.training or self.constant is not None:
            return value
        if self.from_cosine is not None and target_cosine is None:
            raise ValueError(
                "target_cosine must be given with from_cosine, such as "
                "criterion.metrics.target_cosine; got None"
            )
        sums = []  # of squares and of samples for both terms, then of cosines
        if self.is_auto and measure:
            sums += [*_squares(arcface_loss, features), *_squares(term, features)]
        if target_cosine is not None:
            cosines = target_cosine.detach().float()
            counts = (cosines != 0).sum() if cosines.dim() else torch.ones_like(cosines)
            sums += [cosines.sum(), counts.float()]
        if sums:
            total = torch.stack(sums)
            if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
                dist.all_reduce(total)
            means = [*(total[::2] / total[1::2])]
            cosine = means.pop() if target_cosine is not None else None
            arcface, added = (mean.sqrt() for mean in means) if means else (None, None)
            self.update(arcface, added, cosine)
        else:
            self.update()
        return value

    def extra_repr(self) -> str:
        """What `print(weight)` shows."""
        parts = [f"auto, ratio={self.ratio:g}" if self.is_auto else f"{self.weight:g}"]
        if self.ramp_steps:
            parts.append(f"ramp_steps={self.ramp_steps}")
        if self.from_cosine is not None:
            parts.append(f"from_cosine={self.from_cosine:g}")
        return ", ".join(parts)


def _squares(loss: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """() sum of the squares of a loss's gradient at the features, and of how many samples."""
    if loss.dim():
        raise ValueError(
            "arcface_loss and term must be scalars, as with reduction='mean', "
            f"got {tuple(loss.shape)}"
        )
    if not (loss.requires_grad and features.requires_grad):
        raise ValueError(
            "the losses must have a gradient at the features: compute them from the very tensor "
            "that is given as features, which requires one"
        )
    gradient = torch.autograd.grad(loss, features, retain_graph=True, allow_unused=True)[0]
    if gradient is None:
        raise ValueError(
            "features must be the very tensor that the losses were computed from; got another"
        )
    return gradient.float().square().sum(), (gradient != 0).any(dim=1).float().sum()
