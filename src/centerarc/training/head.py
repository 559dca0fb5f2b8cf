"""The head of a run: its criterion, the weights of its classes, and what it costs a process."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from centerarc.data.source import FaceSource, composed, folded
from centerarc.distributed.process import Processes
from centerarc.io.plugins import load_installed
from centerarc.io.tables import CsvTable, counted
from centerarc.losses.center_arcface import CenterArcFaceLoss
from centerarc.losses.head.chunked import Chunked
from centerarc.losses.head.costs import HeadCosts, head_costs
from centerarc.losses.head.shards import ClassShards
from centerarc.losses.margins import Margin, create_margin, list_margins, margin_parameters
from centerarc.training.config import HeadConfig, LossConfig, TrainConfig


def make_margin(config: LossConfig) -> Margin:
    """Builds the margin of the loss; installed plugins may have registered it.

    Raises:
        ValueError: If the margin or one of its parameters is unknown, or a value out of range.
    """
    problems = load_installed() if config.margin not in list_margins() else []
    try:
        options = dict(config.margin_options)
        known = margin_parameters(config.margin)
        # Margins of several parameters have no single m; their options say it all.
        if not options and "m" in known:
            options["m"] = config.m
        elif not options and config.m != LossConfig.model_fields["m"].default:
            raise ValueError(
                f"m is {config.m:g}, but margin {config.margin!r} takes "
                f"{', '.join(known) or 'no parameters'}; they go in margin_options"
            )
        return create_margin(config.margin, **options)
    except ValueError as error:
        raise ValueError(f"loss: {'; '.join([str(error), *problems])}") from error


def make_criterion(
    config: LossConfig,
    num_classes: int,
    embedding_size: int,
    generator: torch.Generator,
    *,
    head: HeadConfig | None = None,
    weight: Tensor | None = None,
    shards: ClassShards | None = None,
) -> CenterArcFaceLoss:
    """Builds the joint loss with `reduction="sum"` and no center update of its own.

    The trainer divides by the number of valid labels over all micro-batches and processes, and
    updates the centers once a step on the features of them all; both would be wrong per forward.

    Args:
        config: The loss.
        num_classes: People.
        embedding_size: Length of the embeddings.
        generator: Draws the first prototypes.
        head: How the classes are passed over.
        weight: (num_classes,) class weights, see `class_weights`.
        shards: The processes that the classes are spread over.

    Raises:
        ValueError: If the margin or one of its parameters is unknown.
    """
    chunked = _chunked(head)
    return CenterArcFaceLoss(
        num_classes,
        embedding_size,
        s=config.s,
        margin=make_margin(config),
        centers=config.centers,
        center_space=config.center_space,
        center_update=config.center_update,
        alpha=config.alpha,
        sub_centers=config.sub_centers,
        weight=weight,
        label_smoothing=config.label_smoothing,
        sample_rate=config.sample_rate,
        conflict_threshold=config.conflict_threshold,
        implementation="auto" if chunked is None else chunked,
        reduction="sum",
        update_on_forward=False,
        shards=shards,
        generator=generator,
    )


def _chunked(head: HeadConfig | None) -> Chunked | None:
    if head is None or head.workspace_mb is None:
        return None
    return Chunked(workspace=max(1, round(head.workspace_mb * 2**20)))


def make_shards(config: TrainConfig, num_classes: int, processes: Processes) -> ClassShards | None:
    """Spreads the classes over the processes, if there are several and it is wanted.

    Raises:
        ValueError: If it is not wanted, but what else is wanted works only so.
    """
    if processes.world_size == 1:
        return None
    if config.head.sharded:
        # Every process has its equal share of a batch.
        return ClassShards(num_classes, equal_batches=True)
    for name, there in (
        ("head.fused is true", config.head.fused),
        (f"loss.sample_rate is {config.loss.sample_rate:g}", config.loss.sample_rate < 1),
    ):
        if there:
            raise ValueError(
                f"{name}, which with {processes.world_size} processes needs head.sharded: true; "
                "it is false"
            )
    return None


def class_weights(config: LossConfig, source: FaceSource) -> Tensor | None:
    """Returns the (people,) float32 weights of the classes in the loss, None if all are 1.

    `balanced`: in proportion to one over a person's images, 1 on average over the images. Each
    person then counts alike over an epoch, however many images there are.

    A file is CSV with the columns `identity` and `weight`; it must have a weight from 1e-6 to 1e6
    for each person that is trained on, in any Unicode form, and may name others.

    Raises:
        ValueError: If the file lacks a person or holds what is not a weight.
        OSError: If the file cannot be read.
    """
    if config.class_weights == "off":
        return None
    if config.class_weights == "balanced":
        counts = np.bincount(source.labels, minlength=len(source.identities))
        weights = len(source.labels) / (len(counts) * np.maximum(counts, 1))
        return torch.from_numpy(weights.astype(np.float32))
    assert isinstance(config.class_weights, Path)
    return _listed_weights(config.class_weights, source.identities)


def _listed_weights(path: Path, people: list[str]) -> Tensor:
    places = {name: place for place, name in enumerate(people)}
    places = {composed(name): place for name, place in places.items()} | places
    weights = torch.zeros(len(people))
    table = CsvTable(path, ("identity", "weight"))
    for line, (name, text) in table.rows(("identity", "weight")):
        if (place := places.get(name, places.get(composed(name)))) is None:
            continue
        try:
            weight = float(text)
        except ValueError:
            weight = float("nan")
        if not 1e-6 <= weight <= 1e6:
            raise table.error(line, f"weight is {text!r}; it must be a number from 1e-6 to 1e6")
        if weights[place]:
            raise table.error(line, f"{name!r} has a weight already")
        weights[place] = weight
    if missing := int((weights == 0).sum()):
        first = people[int((weights == 0).int().argmax())]
        names = (name for _, (name,) in table.rows(("identity",)))
        alike = next((name for name in names if folded(name) == folded(first)), None)
        hint = "" if alike is None else f"; {alike!r} in it differs in case: write names alike"
        raise ValueError(
            f"loss.class_weights, {os.fspath(path)!r}, has no weight for "
            f"{counted(missing, 'person', 'people')} of the training, first {first!r}{hint}"
        )
    return weights


def costs(config: TrainConfig, num_classes: int, processes: Processes) -> HeadCosts:
    """Returns what the head costs a process, see `head_costs`."""
    loss, world = config.loss, processes.world_size
    optimizer = config.optimizer
    sharded = config.head.sharded and world > 1
    share = -(-config.batch_size // (world * config.accumulate))
    return head_costs(
        num_classes * loss.sub_centers,
        config.model.embedding_size,
        share,
        world if sharded else 1,
        sample_rate=loss.sample_rate,
        fused=config.head.fused,
        moments=2 if optimizer.name == "adamw" else int(optimizer.momentum > 0),
        centers="shared" if loss.centers == "shared" else loss.center_update,
        own_center_term=loss.centers == "separate" or loss.center_space == "raw",
        smoothed=loss.label_smoothing > 0,
        reduced=config.precision == "bf16",
        equal_batches=True,
        device="cuda" if processes.device.type == "cuda" else "cpu",
        chunked=_chunked(config.head),
    )


def describe_head(config: TrainConfig, num_classes: int, processes: Processes) -> str:
    """One line: how many people a process has, and what that takes.

    Example:
        >>> from centerarc.distributed import Processes
        >>> config = TrainConfig(run_dir="runs/a", data={"source": "synthetic"})
        >>> describe_head(config, 100_000, Processes(0, 1, torch.device("cpu")))
        'head: 100,000 people, 634 MB (prototypes 205, momentum 205, gradient 205, else 19)'
    """
    found = costs(config, num_classes, processes)
    sharded = config.head.sharded and processes.world_size > 1
    here = -(-num_classes // processes.world_size) if sharded else num_classes
    line = f"head: {counted(num_classes, 'person', 'people')}"
    if sharded:
        line += f", {here:,} a process"
    parts = [
        ("prototypes", found.weights),
        ("momentum" if config.optimizer.name == "sgd" else "moments", found.momentum),
        ("gradient", found.gradient),
        ("centers", found.centers),
    ]
    rest = found.memory - sum(size for _, size in parts)
    listed = ", ".join(
        f"{name} {size / 1e6:,.0f}" for name, size in [*parts, ("else", rest)] if size
    )
    line += f", {found.memory / 1e6:,.0f} MB"
    if found.weights >= 5e5:
        line += f" ({listed})"
    if sharded:
        line += f", {found.wire_sent * config.accumulate / 1e6:,.1f} MB sent a step"
    elif processes.world_size > 1:
        sent = 2 * (processes.world_size - 1) / processes.world_size * found.weights
        line += f", {sent / 1e6:,.1f} MB sent a step"
    return line
