"""arcface_torch's computation on one device, in our words.

Of the two forms of its margin that are about, this is the cheaper: sine and cosine of the target
entries only, differentiable. The other takes arccos and cos of all N x C entries, and without a
gradient through the margin.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def arcface_torch_logits(
    features: Tensor, weight: Tensor, labels: Tensor, scale: float, margin: float
) -> Tensor:
    """(N, C) logits: clamped cosines, the target's moved in place, then scaled; float32."""
    cosines = F.linear(F.normalize(features), F.normalize(weight)).float().clamp(-1, 1)
    rows = torch.arange(labels.shape[0], device=labels.device)
    target = cosines[rows, labels]
    sine = torch.sqrt(1.0 - torch.pow(target, 2))
    moved = target * math.cos(margin) - sine * math.sin(margin)
    beyond = target - math.sin(math.pi - margin) * margin
    cosines[rows, labels] = torch.where(target > math.cos(math.pi - margin), moved, beyond)
    return cosines * scale


class SoftmaxInPlace(torch.autograd.Function):
    """Cross entropy that turns the logits into probabilities in place, with a gradient by hand."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        largest = logits.max(dim=1, keepdim=True).values
        logits.sub_(largest).exp_()
        logits.div_(logits.sum(dim=1, keepdim=True))
        ctx.save_for_backward(logits, labels)
        own = logits.gather(1, labels.unsqueeze(1))
        return -own.clamp_min_(1e-30).log_().mean()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        probabilities, labels = ctx.saved_tensors
        hot = torch.zeros_like(probabilities).scatter_(1, labels.unsqueeze(1), 1)
        probabilities -= hot
        probabilities.div_(len(labels))
        return probabilities * gradient, None


def softmax_loss_in_place(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean loss; ``logits`` are used up."""
    apply: Any = SoftmaxInPlace.apply
    loss: Tensor = apply(logits, labels)
    return loss
