"""The pass over all classes, block by block, which never holds N x C entries unless told to.

The forward pass makes a block's scaled cosines Z and E = exp(Z), and adds up E's rows and, for the
features' gradient, E W: the row factor 1 / sum E, known only at the end, multiplies that small sum.
The backward pass needs E once more for the prototypes' gradient E' X. It is made again (a fourth
product), or was kept: see `KeptInGradient`. Lengths are divided out of the cosines and the
gradient, so W is never copied whole.

Cosines are at most 1, so for scales up to `PLAIN_SCALE` exp(Z) fits float32 and needs no running
maximum; beyond, the sums are rescaled as the maximum grows. Where hard negatives count for more
than their cosine, the bound is that of what counts, and E W and E' X take its derivative too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from centerarc.losses.head import epilogues
from centerarc.losses.head.epilogues import HardNegatives
from centerarc.losses.head.products import Products, inverse_norm

if TYPE_CHECKING:
    from centerarc.losses.head.prototype_sgd import StepInPlace

PLAIN_SCALE = 64.0


class GradientArray:
    """A sink that collects the blocks' gradients in one contiguous array, (S, D) or (S, K, D)."""

    def __init__(self, out: Tensor, dtype: torch.dtype, triton: bool) -> None:
        self.out = out
        self._dtype = dtype
        self._triton = triton

    def block(self, start: int, stop: int) -> Tensor:
        """(B K, D) memory for classes start to stop of the pass, in the features' dtype."""
        return self.out[start:stop].flatten(0, -2).to(self._dtype)

    def finish(
        self, start: int, stop: int, gradient: Tensor, rows: Tensor, inverse: Tensor
    ) -> None:
        """Takes what was written there, not yet projected."""
        epilogues.project(gradient, rows, inverse, self._triton)
        if self.out.dtype != self._dtype:
            self.out[start:stop].flatten(0, -2).copy_(gradient)

    def add(self, places: Tensor, gradient: Tensor) -> None:
        """Adds (N, D) gradients of single prototypes at (N,) places among the S K rows."""
        add_rows(self.out.flatten(0, -2), places, gradient)


def add_rows(target: Tensor, places: Tensor, rows: Tensor) -> None:
    """target[places] += rows, repeated places included, with the same sum on every run."""
    rows = rows.to(target.dtype)
    if target.is_cuda:  # where index_add_ adds in any order
        target.index_put_((places,), rows, accumulate=True)
    else:
        target.index_add_(0, places, rows)


class KeptInGradient:
    """Exponentials kept where the prototypes' gradient will be, which must exist a little later.

    A class's row of the gradient has D entries and its exponentials are N: they lie where the row
    will, each block in its own part, and are read before it is written. Keeping them then costs no
    memory and no page that would not be touched. Where N exceeds D, as many samples as fit.
    """

    def __init__(self, gradient: Tensor, samples: int, dtype: torch.dtype) -> None:
        self._gradient = gradient
        self._dtype = dtype
        row = gradient.shape[-1] * gradient.element_size()
        self._samples = min(samples, row // dtype.itemsize)

    def slot(self, start: int, stop: int) -> Tensor | None:
        """(N', B K) memory of classes start to stop, for the first N' samples; None for none."""
        if not self._samples:
            return None
        block = self._gradient[start:stop]
        if block.storage_offset() * block.element_size() % self._dtype.itemsize:
            return None  # Narrow rows of odd length may start between two entries.
        width = block.numel() // block.shape[-1]
        flat = block.view(-1).view(torch.uint8)
        used = flat[: self._samples * width * self._dtype.itemsize]
        return used.view(self._dtype).view(self._samples, width)

    def release(self) -> Tensor:
        """The memory as a tensor of its own, which autograd takes over; else it would copy it."""
        return self._gradient.view_as(self._gradient)


class KeptApart:
    """Exponentials kept in memory of their own, at most `limit` bytes: the first classes' only."""

    def __init__(self, blocks: "ClassBlocks", dtype: torch.dtype, limit: int) -> None:
        self._samples = len(blocks.features)
        self._sub_centers = blocks.sub_centers
        entries = self._samples * blocks.classes * blocks.sub_centers
        size = min(entries, limit // dtype.itemsize)
        self._memory = blocks.features.new_empty(size, dtype=dtype)

    def slot(self, start: int, stop: int) -> Tensor | None:
        """(N, B K) memory of classes start to stop; None where it is used up."""
        first, last = (self._samples * self._sub_centers * edge for edge in (start, stop))
        if last > len(self._memory):
            return None
        return self._memory[first:last].view(self._samples, (stop - start) * self._sub_centers)


KeptEntries = KeptInGradient | KeptApart


@dataclass(frozen=True)
class Sums:
    """What the forward pass found."""

    logsumexp: Tensor  # (N,)
    hardest: Tensor  # (N,), the largest cosine to another class
    pull: Tensor | None  # (N, D), each sample's mean direction of the other classes, if asked for
    inverses: Tensor  # (S K,), one over the prototypes' lengths, in the pass's order
    mean: Tensor | None  # (D,), the weighted sum of the prototypes' directions, if asked for


@dataclass(frozen=True)
class ClassBlocks:
    """One batch against the prototypes, cut into blocks of classes."""

    features: Tensor  # (N, D), float32 or float64, the dtype of all sums
    weight: Tensor  # (C, D) or (C, K, D), any floating dtype; converted a block at a time
    columns: Tensor  # (N,) place of each sample's own class among those of the pass, -1 for none
    sample: Tensor | None  # (S,) the classes that take part, ascending; all of them if None
    scale: float  # of the cosines
    limit: float  # cosine above which another class does not count; infinity to count all
    reduced: bool  # bfloat16 operands, see products.py
    workspace: int  # bytes for the arrays of one block
    triton: bool  # whether the stages between products are Triton kernels
    hard: HardNegatives | None = None  # how scaled cosines above a threshold count

    @property
    def sub_centers(self) -> int:
        """K."""
        return self.weight.shape[1] if self.weight.dim() == 3 else 1

    @property
    def classes(self) -> int:
        """S, how many classes take part."""
        return len(self.weight if self.sample is None else self.sample)

    @property
    def steady(self) -> bool:
        """Whether exp(Z) needs no running maximum, so that it can be kept as it is."""
        return self.bound <= PLAIN_SCALE

    @property
    def bound(self) -> float:
        """The largest absolute value of what is exponentiated."""
        return self.scale if self.hard is None else self.scale * self.hard.most

    def empty_gradient(self) -> Tensor:
        """(S, D) or (S, K, D) memory for the prototypes' gradient."""
        return self.weight.new_empty(self.classes, *self.weight.shape[1:])

    def forward(
        self, kept: KeptEntries | None, *, pulled: bool, mean_weight: Tensor | None, mean: bool
    ) -> Sums:
        """Sums over all blocks; keeps exponentials in `kept` (only if `steady`).

        `pulled` and `mean` ask for those sums; `mean_weight` has the (S,) weights of the latter.
        """
        samples, dim = self.features.shape
        products = Products(self._directions(), self.reduced)
        total = self.features.new_zeros(samples)
        hardest = self.features.new_full((samples,), -torch.inf)
        shift = self.features.new_full((samples,), 0.0 if self.steady else -self.bound)
        pull = self.features.new_zeros(samples, dim) if pulled else None
        inverses = self.features.new_empty(self.classes * self.sub_centers)
        mean_direction = self.features.new_zeros(dim) if mean else None
        scratch, low_scratch = self._scratch()
        with products.setting():
            for start, stop in self._ranges():
                rows = self._rows(start, stop)
                inverse = inverses[start * self.sub_centers : stop * self.sub_centers]
                inverse.copy_(inverse_norm(rows))
                operand = products.operand(rows)
                z = scratch[: samples * len(rows)].view(samples, len(rows))
                products.logits(rows, operand, z)
                slot = None if kept is None else kept.slot(start, stop)
                entries = z
                if slot is not None and len(slot) == samples:
                    entries = slot
                elif low_scratch is not None:
                    entries = low_scratch[: z.numel()].view_as(z)
                if self.steady:
                    self._exponentials(z, inverse, start, total, hardest, entries)
                else:
                    self._rescaled(z, inverse, start, shift, total, hardest, pull, entries)
                if slot is not None and entries is not slot:
                    slot.copy_(entries[: len(slot)])
                if pull is not None:
                    products.add_pull(entries, operand, pull)
                if mean_direction is not None:
                    factors = inverse if mean_weight is None else inverse * mean_weight[start:stop]
                    mean_direction.addmv_(rows.T, factors)
        if pull is not None:
            pull *= torch.where(total == 0, 0.0, total.reciprocal()).unsqueeze(1)
        return Sums(
            total.log().add_(shift), hardest.div_(self.scale), pull, inverses, mean_direction
        )

    def backward(
        self,
        logsumexp: Tensor,
        inverses: Tensor,
        gradient: Tensor,
        sink: "GradientArray | StepInPlace",
        kept: KeptEntries | None = None,
        mean_weight: Tensor | None = None,
        mean_gradient: Tensor | None = None,
    ) -> None:
        """Hands the prototypes' gradient to `sink`, block by block.

        That is of the (N,) `gradient` of `logsumexp` and the (D,) one of `Sums.mean`. The rest is
        what the forward pass took or found.
        """
        samples = len(self.features)
        directions = self._directions()
        products = Products(directions, self.reduced)
        # Where no class is negative every entry is exp(-inf), and must not become exp(-inf + inf).
        empty = logsumexp == -torch.inf
        finite = logsumexp.where(~empty, 0.0)
        factor = gradient
        if self.steady:
            factor = gradient * (-finite).exp().where(~empty, 0.0)
        pushes = products.operand(directions * factor.unsqueeze(1))
        unused = torch.zeros_like(finite).repeat(2, 1)
        scratch, low_scratch = self._scratch()
        with products.setting():
            for start, stop in self._ranges():
                rows = self._rows(start, stop)
                inverse = inverses[start * self.sub_centers : stop * self.sub_centers]
                z = scratch[: samples * len(rows)].view(samples, len(rows))
                entries = z if low_scratch is None else low_scratch[: z.numel()].view_as(z)
                slot = None if kept is None else kept.slot(start, stop)
                done = 0 if slot is None else len(slot)
                if slot is not None and isinstance(kept, KeptApart):
                    entries = slot
                elif slot is not None:
                    entries[:done].copy_(slot)  # before the gradient overwrites it
                if done < samples:
                    again = z[done:]
                    products.logits(rows, products.operand(rows), again, done)
                    if self.steady:
                        total, hardest = unused[:, done:]
                        self._exponentials(
                            again, inverse, start, total, hardest, entries[done:], done
                        )
                    else:
                        self._softmax(again, inverse, start, finite, entries)
                along = sink.block(start, stop)
                products.push(entries, pushes, along)
                if mean_gradient is not None:
                    factors = inverse if mean_weight is None else inverse * mean_weight[start:stop]
                    along.addr_(factors, mean_gradient)
                sink.finish(start, stop, along, rows, inverse)

    def _directions(self) -> Tensor:
        """(N, D) scaled unit features."""
        return self.features * (self.scale * inverse_norm(self.features)).unsqueeze(1)

    @property
    def _block(self) -> int:
        # Two arrays of N and two of D entries a prototype fill the workspace; hard negatives add
        # their values and derivatives.
        samples, width = self.features.shape
        samples *= 1 if self.hard is None else 2
        row = 2 * (samples + width) * self.features.element_size() * self.sub_centers
        block = min(65536, max(1, self.workspace // row))
        # Kernels read 16 bytes at a time where rows start at a multiple of them.
        return block if block < 16 else block // 16 * 16

    def _ranges(self) -> Iterator[tuple[int, int]]:
        """First and one past the last class of each block."""
        for start in range(0, self.classes, self._block):
            yield start, min(start + self._block, self.classes)

    def _rows(self, start: int, stop: int) -> Tensor:
        """(B K, D) prototypes of a block: a view of `weight` where it can be one."""
        if self.sample is None:
            rows = self.weight[start:stop]
        else:
            rows = self.weight.index_select(0, self.sample[start:stop])
        return rows.to(self.features.dtype).flatten(0, -2)

    def _scratch(self) -> tuple[Tensor, Tensor | None]:
        """Memory for one block's (N, B K) entries, and for their bfloat16 copies if reduced."""
        size = len(self.features) * min(self._block, self.classes) * self.sub_centers
        entries = self.features.new_empty(size)
        return entries, entries.new_empty(size, dtype=torch.bfloat16) if self.reduced else None

    def _exponentials(
        self,
        z: Tensor,
        inverse: Tensor,
        start: int,
        total: Tensor,
        hardest: Tensor,
        out: Tensor,
        first: int = 0,
    ) -> None:
        """As `epilogues.exponentials`, of the samples from `first` on."""
        columns = self.columns[first:] - start
        limit = self.scale * self.limit
        hard = self.hard
        if hard is not None:
            hard = hard._replace(threshold=hard.threshold[first:])
        if self.sub_centers == 1:
            epilogues.exponentials(
                z, inverse, columns, limit, total, hardest, out, self.triton, hard
            )
            return
        z, nearest = epilogues.class_logits(z, inverse, columns, self.sub_centers)
        torch.maximum(hardest, z.amax(dim=1), out=hardest)
        epilogues.drop_above(z, limit)
        slope = None if hard is None else hard.bend(z)
        total += z.exp_().sum(dim=1)
        if slope is not None:
            z *= slope
        epilogues.at_sub_centers(z, nearest, inverse, self.sub_centers, out)

    def _rescaled(
        self,
        z: Tensor,
        inverse: Tensor,
        start: int,
        shift: Tensor,
        total: Tensor,
        hardest: Tensor,
        pull: Tensor | None,
        out: Tensor,
    ) -> None:
        """`_exponentials` less a running maximum, `shift`, to which the sums are rescaled."""
        z, nearest = epilogues.class_logits(z, inverse, self.columns - start, self.sub_centers)
        torch.maximum(hardest, z.amax(dim=1), out=hardest)
        epilogues.drop_above(z, self.scale * self.limit)
        slope = None if self.hard is None else self.hard.bend(z)
        higher = torch.maximum(shift, z.amax(dim=1))
        faded = (shift - higher).exp_()
        total *= faded
        if pull is not None:
            pull *= faded.unsqueeze(1)
        shift.copy_(higher)
        total += z.sub_(shift.unsqueeze(1)).exp_().sum(dim=1)
        if slope is not None:
            z *= slope
        epilogues.at_sub_centers(z, nearest, inverse, self.sub_centers, out)

    def _softmax(
        self, z: Tensor, inverse: Tensor, start: int, logsumexp: Tensor, out: Tensor
    ) -> None:
        """The entries of the backward pass where `_rescaled` made those of the forward pass."""
        z, nearest = epilogues.class_logits(z, inverse, self.columns - start, self.sub_centers)
        epilogues.drop_above(z, self.scale * self.limit)
        slope = None if self.hard is None else self.hard.bend(z)
        z.sub_(logsumexp.unsqueeze(1)).exp_()
        if slope is not None:
            z *= slope
        epilogues.at_sub_centers(z, nearest, inverse, self.sub_centers, out)
