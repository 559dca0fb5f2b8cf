"""What stands before and after every loss.

Checks of options and input; `place_batch`, which checks a batch and finds its classes; deferred
checks on accelerators; warnings of parameters that no optimizer has and of ranks that drift apart;
and the reduction.
"""

import math
import sys
import warnings
import weakref
from collections import Counter, deque
from collections.abc import Iterator
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

if TYPE_CHECKING:
    from centerarc.losses.head.shards import ClassShards

Reduction = Literal["mean", "sum", "none"]

# The place of a class that is not held here.
ABSENT = -1

# A number of classes where labels are any numbers from 0 on.
ANY_CLASS = 2**62

# Changes of a parameter after which ranks compare it: the first may be of a learning rate near 0.
LOOKS = (1, 10, 100)

# Batches that may go by before we speak. The optimizer that holds a loss may step more seldom than
# another, as under gradient accumulation; few batches of many people have two images of one.
PATIENCE = 16


def wide_dtype(*tensors: Tensor) -> torch.dtype:
    """What to compute in: float32, or float64 if one of these is."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def check_tensors(**values: object) -> None:
    """Raises for the first argument that is not a tensor, as a list or a NumPy array is not."""
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{name} must be a torch.Tensor, got {type(value).__name__}; "
                f"torch.as_tensor({name}) makes one"
            )


def check_centers(centers: Tensor, seen: Tensor | None = None) -> None:
    """Raises unless centers are (C, D), and `seen` (C,) bool or None."""
    check_tensors(centers=centers)
    if centers.dim() != 2:
        raise ValueError(f"centers must be (C, D), got {tuple(centers.shape)}")
    if seen is not None:
        check_tensors(seen=seen)
        if seen.shape != centers.shape[:1] or seen.dtype != torch.bool:
            raise ValueError(
                f"seen must be ({len(centers)},) bool, one for each center, "
                f"got {tuple(seen.shape)} {seen.dtype}"
            )


def as_labels(labels: Tensor, features: Tensor) -> Tensor:
    """Returns the labels as int64, (N,); raises unless they are integers, one a row."""
    if labels.shape != features.shape[:1]:
        raise ValueError(
            f"labels must be ({features.shape[0]},), one for each row of features, "
            f"got {tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if labels.device != features.device:
        raise ValueError(
            f"labels must be on the features' device {features.device}, got {labels.device}"
        )
    # Narrow integers wrap around when compared, and uint8 would index as a mask.
    return labels.long()


def is_number(value: object) -> bool:
    """Whether this is a real number, and not a bool."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_positive(name: str, value: float) -> None:
    """Raises unless `value` is positive and finite."""
    if not (is_number(value) and 0 < value < math.inf):
        raise ValueError(f"{name} must be positive and finite, got {value!r}")


def check_counts(**counts: int) -> None:
    """Raises for the first argument that is not a positive integer."""
    for name, value in counts.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")


def check_choice(name: str, value: object, choices: Any) -> None:
    """Raises unless `value` is one of a `Literal`'s."""
    if value not in get_args(choices):
        *others, last = map(repr, get_args(choices))
        raise ValueError(f"{name} must be {', '.join(others)} or {last}, got {value!r}")


def refuse_idle(acts: bool, without: str, **options: tuple[object, object]) -> None:
    """Raises for the first option, a value and its default, that was set but does nothing."""
    for name, (value, default) in options.items():
        if not acts and value != default:
            raise ValueError(f"{name} must be left out {without}, got {value!r}")


def classes_held(shards: "ClassShards | None", num_classes: int) -> int:
    """How many of the classes are here; raises where the shards are of another number."""
    if shards is None:
        return num_classes
    if shards.num_classes != num_classes:
        raise ValueError(
            f"shards must be of num_classes = {num_classes} classes, got {shards.num_classes}"
        )
    return shards.stop - shards.start


@torch.library.custom_op("centerarc::checked_labels", mutates_args=())
def _checked_labels(
    features: Tensor, labels: Tensor, num_classes: int, ignore_index: int
) -> Tensor:
    """`check_values` as part of a compiled graph, which would leave out what it has no use for."""
    check_values(features, labels, num_classes, ignore_index)
    return labels.clone()


@_checked_labels.register_fake
def _(features: Tensor, labels: Tensor, *_: int) -> Tensor:
    return torch.empty_like(labels)


def check_values(features: Tensor, labels: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """The labels; raises if one is out of range or features are not finite, on the CPU.

    Reading a value back from an accelerator would stall it. There a bad row makes the loss NaN, and
    the modules report it a few batches later by `DeferredChecks`.
    """
    if features.device.type != "cpu":
        return labels
    if torch.compiler.is_compiling():
        checked: Tensor = _checked_labels(features.detach(), labels, num_classes, ignore_index)
        return checked
    kept = labels != ignore_index
    outside = kept & ((labels < 0) | (labels >= num_classes))
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        allowed = "0 or more" if num_classes == ANY_CLASS else f"in [0, {num_classes})"
        raise ValueError(
            f"labels must be {allowed} or ignore_index {ignore_index}, "
            f"got {int(labels[row])} at row {row}"
        )
    # A sum is finite unless a term is not (or it overflows): one pass instead of three.
    if not bool(features.detach().sum(dtype=torch.float64).isfinite()):
        wrong = ~features.detach().isfinite().all(dim=1) & kept
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise ValueError(f"features must be finite, got NaN or infinity at row {row}")
    return labels


class Batch(NamedTuple):
    """A batch that was checked, of all ranks where the classes are sharded."""

    features: Tensor  # (N, D), float32 or float64, 0 for samples that do not count
    labels: Tensor  # (N,) int64, among all classes
    known: Tensor  # (N,) bool, whether the label is that of a class
    wrong: Tensor  # (N,) bool, whether it is neither that nor to be ignored: the loss is then NaN
    places: Tensor  # (N,), the class's place among those that are held here, or ABSENT


def place_batch(
    features: Tensor,
    labels: Tensor,
    rows: Tensor,
    ignore_index: int,
    shards: "ClassShards | None",
) -> Batch:
    """Checks (N_r, D) features and (N_r,) labels, and finds them among the `rows` held here."""
    classes, first = len(rows), 0
    if shards is not None:
        classes, first = shards.num_classes, shards.start
    check_tensors(features=features, labels=labels)
    dim = rows.shape[-1]
    if features.dim() != 2 or features.shape[1] != dim:
        raise ValueError(f"features must be (N, {dim}), got {tuple(features.shape)}")
    if not features.is_floating_point():
        raise ValueError(f"features must be floating point, got {features.dtype}")
    labels = as_labels(labels, features)
    labels = check_values(features, labels, classes, ignore_index)
    # An ignored row becomes a zero vector, so that not even a NaN in it reaches a gradient.
    known = (labels != ignore_index) & (labels >= 0) & (labels < classes)
    features = features.to(wide_dtype(features, rows)).where(known.unsqueeze(1), 0.0)
    if shards is not None:
        features, labels = shards.gather(features, labels)
    counted = labels != ignore_index
    known = counted & (labels >= 0) & (labels < classes)
    here = known & (labels >= first) & (labels < first + len(rows))
    return Batch(features, labels, known, counted & ~known, (labels - first).where(here, ABSENT))


class Arriving:
    """Flags of a device that are read once they are on the host, so that nothing waits."""

    def __init__(self) -> None:
        self._pending: deque[tuple[Tensor, torch.Event | None]] = deque()

    def __reduce__(self) -> tuple[type["Arriving"], tuple[()]]:
        return Arriving, ()  # a copy has seen no batch

    def send(self, flags: Tensor) -> None:
        """Starts the copy of the flags of one more batch."""
        event = None
        if flags.device.type != "cpu":
            event, flags = torch.Event(flags.device), flags.to("cpu", non_blocking=True)
            event.record()
        self._pending.append((flags, event))

    def arrived(self) -> Iterator[Any]:
        """Yields the flags that are there, batch by batch."""
        while self._pending and ((event := self._pending[0][1]) is None or event.query()):
            yield self._pending.popleft()[0].tolist()


class DeferredChecks:
    """Checks on an accelerator that report bad input a few batches late, and never wait."""

    def __init__(self) -> None:
        self._batch = 0
        self._arriving = Arriving()

    def __reduce__(self) -> tuple[type["DeferredChecks"], tuple[()]]:
        return DeferredChecks, ()  # a copy has seen no batch

    def watch(self, features: Tensor, labels: Tensor, num_classes: int, ignore_index: int) -> None:
        """Queues the checks of this batch, and raises what earlier ones found, by their number."""
        if features.device.type in ("cpu", "meta") or torch.compiler.is_compiling():
            return
        kept = labels != ignore_index
        outside = (kept & ((labels < 0) | (labels >= num_classes))).any()
        infinite = ~(features.detach().isfinite().all(dim=1) | ~kept).all()
        self._arriving.send(torch.stack([outside, infinite]))
        for outside_host, infinite_host in self._arriving.arrived():
            batch, self._batch = self._batch, self._batch + 1
            if outside_host:
                raise ValueError(
                    f"labels must be in [0, {num_classes}) or ignore_index {ignore_index}; "
                    f"batch {batch} had one outside"
                )
            if infinite_host:
                raise ValueError(
                    f"features must be finite; batch {batch} had NaN or infinity in them"
                )


class OptimizerReminder:
    """Warns once if optimizers step again and again, but none that holds the parameter.

    So it is after `load_state_dict(assign=True)` and with a copy of a criterion: the optimizer has
    the parameter that was there before. Nothing is read from the device. No warning comes for a
    frozen parameter, in evaluation, while
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
        """Looks at `parameter` at the start of a training step."""
        if torch.compiler.is_compiling() or not parameter.requires_grad:
            return
        if self._parameter is None or self._parameter() is not parameter:
            self._watch(parameter)
        elif self._done:
            return
        elif parameter._version != self._version:
            self._done = True
        elif parameter.grad is not None and self._stepped:
            self._stepped = False
            self._missed += 1
            if self._missed == PATIENCE:
                self._done = True
                warn_user(
                    f"the parameters of {self._owner} have a gradient but no optimizer has them: "
                    "give it criterion.parameters() too, for example "
                    "torch.optim.SGD([*model.parameters(), *criterion.parameters()], lr=0.1), "
                    "after the criterion is copied or loaded with assign=True"
                )

    def _watch(self, parameter: nn.Parameter) -> None:
        self._parameter = weakref.ref(parameter)
        self._version, self._stepped, self._missed = parameter._version, False, 0
        self._done = False
        OptimizerReminder._watching.add(self)
        if not OptimizerReminder._hooked:
            register_optimizer_step_post_hook(_after_step)
            OptimizerReminder._hooked = True

    def after_step(self, optimizer: Optimizer) -> None:
        """Takes note of a step of any optimizer."""
        parameter = None if self._parameter is None else self._parameter()
        held = any(p is parameter for group in optimizer.param_groups for p in group["params"])
        self._done = self._done or held
        self._stepped = not held


def _after_step(optimizer: Optimizer, *_: Any) -> None:
    for reminder in list(OptimizerReminder._watching):
        reminder.after_step(optimizer)
        if reminder._done:
            OptimizerReminder._watching.discard(reminder)


class PairReminder:
    """Warns once if batch after batch has no two images of a person to compare."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._arriving = Arriving()
        self._missed = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**PairReminder(self._owner).__dict__}

    def check(self, paired: Tensor) -> None:
        """Takes note of whether a training batch has a pair of one person, a () bool."""
        if torch.compiler.is_compiling() or paired.is_meta or self._missed == PATIENCE:
            return
        self._arriving.send(paired)
        for found in self._arriving.arrived():
            self._missed = 0 if found else self._missed + 1
            if self._missed == PATIENCE:
                warn_user(
                    f"{PATIENCE} batches in a row had no two images of a person, so that "
                    f"{self._owner} had nothing to pull together: draw several images of each "
                    "person (data.sampler.kind: identities in centerarc train), or compare with "
                    "over='centers'"
                )
                return


class DriftReminder:
    """Warns once if the ranks of a process group hold different values of what they all train.

    A criterion that was left outside DistributedDataParallel gets the gradients of its own rank
    only, and nothing fails. After a few of the first changes, each rank leaves some values in the
    process group's store, and rank 0 compares those that are there when it comes by again. No
    collective takes part, so that nothing waits if only some ranks train the criterion.
    """

    _known: ClassVar[Counter[str]] = Counter()

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._done = False
        self._key = ""
        self._version = -1
        self._changes = -1
        self._pending: tuple[int, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**DriftReminder(self._owner).__dict__}

    def check(self, values: Tensor) -> None:
        """Looks at `values` in a training step, before they change."""
        if self._done or torch.compiler.is_compiling() or not dist.is_available():
            return
        if not dist.is_initialized() or dist.get_world_size() < 2:
            return
        # What DistributedDataParallel wraps is averaged; each rank has another part of a DTensor.
        wrapped = getattr(DistributedDataParallel, "_active_ddp_module", None) is not None
        if wrapped or hasattr(values, "full_tensor"):
            return
        store = dist.distributed_c10d._get_default_store()
        if self._pending is not None:
            self._compare(values, store)
        if values._version == self._version:
            return
        self._version = values._version
        self._changes += 1
        if not self._key:
            name = f"centerarc/{self._owner}/{tuple(values.shape)}"
            DriftReminder._known[name] += 1
            self._key = f"{name}/{DriftReminder._known[name]}"
        if self._changes in LOOKS:
            some = _some_values(values)
            rank = dist.get_rank()
            store.set(f"{self._key}/{self._changes}/{rank}", some.numpy().tobytes().hex())
            self._pending = (self._changes, some) if rank == 0 else None

    def _compare(self, values: Tensor, store: Any) -> None:
        """Compares the values of rank 0 with those of the other ranks, once all are there."""
        assert self._pending is not None
        changes, some = self._pending
        others = range(1, dist.get_world_size())
        if not store.check([f"{self._key}/{changes}/{rank}" for rank in others]):
            return
        self._pending = None
        for rank in others:
            sent = bytearray.fromhex(store.get(f"{self._key}/{changes}/{rank}").decode())
            theirs = torch.frombuffer(sent, dtype=torch.float32)
            # Ranks on unlike processors may differ by rounding.
            if not torch.allclose(theirs, some, rtol=0, atol=1e-4 * float(some.abs().max())):
                self._done = True
                warn_user(
                    f"the {tuple(values.shape)} values of {self._owner} differ between rank 0 and "
                    f"rank {rank}: {_ADVICE[isinstance(values, nn.Parameter)]}, or shard the "
                    "classes with shards=ClassShards(num_classes)"
                )
                return


_ADVICE = {
    True: "each trains its own; wrap the criterion in DistributedDataParallel as the model is "
    "(with Accelerate, give it to prepare)",
    False: "draw them with the same seed or generator on each",
}


def _some_values(values: Tensor) -> Tensor:
    """Up to 1024 float32 values from all over a tensor, on the CPU."""
    flat = values.detach().reshape(-1)
    return flat[:: max(1, len(flat) // 1024)][:1024].to("cpu", torch.float32, copy=True)


def warn_user(message: str) -> None:
    """Warns, and points at the line outside centerarc and torch that led here."""
    level, frame = 2, sys._getframe(1)
    ours = ("centerarc", "torch")
    while frame.f_back and str(frame.f_globals.get("__name__")).split(".")[0] in ours:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def reduce(losses: Tensor, shares: Tensor, reduction: Reduction) -> Tensor:
    """Sums, averages or returns the (N,) losses of a batch, as `cross_entropy` does.

    The mean divides by the sum of the (N,) shares: 0 for a sample that is ignored, its class weight
    otherwise. A batch with none in it has loss 0, not NaN, so one empty batch cannot end a run.
    """
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    total = shares.sum()
    return losses.sum() / total.where(total > 0, 1.0)
