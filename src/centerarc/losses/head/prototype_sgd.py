"""SGD for class prototypes: touches the rows of a sparse gradient only, or steps without one."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.weak import WeakTensorKeyDictionary

from centerarc.losses.head import epilogues
from centerarc.losses.head.class_blocks import add_rows
from centerarc.losses.head.products import local

# The optimizers that step a parameter during its backward pass. Keyed by the parameter, because
# that is all that a loss is given.
_FUSED: Any = WeakTensorKeyDictionary()

# Rows stepped at a time, so that no temporary is as large as the gradient.
ROWS_AT_ONCE = 4096

MOMENTUM = "momentum_buffer"


class PrototypeSGD(Optimizer):
    """SGD with momentum and weight decay for prototypes: dense, sparse, or in the backward pass.

    `g = gradient + weight_decay w;  v = momentum v + g;  w = w - lr v`
    (Nesterov: `w = w - lr (g + momentum v)`), the rule of `torch.optim.SGD`.

    - Dense gradient: every row is updated, as by `torch.optim.SGD`.
    - Sparse gradient (from a loss with `sample_rate` below 1): only its rows are read or written.
      The other rows and their momentum stay the same to the last bit; an ordinary optimizer would
      let them decay and drift.
    - `fused=True`: the loss's backward pass updates each block of classes as soon as its gradient
      is computed, so no C x D gradient ever exists and `.grad` stays None. The result is the same
      up to rounding. (`fused` in torch.optim means something else: one kernel per step.)

    A fused step supports one backward pass per `step()`; a second one raises, and so does a
    gradient from autograd, for example from torch.compile or another term. Do not use gradient
    clipping or a gradient scaler with it, which it cannot detect: there is no gradient to clip, and
    a scaled loss would scale the step. If the loss is not finite, the prototypes are not finite
    after `backward()`, so check the loss before. Every backward pass through the loss updates the
    prototypes, also in evaluation mode.

    It can load the state of a `torch.optim.SGD`, but not the reverse: it has no `dampening`.

    Args:
        params: the prototypes, for example `criterion.parameters()`, or groups of them.
        lr: learning rate, not negative.
        momentum: in [0, 1).
        weight_decay: not negative.
        nesterov: Nesterov's momentum; needs a momentum.
        fused: update during the backward pass; float32 or float64 prototypes only.

    Raises:
        ValueError: if an argument is out of range, or a parameter does not support a fused step.

    Source:
        Touched rows only: An et al. 2022, "Killing Two Birds with One Stone: Efficient and Robust
        Training of Face Recognition CNNs by Partial FC", section 3.

    Example:
        >>> import torch
        >>> from centerarc import MarginSoftmaxLoss, PrototypeSGD
        >>> criterion = MarginSoftmaxLoss(num_classes=1000, feat_dim=16)
        >>> optimizer = PrototypeSGD(criterion.parameters(), lr=0.1, momentum=0.9, fused=True)
        >>> criterion(torch.randn(8, 16), torch.arange(8)).backward()  # steps the prototypes
        >>> criterion.prototypes.grad is None
        True
        >>> optimizer.step()  # ends the iteration
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 0.1,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        fused: bool = False,
    ) -> None:
        self.fused = fused
        self._stepped: set[int] = set()
        # Only an optimizer that was made may step; a later group may be refused.
        self._complete = False
        rule = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        super().__init__(params, rule)
        self._complete = True
        self._register()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of prototypes, checked as those of the constructor are."""
        super().add_param_group(param_group)
        try:
            self._check(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise
        if self._complete:
            self._register()

    def _check(self, group: dict[str, Any]) -> None:
        if not 0.0 <= float(group["lr"]) < torch.inf:
            raise ValueError(f"lr must be finite and not negative, got {group['lr']!r}")
        if not 0.0 <= group["momentum"] < 1.0:
            raise ValueError(f"momentum must be in [0, 1), got {group['momentum']!r}")
        if not 0.0 <= group["weight_decay"] < torch.inf:
            raise ValueError(
                f"weight_decay must be finite and not negative, got {group['weight_decay']!r}"
            )
        if group["nesterov"] and not group["momentum"]:
            raise ValueError("nesterov must be False without momentum, got True")
        for parameter in group["params"] if self.fused else ():
            good = parameter.dtype in (torch.float32, torch.float64) and parameter.dim() > 1
            if not good or not parameter.is_contiguous():
                raise ValueError(
                    "fused must be False for parameters that are not contiguous float32 or float64 "
                    f"prototypes, got {tuple(parameter.shape)} {parameter.dtype}"
                )

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"fused": self.fused}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._stepped = set()
        self._complete = True
        super().__setstate__(state)
        self._register()

    def _register(self) -> None:
        for group in self.param_groups if self.fused else ():
            for parameter in group["params"]:
                if _owner(parameter) not in (None, self):
                    raise ValueError(
                        "params must be stepped by one fused PrototypeSGD, and another has "
                        f"those of shape {tuple(parameter.shape)}"
                    )
                _FUSED[parameter] = weakref.ref(self)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Steps each parameter that has a gradient; ends the iteration of fused ones.

        Returns what `closure` does, which evaluates the loss again. Raises `RuntimeError` if a
        fused parameter has a gradient, which came from elsewhere.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if self.fused:
                    raise RuntimeError(
                        "the fused PrototypeSGD found a gradient on a parameter that the backward "
                        "pass should have stepped: torch.compile, DistributedDataParallel, a "
                        "parameter that is not a prototype, or another term of the loss sent it; "
                        "use fused=False"
                    )
                self._step_rows(parameter, parameter.grad, group)
        self._stepped.clear()
        return loss

    def momentum_buffer(self, parameter: Tensor) -> Tensor | None:
        """The parameter's momentum, zeros at first; None where its group has none."""
        if not self._group(parameter)["momentum"]:
            return None
        state = self.state[parameter]
        if MOMENTUM not in state:
            state[MOMENTUM] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
        buffer: Tensor = state[MOMENTUM]
        return buffer

    def _group(self, parameter: Tensor) -> dict[str, Any]:
        for group in self.param_groups:
            if any(parameter is other for other in group["params"]):
                return group
        raise KeyError("the parameter is in no group of this optimizer")

    def _step_rows(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        momentum = self.momentum_buffer(parameter)
        momentum = None if momentum is None else local(momentum)
        parameter, gradient = local(parameter), local(gradient)
        touched = None
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            touched, gradient = gradient.indices()[0], gradient.values()
        if parameter.dim() == 0:
            parameter, gradient = parameter.unsqueeze(0), gradient.unsqueeze(0)
            momentum = None if momentum is None else momentum.unsqueeze(0)
        for start in range(0, len(gradient), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            at = part if touched is None else touched[part]  # a view, or a copy of touched rows
            rows = parameter[at]
            speeds = None if momentum is None else momentum[at]
            step = gradient[part].add(rows, alpha=group["weight_decay"])
            epilogues.sgd_step(
                rows, step, speeds, float(group["lr"]), group["momentum"], group["nesterov"]
            )
            if touched is not None:
                parameter[at] = rows
                if momentum is not None and speeds is not None:
                    momentum[at] = speeds


def _owner(weight: Tensor) -> PrototypeSGD | None:
    """The fused optimizer of these prototypes, if there is one and it still lives."""
    reference = _FUSED.get(weight)
    return None if reference is None else reference()


def has_fused_step(weight: Tensor) -> bool:
    """Whether a fused optimizer steps these prototypes in their backward pass.

    A compiled graph has no such step; the optimizer then complains of the gradient that it finds.
    """
    return not torch.compiler.is_compiling() and _owner(weight) is not None


def fused_step(
    weight: Tensor, sample: Tensor | None, dtype: torch.dtype, triton: bool
) -> "StepInPlace | None":
    """The sink that steps these prototypes, if a fused optimizer has them."""
    owner = _owner(weight)
    return None if owner is None else StepInPlace(owner, weight, sample, dtype, triton)


class StepInPlace:
    """A sink that steps each block of prototypes instead of keeping its gradient."""

    def __init__(
        self,
        optimizer: PrototypeSGD,
        weight: Tensor,
        sample: Tensor | None,
        dtype: torch.dtype,
        triton: bool,
    ) -> None:
        self._optimizer = optimizer
        self.weight = weight
        self._sample = sample
        self._dtype = dtype
        self._triton = triton
        self._memory: Tensor | None = None
        self._group: dict[str, Any] = {}
        self._momentum: Tensor | None = None

    def begin(self) -> None:
        """Takes the optimizer's present rates, before the first block; raises where it was done."""
        if id(self.weight) in self._optimizer._stepped:
            raise RuntimeError(
                "the fused PrototypeSGD came to a second backward pass before step(), and serves "
                "one: call step() after each, or use fused=False to accumulate or to add terms"
            )
        self._optimizer._stepped.add(id(self.weight))
        self._group = self._optimizer._group(self.weight)
        self._momentum = self._optimizer.momentum_buffer(self.weight)

    def block(self, start: int, stop: int) -> Tensor:
        """Memory that serves every block."""
        rows = (stop - start) * self.weight[0].numel() // self.weight.shape[-1]
        if self._memory is None or len(self._memory) < rows:
            self._memory = self.weight.new_empty(rows, self.weight.shape[-1], dtype=self._dtype)
        return self._memory[:rows]

    def finish(
        self, start: int, stop: int, gradient: Tensor, rows: Tensor, inverse: Tensor
    ) -> None:
        """Steps the block."""
        group, momentum, speeds = self._group, self._momentum, None
        if momentum is not None:
            if self._sample is None:
                speeds = momentum[start:stop]
            else:
                speeds = momentum.index_select(0, self._sample[start:stop])
            speeds = speeds.to(self._dtype).flatten(0, -2)
        epilogues.project_and_step(
            gradient,
            rows,
            inverse,
            speeds,
            float(group["lr"]),
            group["momentum"],
            group["weight_decay"],
            group["nesterov"],
            self._triton,
        )
        self._write_back(self.weight, start, stop, rows)
        if momentum is not None and speeds is not None:
            self._write_back(momentum, start, stop, speeds)

    def add(self, places: Tensor, gradient: Tensor) -> None:
        """Steps further by (N, D) gradients of single prototypes; the rule is linear in them."""
        if self._sample is not None:
            sub_centers = self.weight[0].numel() // self.weight.shape[-1]
            first = self._sample[torch.div(places, sub_centers, rounding_mode="floor")]
            places = first * sub_centers + places % sub_centers
        group = self._group
        factor = -float(group["lr"]) * (1 + group["momentum"] if group["nesterov"] else 1)
        if self._momentum is not None:
            add_rows(self._momentum.flatten(0, -2), places, gradient)
        add_rows(self.weight.flatten(0, -2), places, gradient * factor)

    def _write_back(self, array: Tensor, start: int, stop: int, rows: Tensor) -> None:
        rows = rows.view(stop - start, *array.shape[1:])
        if self._sample is not None:
            array.index_copy_(0, self._sample[start:stop], rows.to(array.dtype))
        elif array.dtype != self._dtype:
            array[start:stop].copy_(rows)
