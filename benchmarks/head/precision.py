"""Errors of loss and gradients against float64, in each precision of the head's products.

    python -m benchmarks.head.precision

Two batches of 128 against 10 000 classes, 512 dimensions, s = 64, m = 0.5: random embeddings, as at
the start of a run; and embeddings 40 degrees from their prototype on average, among prototypes of
which some lie close together, as late in one.
"""

import contextlib

import torch
from torch import Tensor

from centerarc.losses import ArcFace, Chunked, margin_softmax_loss

N, C, D, S = 128, 10_000, 512, 64.0
PRECISIONS = ("float32", "bfloat16 autocast", "bfloat16 everywhere (as peers do)")


def batches() -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Features, prototypes and labels of the two states."""
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, C, (N,), generator=g)
    start = 0.01 * torch.randn(C, D, generator=g)
    groups = torch.randn(C // 10, D, generator=g).repeat_interleave(10, 0)
    late = torch.nn.functional.normalize(groups + torch.randn(C, D, generator=g))
    noise = torch.nn.functional.normalize(torch.randn(N, D, generator=g))
    return {
        "random": (torch.randn(N, D, generator=g), start, labels),
        "late": (20 * (late[labels] + 0.84 * noise), late, labels),
    }


def lean(x: Tensor, w: Tensor, labels: Tensor) -> Tensor:
    """The usual head under autocast: bfloat16 logits from normalized operands."""
    cosines = torch.nn.functional.linear(
        torch.nn.functional.normalize(x), torch.nn.functional.normalize(w)
    ).float()
    own = torch.nn.functional.one_hot(labels, C).bool()
    target = torch.cos(cosines[own].clamp(-1 + 1e-6, 1 - 1e-6).acos() + 0.5)
    return torch.nn.functional.cross_entropy(S * cosines.masked_scatter(own, target), labels)


def run(x: Tensor, w: Tensor, labels: Tensor, precision: str) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and both gradients."""
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    autocast = torch.autocast("cpu", torch.bfloat16, enabled="bfloat16" in precision)
    with autocast if x.dtype == torch.float32 else contextlib.nullcontext():
        if "everywhere" in precision:
            loss = lean(x, w, labels)
        else:
            loss = margin_softmax_loss(x, w, labels, ArcFace(0.5), S, implementation=Chunked())
    loss.backward()
    assert x.grad is not None
    assert w.grad is not None
    return loss.detach(), x.grad, w.grad


def main() -> None:
    """Print a Markdown table."""
    print("| batch | precision | loss | features' gradient | prototypes' gradient |")
    print("|---|---|---|---|---|")
    for state, (x, w, labels) in batches().items():
        exact = run(x.double(), w.double(), labels, "float64")
        for precision in PRECISIONS:
            found = run(x, w, labels, precision)
            errors = [
                float((a.double() - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)
            ]
            print(f"| {state} | {precision} | " + " | ".join(f"{e:.1e}" for e in errors) + " |")


if __name__ == "__main__":
    main()
