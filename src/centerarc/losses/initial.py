"""The first prototypes and centers: the same rows however the classes are cut into shards."""

import torch
from torch import Tensor

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
