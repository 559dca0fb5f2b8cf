"""The margin softmax as a module that owns its class prototypes."""

import warnings
import weakref
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from centerarc.losses.checks import (
    DeferredChecks,
    Reduction,
    check_counts,
    check_positive,
    check_reduction,
    reduce,
)
from centerarc.losses.functional import (
    MarginSoftmaxTerms,
    Shards,
    check_conflict_threshold,
    check_shards,
    check_smoothing,
    margin_softmax_terms,
)
from centerarc.losses.head.class_pass import Implementation, check_implementation
from centerarc.losses.head.products import unit
from centerarc.losses.head.prototype_sgd import has_fused_step
from centerarc.losses.head.sampling import Sampler, check_sample_rate, draw_rows
from centerarc.losses.margins import ArcFace, Margin

# One warning for the commonest mistake: the loss's own parameters never reach an optimizer.

# Forward passes, each after a step of some other optimizer, that may go by before we speak: the
# optimizer that holds the loss may step more seldom, as under gradient accumulation.
PATIENCE = 16


class OptimizerReminder:
    """Warns once if optimizers step again and again, but none that holds the parameter.

    Nothing is read from the device. No warning comes for a frozen parameter, in evaluation, while
    no optimizer steps, when the parameter changes in another way, or when the optimizers are not
    PyTorch's (their steps are not seen).
    """

    _watching: ClassVar[weakref.WeakSet["OptimizerReminder"]] = weakref.WeakSet()
    _hooked: ClassVar[bool] = False

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._done = False
        self._parameter: weakref.ref[nn.Parameter] | None = None
        self._version = 0
        self._stepped = False
        self._missed = 0

    def __getstate__(self) -> dict[str, Any]:
        # A copy has parameters of its own, and watches them from the start.
        return {**OptimizerReminder(self._owner).__dict__}

    def check(self, parameter: nn.Parameter) -> None:
        """Look at ``parameter`` at the start of a training step."""
        if self._done or torch.compiler.is_compiling() or not parameter.requires_grad:
            return
        if self._parameter is None or self._parameter() is not parameter:
            self._watch(parameter)
        elif parameter._version != self._version:
            self._done = True
        elif parameter.grad is not None and self._stepped:
            self._stepped = False
            self._missed += 1
            if self._missed == PATIENCE:
                self._done = True
                warnings.warn(
                    f"the parameters of {self._owner} have a gradient but no optimizer has them: "
                    "give it criterion.parameters() too, for example "
                    "torch.optim.SGD([*model.parameters(), *criterion.parameters()], lr=0.1)",
                    stacklevel=6,
                )

    def _watch(self, parameter: nn.Parameter) -> None:
        self._parameter = weakref.ref(parameter)
        self._version, self._stepped, self._missed = parameter._version, False, 0
        OptimizerReminder._watching.add(self)
        if not OptimizerReminder._hooked:
            register_optimizer_step_post_hook(_after_step)
            OptimizerReminder._hooked = True

    def after_step(self, optimizer: Optimizer) -> None:
        """Take note of a step of any optimizer."""
        parameter = None if self._parameter is None else self._parameter()
        held = any(p is parameter for group in optimizer.param_groups for p in group["params"])
        self._done = self._done or held
        self._stepped = not held


def _after_step(optimizer: Optimizer, *_: Any) -> None:
    for reminder in list(OptimizerReminder._watching):
        reminder.after_step(optimizer)
        if reminder._done:
            OptimizerReminder._watching.discard(reminder)


# The margin softmax as a module that owns its class prototypes.


@dataclass(frozen=True)
class BatchMetrics:
    """What the last forward pass saw, detached; reading a value is what waits for the device.

    With shards N counts the samples of all ranks.

    Attributes:
        target_cosine: (N,), cosine of each sample to its own class, without margin; ignored: 0.
        accuracy: scalar, share of counted samples whose own class has the largest cosine; among
            the classes that took part, so higher where they are sampled.
        count: scalar, samples that were not ignored.
    """

    target_cosine: Tensor
    accuracy: Tensor
    count: Tensor

    @classmethod
    def of(cls, terms: MarginSoftmaxTerms) -> "BatchMetrics":
        """Collect them from one pass."""
        count = terms.known.sum()
        return cls(terms.target_cosine, terms.correct.sum() / count.clamp_min(1), count)


class MarginSoftmaxLoss(nn.Module):
    """Softmax cross entropy over scaled cosines to learned prototypes, with a margin.

    ``loss_i = softplus(lse_{j != y}(s cos_j) - s psi(theta_y))``, see
    ``functional.margin_softmax_loss``.

    Args:
        num_classes: C, at least 1.
        feat_dim: D, the embedding size, at least 1.
        margin: psi; by default ``ArcFace(m=0.5)``. ``CosFace(m=0.0)`` is the plain softmax.
        s: scale of the cosines, positive.
        sub_centers: K prototypes a class, of which each sample takes the nearest; 1 to have one.
        weight: (C,) class weights, as ``cross_entropy`` has them; kept as a buffer.
        ignore_index: the label of samples that do not count.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        label_smoothing: in [0, 1).
        sample_rate: share of the classes that take part in a training step, in (0, 1]: those of the
            batch, and others by chance. Below 1 the prototypes' gradient is sparse (but for the
            reference implementation): step it with ``PrototypeSGD``. In evaluation mode all
            classes take part.
        sample_generator: draws them, on the device of the labels; torch's own by default. It is
            in no state dict: save its ``get_state()`` to resume exactly, each rank its own.
        conflict_threshold: cosine above which another class's prototype does not count as wrong:
            where labels are noisy it is often the same person under two names. None counts all.
        implementation: of ``negative_logsumexp``.
        shards: the ranks that the classes are spread over, ``distributed.ClassShards(C)``; this
            module then holds the classes of its own rank only, takes this rank's samples, and
            returns the loss of the samples of all ranks. Labels stay those of all classes. None
            holds all classes.
        generator: draws the initial prototypes, on the CPU; torch's own by default. With
            generators of one seed ranks with shards start as one process does.

    Attributes:
        prototypes: parameter, (C, D), or (C, K, D) with sub-centers, C being the classes held here.
            Give it to the optimizer.
        metrics: ``BatchMetrics`` of the last forward pass, None before it.

    Raises:
        ValueError: if an argument is out of range.

    Source:
        Deng et al. 2019, "ArcFace", equation 4; Deng et al. 2020, "Sub-center ArcFace".

    Example:
        >>> import torch
        >>> from centerarc import CosFace, MarginSoftmaxLoss
        >>> criterion = MarginSoftmaxLoss(num_classes=10, feat_dim=16, margin=CosFace(0.35), s=64)
        >>> loss = criterion(torch.randn(8, 16), torch.arange(8))
        >>> criterion.logits(torch.randn(8, 16)).shape
        torch.Size([8, 10])
    """

    def __init__(
        self,
        num_classes: int,
        feat_dim: int,
        margin: Margin | None = None,
        s: float = 64.0,
        *,
        sub_centers: int = 1,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        sample_rate: float = 1.0,
        sample_generator: torch.Generator | None = None,
        conflict_threshold: float | None = None,
        implementation: Implementation = "auto",
        shards: Shards | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_counts(num_classes=num_classes, feat_dim=feat_dim, sub_centers=sub_centers)
        check_reduction(reduction)
        check_positive("s", s)
        check_sample_rate(sample_rate)
        check_conflict_threshold(conflict_threshold)
        check_smoothing(
            label_smoothing, sub_centers > 1, sample_rate < 1, conflict_threshold is not None
        )
        if margin is not None and (isinstance(margin, type) or not callable(margin)):
            raise ValueError(
                "margin must be a margin such as ArcFace(0.5), or create_margin('arcface', m=0.5), "
                f"got {margin!r}"
            )
        check_implementation(implementation)
        check_shards(shards, num_classes)
        if weight is not None and weight.shape != (num_classes,):
            raise ValueError(
                f"weight must be ({num_classes},), one for each class, got {tuple(weight.shape)}"
            )
        self.num_classes = num_classes
        self.feat_dim = feat_dim
        self.margin: Margin = ArcFace() if margin is None else margin
        self.s = float(s)
        self.sub_centers = sub_centers
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction
        self.label_smoothing = label_smoothing
        self.sample_rate = sample_rate
        self.sample_generator = sample_generator
        self.conflict_threshold = conflict_threshold
        self.implementation: Implementation = implementation
        self.shards = shards
        here = num_classes if shards is None else shards.stop - shards.start
        shape = (here, feat_dim) if sub_centers == 1 else (here, sub_centers, feat_dim)
        self.prototypes = nn.Parameter(torch.empty(shape))
        self.weight: Tensor | None
        self.register_buffer("weight", None if weight is None else weight.detach().clone())
        self.metrics: BatchMetrics | None = None
        self._checks = DeferredChecks()
        self._reminder = OptimizerReminder(type(self).__name__)
        self.reset_parameters(generator)

    def name_in_warnings(self, owner: str) -> None:
        """Let warnings speak of the module that the user made, of which this one is a part."""
        self._reminder = OptimizerReminder(owner)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the prototypes anew, normal with standard deviation 0.01."""
        draw_rows(self.prototypes, 0 if self.shards is None else self.shards.start, generator)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of (N, D) features and (N,) labels: a scalar, or (N,) for ``"none"``.

        With shards N counts the samples of all ranks on return, and the loss is the same on each.
        """
        terms = self.terms(features, labels)
        return reduce(terms.loss, terms.share, self.reduction)

    def terms(self, features: Tensor, labels: Tensor) -> MarginSoftmaxTerms:
        """One pass over the classes, before the reduction; also sets ``metrics``."""
        if self.training:
            self._reminder.check(self.prototypes)
        self._refuse_ddp()
        terms = margin_softmax_terms(
            features,
            self.prototypes,
            labels,
            self.margin,
            self.s,
            weight=self.weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            conflict_threshold=self.conflict_threshold,
            sampler=self._sampler(),
            shards=self.shards,
            implementation=self.implementation,
        )
        self._checks.watch(features, labels, self.num_classes, self.ignore_index)
        self.metrics = BatchMetrics.of(terms)
        return terms

    def _refuse_ddp(self) -> None:
        # Set while DistributedDataParallel runs the module that it wraps.
        if getattr(DistributedDataParallel, "_active_ddp_module", None) is None:
            return
        wrong = {
            "shards": self.shards is not None,
            "sample_rate below 1": self._sampler() is not None,
            "PrototypeSGD(fused=True)": has_fused_step(self.prototypes),
        }
        for what, there in wrong.items():
            if there:
                raise RuntimeError(
                    f"a criterion with {what} must stay outside DistributedDataParallel, which "
                    "would make its prototypes or their gradients those of all ranks"
                )

    def _sampler(self) -> Sampler | None:
        if self.sample_rate == 1 or not self.training:
            return None
        return Sampler(self.sample_rate, self.sample_generator)

    def logits(self, features: Tensor) -> Tensor:
        """(N, C) scaled cosines without margin, for classification; holds all of N x C.

        With shards C counts the classes of this rank.
        """
        dtype = torch.promote_types(features.dtype, self.prototypes.dtype)
        with torch.autocast(features.device.type, enabled=False):
            cosines = unit(features.to(dtype)) @ unit(self.prototypes.to(dtype)).flatten(0, -2).T
            if self.sub_centers > 1:
                cosines = cosines.view(len(features), -1, self.sub_centers).amax(dim=2)
            return self.s * cosines

    def extra_repr(self) -> str:
        """What ``print(criterion)`` shows."""
        more = f", sub_centers={self.sub_centers}" if self.sub_centers > 1 else ""
        more += f", sample_rate={self.sample_rate:g}" if self.sample_rate < 1 else ""
        if self.shards is not None:
            more += f", classes {self.shards.start} to {self.shards.stop} here"
        return f"{self.num_classes}, {self.feat_dim}, margin={self.margin}, s={self.s:g}{more}"
