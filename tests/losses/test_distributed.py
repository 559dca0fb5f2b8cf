"""The criteria under DistributedDataParallel, as users of plain PyTorch wrap them."""

import warnings
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from centerarc.distributed import ClassShards
from centerarc.losses import CenterArcFaceLoss, CenterLoss, PrototypeSGD
from tests.distributed.pool import Pool

pytestmark = pytest.mark.distributed

C, D, STEPS = 5, 3, 4


def data() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(STEPS, 8, 6, generator=g, dtype=torch.float64),
        torch.randint(0, C, (STEPS, 8), generator=g),
    )


class Joint(nn.Module):
    """Backbone and criterion in one module, the simplest thing to wrap."""

    def __init__(self, options: dict) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Linear(6, D)
        self.criterion = CenterArcFaceLoss(C, D, **options)
        self.double()

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        arcface, center = self.criterion(self.model(images), labels)
        return arcface + 0.1 * center


def train(module: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for x, y in zip(images, labels, strict=True):
        optimizer.zero_grad()
        module(x, y).backward()
        optimizer.step()


def ends(rank: int, options: dict) -> list[Any]:
    images, labels = data()
    module = DistributedDataParallel(Joint(options))
    train(module, images[:, rank::2], labels[:, rank::2])
    return [tensor.numpy() for tensor in module.module.state_dict().values()]


@pytest.mark.parametrize(
    "options",
    [{}, {"centers": "separate"}, {"centers": "separate", "center_update": "gradient"}],
    ids=str,
)
def test_two_ranks_end_where_one_process_does(pool: Pool, options: dict) -> None:
    alone = Joint(options)
    train(alone, *data())
    for found in pool.run(ends, options):
        for ours, expected in zip(found, alone.state_dict().values(), strict=True):
            torch.testing.assert_close(torch.as_tensor(ours), expected, rtol=1e-12, atol=1e-12)


def sharded_by_fsdp(rank: int, options: dict) -> dict[str, tuple[Any, Any]]:
    """Values of a criterion of plain tensors, and of one that FSDP2 has sharded."""
    classes = 9001  # more than PrototypeSGD steps at a time, and odd
    torch.manual_seed(0)  # alike on both ranks
    images, labels = torch.randn(3, 16, D), torch.randint(0, classes, (3, 16))
    found: list[dict[str, Any]] = []
    for sharded in (False, True):
        made = CenterArcFaceLoss(classes, D, **options)
        optimizer: torch.optim.Optimizer
        if sharded:
            fully_shard(made, mesh=init_device_mesh("cpu", (2,)))
            made.arcface.reset_parameters(torch.Generator().manual_seed(1))
            optimizer = PrototypeSGD(made.parameters(), lr=0.5, momentum=0.9, weight_decay=0.01)
        else:
            made.arcface.reset_parameters(torch.Generator().manual_seed(1))
            optimizer = torch.optim.SGD(made.parameters(), lr=0.5, momentum=0.9, weight_decay=0.01)
        values = {"start": full(made.arcface.prototypes)}
        for x, y in zip(images, labels, strict=True):
            optimizer.zero_grad()
            sum(made(x, y)).backward()
            optimizer.step()
        optimizer.zero_grad()
        separation, logits = made.separation(labels[0]), made.logits(images[0])
        (separation + logits.square().mean()).backward()
        values |= {"separation": full(separation), "logits": full(logits)}
        values |= {"end": full(made.arcface.prototypes)}
        values |= {"gradient": full(made.arcface.prototypes.grad)}
        found.append(values)
    return {name: (found[0][name], found[1][name]) for name in found[0]}


def full(tensor: torch.Tensor) -> Any:
    tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return tensor.detach().clone().numpy()


@pytest.mark.parametrize("options", [{}, {"sub_centers": 2, "centers": "separate"}], ids=str)
def test_fsdp_shards_train_as_plain_prototypes_do(pool: Pool, options: dict) -> None:
    for found in pool.run(sharded_by_fsdp, options):
        for name, (plain, sharded) in found.items():
            torch.testing.assert_close(
                *map(torch.as_tensor, (sharded, plain)), msg=lambda m, name=name: f"{name}: {m}"
            )


def complaints(rank: int) -> list[str]:
    images, labels = data()
    found = []
    for options, fused in (
        ({"sample_rate": 0.5}, False),
        ({"shards": ClassShards(C)}, False),
        ({}, True),
    ):
        module = DistributedDataParallel(Joint(options))
        optimizer = PrototypeSGD(module.module.criterion.parameters(), fused=fused)
        try:
            module(images[0], labels[0])
        except RuntimeError as error:
            found.append(str(error))
        del optimizer
    return found


def test_what_must_stay_outside_is_refused_inside(pool: Pool) -> None:
    (found,) = pool.run(complaints, world_size=1)
    assert len(found) == 3
    assert all("must stay outside DistributedDataParallel" in message for message in found)


def warnings_of_drift(rank: int, make: str, steps: int = 12) -> list[str]:
    """Trains a wrapped model with a criterion as a user may have left it."""
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(5, D))
    criterion: nn.Module = CenterArcFaceLoss(C, D)
    if make == "wrapped":
        criterion = DistributedDataParallel(criterion)
    elif make == "other starts":
        torch.manual_seed(rank)
        criterion = CenterLoss(C, D)
    elif make == "sharded":
        criterion = CenterArcFaceLoss(C, D, shards=ClassShards(C))
    learned = [*model.parameters(), *criterion.parameters()]
    optimizer = torch.optim.SGD(learned, lr=0.1)
    g = torch.Generator().manual_seed(rank)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(steps):
            x, y = torch.randn(4, 5, generator=g), torch.randint(0, C, (4,), generator=g)
            if make == "on one rank" and rank:
                dist.barrier()
                continue
            features = (model.module if make == "on one rank" else model)(x)
            if make == "with further passes" and rank == 0 and step % 2:
                criterion(features.detach(), y)
            out = criterion(features, y)
            optimizer.zero_grad()
            (sum(out) if isinstance(out, tuple) else out).backward()
            if make in ("averaged by hand", "with further passes"):
                for parameter in criterion.parameters():
                    dist.all_reduce(parameter.grad)
            optimizer.step()
            if make == "on one rank":
                dist.barrier()
    return [str(w.message) for w in caught if issubclass(w.category, UserWarning)]


def test_ranks_that_drift_apart_are_noticed_once(pool: Pool) -> None:
    first, second = pool.run(warnings_of_drift, "forgotten")
    (message,) = first
    assert "CenterArcFaceLoss differ between rank 0 and rank 1" in message
    assert "DistributedDataParallel" in message
    assert "ClassShards" in message
    assert second == []


def test_centers_that_start_differently_are_noticed(pool: Pool) -> None:
    (message,), _ = pool.run(warnings_of_drift, "other starts")
    assert "the same seed" in message


@pytest.mark.parametrize(
    "make", ["wrapped", "sharded", "averaged by hand", "with further passes", "on one rank"]
)
def test_ranks_that_agree_or_train_alone_are_left_in_peace(pool: Pool, make: str) -> None:
    assert pool.run(warnings_of_drift, make) == [[], []]
