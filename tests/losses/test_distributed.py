"""The criteria under DistributedDataParallel, as users of plain PyTorch wrap them."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from centerarc.distributed import ClassShards, Processes
from centerarc.losses import CenterArcFaceLoss, PrototypeSGD

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


def leave() -> None:
    Processes(0, 2, torch.device("cpu")).close()


def worker(rank: int, world: int, options: dict, folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/init", rank=rank, world_size=world
    )
    images, labels = data()
    module = DistributedDataParallel(Joint(options))
    train(module, images[:, rank::world], labels[:, rank::world])
    torch.save(module.module.state_dict(), f"{folder}/{rank}.pt")
    leave()


@pytest.mark.parametrize(
    "options",
    [{}, {"centers": "separate"}, {"centers": "separate", "center_update": "gradient"}],
    ids=str,
)
def test_two_ranks_end_where_one_process_does(options: dict, tmp_path) -> None:
    mp.spawn(worker, (2, options, str(tmp_path)), nprocs=2)
    alone = Joint(options)
    train(alone, *data())
    for rank in range(2):
        state = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(state, dict(alone.state_dict()), rtol=1e-12, atol=1e-12)


def refused(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=1)
    images, labels = data()
    for options, fused in (
        ({"sample_rate": 0.5}, False),
        ({"shards": ClassShards(C)}, False),
        ({}, True),
    ):
        module = DistributedDataParallel(Joint(options))
        optimizer = PrototypeSGD(module.module.criterion.parameters(), fused=fused)
        with pytest.raises(RuntimeError, match="must stay outside DistributedDataParallel"):
            module(images[0], labels[0])
        del optimizer
    leave()


def test_what_must_stay_outside_is_refused_inside(tmp_path) -> None:
    mp.spawn(refused, (str(tmp_path),), nprocs=1)
