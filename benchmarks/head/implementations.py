"""The heads that are compared. Each is told in its own way what the others are told in theirs.

A head is a callable on features and labels that returns the loss; ``parameters`` are its leaves.
Peers are written here after the formula that their project publishes, or imported.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks.head.peers import arcface_torch_logits, softmax_loss_in_place
from benchmarks.head.problem import Problem
from torch import Tensor, nn

SCALE, MARGIN = 64.0, 0.5
MEAN_SCALE = 16.0
SAMPLE_RATE = 0.1
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-4, 0.9, 5e-4


class Absent(Exception):
    """The implementation is not to be had here; the message says why."""


class Head:
    """A loss over prototypes of its own.

    Attributes:
        parameters: the leaves besides the features.
    """

    def __init__(self, problem: Problem) -> None:
        self.weight = nn.Parameter(problem.weight)
        self.parameters: list[Tensor] = [self.weight]

    def __call__(self, features: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of (N, D) features and (N,) labels."""
        raise NotImplementedError

    def optimizer(self, lr: float = LEARNING_RATE) -> torch.optim.Optimizer:
        """SGD, its momentum already in memory, as after the first step of a run."""
        optimizer = torch.optim.SGD(
            self.parameters, lr=lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )
        for parameter in self.parameters:
            # zeros_like would leave the pages to be touched, and counted, in the measured step.
            optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).zero_()
        return optimizer

    def weight_gradient(self) -> Tensor | None:
        """(C, D)."""
        return self.parameters[0].grad


class ThreeProducts(torch.autograd.Function):
    """Z = X W', and for its backward pass Z W and Z' X: a head without the head."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        z = torch.mm(x, w.T)
        ctx.save_for_backward(x, w, z)
        return z.new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, Tensor]:
        x, w, z = ctx.saved_tensors
        return torch.mm(z, w), torch.mm(z.T, x)


class Products(Head):
    """The bound: three products, with bfloat16 operands and results in reduced precision."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        if problem.reduced:
            self.weight = nn.Parameter(problem.weight.bfloat16())
            self.parameters = [self.weight]
            problem.weight = self.weight.detach()
            problem.features = problem.features.detach().bfloat16().requires_grad_()

    def __call__(self, features: Tensor, labels: Tensor) -> Tensor:
        apply: Any = ThreeProducts.apply
        loss: Tensor = apply(features, self.weight)
        return loss


class Textbook(Head):
    """Normalize, multiply, acos of the clamped target cosine, cos(theta + m), cross entropy."""

    def __call__(self, features: Tensor, labels: Tensor) -> Tensor:
        cosines = F.linear(F.normalize(features), F.normalize(self.weight))
        index = labels.unsqueeze(1)
        theta = torch.acos(cosines.gather(1, index).clamp(-1 + 1e-7, 1 - 1e-7))
        target = torch.cos(theta + MARGIN).to(cosines.dtype)
        return F.cross_entropy(SCALE * cosines.scatter(1, index, target), labels)


class MetricLearning(Head):
    """pytorch-metric-learning's ``ArcFaceLoss``, whose weight is D x C."""

    def __init__(self, problem: Problem) -> None:
        try:
            from pytorch_metric_learning.losses import ArcFaceLoss
        except ImportError as error:
            raise Absent("pytorch-metric-learning is not installed") from error
        classes, width = problem.weight.shape
        # Its own draw would only be thrown away.
        self._loss = ArcFaceLoss(
            classes,
            width,
            margin=math.degrees(MARGIN),
            scale=SCALE,
            weight_init_func=lambda weight: weight,
        )
        self._loss.W = nn.Parameter(problem.weight.T.contiguous())
        problem.weight = self._loss.W.detach().T
        self.parameters = [self._loss.W]

    def __call__(self, features: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self._loss(features, labels)
        return loss

    def weight_gradient(self) -> Tensor | None:
        """(C, D)."""
        gradient = self._loss.W.grad
        return None if gradient is None else gradient.T


class ArcFaceTorch(Head):
    """insightface's arcface_torch on one device: see ``peers``."""

    def __call__(self, features: Tensor, labels: Tensor) -> Tensor:
        return softmax_loss_in_place(
            arcface_torch_logits(features, self.weight, labels, SCALE, MARGIN), labels
        )


class ArcFaceTorchSampled(Head):
    """Its Partial FC: the sampled rows are gathered, their gradient is scattered to all C rows."""

    sample: Tensor

    def __call__(self, features: Tensor, labels: Tensor) -> Tensor:
        classes = self.weight.shape[0]
        with torch.no_grad():
            order = torch.rand(classes, device=labels.device)
            order[labels] = 2.0
            chosen = order.topk(int(SAMPLE_RATE * classes)).indices
            self.sample = chosen.sort().values
            labels = torch.searchsorted(self.sample, labels)
        logits = arcface_torch_logits(features, self.weight[self.sample], labels, SCALE, MARGIN)
        return softmax_loss_in_place(logits, labels)


class TorchChunked(Head):
    """torch's own linear cross entropy in chunks of rows. It has no place for a margin."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        if not hasattr(F, "linear_cross_entropy"):
            raise Absent("this PyTorch has no linear_cross_entropy")
        self._options = nn.LinearCrossEntropyOptions()

    def __call__(self, features: Tensor, labels: Tensor) -> Tensor:
        directions = SCALE * F.normalize(features)
        prototypes = F.normalize(self.weight)
        if torch.is_autocast_enabled(features.device.type):
            directions, prototypes = directions.bfloat16(), prototypes.bfloat16()
        loss: Tensor = F.linear_cross_entropy(directions, prototypes, labels, options=self._options)
        return loss


def lean_arcface(features: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """ArcFace with nothing in it that a compiler could not fuse."""
    cosines = F.linear(F.normalize(features), F.normalize(weight)).float()
    own = cosines.gather(1, labels.unsqueeze(1))
    sine = (1 - own.square()).clamp_min(1e-12).sqrt()
    target = own * math.cos(MARGIN) - sine * math.sin(MARGIN)
    columns = torch.arange(weight.shape[0], device=labels.device)
    logits = SCALE * torch.where(columns == labels.unsqueeze(1), target, cosines)
    return F.cross_entropy(logits, labels)


class Compiled(Head):
    """``torch.compile`` of a lean ArcFace."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._compiled = torch.compile(lean_arcface, dynamic=False)

    def __call__(self, features: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self._compiled(features, self.weight, labels)
        return loss


class Ours(Head):
    """``MarginSoftmaxLoss``, with one of its options or none."""

    def __init__(self, problem: Problem, *, sample_rate: float = 1.0, recompute: bool = False):
        from centerarc import MarginSoftmaxLoss
        from centerarc.losses import Chunked

        class Undrawn(MarginSoftmaxLoss):
            """Its own prototypes would only be thrown away."""

            def reset_parameters(self, generator: torch.Generator | None = None) -> None:
                """Leave them."""

        classes, width = problem.weight.shape
        self._criterion = Undrawn(
            classes,
            width,
            s=SCALE,
            sample_rate=sample_rate,
            implementation=Chunked(recompute=True) if recompute else "auto",
        )
        self._criterion.prototypes = nn.Parameter(problem.weight)
        self.parameters = list(self._criterion.parameters())

    def __call__(self, features: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self._criterion(features, labels)
        return loss


class OursWithPrototypeSGD(Ours):
    """The same, stepped by ``PrototypeSGD``."""

    def __init__(self, problem: Problem, *, sample_rate: float = 1.0, fused: bool = False) -> None:
        super().__init__(problem, sample_rate=sample_rate)
        self._fused = fused

    def optimizer(self, lr: float = LEARNING_RATE) -> torch.optim.Optimizer:
        """SGD, its momentum already in memory."""
        from centerarc import PrototypeSGD

        optimizer = PrototypeSGD(
            self.parameters,
            lr=lr,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
            fused=self._fused,
        )
        for parameter in self.parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).zero_()
        return optimizer


class Center(Head):
    """Our center loss with the paper's update: touches one center a sample."""

    def __init__(self, problem: Problem) -> None:
        self.centers = problem.weight
        self.parameters = []

    def __call__(self, features: Tensor, labels: Tensor) -> Tensor:
        from centerarc.losses import center_loss, update_centers

        loss = center_loss(features, self.centers, labels)
        update_centers(self.centers, features.detach(), labels)
        return loss


class CenterMatrix(Head):
    """Distances to all centers, N x C, by the expanded square; a mask picks the own ones."""

    def __call__(self, features: Tensor, labels: Tensor) -> Tensor:
        squares = features.square().sum(1, keepdim=True) + self.weight.square().sum(1)
        distances = torch.addmm(squares, features, self.weight.T, alpha=-2)
        return _own_of(distances, labels)


class CenterCube(Head):
    """Distances to all centers from their differences, N x C x D."""

    def __call__(self, features: Tensor, labels: Tensor) -> Tensor:
        distances = (features.unsqueeze(1) - self.weight).square().sum(2)
        return _own_of(distances, labels)


class Pass(Head):
    """One pass over centers that get no gradient: what any contrast with all of them costs."""

    def __init__(self, problem: Problem) -> None:
        self.centers = problem.weight
        self.parameters = []

    def __call__(self, features: Tensor, labels: Tensor) -> Tensor:
        from centerarc import negative_logsumexp

        return negative_logsumexp(features, self.centers, labels, MEAN_SCALE).mean()


class Means(Head):
    """``MeanCenterLoss``: the contrast with the means, and the means moved."""

    def __init__(self, problem: Problem) -> None:
        from centerarc import MeanCenterLoss

        classes, width = problem.weight.shape
        with torch.device("meta"):  # its own memory would only be thrown away
            self._criterion = MeanCenterLoss(classes, width, temperature=MEAN_SCALE)
        self._criterion.centers = problem.weight
        self._criterion.counts = torch.ones(
            classes, dtype=torch.int64, device=problem.weight.device
        )
        self.parameters = []

    def __call__(self, features: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self._criterion(features, labels)
        return loss


class MeansTextbook(Head):
    """The same in plain operations: N x C cosines, cross entropy, and means by ``index_add``."""

    def __init__(self, problem: Problem) -> None:
        self.centers = problem.weight
        self.counts = torch.ones(len(problem.weight), 1, device=problem.weight.device)
        self.parameters = []

    def __call__(self, features: Tensor, labels: Tensor) -> Tensor:
        units = F.normalize(features)
        loss = F.cross_entropy(MEAN_SCALE * F.linear(units, F.normalize(self.centers)), labels)
        total = torch.zeros_like(self.centers).index_add_(0, labels, units.detach())
        number = torch.zeros_like(self.counts).index_add_(
            0, labels, torch.ones_like(labels, dtype=total.dtype).unsqueeze(1)
        )
        self.counts += number
        rate = (number / self.counts).clamp(min=0.1)
        self.centers += torch.where(
            number > 0, rate * (total / number.clamp(min=1) - self.centers), 0.0
        )
        return loss


def _own_of(distances: Tensor, labels: Tensor) -> Tensor:
    columns = torch.arange(distances.shape[1], device=labels.device)
    own = distances * (columns == labels.unsqueeze(1))
    return own.sum() / (2 * len(labels))


BUILDERS: dict[str, Callable[[Problem], Head]] = {
    "products": Products,
    "textbook": Textbook,
    "pml": MetricLearning,
    "arcface_torch": ArcFaceTorch,
    "arcface_torch_sampled": ArcFaceTorchSampled,
    "torch_chunked": TorchChunked,
    "compiled": Compiled,
    "ours": Ours,
    "ours_recompute": lambda problem: Ours(problem, recompute=True),
    "ours_fused": lambda problem: OursWithPrototypeSGD(problem, fused=True),
    "ours_sampled": lambda problem: OursWithPrototypeSGD(problem, sample_rate=SAMPLE_RATE),
    "pass": Pass,
    "means": Means,
    "means_textbook": MeansTextbook,
    "center": Center,
    "center_matrix": CenterMatrix,
    "center_cube": CenterCube,
}
