"""What a run trains with, built from its configuration; nothing is written."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from centerarc.data.augmentation import Augmentation
from centerarc.data.loader import TrainLoader
from centerarc.data.samplers import (
    Balanced,
    IdentityBatches,
    InBlocks,
    Repeated,
    Sampler,
    Shuffled,
    image_weights,
)
from centerarc.data.source import FaceSource
from centerarc.distributed.batchnorm import convert_batchnorm
from centerarc.distributed.process import Processes
from centerarc.io.tables import counted
from centerarc.losses.center_arcface import CenterArcFaceLoss
from centerarc.models.backbone import Backbone, create_model
from centerarc.models.weights import load_start
from centerarc.training.callbacks import check_callbacks
from centerarc.training.config import TrainConfig
from centerarc.training.head import (
    class_sizes,
    class_weights,
    describe_head,
    make_criterion,
    make_margin,
    make_shards,
    make_terms,
    start_head,
)
from centerarc.training.logging import require_tensorboard
from centerarc.training.optimizer import WeightAverage, lr_factor, make_optimizers
from centerarc.training.sources import RunSources, make_sources
from centerarc.training.step import Diverged, Precision, TrainStep
from centerarc.training.terms import AddedTerms, pairs_note

# What newer versions of PyTorch call it; the old name warns there.
_SYNC_BUFFERS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)

# Below this scale fp16 has no number left for a gradient of 1: the scaler has left out every step
# for a while, as none had a finite gradient.
_LEAST_SCALE = 2.0**-24
_AVERAGE = "the average of "


def in_parallel(model: nn.Module, processes: Processes, *, compiled: bool) -> nn.Module:
    """Returns what trains a model on all processes, in training mode; it shares the parameters.

    With several processes the model's batch normalization becomes that of the whole batch.
    """
    parallel = model
    if processes.world_size > 1:
        convert_batchnorm(model)
    if compiled:
        parallel = torch.compile(parallel)  # type: ignore[assignment]
    if processes.world_size > 1:
        # The buffers are equal on all ranks already: their statistics are global.
        own_buffers: dict[str, Any] = {_SYNC_BUFFERS: False}
        parallel = DistributedDataParallel(parallel, **own_buffers)
    return parallel.train()


def refuse_at_once(config: TrainConfig) -> None:
    """Refuses a margin, a callback or an extra that is not there; a `ValueError` says what."""
    make_margin(config.loss)
    check_callbacks(config.callbacks)
    require_tensorboard(config.log.tensorboard)


def make_model(config: TrainConfig, generator: torch.Generator | None = None) -> Backbone:
    """Builds the backbone of a run; a `ValueError` for an unknown name or option."""
    return create_model(
        config.model.name,
        embedding_size=config.model.embedding_size,
        image_size=config.model.image_size,
        generator=generator,
        **config.model.options,
    )


def check_parts(model: nn.Module, batch_size: int, accumulate: int, world_size: int) -> None:
    """Refuses a batch that ranks or micro-batches do not divide.

    Also one of which a part has a single image, if the model has batch normalization.
    """
    share = batch_size // world_size
    if batch_size % world_size or share < accumulate:
        raise ValueError(
            f"batch_size is {batch_size}; it must be a multiple of the {world_size} processes, "
            f"with at least {counted(accumulate, 'image')} each, such as "
            f"{world_size * max(share, accumulate)}"
        )
    has_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    smallest = _smallest_part(share, accumulate)
    # Its statistics are those of all processes, so only one alone can be short of images.
    if has_norm and smallest * world_size < 2:
        raise ValueError(
            f"batch_size is {batch_size} and accumulate is {accumulate}; this model's batch "
            "normalization needs at least 2 images in each part of a batch, as with batch_size "
            f"{accumulate * max(share // accumulate, 2)}"
        )


def _smallest_part(count: int, parts: int) -> int:
    """Images in the last of the parts that `torch.chunk` cuts a batch into."""
    size = -(-count // parts)
    return count % size or size


@dataclass(frozen=True)
class Parts:
    """What a run trains with.

    Args:
        config: The run.
        model: The backbone, on its device.
        average: The average of its weights; None without one.
        criterion: The joint loss.
        terms: What is added to ArcFace, and its weights.
        optimizers: Of the parameters of both.
        precision: Autocast and gradient scaling.
        sources: The images that are trained on, and what judges the run.
        loader: Their batches.
        train_step: Trains on one of them.
        notes: What a user should know, a line each.
        infinite: Buffers of the model that are not finite from the start, as a mask may be.
    """

    config: TrainConfig
    model: Backbone
    average: WeightAverage | None
    criterion: CenterArcFaceLoss
    terms: AddedTerms
    optimizers: list[Optimizer]
    precision: Precision
    sources: RunSources
    loader: TrainLoader
    train_step: TrainStep
    notes: list[str]
    infinite: frozenset[str]

    @property
    def trained(self) -> tuple[Backbone, AddedTerms, CenterArcFaceLoss, list[Optimizer]]:
        """What a saved state has the tensors of."""
        return self.model, self.terms, self.criterion, self.optimizers

    @property
    def judged(self) -> nn.Module:
        """What is validated and saved: the backbone, or the average of its weights."""
        return self.model if self.average is None else self.average.module

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        steps = len(self.loader) * self.config.schedule.epochs
        return min(steps, self.config.schedule.max_steps or steps)

    @property
    def ended_by(self) -> str:
        """The setting that ends the run."""
        steps = len(self.loader) * self.config.schedule.epochs
        return "schedule.max_steps" if self.total_steps < steps else "schedule.epochs"

    def metadata(self, step: int, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """What a weights file says of itself.

        Args:
            step: Steps that are done.
            metrics: What validation says of the weights.
        """
        metadata = {
            "epoch": -(-step // len(self.loader)),  # which the last one may be within
            "step": step,
            "metrics": metrics,
            "ema_decay": self.config.ema_decay,
            "loss": self.config.loss.model_dump(mode="json"),
        }
        if self.terms.threshold is not None:
            metadata["threshold"] = self.terms.threshold.threshold
        if self.criterion.arcface.threshold is not None:
            metadata["margin_threshold"] = self.criterion.arcface.threshold
        return metadata

    def lr(self, done: int, rate: float = 1.0) -> float:
        """The learning rate of the step after `done` ones, with `rate` times the settings'."""
        factor = lr_factor(done, self.total_steps, len(self.loader), self.config.schedule)
        return self.config.optimizer.lr * rate * factor

    def places(self, step: int) -> list[str]:
        """Where the images of a step's batch come from, on all processes; the first step is 1."""
        epoch, batch = divmod(step - 1, len(self.loader))
        images = self.loader.images_of(epoch, batch)
        return [self.sources.train.place(image) for image in images.tolist()]

    def norms(self, processes: Processes) -> list[float]:
        """The norms of the backbone's weights, but for biases and norms, and of the prototypes."""
        weights = [p.detach() for p in self.model.parameters() if p.ndim > 1]
        prototypes = self.criterion.arcface.prototypes.detach()
        squares = nn.utils.get_total_norm([prototypes]).square()
        if self.train_step.sharded:
            processes.sum(squares)
        return [float(nn.utils.get_total_norm(weights)), float(squares.sqrt())]

    def check_finite(self, processes: Processes, step: int | None = None) -> None:
        """Raises `Diverged`, on all processes, if what a run keeps is not finite on any.

        That is the weights, their average, what the optimizers keep of them, and the scale of the
        gradients.
        """
        found = self._not_finite()
        for problem in processes.gather_objects(found):
            if problem is not None:
                raise Diverged(problem, step)

    def _not_finite(self) -> str | None:
        scaler = self.precision.scaler
        if scaler.is_enabled() and not _LEAST_SCALE <= scaler.get_scale() < math.inf:
            return f"the scale of the gradients is {scaler.get_scale():g}"
        modules = (self.model, self.criterion, self.terms)
        kept = {name: tensor for one in modules for name, tensor in one.state_dict().items()}
        if self.average is not None:
            averaged = self.average.module.state_dict()
            kept |= {_AVERAGE + name: tensor for name, tensor in averaged.items()}
        names: dict[Tensor, str] = {}
        for one in modules:
            names |= {parameter: name for name, parameter in one.named_parameters()}
        for optimizer in self.optimizers:
            for parameter, values in optimizer.state.items():
                kept |= {f"{key} of {names[parameter]}": value for key, value in values.items()}
        # A sum is finite unless a term is not: one pass, and no mask of the tensor's size.
        sums = {
            name: tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32))
            .isfinite()
            .to(self.criterion.arcface.prototypes.device)
            for name, tensor in kept.items()
            if tensor.is_floating_point() and name.removeprefix(_AVERAGE) not in self.infinite
        }
        finite = torch.stack([*sums.values()]).tolist()  # waits for a device once
        bad = next((name for name, good in zip(sums, finite, strict=True) if not good), None)
        return None if bad is None else f"the weights are not finite ({bad})"


def make_parts(
    config: TrainConfig,
    processes: Processes,
    *,
    saved: Mapping[str, Any] | None = None,
    drawn_before: Mapping[str, Any] | None = None,
) -> Parts:
    """Builds what a run trains with, on all its processes.

    Args:
        config: The run.
        processes: The processes of the run, and this one's rank and device.
        saved: The state that is resumed, where the weights come from and not from `model.weights`.
        drawn_before: The validation pairs that the run had, see `make_sources`.

    Raises:
        ValueError: If data, model or device do not fit the configuration.
    """
    # Before images are looked for, which may take minutes.
    sharded = config.head.sharded and processes.world_size > 1
    precision = Precision(config.precision, processes.device, sharded=sharded)
    # The same first weights on every rank.
    generator = torch.Generator().manual_seed(config.seed)
    model = make_model(config, generator)
    start: list[Path] = []
    if config.model.weights is not None and saved is None:
        name = config.model.weights
        try:
            processes.on_all(lambda: start.append(load_start(model, name)))
        except ValueError as error:
            raise ValueError(f"model.weights: {error}") from error
    check_parts(model, config.batch_size, config.accumulate, processes.world_size)
    before = None if saved is None else saved["identity"]
    sources = make_sources(
        config, quiet=not processes.is_main, before=before, drawn_before=drawn_before
    )
    source, people = sources.train, len(sources.train.identities)
    sampler = make_sampler(config, source)
    criterion = make_criterion(
        config.loss,
        people,
        config.model.embedding_size,
        generator,
        head=config.head,
        weight=class_weights(config.loss, source),
        sizes=class_sizes(source),
        seed=config.seed,
        shards=make_shards(config, people, processes),
    )
    loader = TrainLoader(
        source,
        batch_size=config.batch_size,
        augmentation=Augmentation(config.data.augmentation),
        seed=config.seed,
        sampler=sampler,
        workers=config.workers,
        timeout=config.read_timeout,
        rank=processes.rank,
        world_size=processes.world_size,
    )
    device = processes.device
    layout = torch.channels_last if device.type in ("cpu", "cuda") else torch.preserve_format
    model = model.to(device)
    nn.Module.to(model, memory_format=layout)  # type: ignore[call-overload]
    criterion = criterion.to(device)
    terms = make_terms(config, criterion.arcface.shards).to(device)
    # Validation and the saved weights use the plain model; it shares the parameters.
    parallel = in_parallel(model, processes, compiled=config.compile)
    optimizers = make_optimizers(model, criterion, config.optimizer, terms, fused=config.head.fused)
    notes = [describe_head(config, people, processes), *sources.notes]
    notes += filter(None, (sampler.note, precision.note, pairs_note(config, source)))
    if start:
        notes.append(f"weights: {start[0]}")
        notes.append(start_head(criterion, model, source, config, start[0], processes))
    decay = config.ema_decay
    average = WeightAverage(model, optimizers[0], decay) if decay else None
    train_step = TrainStep(
        parallel,
        criterion,
        optimizers,
        terms,
        precision,
        processes,
        accumulate=config.accumulate,
        clip_norm=config.clip_norm,
        guarded=config.on_nonfinite != "stop",
    )
    return Parts(
        config,
        model,
        average,
        criterion,
        terms,
        optimizers,
        precision,
        sources,
        loader,
        train_step,
        notes,
        frozenset(n for n, b in model.named_buffers() if not bool(b.isfinite().all())),
    )


def make_sampler(config: TrainConfig, source: FaceSource) -> Sampler:
    """Makes the configured order of the images.

    Raises:
        ValueError: If it does not fit the batch size and the source.
    """
    sampler = config.data.sampler
    if sampler.kind != "shuffled" and (image_weights(source) != 1).any():
        raise ValueError(
            f"data.sampler.kind is {sampler.kind}, but data.parts have weights, which only "
            "shuffled heeds; leave out one of them"
        )
    made: Sampler
    if sampler.kind == "identities":
        each = sampler.images_per_identity or 4
        made = IdentityBatches(source, batch_size=config.batch_size, images_per_identity=each)
    elif sampler.kind == "balanced":
        made = Balanced(source)
    elif sampler.kind == "blocks":
        made = InBlocks(source, block=sampler.block or 1000)
    else:
        made = Shuffled(source, distinct=config.batch_size if sampler.distinct else None)
    return made if len(made) >= config.batch_size else Repeated(made, config.batch_size)
