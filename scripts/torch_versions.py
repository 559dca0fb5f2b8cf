"""Print what the installed PyTorch does with a sampled head's sparse gradient, as a table's row.

    python scripts/torch_versions.py

docs/head.md has the rows of all supported versions, each made in an environment of its own.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from centerarc.losses import MarginSoftmaxLoss, PrototypeSGD

warnings.simplefilter("ignore")


def sampled() -> MarginSoftmaxLoss:
    """A criterion with a sparse gradient of its prototypes."""
    torch.manual_seed(0)
    criterion = MarginSoftmaxLoss(100, 8, sample_rate=0.2)
    criterion(torch.randn(4, 8), torch.arange(4)).backward()
    return criterion


def clip(prototypes: Tensor) -> bool:
    """Whether `clip_grad_norm_` scales the gradient to the norm asked for."""
    torch.nn.utils.clip_grad_norm_([prototypes], 0.5)
    return abs(prototypes.grad.to_dense().norm().item() - 0.5) < 1e-4


def unscale(prototypes: Tensor) -> bool:
    """Whether a gradient scaler divides by its factor."""
    before = prototypes.grad.to_dense()
    optimizer = PrototypeSGD([prototypes], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.ones(()))
    scaler.unscale_(optimizer)
    return torch.allclose(prototypes.grad.to_dense(), before / 4)


def adamw(prototypes: Tensor) -> bool:
    """Whether AdamW moves the prototypes."""
    before = prototypes.detach().clone()
    torch.optim.AdamW([prototypes]).step()
    return not torch.equal(prototypes, before)


def answer(question: Callable[[Tensor], bool]) -> str:
    """Yes, no, or the kind of error."""
    try:
        return "yes" if question(sampled().prototypes) else "no"
    except (RuntimeError, NotImplementedError) as error:
        return f"no, `{type(error).__name__}`"


if __name__ == "__main__":
    version = torch.__version__.split("+")[0]
    print("|", " | ".join([version, *map(answer, (clip, unscale, adamw))]), "|")
