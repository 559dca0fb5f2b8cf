"""Unit vectors, rows of own classes, and the head's three products, float32 or bfloat16.

Norms, logits, exponentials, sums, the target's path and the loss are float32 in any case. Under
`torch.autocast` with bfloat16 the operands of the products are rounded to bfloat16 and the sums
stay float32. (On a CPU without AMX the product that makes the logits stays float32 too: its kernels
have no bfloat16 product with float32 logits, and bfloat16 logits are off by up to 0.15 at s = 64.)
`torch.set_float32_matmul_precision` acts on these products as on all of PyTorch's.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

# Asked once: the question would break a compiled graph. Some builds, those for
# macOS among them, have no mkldnn to ask.
CPU_HAS_BFLOAT16: bool = torch.backends.mkldnn.is_available() and bool(  # type: ignore[no-untyped-call]
    torch.ops.mkldnn._is_mkldnn_bf16_supported()
)

# Shorter vectors have no direction: one over their length, times exp(64), would leave float32.
SMALLEST_NORM = 1e-10


def inverse_norm(vectors: Tensor) -> Tensor:
    """(...), one over the length of (..., D) vectors; 0 below 1e-10, so such have no gradient.

    A length that overflows (in float32, from about 1e19 on) gives NaN: it would else pass for 0.
    """
    norm: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    overflow = norm.detach() * 0
    inverse = norm.clamp_min(SMALLEST_NORM).reciprocal()
    return torch.where(norm > SMALLEST_NORM, inverse, 0.0) + overflow


def unit(vectors: Tensor) -> Tensor:
    """(..., D) vectors divided by their length; zero vectors stay zero."""
    return vectors * inverse_norm(vectors).unsqueeze(-1)


class _Product(torch.autograd.Function):
    """a b', whose gradients keep the operands' dtype also where autocast is on."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return a @ b.T

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        (gradient,) = gradients
        with torch.autocast(gradient.device.type, enabled=False):
            to_a = gradient @ b if ctx.needs_input_grad[0] else None
            to_b = gradient.T @ a if ctx.needs_input_grad[1] else None
        return to_a, to_b


def product(a: Tensor, b: Tensor) -> Tensor:
    """a b', (N, M) of (N, D) and (M, D); for a region without autocast.

    A graph of torch.compile makes the gradients in the state in which the criterion was called, and
    so does a `backward()` inside autocast: those of `a @ b.T` would be of half precision there.
    """
    return _Product.apply(a, b)  # type: ignore[no-untyped-call, no-any-return]


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a `DTensor`, in its own memory; any other tensor as it is.

    FSDP2 makes parameters `DTensor`s, a slice of which is a copy where a rank has a part only.
    """
    # Not by its type, which takes long to import.
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def first_row(tensor: Tensor) -> int:
    """The number of this rank's first row of a `DTensor`, cut as torch.chunk does; else 0."""
    for dim, placement in enumerate(getattr(tensor, "placements", ())):
        if placement.is_shard(0):
            mesh = tensor.device_mesh  # type: ignore[attr-defined]
            rank: int = mesh.get_local_rank(dim)
            size: int = -(-len(tensor) // mesh.size(dim))
            return min(len(tensor), rank * size)
    return 0


def whole(tensor: Tensor) -> Tensor:
    """All of a `DTensor`, whose gradient is then the mean over the ranks, as FSDP2's are."""
    if not hasattr(tensor, "full_tensor"):
        return tensor
    from torch.distributed.tensor import Partial

    mesh = tensor.device_mesh  # type: ignore[attr-defined]
    full: Tensor = tensor.full_tensor(grad_placements=[Partial()] * mesh.ndim)
    if full.requires_grad:
        full.register_hook(lambda gradient: gradient / mesh.size())  # type: ignore[no-untyped-call]
    return full


@torch.library.custom_op("centerarc::take_rows", mutates_args=())
def _take_rows(weight: Tensor, places: Tensor) -> Tensor:
    """(N, D) rows of (R, D) as they are now.

    A compiled graph makes simple operations again in its backward pass instead of saving their
    results, and would then read centers that its forward pass has moved; an operator it cannot see
    into is saved.
    """
    return weight[places]


@_take_rows.register_fake
def _(weight: Tensor, places: Tensor) -> Tensor:
    return weight.new_empty(places.shape[0], weight.shape[1])


def _save_places(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    weight, places = inputs
    ctx.rows = weight.shape[0]
    ctx.save_for_backward(places)


def _rows_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    (places,) = ctx.saved_tensors
    nothing = gradient.new_zeros(ctx.rows, gradient.shape[1])
    return nothing.index_put((places,), gradient, accumulate=True), None


_take_rows.register_autograd(_rows_gradient, setup_context=_save_places)


def own_rows(features: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(N, D) prototype of each label, its nearest sub-center, and its (N,) place among C K rows.

    `weight` has the prototypes, (C, D) or (C, K, D). For label -1 the row is 0 and the place any.
    Without classes there is a gradient all the same: its rank must join in the backward exchange.
    """
    if not len(weight):
        return torch.zeros_like(features) + weight.flatten(0, -2).sum(dim=0), labels
    places = labels.clamp(min=0)
    if weight.dim() == 3:
        with torch.no_grad():
            rows = weight[places].to(features.dtype)
            cosines = (rows @ features.unsqueeze(2)).squeeze(2) * inverse_norm(rows)
            places = places * weight.shape[1] + cosines.argmax(dim=1)
    rows = weight.flatten(0, -2)
    rows = _take_rows(rows, places) if torch.compiler.is_compiling() else rows[places]
    own = rows.to(features.dtype)
    return own.where((labels >= 0).unsqueeze(1), 0.0), places


def reduced_products(device: torch.device) -> bool:
    """Whether autocast asks for bfloat16 products on this device, and the device has them.

    Under float16 autocast the head stays in float32: exp(64) is beyond float16.
    """
    kind = device.type
    if kind not in ("cpu", "cuda") or not torch.is_autocast_enabled(kind):
        return False
    if torch.get_autocast_dtype(kind) != torch.bfloat16:
        return False
    # Without the instructions a bfloat16 product on the CPU is many times slower than float32.
    return kind == "cuda" or CPU_HAS_BFLOAT16


class _MediumPrecision:
    """PyTorch's setting of the process, for as long as one thread wants it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = ""

    def enter(self) -> None:
        with self._lock:
            if not self._users:
                self._before = torch.get_float32_matmul_precision()
                torch.set_float32_matmul_precision("medium")
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                torch.set_float32_matmul_precision(self._before)


_medium = _MediumPrecision()


class Products:
    """The three products of a block of B classes, in one precision.

    Args:
        directions: (N, D) scaled unit features, float32 or float64.
        reduced: whether operands are bfloat16; float32 features only.
    """

    def __init__(self, directions: Tensor, reduced: bool) -> None:
        self.reduced = reduced
        self._cuda = directions.is_cuda
        self._directions = directions.to(torch.bfloat16) if reduced and self._cuda else directions

    @contextlib.contextmanager
    def setting(self) -> Iterator[None]:
        """Within it, float32 products on a CPU with AMX may use bfloat16 inside.

        Without AMX they stay float32, by oneDNN's kernels instead of MKL's.
        """
        if not self.reduced or self._cuda:
            yield
            return
        _medium.enter()
        try:
            yield
        finally:
            _medium.leave()

    def operand(self, matrix: Tensor) -> Tensor:
        """A factor of `add_pull` or `push`, rounded if the products are reduced."""
        return matrix.to(torch.bfloat16) if self.reduced else matrix

    def logits(self, rows: Tensor, operand: Tensor, out: Tensor, first: int = 0) -> None:
        """out = directions[first:] rows', (N - first, B); `operand` is `rows` rounded."""
        left = self._directions[first:]
        if self.reduced and self._cuda:
            out.copy_(torch.mm(left, operand.T, out_dtype=torch.float32))
        else:
            torch.mm(left, rows.T, out=out)

    def add_pull(self, entries: Tensor, operand: Tensor, pull: Tensor) -> None:
        """pull += entries rows: (N, B) by (B, D) into (N, D)."""
        if not self.reduced:
            pull.addmm_(entries, operand)
        else:
            pull += self._reduced_mm(entries, operand)

    def push(self, entries: Tensor, operand: Tensor, out: Tensor) -> None:
        """out = entries' pushes: (N, B) and (N, D) into (B, D)."""
        if not self.reduced:
            torch.mm(entries.T, operand, out=out)
        else:
            out.copy_(self._reduced_mm(entries.T, operand))

    def _reduced_mm(self, left: Tensor, right: Tensor) -> Tensor:
        if self._cuda:
            return torch.mm(left, right, out_dtype=torch.float32)
        return torch.mm(left, right)
