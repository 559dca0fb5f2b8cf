"""What stands between the matrix products of the head: exponentials before, projection after.

Each function touches one block of classes while it is in cache. ``triton_epilogues`` has the same
functions as one kernel each.
"""

import torch
from torch import Tensor


def exponentials(
    z: Tensor,
    inverse: Tensor,
    columns: Tensor,
    limit: float,
    total: Tensor,
    hardest: Tensor,
    out: Tensor,
) -> None:
    """From a block's products to the exponentials whose products are the gradients.

    With v = z / |w|: ``out = exp(v) / |w|``, 0 at the own class and where v > ``limit``.

    Args:
        z: (N, B) products of scaled unit features and prototypes as they are; overwritten.
        inverse: (B,) one over the prototypes' lengths.
        columns: (N,) each sample's own class, counted from the block's first.
        limit: a v above it does not count, but for ``hardest``; infinity to count all.
        total: (N,) to which the sums of exp(v) are added.
        hardest: (N,) raised to the largest v of another class.
        out: (N, B), z's dtype or bfloat16; may be ``z``.
    """
    negative_logits(z, inverse, columns)
    torch.maximum(hardest, z.amax(dim=1), out=hardest)
    drop_above(z, limit)
    total += z.exp_().sum(dim=1)
    torch.mul(z, inverse, out=out)


def negative_logits(z: Tensor, inverse: Tensor, columns: Tensor) -> None:
    """Divide (N, B) products by the prototypes' lengths; minus infinity at the own class."""
    z *= inverse
    own = ((columns >= 0) & (columns < z.shape[1])).unsqueeze(1)
    # Boolean indexing would wait for a GPU. So every row overwrites one entry: its own class's with
    # minus infinity or, if that lies in another block, the first with itself.
    column = columns.unsqueeze(1).where(own, 0)
    z.scatter_(1, column, z.gather(1, column).masked_fill_(own, -torch.inf))


def drop_above(z: Tensor, limit: float) -> None:
    """Minus infinity where a logit exceeds ``limit``."""
    if limit < torch.inf:
        z.masked_fill_(z > limit, -torch.inf)


def project(gradient: Tensor, rows: Tensor, inverse: Tensor) -> None:
    """Take from a gradient what would only change the prototypes' lengths.

    ``g <- g - (g . w) w / |w|^2``, the derivative of w / |w|, whose 1 / |w| is in g already.

    Args:
        gradient: (B, D), in and out.
        rows: (B, D) prototypes.
        inverse: (B,) one over their lengths.
    """
    gradient.addcmul_(rows, radial(gradient, rows, inverse), value=-1)


def project_and_step(
    gradient: Tensor,
    rows: Tensor,
    inverse: Tensor,
    momentum: Tensor | None,
    lr: float,
    momentum_factor: float,
    weight_decay: float,
    nesterov: bool,
) -> None:
    """``project``, then one step of SGD on these rows, in place.

    Args:
        gradient: (B, D), in; overwritten.
        rows: (B, D) prototypes, in and out.
        inverse: (B,) one over their lengths.
        momentum: (B, D) buffer, in and out; None without momentum.
        lr: learning rate.
        momentum_factor: of the buffer.
        weight_decay: added to the gradient times the rows.
        nesterov: Nesterov's momentum.
    """
    gradient.addcmul_(rows, weight_decay - radial(gradient, rows, inverse))
    sgd_step(rows, gradient, momentum, lr, momentum_factor, nesterov)


def sgd_step(
    rows: Tensor,
    gradient: Tensor,
    momentum: Tensor | None,
    lr: float,
    momentum_factor: float,
    nesterov: bool,
) -> None:
    """The rule of ``torch.optim.SGD`` on some rows, in place; the decay is in the gradient."""
    direction = gradient
    if momentum is not None:
        momentum.mul_(momentum_factor).add_(gradient)
        direction = gradient.add_(momentum, alpha=momentum_factor) if nesterov else momentum
    rows.add_(direction, alpha=-lr)


def radial(gradient: Tensor, rows: Tensor, inverse: Tensor) -> Tensor:
    """(B, 1), how far each row's gradient points along it, over the squared length."""
    along: Tensor = torch.linalg.vecdot(gradient, rows)
    return along.mul_(inverse.square()).unsqueeze(1)


def class_logits(
    z: Tensor, inverse: Tensor, columns: Tensor, sub_centers: int
) -> tuple[Tensor, Tensor | None]:
    """``negative_logits`` where a class may have several prototypes, the nearest of which counts.

    Args:
        z: (N, B K) products; overwritten.
        inverse: (B K,) one over the lengths.
        columns: (N,) each sample's own class, counted from the block's first.
        sub_centers: K.

    Returns:
        (N, B) logits, minus infinity at the own class; and (N, B), which of the K was the nearest,
        None for K = 1.
    """
    if sub_centers == 1:
        negative_logits(z, inverse, columns)
        return z, None
    z *= inverse
    best, nearest = z.view(len(z), z.shape[1] // sub_centers, sub_centers).max(dim=2)
    negative_logits(best, inverse.new_ones(best.shape[1]), columns)
    return best, nearest


def at_sub_centers(
    entries: Tensor, nearest: Tensor | None, inverse: Tensor, sub_centers: int, out: Tensor
) -> None:
    """out = (N, B) entries of classes over the length of their nearest sub-center, 0 elsewhere."""
    if nearest is None:
        torch.mul(entries, inverse, out=out)
        return
    wide = entries.new_zeros(*entries.shape, sub_centers)
    wide.scatter_(2, nearest.unsqueeze(2), entries.unsqueeze(2))
    torch.mul(wide.flatten(1), inverse, out=out)
