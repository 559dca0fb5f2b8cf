"""SyncBatchNorm against torch's batch normalization of the concatenated batch."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from centerarc.distributed import SyncBatchNorm, convert_batchnorm
from tests.distributed.pool import Pool

pytestmark = pytest.mark.distributed


def _case(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, nn.Module]:
    generator = torch.Generator().manual_seed(3)
    # An offset that squares of sums would not survive.
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 2 + 50
    dy = torch.randn(shape, generator=generator, dtype=torch.float64)
    norm: nn.Module = nn.BatchNorm1d(4) if len(shape) == 2 else nn.BatchNorm2d(4)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(4, generator=generator))
        norm.bias.copy_(torch.randn(4, generator=generator))
    return x.to(dtype), dy.to(dtype), norm.to(dtype)


def _run(norm: nn.Module, x: Tensor, dy: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = norm(x)
    y.backward(dy)
    assert x.grad is not None
    tensors = [y, x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var]
    return [tensor.detach() for tensor in tensors]


def _on_rank(rank: int, shape: Any, dtype: torch.dtype, first: int, momentum: Any) -> list[Any]:
    x, dy, norm = _case(shape, dtype)
    norm.momentum = momentum
    norm = convert_batchnorm(norm)
    assert isinstance(norm, SyncBatchNorm)
    rows = slice(0, first) if rank == 0 else slice(first, None)
    _run(norm, x[rows], dy[rows])  # twice: momentum None must count its batches
    norm.zero_grad()
    return [tensor.numpy() for tensor in _run(norm, x[rows], dy[rows])]


@pytest.mark.parametrize(
    ("shape", "first", "dtype", "momentum"),
    [
        ((8, 4), 4, torch.float64, 0.1),
        ((8, 4, 3, 5), 4, torch.float64, 0.1),
        ((7, 4, 3, 5), 1, torch.float64, None),
        ((6, 4, 2, 2), 0, torch.float64, 0.1),
        ((8, 4, 3, 5), 5, torch.float32, 0.1),
    ],
)
def test_equals_batchnorm_of_all_images(
    pool: Pool, shape: Any, first: int, dtype: torch.dtype, momentum: Any
) -> None:
    ranks = [
        [torch.from_numpy(a) for a in r] for r in pool.run(_on_rank, shape, dtype, first, momentum)
    ]
    x, dy, norm = _case(shape, dtype)
    norm.momentum = momentum
    _run(norm, x, dy)
    norm.zero_grad()
    y, dx, dw, db, mean, var = _run(norm, x, dy)
    tolerance = (
        {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-3, "atol": 1e-4}
    )
    torch.testing.assert_close(torch.cat([r[0] for r in ranks]), y, **tolerance)
    torch.testing.assert_close(torch.cat([r[1] for r in ranks]), dx, **tolerance)
    torch.testing.assert_close(ranks[0][2] + ranks[1][2], dw, **tolerance)
    torch.testing.assert_close(ranks[0][3] + ranks[1][3], db, **tolerance)
    for r in ranks:
        torch.testing.assert_close(r[4], mean, **tolerance)
        torch.testing.assert_close(r[5], var, **tolerance)


def test_conversion_keeps_parameters_names_and_mode() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=1e-3), nn.BatchNorm2d(4)).eval()
    before = dict(net.state_dict(keep_vars=True))
    convert_batchnorm(net)
    after = net.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert isinstance(net[1], SyncBatchNorm)
    assert net[1].eps == 1e-3
    assert not net[1].training


def test_alone_and_in_eval_it_is_plain_batchnorm() -> None:
    x, _, norm = _case((6, 4, 3, 3), torch.float32)
    expected = norm(x)
    norm.reset_running_stats()
    torch.testing.assert_close(convert_batchnorm(norm)(x), expected, rtol=0, atol=0)
