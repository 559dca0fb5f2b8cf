"""Which classes take part in a step, and what their first prototypes are."""

from dataclasses import dataclass

import torch
from torch import Tensor

from centerarc.losses.checks import is_number

# Which classes take part in a step: those of the batch, and some others by chance.


def check_sample_rate(rate: float) -> None:
    """Raise ``ValueError`` unless the rate is in (0, 1]."""
    if not (is_number(rate) and 0.0 < rate <= 1.0):
        raise ValueError(f"sample_rate must be in (0, 1], got {rate!r}")


def sample_classes(
    labels: Tensor, num_classes: int, rate: float, generator: torch.Generator | None = None
) -> Tensor:
    """Draw a share of the classes without replacement, the labels' own always among them.

    Args:
        labels: (N,) integers; those outside [0, num_classes) are of no class here.
        num_classes: C, 0 or more.
        rate: the share, in (0, 1].
        generator: of the draw, on the labels' device; torch's own by default.

    Returns:
        (S,) int64, ascending, S = round(rate C) but at least min(N, C), so that the labels fit
        whatever they are, and no device is waited for.

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


@dataclass(frozen=True)
class Sampler:
    """``sample_classes`` with its rate and generator."""

    rate: float
    generator: torch.Generator | None = None

    def __call__(self, labels: Tensor, num_classes: int) -> Tensor:
        """The (S,) classes of this step for (N,) labels."""
        return sample_classes(labels, num_classes, self.rate, self.generator)


# The first prototypes and centers: the same rows however the classes are cut into shards.

# The recipes of the field (arcface_torch and its descendants) start from this and tune their
# learning rates to it: the gradient of a direction is inversely proportional to the length.
INITIAL_STD = 0.01

# Classes drawn from one seed. A shard draws only the groups that it has a part of.
GROUP = 1024


@torch.no_grad()
def draw_rows(out: Tensor, first: int, generator: torch.Generator | None = None) -> None:
    """Fill rows with normal numbers of standard deviation 0.01.

    A class's row depends on its number and on one draw from the generator, not on which other rows
    are here; so ranks that hold different classes start as one process with all of them does, if
    their generators are alike.

    Args:
        out: (B, ...), overwritten: classes first to first + B.
        first: number of the first class.
        generator: on the CPU; torch's own by default.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    last = first + len(out)
    for group in range(first // GROUP, -(-last // GROUP)):
        stream = torch.Generator().manual_seed((seed + group) % 2**63)
        rows = torch.empty(GROUP, *out.shape[1:]).normal_(std=INITIAL_STD, generator=stream)
        start = max(first, group * GROUP)
        stop = min(last, (group + 1) * GROUP)
        out[start - first : stop - first] = rows[start - group * GROUP : stop - group * GROUP]
