"""The losses written once more as plain double loops over Python floats; and what they are fed."""

import math

import torch
from torch import Tensor

from centerarc.losses import Chunked, Margin, MarginSoftmaxLoss, sample_classes

# Ways to pass over the classes, in blocks that do not divide them.
WAYS = {
    "reference": "reference",
    "chunked": Chunked(workspace=3000),
    "one block": Chunked(workspace=1 << 20),
    "recomputed": Chunked(workspace=3000, recompute=True),
}


def problem(
    n: int, c: int, d: int, k: int = 1, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (c, d) if k == 1 else (c, k, d)
    x = torch.randn(n, d, dtype=dtype).requires_grad_()
    return x, torch.randn(shape, dtype=dtype).requires_grad_(), torch.randint(0, c, (n,))


def near_and_far(
    seed: int = 0, sub_centers: int = 1, n: int = 11, c: int = 60, d: int = 6
) -> tuple[Tensor, Tensor, Tensor]:
    """Features from far from their prototype to near, so that few and many negatives are hard."""
    g = torch.Generator().manual_seed(seed)
    shape = (c, d) if sub_centers == 1 else (c, sub_centers, d)
    w = torch.randn(shape, generator=g, dtype=torch.float64)
    y = torch.randint(0, c, (n,), generator=g)
    pull = torch.linspace(0, 2, n, dtype=torch.float64).unsqueeze(1)
    own = w[y] if sub_centers == 1 else w[y, 0]
    x = torch.randn(n, d, generator=g, dtype=torch.float64) + pull * own
    return x.requires_grad_(), w.requires_grad_(), y


def gradients(losses: Tensor, *inputs: Tensor) -> list[Tensor]:
    """(N,) losses, and the gradients of their sum with weights of both signs."""
    pull = torch.linspace(-1, 2, len(losses), dtype=losses.dtype)
    return [losses, *torch.autograd.grad((losses * pull).sum(), inputs)]


def sampled(margin: Margin, s: float, rate: float = 0.6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses of `near_and_far` with sampled classes; what was drawn: features, rows, labels."""
    x, w, y = near_and_far()
    made = MarginSoftmaxLoss(
        *(*w.shape, margin, s),
        sample_rate=rate,
        sample_generator=torch.Generator().manual_seed(1),
        reduction="none",
    ).double()
    with torch.no_grad():
        made.prototypes.copy_(w)
    drawn = sample_classes(y, len(w), rate, torch.Generator().manual_seed(1))
    return made(x, y), x, w[drawn], torch.searchsorted(drawn, y)


def batch(
    n: int = 12, c: int = 7, d: int = 5, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    return torch.randn(n, d, dtype=dtype, requires_grad=True), torch.randint(0, c, (n,))


def cosine(a: Tensor, b: Tensor) -> float:
    x, w = a.tolist(), b.tolist()
    length = math.sqrt(sum(v * v for v in x)) * math.sqrt(sum(v * v for v in w))
    return sum(p * q for p, q in zip(x, w, strict=True)) / length if length else 0.0


def arcface(cos: float, m: float) -> float:
    theta = math.acos(max(-1.0, min(1.0, cos)))
    return math.cos(theta + m) if theta + m <= math.pi else cos + math.cos(m) - 1


def logits(
    features: Tensor, prototypes: Tensor, labels: Tensor, psi, s: float
) -> list[list[float]]:
    """(N, C), the margin applied at the label; prototypes (C, D) or (C, K, D)."""
    table = []
    for i, x in enumerate(features):
        row = []
        for j, w in enumerate(prototypes):
            subs = [w] if w.dim() == 1 else list(w)
            cos = max(cosine(x, sub) for sub in subs)
            row.append(s * (psi(cos) if j == int(labels[i]) else cos))
        table.append(row)
    return table


def cross_entropy(row: list[float], label: int) -> float:
    top = max(row)
    return top + math.log(math.fsum(math.exp(z - top) for z in row)) - row[label]


def center(features: Tensor, centers: Tensor, labels: Tensor) -> list[float]:
    return [
        sum((p - q) ** 2 for p, q in zip(x.tolist(), centers[int(y)].tolist(), strict=True)) / 2
        for x, y in zip(features, labels, strict=True)
    ]


def moved_centers(
    centers: Tensor, features: Tensor, labels: Tensor, alpha: float
) -> list[list[float]]:
    """Wen et al. 2016, equation 4, class by class."""
    moved = [c.tolist() for c in centers]
    for j in range(len(moved)):
        members = [x.tolist() for x, y in zip(features, labels, strict=True) if int(y) == j]
        for d in range(len(moved[j])):
            total = sum(centers[j, d].item() - x[d] for x in members)
            moved[j][d] -= alpha * total / (1 + len(members))
    return moved
