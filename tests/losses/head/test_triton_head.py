"""The whole head with Triton's kernels in it, against the reference; interpreted on a CPU."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from centerarc.losses.center_arcface import CenterArcFaceLoss
from centerarc.losses.head import triton_epilogues
from centerarc.losses.head.chunked import Chunked
from centerarc.losses.head.prototype_sgd import PrototypeSGD

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ROOT = Path(__file__).parents[2]
C, D, N = 90, 12, 7
BLOCKS = Chunked(workspace=8_000, kept=6_000, epilogues="triton")


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this process is the interpreter")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_in_the_interpreter() -> None:
    # Triton must be told before anything imports it.
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    env |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not gpu", __file__]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(*re.findall(r"(\d+) passed", done.stdout)) >= 8, done.stdout


@pytest.fixture(params=["cpu" if INTERPRETED else pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    if not triton_epilogues.available():
        pytest.skip("needs Triton and a CUDA device; on a CPU, see test_in_the_interpreter")
    return str(request.param)


@pytest.mark.parametrize(
    "options", [{}, {"sub_centers": 2}, {"s": 100.0}, {"conflict_threshold": 0.4}], ids=str
)
def test_loss_and_gradients_are_those_of_the_reference(options: dict, device: str) -> None:
    g = torch.Generator().manual_seed(0)
    features = torch.randn(N, D, generator=g, dtype=torch.float64)
    labels = torch.randint(0, C, (N,), generator=g)
    labels[2] = -100
    found = []
    for implementation in ("reference", BLOCKS):
        made = CenterArcFaceLoss(
            C, D, implementation=implementation, generator=torch.Generator(), **options
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
