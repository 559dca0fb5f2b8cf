"""The head of a run: its criterion, what it starts from, class weights, and what it costs."""

import hashlib
import inspect
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from centerarc.data.loader import TrainLoader, to_input
from centerarc.data.source import FaceSource, composed, folded
from centerarc.data.views import read_identities
from centerarc.distributed.process import Processes
from centerarc.io.plugins import load_installed
from centerarc.io.progress import Lines
from centerarc.io.tables import CsvTable, counted
from centerarc.losses.center_arcface import CenterArcFaceLoss
from centerarc.losses.class_size_margins import ClassSizeMargin
from centerarc.losses.head.chunked import Chunked
from centerarc.losses.head.costs import HeadCosts, head_costs
from centerarc.losses.head.products import unit
from centerarc.losses.head.shards import ClassShards
from centerarc.losses.margins import (
    MARGINS,
    BatchMargin,
    Margin,
    create_margin,
    list_margins,
    margin_parameters,
)
from centerarc.losses.mean_centers import MeanCenterLoss
from centerarc.losses.negative_margins import NegativeMargin
from centerarc.losses.unified_threshold import UniFace
from centerarc.models.backbone import Backbone
from centerarc.models.weights import PEOPLE_FILE
from centerarc.training.checkpoint import COUNTS, ROWS, load_rows, load_state, saved_states
from centerarc.training.config import HeadConfig, TrainConfig
from centerarc.training.logging import read_metrics
from centerarc.training.loss_config import LossConfig
from centerarc.training.sources import describe_names
from centerarc.training.terms import AddedTerms

# Images that a new person's first prototype is the mean of.
_MEAN_OF = 20
# From this mean cosine on, a run knew its people. Then a sample of those of the same names must be
# nearer to their own prototype than to another: of other people half are, of the same nearly all.
_LEARNED, _TRIED, _ALIKE = 0.3, 100, 0.75
# How far several sub-centers of a person lie apart at first, in lengths of their mean.
_APART = 0.1


def make_margin(config: LossConfig, seed: int = 0) -> Margin:
    """Builds the margin of the loss; installed plugins may have registered it.

    Args:
        config: The loss.
        seed: What a margin that takes a `seed` gets, unless its options have one.

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
        if "seed" in known:
            options = {"seed": seed, **options}
        return create_margin(config.margin, **options)
    except ValueError as error:
        if options == {"m": LossConfig.model_fields["m"].default} and not config.margin_options:
            usual = inspect.signature(MARGINS[config.margin]).parameters["m"].default
            problems.append(f"set loss.m, such as {usual}")
        raise ValueError(f"loss: {'; '.join([str(error), *problems])}") from error


def make_criterion(
    config: LossConfig,
    num_classes: int,
    embedding_size: int,
    generator: torch.Generator,
    *,
    head: HeadConfig | None = None,
    weight: Tensor | None = None,
    sizes: Tensor | None = None,
    seed: int = 0,
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
        sizes: (num_classes,) images of each person, for a margin that goes by them.
        seed: Of a margin that draws.
        shards: The processes that the classes are spread over.

    Raises:
        ValueError: If the margin or one of its parameters is unknown, or needs sizes and has none.
    """
    chunked = _chunked(head)
    margin = make_margin(config, seed)
    if isinstance(margin, ClassSizeMargin) and sizes is not None:
        margin.set_counts(sizes)
    if isinstance(margin, UniFace) and "bias" not in config.margin_options:
        margin.start(config.sample_rate * num_classes)
    return CenterArcFaceLoss(
        num_classes,
        embedding_size,
        s=config.s,
        margin=margin,
        centers=config.centers,
        center_space=config.center_space,
        center_update=config.center_update,
        alpha=config.alpha,
        center_negatives=config.center_negatives,
        center_temperature=config.center_temperature,
        center_momentum=config.center_momentum,
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


def make_terms(config: TrainConfig, shards: ClassShards | None) -> AddedTerms:
    """Builds what is added to ArcFace, with the processes that the criterion's classes are on."""
    chunked = _chunked(config.head)
    return AddedTerms(
        config.loss,
        config.model.embedding_size,
        implementation="auto" if chunked is None else chunked,
        shards=shards,
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
    threshold = config.loss.threshold_weight != 0  # whose pairs are those of all processes
    for name, there in (
        ("head.fused is true, which", config.head.fused),
        (f"loss.sample_rate is {config.loss.sample_rate:g}, which", config.loss.sample_rate < 1),
        (
            f"loss.margin is {config.loss.margin}, which looks at the samples of all processes and",
            isinstance(make_margin(config.loss), BatchMargin),
        ),
        (f"loss.threshold_weight is {config.loss.threshold_weight}, which", threshold),
    ):
        if there:
            raise ValueError(
                f"{name} with {processes.world_size} processes needs head.sharded: true; "
                "it is false"
            )
    return None


def class_sizes(source: FaceSource) -> Tensor:
    """Returns the (people,) int64 numbers of images of a source."""
    return torch.from_numpy(np.bincount(source.labels, minlength=len(source.identities)))


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
        counts = class_sizes(source).numpy()
        weights = len(source.labels) / (len(counts) * np.maximum(counts, 1))
        return torch.from_numpy(weights.astype(np.float32))
    assert isinstance(config.class_weights, Path)
    return _listed_weights(config.class_weights, source.identities)


def weights_digest(criterion: CenterArcFaceLoss) -> str | None:
    """A digest of the class weights, which may be from a file; None if all are 1."""
    weight = criterion.arcface.weight
    return None if weight is None else hashlib.sha256(weight.cpu().numpy().tobytes()).hexdigest()


def check_weights(before: str | None, criterion: CenterArcFaceLoss, loss: LossConfig) -> None:
    """Refuses to resume with class weights of another digest than before.

    Raises:
        ValueError: If the criterion's differ.
    """
    if before != weights_digest(criterion):
        raise ValueError(
            f"cannot resume: loss.class_weights, {str(loss.class_weights)!r}, are others than "
            "before"
        )


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


@torch.no_grad()
def start_head(
    criterion: CenterArcFaceLoss,
    model: Backbone,
    source: FaceSource,
    config: TrainConfig,
    weights: Path,
    processes: Processes,
) -> str:
    """Gives a criterion prototypes, and centers, that fit a backbone which is trained already.

    People whom a run has trained on keep theirs, by name. Those of others are the mean of the
    embeddings of 20 of their images at most. All have length 1, as they roughly have when trained
    (the short ones of a new head would turn away in the first steps), except where the center term
    of raw space needs the length of the embeddings.

    Args:
        criterion: Of the new run, on its device.
        model: The backbone, likewise.
        source: The images to train on.
        config: The new run.
        weights: The file that the backbone is from; if it is in the folder of a run, that has the
            prototypes.
        processes: The processes of the run; each does its share of the people.

    Returns:
        What was done, in a line.

    Raises:
        ValueError: If no image of a person can be read.

    Source:
        Prototypes from means: Qi et al. 2018, "Low-Shot Learning with Imprinted Weights".
    """
    loss, classes, world = config.loss, len(source.identities), processes.world_size
    size = -(-classes // world)
    first = min(classes, processes.rank * size)
    mine = range(first, min(classes, first + size))
    known, old, lengths, cosine, note = _known_people(weights.parent, processes)
    names = [composed(name) for name in source.identities]
    kept = np.array([name in known for name in names])
    if not all(processes.gather_objects(bool(known))):
        kept[:] = False
    prototypes = criterion.arcface.prototypes
    needs_length = _with_length(loss)
    wanted: dict[str, tuple[Tensor, bool]]
    wanted = {ROWS[0]: (prototypes, ROWS[0] in needs_length)}
    if criterion.center is not None:
        wanted[ROWS[1]] = (criterion.center.centers, ROWS[1] in needs_length)
    usable = {
        name
        for name, (tensor, is_raw) in wanted.items()
        if name in old and old[name].shape[1:] == tensor.shape[1:] and is_raw <= (name in lengths)
    }
    if kept.any() and ROWS[0] not in usable:
        kept[:] = False
        alike = old[ROWS[0]].shape[1:] == prototypes.shape[1:]
        what = "have no length of embeddings" if alike else "are of another shape"
        note = f" (those of {str(weights.parent)!r} {what})"
    tried = np.flatnonzero(kept)[:: max(1, int(kept.sum()) // _TRIED)][:_TRIED]

    def look() -> None:
        nonlocal note
        theirs = old[ROWS[0]][[known[names[person]] for person in tried.tolist()]]
        if not _look_alike(
            theirs, _mean_embeddings(model, source, tried, config, processes)[False]
        ):
            kept[:] = False
            note = f" (those of the same names in {str(weights.parent)!r} are other people)"

    if cosine > _LEARNED and len(tried) > 1:
        processes.on_main(look)
    kept, note = processes.gather_objects((kept, note))[0]
    here = kept[mine.start : mine.stop]
    # Where the run before had no such centers, those of all people are new.
    new = {name: ~here if name in usable else np.ones_like(here) for name in wanted}
    embedded = np.flatnonzero(np.logical_or.reduce([*new.values()]))
    means: dict[bool, Tensor] = {}

    def embed_new() -> None:
        raw = any(is_raw for _, is_raw in wanted.values())
        means.update(_mean_embeddings(model, source, embedded + first, config, processes, raw))

    processes.on_all(embed_new)
    for name, (tensor, is_raw) in wanted.items():
        shared = world > 1 and criterion.arcface.shards is None
        rows = tensor[mine.start : mine.stop] if shared else tensor
        drawn = rows.clone()
        places = torch.from_numpy(np.flatnonzero(~new[name]))
        if len(places):
            theirs = [known[names[first + place]] for place in places.tolist()]
            rows[places.to(rows.device)] = old[name][theirs].to(rows)
        at = torch.from_numpy(np.flatnonzero(new[name])).to(rows.device)
        mean = means[is_raw][torch.from_numpy(new[name][embedded])].to(rows)
        if rows.dim() == 3:
            length = mean.norm(dim=1)[:, None, None]
            mean = mean.unsqueeze(1) + _APART * length * unit(drawn[at])
        rows[at] = mean
        if not is_raw:
            rows.copy_(unit(rows))
        rows.copy_(torch.where(rows.norm(dim=-1, keepdim=True) > 0, rows, drawn))
        if shared:
            tensor[: mine.start].zero_()
            tensor[mine.stop :].zero_()
            processes.sum(tensor.data)
    if isinstance(criterion.center, MeanCenterLoss):
        images = np.bincount(source.labels, minlength=classes)[mine.start : mine.stop]
        counts = torch.from_numpy(np.minimum(images, _MEAN_OF))
        stay = torch.from_numpy(np.flatnonzero(~new[ROWS[1]]))
        if COUNTS in old and len(stay):
            counts[stay] = old[COUNTS][[known[names[first + place]] for place in stay.tolist()]]
        _fill_counts(criterion.center, counts, mine, processes)
    return (
        f"prototypes: {counted(int(kept.sum()), 'person', 'people')} as before, by name{note}; "
        f"{counted(int((~kept).sum()), 'person', 'people')} from the mean of their embeddings"
        + ("; all centers from the mean" if kept.any() and usable != set(wanted) else "")
    )


def _fill_counts(means: MeanCenterLoss, counts: Tensor, mine: range, processes: Processes) -> None:
    """Gives centers the numbers of images that they are from; those that are zeros have none."""
    shared = len(means.counts) != len(counts)
    rows = slice(mine.start, mine.stop) if shared else slice(None)
    there = means.centers[rows].norm(dim=1) > 0
    means.counts[rows] = counts.to(means.counts).where(there, 0)
    if shared:
        means.counts[: mine.start].zero_()
        means.counts[mine.stop :].zero_()
        processes.sum(means.counts)


def _with_length(loss: LossConfig) -> set[str]:
    """Names of the rows that are as long as embeddings are; of others the direction counts."""
    if loss.center_space == "unit":
        return set()
    return {ROWS[1] if loss.centers == "separate" else ROWS[0]}


def _known_people(
    run_dir: Path, processes: Processes
) -> tuple[dict[str, int], dict[str, Tensor], set[str], float, str]:
    """The people that a run was trained on: their places, their rows, which of these have a length.

    Then their mean cosine at the end. Without any, the last says why.
    """
    if not any(processes.gather_objects(bool(saved_states(run_dir)))):
        return {}, {}, set(), 0.0, ""
    try:
        saved = load_state(run_dir, processes)
        note = "".join(f" ({line})" for line in saved.notes)
        state = saved.content
        path = run_dir / PEOPLE_FILE
        names = read_identities(path)
        if describe_names(names) != state["identity"]["names"]:
            raise ValueError(f"{str(path)!r} does not name the people of the state")
        rows = load_rows(saved.folder)
        lengths = _with_length(LossConfig.model_validate(state["settings"]["loss"]))
        logged = [row for row in read_metrics(run_dir) if row["kind"] == "train"]
    except (ValueError, OSError) as error:
        return {}, {}, set(), 0.0, f" ({error})"
    places = {composed(name): place for place, name in enumerate(names)}
    return places, rows, lengths, logged[-1]["target_cosine"] if logged else 0.0, note


def _look_alike(prototypes: Tensor, means: Tensor) -> bool:
    """Whether the (P, D) means are nearer to their own of (P, D) or (P, K, D) prototypes.

    Many sets number their people: a name alone does not say that it is the same person.
    """
    people, dim = means.shape
    rows = unit(prototypes.float()).reshape(people, -1, dim)
    cosines = torch.einsum("pd,qkd->pqk", unit(means.cpu()), rows).amax(dim=2)
    nearer = (cosines.diagonal()[:, None] > cosines).float().sum() / (people * (people - 1))
    return float(nearer) > _ALIKE


class _FirstImages:
    """The first images of each of some people, as a sampler."""

    note = ""
    batch_size = None

    def __init__(self, source: FaceSource, people: npt.NDArray[np.int64]) -> None:
        labels = np.asarray(source.labels)
        order = np.argsort(labels, kind="stable")
        ranked = labels[order]
        number = np.arange(len(order)) - np.searchsorted(ranked, ranked)
        self._indices = order[(number < _MEAN_OF) & np.isin(ranked, people)].astype(np.int64)

    def __len__(self) -> int:
        return len(self._indices)

    def order(self, seed: int, epoch: int) -> npt.NDArray[np.int64]:
        return self._indices


def _mean_embeddings(
    model: Backbone,
    source: FaceSource,
    people: npt.NDArray[np.int64],
    config: TrainConfig,
    processes: Processes,
    raw: bool = False,
) -> dict[bool, Tensor]:
    """(P, D) means of the people's unit embeddings (False) and, if wanted, raw ones (True)."""
    device = processes.device
    kinds = (False, True) if raw else (False,)
    sums = {k: torch.zeros(len(people), model.embedding_size, device=device) for k in kinds}
    counts = torch.zeros(len(people), 1, device=device)
    sampler = _FirstImages(source, people)
    if len(sampler):
        places = torch.zeros(len(source.identities), dtype=torch.int64)
        places[torch.from_numpy(people)] = torch.arange(len(people))
        loader = TrainLoader(
            source,
            batch_size=max(1, config.batch_size // processes.world_size),
            augmentation=None,
            seed=config.seed,
            sampler=sampler,
            workers=config.workers,
            drop_last=False,
        )
        tell = Lines("embedding new people", "images") if processes.is_main else None
        done, training = 0, model.training
        model.eval()
        try:
            for images, labels in loader:
                embeddings = model(to_input(images.to(device))).float()
                at = places[labels].to(device)
                counts.index_add_(0, at, torch.ones(len(at), 1, device=device))
                for kind, total in sums.items():
                    total.index_add_(0, at, embeddings if kind else unit(embeddings))
                done += len(labels)
                if tell is not None:
                    tell(done, len(sampler))
        finally:
            model.train(training)
            loader.close()
    return {kind: total / counts.clamp(min=1) for kind, total in sums.items()}


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
        centers=loss.center_update if loss.centers == "separate" else loss.centers,
        own_center_term=loss.centers != "shared" or loss.center_space == "raw",
        contrast=loss.centers == "mean" and loss.center_negatives,
        smoothed=loss.label_smoothing > 0,
        hard_negatives=isinstance(make_margin(loss), NegativeMargin),
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
