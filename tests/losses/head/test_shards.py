"""Sharded heads against one process with all classes and the concatenated batch."""

import copy
import datetime
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from centerarc.distributed import ClassShards, class_state, head_costs
from centerarc.losses import (
    LDAM,
    AdaFace,
    ArcFace,
    CenterArcFaceLoss,
    CenterLoss,
    Chunked,
    CosFace,
    CurricularFace,
    DynamicArcFace,
    ElasticArcFace,
    ElasticCosFace,
    MagFace,
    MarginSoftmaxLoss,
    MeanCenterLoss,
    MVSoftmax,
    PrototypeSGD,
    UniFace,
    UnifiedThresholdLoss,
    margin_softmax_loss,
    sample_classes,
)
from centerarc.losses.head import shards as shards_module
from tests.distributed.pool import Pool

pytestmark = pytest.mark.distributed

D, STEPS, LR = 6, 3, 1e-5
IGNORED = -100
KINDS = {"margin": MarginSoftmaxLoss, "joint": CenterArcFaceLoss, "center": CenterLoss}

# Blocks of two or three classes, so that every shard has several.
SMALL_BLOCKS = Chunked(workspace=700)


@dataclass(frozen=True)
class Case:
    """One way to train; `sizes` has the samples of each rank."""

    sizes: tuple[int, ...]
    kind: str = "margin"
    classes: int = 7
    options: dict[str, Any] = field(default_factory=dict)
    labels_below: int | None = None
    optimizer: str = "sgd"
    equal: bool = False
    separation: bool = False
    frozen: bool = False

    @property
    def world(self) -> int:
        return len(self.sizes)

    def rows(self, rank: int | None) -> slice:
        if rank is None:
            return slice(None)
        return slice(sum(self.sizes[:rank]), sum(self.sizes[: rank + 1]))

    def data(self) -> tuple[Tensor, Tensor]:
        """(STEPS, N, D) features and (STEPS, N) labels of all ranks, some of them ignored."""
        generator = torch.Generator().manual_seed(5)
        shape = (STEPS, sum(self.sizes))
        features = 3 * torch.randn(*shape, D, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, self.labels_below or self.classes, shape, generator=generator)
        ignored = torch.rand(shape, generator=generator) < 0.2
        return features, labels.masked_fill(ignored, IGNORED)

    def criterion(self, shards: ClassShards | None) -> nn.Module:
        generator = torch.Generator().manual_seed(7)
        # A margin may have a state, which is that of one training.
        options = {**copy.deepcopy(self.options), "shards": shards, "generator": generator}
        return KINDS[self.kind](self.classes, D, **options).double()


def optimizer_of(name: str, parameters: list[Tensor]) -> torch.optim.Optimizer | None:
    rates = {"lr": LR, "momentum": 0.9, "weight_decay": 0.01}
    if not parameters:
        return None
    if name == "sgd":
        return torch.optim.SGD(parameters, **rates)
    return PrototypeSGD(parameters, **rates, fused=name == "fused")


def total_of(out: Any) -> Tensor:
    """The scalar to train on; losses of single samples get weights of their own."""
    arcface, center = out if isinstance(out, tuple) else (out, out * 0)
    joint = arcface + 0.3 * center
    if joint.dim():
        joint = (joint * torch.linspace(1, 2, len(joint), dtype=joint.dtype)).sum()
    return joint


def train(rank: int | None, case: Case) -> dict[str, list[Any]]:
    """What a rank sees in STEPS steps; without a rank, what one process sees."""
    shards = None
    if rank is not None:
        shards = ClassShards(case.classes, equal_batches=case.equal)
    criterion = case.criterion(shards)
    optimizer = optimizer_of(case.optimizer, list(criterion.parameters()))
    seen: dict[str, list[Any]] = {"loss": [], "features": [], "metrics": []}
    for features, labels in zip(*case.data(), strict=True):
        x = features[case.rows(rank)].clone().requires_grad_(not case.frozen)
        out = criterion(x, labels[case.rows(rank)])
        total = total_of(out)
        if case.separation:
            total = (
                total + 2 * criterion.separation() + criterion.separation(labels[case.rows(rank)])
            )
        for parameter in criterion.parameters():
            parameter.grad = None
        total.backward()
        if optimizer is not None:
            optimizer.step()
        parts = out if isinstance(out, tuple) else (out,)
        seen["loss"].append([*(part.detach().numpy() for part in parts), total.item()])
        seen["features"].append((torch.zeros_like(x) if x.grad is None else x.grad).numpy())
        metrics = getattr(criterion, "metrics", None)
        if metrics is not None:
            numbers = (metrics.target_cosine, metrics.accuracy, metrics.count)
            seen["metrics"].append([number.numpy() for number in numbers])
    seen["rows"], seen["margin"] = [], []
    for name, value in criterion.state_dict().items():
        if ".margin." in f".{name}":
            seen["margin"].append(value.numpy())
        elif name.split(".")[-1] != "weight":
            seen["rows"].append(value.numpy())
    return seen


def near(found: Any, expected: Any, factor: float = 1.0) -> None:
    found, expected = torch.as_tensor(found) * factor, torch.as_tensor(expected)
    size = float(expected.abs().max()) if expected.numel() else 1.0
    torch.testing.assert_close(
        found.double(), expected.double(), rtol=1e-12, atol=1e-12 * max(size, 1e-3)
    )


def check(pool: Pool, case: Case) -> None:
    ranks = pool.run(train, case, world_size=case.world)
    expected = train(None, case)
    for rank, seen in enumerate(ranks):
        for step in range(STEPS):
            for found, wanted in zip(seen["loss"][step], expected["loss"][step], strict=True):
                near(found, wanted)
            own = expected["features"][step][case.rows(rank)]
            near(seen["features"][step], own, 1 / case.world)
        for found, wanted in zip(seen["metrics"], expected["metrics"], strict=True):
            for one, other in zip(found, wanted, strict=True):
                near(one, other)
        for found, wanted in zip(seen["margin"], expected["margin"], strict=True):
            near(found, wanted)
    for i, wanted in enumerate(expected["rows"]):
        near(torch.cat([torch.from_numpy(seen["rows"][i]) for seen in ranks]), wanted)


WEIGHT = torch.linspace(0.5, 2.0, 7, dtype=torch.float64)
COUNTS = torch.tensor([5, 80, 1, 12, 0, 300, 7])
SIZES = {1: (8,), 2: (5, 5), 3: (5, 3, 1), 4: (4, 0, 2, 5)}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "none": {"reduction": "none"},
    "sum": {"reduction": "sum", "margin": CosFace(0.35)},
    "steep": {"s": 100.0, "implementation": SMALL_BLOCKS},
    "steep reference": {"s": 100.0, "implementation": "reference"},
    "chunked": {"implementation": SMALL_BLOCKS},
    "recomputed": {"implementation": Chunked(workspace=700, recompute=True)},
    "named": {"implementation": "chunked", "margin": CosFace(0.2)},
    "sub-centers": {"sub_centers": 3},
    "sub-centers chunked": {"sub_centers": 3, "implementation": SMALL_BLOCKS},
    "smoothed": {"label_smoothing": 0.1},
    "weighted": {"weight": WEIGHT},
    "smoothed weighted": {
        "label_smoothing": 0.2,
        "weight": WEIGHT,
        "implementation": SMALL_BLOCKS,
    },
    "adaface": {"margin": AdaFace(alpha=0.5)},
    "adaface chunked": {"margin": AdaFace(alpha=0.5), "implementation": SMALL_BLOCKS},
    "magface": {"margin": MagFace(l_a=4.0, u_a=10.0), "weight": WEIGHT},
    "magface smoothed": {"margin": MagFace(l_a=4.0, u_a=10.0), "label_smoothing": 0.1},
    "ldam": {"margin": LDAM(0.5, COUNTS), "sub_centers": 2},
    "dynamic": {"margin": DynamicArcFace(counts=COUNTS), "conflict_threshold": 0.3},
    "elastic arcface": {"margin": ElasticArcFace(0.5, 0.1), "reduction": "none"},
    "elastic cosface plus": {"margin": ElasticCosFace(0.3, 0.1, plus=True)},
    "conflicts": {"conflict_threshold": 0.3},
    "conflicts chunked": {"conflict_threshold": 0.3, "implementation": SMALL_BLOCKS},
    "curricular": {"margin": CurricularFace()},
    "curricular chunked": {
        "margin": CurricularFace(momentum=0.5),
        "s": 30.0,
        "implementation": SMALL_BLOCKS,
    },
    "curricular sub-centers": {
        "margin": CurricularFace(momentum=0.5),
        "sub_centers": 3,
        "implementation": SMALL_BLOCKS,
    },
    "uniface": {"margin": UniFace(bias=5.0)},
    "uniface chunked": {
        "margin": UniFace(balance=0.5, bias=5.0),
        "reduction": "sum",
        "implementation": SMALL_BLOCKS,
    },
    "misclassified": {"margin": MVSoftmax(), "s": 30.0, "implementation": SMALL_BLOCKS},
}


@pytest.mark.parametrize("world", SIZES, scope="module")
@pytest.mark.parametrize("name", OPTIONS)
def test_equals_one_process(pool: Pool, world: int, name: str) -> None:
    check(pool, Case(SIZES[world], options=OPTIONS[name]))


SAMPLED: dict[str, Any] = {"sample_rate": 0.3}
FUSED: dict[str, Any] = {"optimizer": "fused"}


@pytest.mark.parametrize(
    "case",
    [
        Case((3, 3, 3), equal=True),
        Case((3, 3, 3), equal=True, options={"implementation": SMALL_BLOCKS}),
        Case((3, 4, 0, 2), classes=5),  # the last rank has no class
        Case((3, 4, 0, 2), classes=5, options={"implementation": SMALL_BLOCKS}),
        Case((3, 4, 0, 2), classes=5, options={"sub_centers": 2, "implementation": SMALL_BLOCKS}),
        Case((3, 4, 0, 2), classes=5, kind="joint", options={"label_smoothing": 0.1}),
        Case((2, 3), classes=1),  # no negatives at all
        Case((4, 4), labels_below=2),  # none of the second rank's classes
        Case((4, 4), labels_below=2, options={"implementation": SMALL_BLOCKS}),
        Case((0, 0)),  # an empty batch
        Case((0, 0), kind="joint", options={"implementation": SMALL_BLOCKS}),
        Case((0, 6, 0)),
        Case((3, 4, 0, 2), classes=5, options={"sample_rate": 0.3}, optimizer="rows"),
        Case((3, 4, 0, 2), classes=5, options={"sample_rate": 0.3}, optimizer="fused"),
        Case((3, 4, 0, 2), classes=7, options={"margin": AdaFace(), **SAMPLED}, optimizer="rows"),
        Case((3, 4, 0, 2), classes=7, options={"margin": LDAM(0.5, COUNTS), **SAMPLED}, **FUSED),
        Case((3, 4, 0, 2), classes=5, options={"margin": ElasticArcFace(), **SAMPLED}, **FUSED),
        Case((0, 0), options={"margin": AdaFace(alpha=1.0)}),
        Case((0, 0), kind="joint", options={"margin": ElasticArcFace(plus=True)}),
        Case((1, 0), options={"margin": AdaFace(alpha=1.0)}),  # too few for a deviation
        Case(
            (3, 4, 0, 2),
            classes=5,
            options={"margin": CurricularFace(), "implementation": SMALL_BLOCKS},
            optimizer="fused",
        ),
        Case((0, 0), options={"margin": CurricularFace(), "implementation": SMALL_BLOCKS}),
        Case((3, 4, 0, 2), classes=5, frozen=True),  # a backbone that is not trained
        Case((3, 4, 0, 2), classes=5, kind="joint", frozen=True),
        Case((3, 4, 0, 2), classes=5, kind="center", options={"update": "gradient"}, frozen=True),
    ],
    ids=repr,
)
def test_odd_shapes_equal_one_process(pool: Pool, case: Case) -> None:
    check(pool, case)


@pytest.mark.parametrize("world", SIZES, scope="module")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"center_space": "raw", "reduction": "none"},
        {"implementation": SMALL_BLOCKS, "m": 0.3, "reduction": "sum"},
        {"sub_centers": 2, "center_space": "raw"},
        {"centers": "separate"},
        {"centers": "separate", "center_space": "raw", "alpha": 0.3},
        {"centers": "separate", "center_update": "gradient", "center_space": "raw"},
        {"centers": "mean"},
        {"centers": "mean", "implementation": SMALL_BLOCKS, "center_temperature": 90.0},
        {"centers": "mean", "center_negatives": False, "center_momentum": 0.0},
    ],
    ids=str,
)
def test_the_joint_loss_equals_one_process(pool: Pool, world: int, options: Any) -> None:
    check(pool, Case(SIZES[world], kind="joint", options=options))


@pytest.mark.parametrize("world", [1, 2, 4], scope="module")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"implementation": SMALL_BLOCKS},
        {"centers": "separate"},
        {"centers": "separate", "center_update": "gradient"},
        {"sub_centers": 2},
    ],
    ids=str,
)
def test_separation_equals_one_process(pool: Pool, world: int, options: Any) -> None:
    check(pool, Case(SIZES[world], kind="joint", options=options, separation=True, classes=5))


def test_separation_where_batches_are_equal_and_shards_are_not(pool: Pool) -> None:
    check(pool, Case((2, 2, 2), kind="joint", classes=7, separation=True, equal=True))


@pytest.mark.parametrize("world", SIZES, scope="module")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"space": "unit", "reduction": "none"},
        {"update": "gradient", "reduction": "sum"},
    ],
    ids=str,
)
def test_center_loss_equals_one_process(pool: Pool, world: int, options: Any) -> None:
    check(pool, Case(SIZES[world], kind="center", options=options))


def _thresholds(rank: int | None, sizes: tuple[int, ...], over: str, memory: int) -> Any:
    case = Case(sizes)
    shards = None if rank is None else ClassShards(case.classes)
    means = MeanCenterLoss(case.classes, D, shards=shards).double()
    options = {"over": over, "memory": memory, "feat_dim": D, "shards": shards}
    criterion = UnifiedThresholdLoss(**options).double()
    optimizer = torch.optim.SGD(criterion.parameters(), lr=0.1)
    seen = []
    for features, labels in zip(*case.data(), strict=True):
        x = features[case.rows(rank)].clone().requires_grad_()
        y = labels[case.rows(rank)]
        centers = () if over == "pairs" else (means.centers, means.seen)
        loss = criterion(x, y, *centers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        means(x, y)
        seen.append((loss.item(), criterion.bias.item(), x.grad.numpy()))
    return seen, criterion.memory.numpy(), criterion.memory_labels.numpy()


@pytest.mark.parametrize("world", SIZES, scope="module")
@pytest.mark.parametrize(
    ("over", "memory"), [("pairs", 0), ("pairs", 11), ("centers", 0), ("both", 0)]
)
def test_the_unified_threshold_equals_one_process(
    pool: Pool, world: int, over: str, memory: int
) -> None:
    sizes = SIZES[world]
    ranks = pool.run(_thresholds, sizes, over, memory, world_size=world)
    expected, rows, owners = _thresholds(None, sizes, over, memory)
    for rank, (seen, memory_rows, memory_owners) in enumerate(ranks):
        for (loss, bias, gradient), (loss_1, bias_1, gradient_1) in zip(
            seen, expected, strict=True
        ):
            near(loss, loss_1)
            near(bias, bias_1)
            near(gradient, gradient_1[Case(sizes).rows(rank)], 1 / world)
        near(memory_rows, rows)
        assert memory_owners.tolist() == owners.tolist()


def _centers_moved_by_hand(rank: int | None, sizes: tuple[int, ...]) -> Any:
    case = Case(sizes, kind="center", options={"update_on_forward": False})
    criterion = case.criterion(None if rank is None else ClassShards(case.classes))
    for features, labels in zip(*case.data(), strict=True):
        criterion(features[case.rows(rank)], labels[case.rows(rank)])
        criterion.update_centers(features[case.rows(rank)], labels[case.rows(rank)])
    return criterion.centers.numpy()


def test_centers_moved_by_hand_equal_one_process(pool: Pool) -> None:
    ranks = pool.run(_centers_moved_by_hand, SIZES[3], world_size=3)
    near(torch.cat([torch.from_numpy(r) for r in ranks]), _centers_moved_by_hand(None, SIZES[3]))


@pytest.mark.parametrize("world", SIZES, scope="module")
@pytest.mark.parametrize("options", [{}, {"sub_centers": 2}], ids=str)
def test_the_fused_step_equals_the_ordinary_one(pool: Pool, world: int, options: Any) -> None:
    options = {**options, "implementation": SMALL_BLOCKS}
    case = Case(SIZES[world], kind="joint", classes=5, options=options, optimizer="fused")
    ranks = pool.run(train, case, world_size=world)
    expected = train(None, Case(SIZES[world], kind="joint", classes=5, options=options))
    near(torch.cat([torch.from_numpy(r["rows"][0]) for r in ranks]), expected["rows"][0])
    check(pool, case)


def _first_prototypes(rank: int | None, classes: int) -> Any:
    shards = None if rank is None else ClassShards(classes)
    criterion = CenterArcFaceLoss(
        classes,
        2,
        centers="separate",
        shards=shards,
        generator=torch.Generator().manual_seed(3),
    )
    return [tensor.detach().numpy() for tensor in criterion.state_dict().values()]


@pytest.mark.parametrize("world", SIZES, scope="module")
def test_any_number_of_ranks_starts_from_the_same_rows(pool: Pool, world: int) -> None:
    # More than one group of classes drawn at a time, and shards that cut the groups.
    ranks = pool.run(_first_prototypes, 2500, world_size=world)
    for parts, whole in zip(zip(*ranks, strict=True), _first_prototypes(None, 2500), strict=True):
        assert torch.equal(torch.cat([torch.from_numpy(p) for p in parts]), torch.from_numpy(whole))


def _train_backbone(rank: int | None, sizes: tuple[int, ...]) -> Any:
    case = Case(sizes, kind="joint", classes=5, options={"implementation": SMALL_BLOCKS})
    backbone: nn.Module = nn.Linear(D, D).double()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
    shards = None
    if rank is not None:
        backbone = DistributedDataParallel(backbone)
        shards = ClassShards(5)
    criterion = case.criterion(shards)
    optimizer = torch.optim.SGD(
        [
            {"params": list(backbone.parameters()), "lr": 0.01},
            {"params": list(criterion.parameters()), "lr": LR},
        ],
        momentum=0.9,
    )
    for images, labels in zip(*case.data(), strict=True):
        optimizer.zero_grad()
        total_of(criterion(backbone(images[case.rows(rank)]), labels[case.rows(rank)])).backward()
        optimizer.step()
    weights = torch.cat([p.detach().flatten() for p in backbone.parameters()])
    return weights.numpy(), criterion.arcface.prototypes.detach().numpy()


@pytest.mark.parametrize("world", SIZES, scope="module")
def test_a_ddp_backbone_beside_it_ends_where_one_process_does(pool: Pool, world: int) -> None:
    ranks = pool.run(_train_backbone, SIZES[world], world_size=world)
    weights, prototypes = _train_backbone(None, SIZES[world])
    for mine, _ in ranks:
        near(mine, weights)
    near(torch.cat([torch.from_numpy(rows) for _, rows in ranks]), prototypes)


SAMPLED_CLASSES, SAMPLED_RATE = 61, 0.3


def _sampled_step(rank: int, sizes: tuple[int, ...], implementation: Any, fused: bool) -> Any:
    """One step to have momentum, and one that is looked at."""
    case = Case(sizes, classes=SAMPLED_CLASSES, labels_below=40)
    shards = ClassShards(SAMPLED_CLASSES)
    sampling = torch.Generator().manual_seed(100 + rank)
    criterion = MarginSoftmaxLoss(
        SAMPLED_CLASSES,
        D,
        sample_rate=SAMPLED_RATE,
        sample_generator=sampling,
        implementation=implementation,
        shards=shards,
        generator=torch.Generator().manual_seed(7),
    ).double()
    optimizer = PrototypeSGD(
        criterion.parameters(), lr=LR, momentum=0.9, weight_decay=0.1, fused=fused
    )
    features, labels = case.data()
    for step in range(2):
        optimizer.zero_grad(set_to_none=True)
        before = [
            criterion.prototypes.detach().clone(),
            optimizer.momentum_buffer(criterion.prototypes).clone(),
        ]
        places = (labels[step] - shards.start).where(
            (labels[step] >= shards.start) & (labels[step] < shards.stop), -1
        )
        again = torch.Generator()
        again.set_state(sampling.get_state())
        sample = sample_classes(places, shards.stop - shards.start, SAMPLED_RATE, again)
        x = features[step, case.rows(rank)].clone().requires_grad_()
        loss = criterion(x, labels[step, case.rows(rank)])
        loss.backward()
        optimizer.step()
    assert x.grad is not None
    after = [criterion.prototypes.detach(), optimizer.momentum_buffer(criterion.prototypes)]
    return {
        "start": shards.start,
        "sample": sample.numpy(),
        "loss": loss.item(),
        "features": x.grad.numpy(),
        "before": [tensor.numpy() for tensor in before],
        "after": [tensor.detach().numpy() for tensor in after],
    }


@pytest.mark.parametrize("world", [1, 2, 3], scope="module")
@pytest.mark.parametrize(
    ("implementation", "fused"),
    [("auto", False), (SMALL_BLOCKS, False), (SMALL_BLOCKS, True)],
    ids=str,
)
def test_sampled_classes_give_the_loss_of_a_head_of_these_classes(
    pool: Pool, world: int, implementation: Any, fused: bool
) -> None:
    sizes = SIZES[world]
    ranks = pool.run(_sampled_step, sizes, implementation, fused, world_size=world)
    case = Case(sizes, classes=SAMPLED_CLASSES, labels_below=40)
    features, labels = (tensor[1] for tensor in case.data())
    sample = torch.cat([torch.from_numpy(r["sample"]) + r["start"] for r in ranks])
    whole = torch.cat([torch.from_numpy(r["before"][0]) for r in ranks])
    speeds = torch.cat([torch.from_numpy(r["before"][1]) for r in ranks])
    known = labels != IGNORED
    assert set(labels[known].tolist()) <= set(sample.tolist())
    assert 0 < len(sample) < SAMPLED_CLASSES

    rows = whole[sample].requires_grad_()
    x = features.clone().requires_grad_()
    places = torch.searchsorted(sample, labels).where(known, IGNORED)
    loss = margin_softmax_loss(x, rows, places, ArcFace(), 64.0, implementation="reference")
    loss.backward()
    assert x.grad is not None
    assert rows.grad is not None
    with torch.no_grad():
        moved = whole.clone()
        speeds[sample] = 0.9 * speeds[sample] + rows.grad + 0.1 * whole[sample]
        moved[sample] -= LR * speeds[sample]
    for rank, seen in enumerate(ranks):
        near(seen["loss"], loss.item())
        near(seen["features"], x.grad[case.rows(rank)], 1 / world)
        untouched = torch.ones(len(seen["before"][0]), dtype=torch.bool)
        untouched[torch.from_numpy(seen["sample"])] = False
        assert untouched.any()
        for before, after in zip(seen["before"], seen["after"], strict=True):
            assert (before[untouched] == after[untouched]).all()
    near(torch.cat([torch.from_numpy(r["after"][0]) for r in ranks]), moved)
    near(torch.cat([torch.from_numpy(r["after"][1]) for r in ranks]), speeds)
    if world > 1:
        # The first ranks have equally many classes, and generators of their own.
        assert ranks[0]["sample"].tolist() != ranks[1]["sample"].tolist()


def _refusals(rank: int) -> list[str]:
    shards = ClassShards(7)
    found = []
    for make in (
        lambda: MarginSoftmaxLoss(8, D, shards=shards),
        lambda: CenterArcFaceLoss(8, D, shards=shards),
        lambda: CenterLoss(8, D, shards=shards),
        lambda: ClassShards(0),
    ):
        try:
            make()
        except ValueError as error:
            found.append(str(error))
    return found


def test_shards_of_another_number_of_classes_are_refused(pool: Pool) -> None:
    for messages in pool.run(_refusals):
        assert messages[:3] == ["shards must be of num_classes = 8 classes, got 7"] * 3
        assert messages[3].startswith("num_classes must be a positive integer")


def test_without_a_process_group_there_are_no_shards() -> None:
    with pytest.raises(ValueError, match="needs a process group"):
        ClassShards(7)


def _bad_label_of_one_rank(rank: int) -> str:
    shards = ClassShards(7, dist.new_group(timeout=datetime.timedelta(seconds=1)))
    criterion = MarginSoftmaxLoss(7, D, shards=shards)
    try:
        criterion(torch.randn(2, D), torch.tensor([0, 9 if rank == 0 else 6]))
    except (ValueError, RuntimeError) as error:
        return type(error).__name__
    return "no error"


def test_a_bad_label_is_named_where_it_is_and_ends_the_others_wait(pool: Pool) -> None:
    # The checks cost no exchange, so the other rank learns of it by its group's timeout.
    first, second = pool.run(_bad_label_of_one_rank)
    assert first == "ValueError"
    assert second in ("RuntimeError", "DistBackendError")


COUNTED = ("all_reduce", "all_gather_single", "reduce_scatter_single")


def _payloads(rank: int, sizes: tuple[int, ...], kind: str, options: Any, equal: bool) -> list[int]:
    """Bytes of each collective of one forward and backward pass: its larger side."""
    case = Case(sizes, kind=kind, options=options, equal=equal)
    criterion = case.criterion(ClassShards(7, equal_batches=equal)).float()
    features, labels = case.data()
    x = features[0, case.rows(rank)].float().requires_grad_()
    payloads = []

    def counting(collective: Any) -> Any:
        def call(first: Tensor, *others: Any, **more: Any) -> Any:
            payloads.append(max(t.nbytes for t in (first, *others) if isinstance(t, Tensor)))
            return collective(first, *others, **more)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_reduce", counting(dist.all_reduce))
        for name in COUNTED[1:]:
            patch.setattr(shards_module, name, counting(getattr(shards_module, name)))
        total_of(criterion(x, labels[0, case.rows(rank)])).backward()
    return payloads


@pytest.mark.parametrize(
    ("kind", "options", "equal"),
    [
        ("margin", {}, False),
        ("margin", {"label_smoothing": 0.1}, True),
        ("joint", {}, True),
        ("joint", {"label_smoothing": 0.1, "implementation": SMALL_BLOCKS}, False),
        ("joint", {"sample_rate": 0.3, "centers": "separate"}, True),
        ("joint", {"centers": "mean"}, True),
        ("joint", {"centers": "mean", "center_negatives": False}, True),
        ("margin", {"margin": CurricularFace()}, True),
    ],
)
@pytest.mark.parametrize("world", [1, 2, 3], scope="module")
def test_a_step_exchanges_what_the_formula_says(
    pool: Pool, world: int, kind: str, options: Any, equal: bool
) -> None:
    moved = pool.run(_payloads, (5,) * world, kind, options, equal, world_size=world)
    costs = head_costs(
        7,
        D,
        5,
        world,
        centers="mean" if options.get("centers") == "mean" else "shared",
        own_center_term="centers" in options,
        contrast=options.get("centers") == "mean" and options.get("center_negatives", True),
        smoothed="label_smoothing" in options,
        hard_negatives="margin" in options,
        equal_batches=equal,
    )
    assert [sum(payloads) for payloads in moved] == [costs.wire_payload] * world


def test_the_default_center_term_costs_no_exchange(pool: Pool) -> None:
    # Samples, labels, two all-reduces, and the features' gradient on the way back.
    margin = pool.run(_payloads, (5, 5), "margin", {}, True)
    assert margin == pool.run(_payloads, (5, 5), "joint", {}, True)
    assert [len(payloads) for payloads in margin] == [5, 5]
    raw = pool.run(_payloads, (5, 5), "joint", {"center_space": "raw"}, True)
    assert [len(payloads) for payloads in raw] == [6, 6]


def _some_steps(
    rank: int | None, case: Case, first: int, last: int, loaded: str, saved: str
) -> list[Any]:
    """Steps first to last, from one checkpoint to another; then what is held here."""
    shards = None if rank is None else ClassShards(case.classes)
    # What is loaded must overwrite what was drawn.
    torch.manual_seed(first)
    options = {**case.options, "shards": shards}
    criterion = KINDS[case.kind](case.classes, D, **options).double()
    backbone = nn.Parameter(torch.ones(3))  # the optimizer may have more than the criterion's
    parameters = [*criterion.parameters(), backbone]
    rates = {"lr": LR, "momentum": 0.9, "weight_decay": 0.01}
    optimizer: torch.optim.Optimizer
    if case.optimizer == "sgd":
        optimizer = torch.optim.SGD(parameters, **rates)
    elif case.optimizer == "adamw":
        optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.01)
    else:
        optimizer = PrototypeSGD(parameters, **rates)
    if not loaded:
        state = case.criterion(shards).state_dict()
        criterion.load_state_dict(state)
    else:
        dcp.load(class_state(criterion, optimizer), checkpoint_id=loaded, no_dist=rank is None)
    features, labels = case.data()
    for step in range(first, last):
        optimizer.zero_grad()
        x = features[step, case.rows(rank)].clone().requires_grad_()
        total_of(criterion(x, labels[step, case.rows(rank)])).backward()
        optimizer.step()
    if saved:
        dcp.save(class_state(criterion, optimizer), checkpoint_id=saved, no_dist=rank is None)
    whole = []
    for tensor in class_state(criterion, optimizer).values():
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        whole.append(local.detach().numpy())
    return whole


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize(
    ("kind", "options", "optimizer"),
    [
        ("margin", {"sub_centers": 2, "weight": WEIGHT[:5]}, "rows"),
        ("joint", {"centers": "separate"}, "sgd"),
        ("joint", {"centers": "separate", "center_update": "gradient"}, "rows"),
        ("joint", {}, "adamw"),
    ],
)
def test_a_checkpoint_of_two_ranks_resumes_on_any_number(
    pool: Pool, tmp_path: Path, kind: str, options: Any, optimizer: str
) -> None:
    def case(sizes: tuple[int, ...]) -> Case:
        return Case(sizes, kind=kind, classes=5, options=options, optimizer=optimizer)

    # Batches of 9 on any number of ranks, so that all see the same samples.
    sizes: dict[int, tuple[int, ...]] = {1: (9,), 2: (4, 5), 3: (5, 3, 1), 4: (4, 0, 2, 3)}
    folder = str(tmp_path / "checkpoint")
    pool.run(_some_steps, case(sizes[2]), 0, 2, "", folder, world_size=2)
    at_save = _some_steps(None, case(sizes[1]), 0, 2, "", "")
    at_end = _some_steps(None, case(sizes[1]), 0, 3, "", "")
    for last, expected in ((2, at_save), (3, at_end)):
        for world in (1, 3, 4):
            ranks = pool.run(_some_steps, case(sizes[world]), 2, last, folder, "", world_size=world)
            for parts, whole in zip(zip(*ranks, strict=True), expected, strict=True):
                # A buffer that is not of the classes held here is whole on every rank.
                found = parts[0] if whole.ndim <= 1 else torch.cat([*map(torch.as_tensor, parts)])
                near(found, whole)
        alone = _some_steps(None, case(sizes[1]), 2, last, folder, "")
        for found, whole in zip(alone, expected, strict=True):
            near(found, whole)


def test_a_checkpoint_needs_momentum_that_starts_from_zero() -> None:
    criterion = CenterLoss(3, 2, update="gradient")
    with pytest.raises(ValueError, match=r"SGD, PrototypeSGD, Adam or AdamW .*, got Adagrad"):
        class_state(criterion, torch.optim.Adagrad(criterion.parameters()))
    damped = torch.optim.SGD(criterion.parameters(), lr=0.1, momentum=0.9, dampening=0.1)
    with pytest.raises(ValueError, match=r"dampening must be 0, got 0\.1"):
        class_state(criterion, damped)
    plain = torch.optim.SGD(criterion.parameters(), lr=0.1)
    assert list(class_state(criterion, plain)) == ["centers"]
