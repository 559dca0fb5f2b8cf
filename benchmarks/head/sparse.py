"""What leaving out small negatives would save on a CPU: sparse products, a whole loss with them.

    python -m benchmarks.head.sparse --products
    python -m benchmarks.head.sparse --classes 100000

The first times the two backward products of a block, of the entries that are left. The second
times a loss and its backward pass: the forward pass computes all logits and keeps their
exponentials; from every 64th of them each row gets the value below which its entries hold a share t
of its sum; the backward pass multiplies those above as sparse matrices. CPU time of one thread,
interleaved, medians.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from centerarc.losses import ArcFace, Chunked, margin_softmax_loss

N, D, BLOCK, SCALE, MARGIN = 256, 512, 1360, 64.0, 0.5
DENSITIES = (0.3, 0.1, 0.03, 0.01, 0.003)
TOLERANCES = (3e-3, 1e-2, 0.9)
DENSE = 0.08  # the share of a block's entries from which dense products are faster

Gradients = tuple[Tensor, Tensor]


def late_state(classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features, prototypes, labels: directions of people in 32 dimensions, and of their own."""
    g = torch.Generator().manual_seed(0)
    shared = torch.randn(classes, 32, generator=g) @ torch.randn(32, D, generator=g)
    w = torch.nn.functional.normalize(0.25 * shared + 0.9 * torch.randn(classes, D, generator=g))
    labels = torch.randint(classes, (N,), generator=g)
    x = torch.nn.functional.normalize(w[labels] + 0.035 * torch.randn(N, D, generator=g))
    return x, w, labels


def exact(x: Tensor, w: Tensor, labels: Tensor) -> Gradients:
    """The head as it is."""
    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    margin_softmax_loss(x, w, labels, ArcFace(MARGIN), SCALE, implementation=Chunked()).backward()
    assert x.grad is not None
    assert w.grad is not None
    return x.grad, w.grad


def bare(x: Tensor, w: Tensor) -> Gradients:
    """Three products and nothing else."""
    z = x @ w.T
    return z @ w, z.T @ x


def sparse_pair(entries: Tensor, keep: Tensor) -> Gradients:
    """The kept entries of (N, B) as a CSR matrix, and their transpose as another."""
    n, size = entries.shape
    places = keep.view(-1).nonzero().squeeze(1)
    values = entries.view(-1)[places]
    row = places // size
    column = places - row * size
    order = column.argsort(stable=True)
    return (
        _csr(row, column, values, (n, size)),
        _csr(column[order], row[order], values[order], (size, n)),
    )


def _csr(row: Tensor, column: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    starts = torch.zeros(shape[0] + 1, dtype=torch.int32)
    starts[1:] = torch.bincount(row, minlength=shape[0]).cumsum(0)
    return torch.sparse_csr_tensor(starts, column.int(), values, shape, check_invariants=False)


def tolerant(x: Tensor, w: Tensor, labels: Tensor, tolerance: float) -> tuple[Tensor, Tensor, int]:
    """Gradients of the logsumexp's part (not the target's) for unit vectors; entries multiplied."""
    classes = len(w)
    gradient, total = torch.empty(classes, D), torch.zeros(N)
    hardest, samples = torch.full((N,), -torch.inf), []
    ranges = [(start, min(start + BLOCK, classes)) for start in range(0, classes, BLOCK)]
    for start, stop in ranges:
        # Where the gradient will be, as in the head.
        z = gradient[start:stop].view(-1)[: N * (stop - start)].view(N, stop - start)
        torch.mm(SCALE * x, w[start:stop].T, out=z)
        z *= torch.linalg.vector_norm(w[start:stop], dim=1).reciprocal_()
        own = ((labels >= start) & (labels < stop)).nonzero().squeeze(1)
        z[own, labels[own] - start] = -torch.inf
        torch.maximum(hardest, z.amax(1), out=hardest)
        total += z.exp_().sum(1)
        samples.append(z[:, ::64].clone())
    target = (x * w[labels]).sum(1).clamp(-1 + 1e-6, 1 - 1e-6).acos() + MARGIN
    factor = torch.sigmoid(total.log() - SCALE * target.cos()) / N / total
    pushes, pull = SCALE * x * factor.unsqueeze(1), torch.zeros(N, D)
    ordered = torch.cat(samples, 1).sort(1).values
    below = ordered.cumsum(1) * (classes / ordered.shape[1]) < tolerance * total.unsqueeze(1)
    last = below.sum(1, keepdim=True) - 1
    least = ordered.gather(1, last.clamp(min=0)).where(last >= 0, -1.0)
    scratch, multiplied = torch.empty(N * BLOCK), 0
    for start, stop in ranges:
        entries = scratch[: N * (stop - start)].view(N, stop - start)
        rows, out = w[start:stop], gradient[start:stop]
        entries.copy_(out.view(-1)[: entries.numel()].view_as(entries))
        keep = entries > least
        count = int(keep.sum())
        if count > DENSE * entries.numel():
            count = entries.numel()
            pull.addmm_(entries, rows)
            torch.mm(entries.T, pushes, out=out)
        else:
            few, transposed = sparse_pair(entries, keep)
            pull += few @ rows
            out.copy_(transposed @ pushes)
        multiplied += count
        out.addcmul_(rows, torch.linalg.vecdot(out, rows).unsqueeze(1), value=-1)
    pull *= SCALE * factor.unsqueeze(1)
    pull -= x * (x * pull).sum(1, keepdim=True)
    return pull, gradient, multiplied


def losses(classes: int) -> None:
    """Print errors over the whole gradient, and times over the bare products."""
    x, w, labels = late_state(classes)
    whole, reference = exact(x, w, labels), tolerant(x, w, labels, -1.0)
    ways: dict[str, Callable[[], object]] = {"bare": lambda: bare(x, w)}
    ways["the head, exact"] = lambda: exact(x, w, labels)
    about = {}
    for tolerance in TOLERANCES:
        name = f"t = {tolerance:g}"
        ways[name] = lambda tolerance=tolerance: tolerant(x, w, labels, tolerance)
        found = tolerant(x, w, labels, tolerance)
        errors = [
            float((a - b).norm() / c.norm())
            for a, b, c in zip(found, reference, whole, strict=False)
        ]
        about[name] = f"{100 * found[2] / N / classes:.2g}% | {errors[0]:.0e} | {errors[1]:.0e}"
        del found
    del whole, reference
    times = interleaved(list(ways.values()), 3)
    print("| | entries multiplied | features' error | prototypes' error | over bare products |")
    print("|---|---|---|---|---|")
    for name, seconds in zip(ways, times, strict=True):
        print(f"| {name} | {about.get(name, 'all | |')} | {seconds / times[0]:.2f}x |")


def products() -> None:
    """Print times of two products of a block, of some of the entries, over dense ones."""
    x, w, out = torch.randn(N, D), torch.randn(BLOCK, D), torch.empty(BLOCK, D)
    entries = torch.rand(N, BLOCK)

    def dense() -> None:
        torch.mm(entries, w)
        torch.mm(entries.T, x, out=out)

    print("| entries | columns with one | finding them | and CSR products | gathered columns |")
    print("|---|---|---|---|---|")
    for density in DENSITIES:
        few = entries * (torch.rand(N, BLOCK) < density)

        def find(few: Tensor = few) -> Gradients:
            return sparse_pair(few, few > 0)

        def sparse(few: Tensor = few) -> None:
            left, right = sparse_pair(few, few > 0)
            torch.mm(left, w)
            torch.mm(right, x)

        def gathered(few: Tensor = few) -> None:
            columns = (few > 0).any(0).nonzero().squeeze(1)
            chosen = few.index_select(1, columns)
            torch.mm(chosen, w.index_select(0, columns))
            out.zero_()
            out.index_copy_(0, columns, torch.mm(chosen.T, x))

        times = interleaved([dense, find, sparse, gathered], 15)
        cells = " | ".join(f"{seconds / times[0]:.2f}x" for seconds in times[1:])
        share = 100 * float((few > 0).any(0).float().mean())
        print(f"| {100 * density:g}% | {share:.0f}% | {cells} |", flush=True)


def interleaved(ways: list[Callable[[], object]], rounds: int) -> list[float]:
    """Median CPU seconds of each."""
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, found in zip(ways, times, strict=True):
            start = time.process_time()
            way()
            found.append(time.process_time() - start)
    return [median(found) for found in times]


def main() -> None:
    """Time products, or a loss."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.head.sparse")
    parser.add_argument("--classes", type=int, default=100_000)
    parser.add_argument("--products", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.products:
        products()
    else:
        losses(chosen.classes)


if __name__ == "__main__":
    main()
