"""The Triton kernels against their formulas in float64, and a head with them against the reference.

On CUDA, and in Triton's interpreter. That must be chosen before anything imports Triton, so on a
CPU these tests run in a process of their own, which one test here starts.
"""

import copy
import importlib.util
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from centerarc.losses import (
    CenterArcFaceLoss,
    Chunked,
    CurricularFace,
    HardNegatives,
    MVSoftmax,
    PrototypeSGD,
)
from centerarc.losses.head import epilogues

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ROOT = Path(__file__).parents[3]

# Relative to the largest entry where terms cancel.
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12}
DTYPES = [torch.float32, torch.float64]

exponentials = partial(epilogues.exponentials, triton=True)
project = partial(epilogues.project, triton=True)
project_and_step = partial(epilogues.project_and_step, triton=True)


@pytest.fixture(params=["cpu" if INTERPRETED else pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    if not epilogues.triton_available():
        pytest.skip("needs Triton and a CUDA device; on a CPU, see test_in_the_interpreter")
    return str(request.param)


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this process is the interpreter")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_in_the_interpreter() -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    env |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not gpu", __file__]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.findall(r"(\d+) passed", done.stdout)
    assert int(*passed) > 120, done.stdout


@pytest.mark.skipif(INTERPRETED, reason="seen by the process that started this one")
def test_without_triton_the_module_imports_and_says_so() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "from centerarc.losses.head import epilogues\n"
        "print(epilogues.triton_available())"
    )
    env = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def wide(rows: Tensor, gap: int = 7) -> Tensor:
    """The same rows as a part of longer ones, whose ends are NaN and must stay unread."""
    home = rows.new_full((rows.shape[0], rows.shape[1] + gap), torch.nan)
    home[:, : rows.shape[1]] = rows
    return home[:, : rows.shape[1]]


def products(n: int, b: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """(N, B) products with v from -8 to 8, (B,) inverse lengths (one 0) and (N,) own columns."""
    v = torch.rand(n, b, dtype=dtype) * 16 - 8
    inverse = torch.rand(b, dtype=dtype) + 0.5
    z = v / inverse
    inverse[b // 3] = 0
    columns = torch.randint(-2, b + 2, (n,))
    special = torch.tensor([b - 1, 0, -1, b, 2**40, -(2**40), 2**32])[:n]
    columns[: len(special)] = special
    return z.to(device), inverse.to(device), columns.to(device)


def exponentials_formula(
    z: Tensor, inverse: Tensor, columns: Tensor, limit: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums, maxima and exp(v) / |w| of one block, in float64."""
    v = z.double() * inverse.double()
    own = columns.unsqueeze(1) == torch.arange(z.shape[1], device=z.device)
    e = v.exp().masked_fill(own | (v > limit), 0.0)
    return e.sum(dim=1), v.masked_fill(own, -torch.inf).amax(dim=1), e * inverse.double()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("limit", [torch.inf, 3.3])
@pytest.mark.parametrize(
    ("n", "b"),
    [(n, b) for n in (1, 3, 33) for b in (1, 5, 512, 1000)] + [(2, 20_000)],
)
def test_exponentials(n: int, b: int, limit: float, dtype: torch.dtype, device: str) -> None:
    z, inverse, columns = products(n, b, dtype, device)
    sums, tops, expected = exponentials_formula(z, inverse, columns, limit)
    before = torch.rand(n, dtype=dtype, device=device)
    total, hardest = before.clone(), torch.full_like(before, -torch.inf)
    z, out = wide(z), wide(torch.zeros_like(z), gap=3)
    kept = z.clone()
    exponentials(z, inverse, columns, limit, total, hardest, out)
    close = {"rtol": TOLERANCE[dtype], "atol": 0.0}
    torch.testing.assert_close(out.double(), expected, **close)
    torch.testing.assert_close(total.double(), before.double() + sums, **close)
    torch.testing.assert_close(hardest.double(), tops, **close)
    assert z.equal(kept)
    # The rows' ends beyond the block are not this block's to write.
    assert out.as_strided((n, b + 3), (b + 3, 1))[:, b:].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("limit", [torch.inf, 3.3])
@pytest.mark.parametrize("curve", [(0.05, 0.3, 0.0), (0.0, 1.2, 1.6)])
@pytest.mark.parametrize(("n", "b"), [(1, 1), (3, 512), (33, 1000)])
def test_exponentials_of_hard_negatives(
    n: int, b: int, curve: tuple[float, ...], limit: float, dtype: torch.dtype, device: str
) -> None:
    z, inverse, columns = products(n, b, dtype, device)
    threshold = torch.linspace(-5, 5, n, dtype=dtype, device=device)
    hard = HardNegatives(threshold, torch.tensor(curve, dtype=dtype, device=device), 2.0)
    v = (z * inverse).double()
    above = v > threshold.unsqueeze(1)
    square, linear, constant = hard.curve.double().tolist()
    counted = torch.where(above, square * v**2 + linear * v + constant, v)
    slope = torch.where(above, 2 * square * v + linear, 1.0)
    own = columns.unsqueeze(1) == torch.arange(b, device=device)
    e = counted.exp().masked_fill(own | (v > limit), 0.0)
    total, hardest = z.new_zeros(n), z.new_full((n,), -torch.inf)
    out = wide(torch.zeros_like(z), gap=3)
    exponentials(z, inverse, columns, limit, total, hardest, out, hard=hard)
    # A value near 10 is rounded before its exponential is taken.
    close = {"rtol": 5 * TOLERANCE[dtype], "atol": 0.0}
    torch.testing.assert_close(total.double(), e.sum(dim=1), **close)
    torch.testing.assert_close(hardest.double(), v.masked_fill(own, -torch.inf).amax(dim=1))
    # Where the derivative is near 0 the terms of it cancel.
    size = e.abs() * inverse.double() * (2 * square * v.abs() + linear)
    error = (out.double() - e * slope * inverse.double()).abs()
    assert (error <= 5 * TOLERANCE[dtype] * size.clamp_min(1e-300)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_exponentials_in_place(dtype: torch.dtype, device: str) -> None:
    z, inverse, columns = products(9, 700, dtype, device)
    sums, _, expected = exponentials_formula(z, inverse, columns, torch.inf)
    total, hardest = z.new_zeros(9), z.new_full((9,), -torch.inf)
    exponentials(z, inverse, columns, torch.inf, total, hardest, z)
    torch.testing.assert_close(z.double(), expected, rtol=TOLERANCE[dtype], atol=0)
    torch.testing.assert_close(total.double(), sums, rtol=TOLERANCE[dtype], atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bfloat16_exponentials_have_unrounded_sums(dtype: torch.dtype, device: str) -> None:
    z, inverse, columns = products(5, 1000, dtype, device)
    sums, _, expected = exponentials_formula(z, inverse, columns, 2.0)
    total, hardest = z.new_zeros(5), z.new_full((5,), -torch.inf)
    out = torch.full_like(z, torch.nan, dtype=torch.bfloat16)
    exponentials(z, inverse, columns, 2.0, total, hardest, out)
    torch.testing.assert_close(total.double(), sums, rtol=TOLERANCE[dtype], atol=0)
    ulp = 2.0**-7 * 2 ** expected.abs().clamp_min(1e-30).log2().floor()
    assert ((out.double() - expected).abs() <= ulp).all()


def test_blocks_add_up_and_the_hardest_is_over_all_of_them(device: str) -> None:
    z, inverse, columns = products(7, 900, torch.float64, device)
    sums, tops, _ = exponentials_formula(z, inverse, columns, torch.inf)
    total, hardest = z.new_zeros(7), z.new_full((7,), -torch.inf)
    for start in range(0, 900, 400):
        block = slice(start, start + 400)
        exponentials(
            z[:, block],
            inverse[block],
            columns - start,
            torch.inf,
            total,
            hardest,
            z[:, block].clone(),
        )
    torch.testing.assert_close(total, sums, rtol=1e-12, atol=0)
    torch.testing.assert_close(hardest, tops, rtol=1e-12, atol=0)


def test_float32_exponentials_are_exact_to_four_ulp(device: str) -> None:
    # Lengths of 1, so that v is z without rounding. tl.exp alone errs by 29 ulp at 64.
    z = torch.linspace(-87, 88.5, 40_000, device=device).view(8, -1)
    total, hardest = z.new_zeros(8), z.new_full((8,), -torch.inf)
    nothing = torch.full((8,), -1, device=device)
    out = torch.empty_like(z)
    exponentials(z, z.new_ones(5000), nothing, torch.inf, total, hardest, out)
    assert (out / z.double().exp() - 1).abs().max() < 4 * 2.0**-23
    z = torch.tensor([[-torch.inf, -1000.0, -200.0, 88.7, 89.0, 1000.0, torch.inf]], device=device)
    out = torch.empty_like(z)
    exponentials(z, z.new_ones(7), nothing[:1], torch.inf, total[:1], hardest[:1], out)
    torch.testing.assert_close(out, z.exp(), rtol=1e-6, atol=0)
    assert total[0] == hardest[0] == torch.inf


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_logit_at_the_limit_counts_and_one_above_is_only_the_hardest(
    dtype: torch.dtype, device: str
) -> None:
    limit = torch.tensor(0.1, dtype=dtype, device=device)
    above = limit.nextafter(limit + 1)
    z = torch.stack([limit, above, limit - 1]).expand(2, 3).contiguous()
    columns = torch.tensor([2, 1], device=device)
    total, hardest = z.new_zeros(2), z.new_full((2,), -torch.inf)
    out = torch.empty_like(z)
    exponentials(z, z.new_ones(3), columns, 0.1, total, hardest, out)
    assert (out > 0).tolist() == [[True, False, False], [True, False, True]]
    assert hardest.equal(torch.stack([above, limit]))


def test_the_own_class_alone_adds_nothing(device: str) -> None:
    z = torch.full((2, 1), 5.0, device=device)
    total, hardest = z.new_ones(2), z.new_full((2,), -torch.inf)
    own = torch.zeros(2, dtype=torch.int64, device=device)
    exponentials(z, z.new_ones(1), own, torch.inf, total, hardest, z)
    assert total.tolist() == [1, 1]
    assert hardest.tolist() == [-torch.inf] * 2
    assert z.tolist() == [[0], [0]]


@pytest.mark.parametrize("column", [0, 600, 999])
@pytest.mark.parametrize("limit", [torch.inf, 0.0])
def test_no_nan_is_hidden(column: int, limit: float, device: str) -> None:
    z, inverse, _ = products(6, 1000, torch.float32, device)
    columns = torch.tensor([0, 600, 999, -1, 600, 5], device=device)
    z[1:3, column] = torch.nan
    total, hardest = z.new_zeros(6), z.new_full((6,), -torch.inf)
    hardest[4] = torch.nan
    exponentials(z, inverse, columns, limit, total, hardest, torch.empty_like(z))
    assert total.isnan().tolist() == [False, True, True, False, False, False]
    assert hardest.isnan().tolist() == [False, True, True, False, True, False]
    inverse[column] = torch.nan
    exponentials(z, inverse, columns, limit, total, hardest, z)
    assert total.isnan().all()


def test_the_same_bits_on_every_run(device: str) -> None:
    z, inverse, columns = products(33, 1500, torch.float32, device)
    runs = []
    for _ in range(3):
        total, hardest, out = z.new_zeros(33), z.new_full((33,), -torch.inf), torch.empty_like(z)
        exponentials(z, inverse, columns, torch.inf, total, hardest, out)
        runs.append((total, hardest, out))
    assert all(a.equal(b) for run in runs for a, b in zip(run, runs[0], strict=True))


def gradients(b: int, d: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """(B, D) gradients that hold 1 / |w|, (B, D) prototypes (one zero) and (B,) 1 / |w|."""
    rows = torch.randn(b, d, dtype=dtype)
    if b > 1:
        rows[b // 2] = 0
    norm = torch.linalg.vector_norm(rows, dim=1)
    inverse = torch.where(norm > 0, norm.reciprocal(), 0.0)
    gradient = torch.randn(b, d, dtype=dtype) * inverse.unsqueeze(1)
    return gradient.to(device), rows.to(device), inverse.to(device)


def project_formula(gradient: Tensor, rows: Tensor, inverse: Tensor) -> Tensor:
    g, w = gradient.double(), rows.double()
    return g - (g * w).sum(dim=1, keepdim=True) * inverse.double().square().unsqueeze(1) * w


def assert_near(actual: Tensor, expected: Tensor, size: Tensor) -> None:
    """Within rounding errors of terms as large as the largest entry of `size`."""
    tolerance = TOLERANCE[actual.dtype]
    close = {"rtol": tolerance, "atol": tolerance * size.abs().max().item()}
    torch.testing.assert_close(actual.double(), expected, **close)


SIZES = [(1, 1), (5, 3), (500, 3), (33, 65), (3, 512), (5, 700), (2, 20_000)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("b", "d"), SIZES)
def test_project(b: int, d: int, dtype: torch.dtype, device: str) -> None:
    gradient, rows, inverse = gradients(b, d, dtype, device)
    expected, size = project_formula(gradient, rows, inverse), gradient.clone()
    project(gradient, wide(rows), inverse)
    assert_near(gradient, expected, size)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("dtype", DTYPES)
def test_project_takes_prototypes_of_any_dtype(
    stored: torch.dtype, dtype: torch.dtype, device: str
) -> None:
    gradient, rows, inverse = gradients(9, 65, dtype, device)
    rows = rows.to(stored)
    expected, size = project_formula(gradient, rows, inverse), gradient.clone()
    project(gradient, wide(rows), inverse)
    assert_near(gradient, expected, size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", [(0.0, False), (0.9, False), (0.9, True)], ids=str)
@pytest.mark.parametrize(("b", "d"), SIZES)
def test_project_and_step_is_autograd_and_sgd(
    b: int, d: int, rule: tuple[float, bool], dtype: torch.dtype, device: str
) -> None:
    factor, nesterov = rule
    lr, decay = 0.3, 0.1
    _, rows, _ = gradients(b, d, dtype, device)
    parameter = rows.double().requires_grad_()
    sgd = torch.optim.SGD(
        [parameter], lr=lr, momentum=factor, weight_decay=decay, nesterov=nesterov
    )
    rows = wide(rows)
    momentum = wide(torch.zeros_like(rows), gap=2) if factor else None
    for _ in range(3):
        pull = torch.randn(b, d, dtype=dtype, device=device)
        sgd.zero_grad()
        (torch.nn.functional.normalize(parameter, eps=1e-300) * pull.double()).sum().backward()
        norm = torch.linalg.vector_norm(rows, dim=1)
        inverse = torch.where(norm > 0, norm.reciprocal(), 0.0)
        # A zero prototype has no direction, and moves only with its momentum.
        parameter.grad[norm == 0] = 0
        sgd.step()
        gradient = pull * inverse.unsqueeze(1)
        project_and_step(gradient, rows, inverse, momentum, lr, factor, decay, nesterov)
    assert_near(rows, parameter.detach(), parameter.detach())
    assert rows.as_strided((b, d + 7), (d + 7, 1))[:, d:].isnan().all()
    if momentum is not None:
        buffer = sgd.state[parameter]["momentum_buffer"]
        assert_near(momentum, buffer, buffer)


@pytest.mark.parametrize(("n", "b"), [(0, 5), (3, 0), (0, 0)])
def test_nothing_is_done_about_nothing(n: int, b: int, device: str) -> None:
    z, inverse = torch.ones(n, b, device=device), torch.ones(b, device=device)
    columns = torch.zeros(n, dtype=torch.int64, device=device)
    total, hardest = z.new_ones(n), z.new_full((n,), -torch.inf)
    exponentials(z, inverse, columns, torch.inf, total, hardest, z)
    assert total.equal(z.new_ones(n))
    assert hardest.equal(z.new_full((n,), -torch.inf))
    for shape in ((n, b), (b, n)):
        g, w = torch.ones(shape, device=device), torch.ones(shape, device=device)
        if g.numel() == 0:
            project(g, w, g.new_ones(shape[0]))
            project_and_step(g, w, g.new_ones(shape[0]), None, 0.1, 0.0, 0.0, False)


C, D, N = 90, 12, 7
BLOCKS = Chunked(workspace=8_000, kept=6_000, epilogues="triton")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sub_centers": 2},
        {"s": 100.0},
        {"conflict_threshold": 0.4},
        {"margin": CurricularFace(), "s": 30.0},
        {"margin": MVSoftmax(), "conflict_threshold": 0.4},
        {"margin": MVSoftmax(), "sub_centers": 2},
    ],
    ids=str,
)
def test_loss_and_gradients_are_those_of_the_reference(options: dict, device: str) -> None:
    g = torch.Generator().manual_seed(0)
    features = torch.randn(N, D, generator=g, dtype=torch.float64)
    labels = torch.randint(0, C, (N,), generator=g)
    labels[2] = -100
    found = []
    for implementation in ("reference", BLOCKS):
        own = copy.deepcopy(options)  # a margin may keep a state
        made = CenterArcFaceLoss(
            C, D, implementation=implementation, generator=torch.Generator(), **own
        )
        made = made.double().to(device)
        x = features.to(device).requires_grad_()
        arcface, center = made(x, labels.to(device))
        (arcface + center).backward()
        found.append([arcface, center, x.grad, made.arcface.prototypes.grad])
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_fused_steps_are_those_of_the_ordinary_path(
    rate: float, nesterov: bool, device: str
) -> None:
    ends = []
    for fused in (False, True):
        made = CenterArcFaceLoss(
            C,
            D,
            sample_rate=rate,
            sample_generator=torch.Generator(device).manual_seed(1),
            implementation=BLOCKS,
            generator=torch.Generator().manual_seed(0),
        )
        made = made.double().to(device)
        optimizer = PrototypeSGD(
            made.parameters(),
            lr=0.3,
            momentum=0.9,
            weight_decay=0.01,
            nesterov=nesterov,
            fused=fused,
        )
        g = torch.Generator().manual_seed(2)
        for _ in range(2):
            x = torch.randn(N, D, generator=g, dtype=torch.float64)
            y = torch.randint(0, C, (N,), generator=g)
            sum(made(x.to(device), y.to(device))).backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append(made.arcface.prototypes.detach())
    torch.testing.assert_close(*ends, rtol=1e-10, atol=1e-12)
