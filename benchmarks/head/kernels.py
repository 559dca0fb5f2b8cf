"""The head's three products, alone, by each kernel that PyTorch has for them on a CPU.

    python -m benchmarks.head.kernels

One block of classes of the head's own size; its prototypes are read from memory, as in the pass.
CPU time of one thread, interleaved, the least of 25 rounds: what a busy machine delays least. Then
loss and backward under bfloat16 autocast, of the head and of what a compiler makes of the formula,
likewise; medians and the least of 9 rounds.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
from benchmarks.head.cases import Case
from benchmarks.head.problem import draw
from benchmarks.head.work import bind
from torch import Tensor

D, ROUNDS, BLOCKS = 512, 25, 12
SIZES = ((128, 1632), (256, 1360))


def ways(n: int, size: int) -> dict[str, tuple[Callable[[], Tensor], ...]]:
    """Logits, the features' part and the prototypes' part."""
    x, weight, entries = torch.randn(n, D), torch.randn(BLOCKS, size, D), torch.rand(n, size)
    low_x, low_weight, low_entries = x.bfloat16(), weight.bfloat16(), entries.bfloat16()
    z, pull, push = torch.empty(n, size), torch.zeros(n, D), torch.empty(size, D)
    turn = iter(range(1 << 30))

    def rows(of: Tensor) -> Tensor:
        return of[next(turn) % BLOCKS]

    def medium(product: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            torch.set_float32_matmul_precision("medium")
            try:
                return product()
            finally:
                torch.set_float32_matmul_precision("highest")

        return run

    plain = (
        lambda: torch.mm(x, rows(weight).T, out=z),
        lambda: pull.addmm_(entries, rows(weight)),
        lambda: torch.mm(entries.T, x, out=push),
    )
    low = (
        lambda: torch.mm(low_x, rows(low_weight).T),
        lambda: torch.mm(low_entries, rows(low_weight)),
        lambda: torch.mm(low_entries.T, low_x),
    )
    return {
        "float32": plain,
        'float32, `"medium"`': tuple(medium(product) for product in plain),
        "bfloat16, results too": low,
    }


def losses(shape: str) -> None:
    """Print a line for each of bare products, the compiled peer and the head."""
    times: dict[str, list[float]] = {"products": [], "compiled": [], "ours": []}
    works = {}
    for name in times:
        case = Case(name, "loss", "reduced", shape)
        works[name], _ = bind(case, draw(*case.size, "cpu", reduced=True))
        works[name]()
    for _ in range(9):
        for name, work in works.items():
            start = time.process_time()
            work()
            times[name].append(time.process_time() - start)
    for name, found in times.items():
        over = median(a / b for a, b in zip(found, times["compiled"], strict=True))
        cells = f"{1e3 * median(found):,.1f} | {1e3 * min(found):,.1f} | {over:.2f}x"
        print(f"| {shape} | {name} | {cells} | {min(found) / min(times['compiled']):.2f}x |")


def main() -> None:
    """Print two Markdown tables."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| N x B | operands | logits, ms | features | prototypes | GFLOP/s |")
    print("|---|---|---|---|---|---|")
    for n, size in SIZES:
        products = ways(n, size)
        least = {name: [float("inf")] * 3 for name in products}
        for _ in range(ROUNDS):
            for name, three in products.items():
                for place, product in enumerate(three):
                    start = time.process_time()
                    product()
                    least[name][place] = min(least[name][place], time.process_time() - start)
        for name, found in least.items():
            cells = " | ".join(f"{1e3 * seconds:.2f}" for seconds in found)
            rate = 6 * n * size * D / sum(found) / 1e9
            print(f"| {n} x {size:,} | {name} | {cells} | {rate:.0f} |", flush=True)
    print("\n| shape | | median, ms | least, ms | over compiled: median | of the least |")
    print("|---|---|---|---|---|---|")
    for shape in ("10k", "100k"):
        losses(shape)


if __name__ == "__main__":
    main()
