"""What a head costs, by arithmetic, against what a process takes; test_shards has the exchange."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from centerarc.distributed import head_costs
from centerarc.losses import Chunked

PEAK = """
import ctypes, gc, sys
from pathlib import Path

import torch
import torch.distributed as dist

from centerarc import CenterArcFaceLoss, PrototypeSGD
from centerarc.distributed import ClassShards

N, C, D = 128, 20_000, 512
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)


def steps(classes, mode):
    criterion = CenterArcFaceLoss(
        classes,
        D,
        shards=ClassShards(classes),
        sample_rate=0.1 if mode == "sampled" else 1.0,
        centers={"paper": "separate", "mean": "mean"}.get(mode, "shared"),
    )
    if mode == "adamw":
        optimizer = torch.optim.AdamW(criterion.parameters())
    else:
        optimizer = PrototypeSGD(criterion.parameters(), momentum=0.9, fused=mode == "fused")
    for _ in range(2):
        optimizer.zero_grad()
        arcface, center = criterion(
            torch.randn(N, D, requires_grad=True), torch.randint(classes, (N,))
        )
        (arcface + center).backward()
        optimizer.step()


def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name + ":"))


for mode in ("full", "fused", "sampled", "adamw", "paper", "mean"):
    steps(2000, mode)  # libraries take their buffers
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    steps(C, mode)
    print(status("VmHWM") - before)
dist.destroy_process_group()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_is_what_the_formula_says(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / "store")],
        capture_output=True,
        text=True,
        # What is freed goes back at once, so that the peak is that of what is in use.
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    full, fused, sampled, adamw, paper, mean = (int(line) for line in done.stdout.split())
    sizes = (20_000, 512, 128, 1)
    assert full == pytest.approx(head_costs(*sizes).memory, rel=0.1)
    assert fused == pytest.approx(head_costs(*sizes, fused=True).memory, rel=0.1)
    assert sampled == pytest.approx(head_costs(*sizes, sample_rate=0.1).memory, rel=0.1)
    assert adamw == pytest.approx(head_costs(*sizes, moments=2).memory, rel=0.1)
    separate = head_costs(*sizes, centers="paper", own_center_term=True)
    assert paper == pytest.approx(separate.memory, rel=0.1)
    means = head_costs(*sizes, centers="mean", own_center_term=True, contrast=True)
    assert mean == pytest.approx(means.memory, rel=0.1)


def test_costs_scale_as_they_say() -> None:
    one = head_costs(10**6, 512, 128, 8)
    assert one.weights == one.momentum == one.gradient == 125_000 * 512 * 4
    assert head_costs(10**6, 512, 128, 8, sample_rate=0.1).gradient == 12_500 * 512 * 4
    fused = head_costs(10**6, 512, 128, 8, fused=True)
    assert (fused.gradient, fused.kept) == (0, Chunked().kept)
    assert fused.wire_payload == one.wire_payload == head_costs(10**7, 512, 128, 8).wire_payload
    assert head_costs(10**6, 512, 128, 8, chunked=Chunked(recompute=True)).flops == (
        8 * 1024 * 125_000 * 512
    )
    # 512 of the 1024 samples' exponentials fit the gradient; in bfloat16 all do.
    assert one.flops == 7 * 1024 * 125_000 * 512
    assert head_costs(10**6, 512, 128, 8, reduced=True).flops == 6 * 1024 * 125_000 * 512
    assert head_costs(10**6, 512, 128, 1).wire_sent == 0
    means = head_costs(10**6, 512, 128, 8, centers="mean", own_center_term=True, contrast=True)
    assert means.centers == 125_000 * (512 * 4 + 8)
    assert means.flops == (7 + 4) * 1024 * 125_000 * 512


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"weight_bytes": 3}, "weight_bytes must be 2, 4 or 8"),
        ({"weight_bytes": 2, "fused": True}, "fused step"),
        ({"device": "tpu"}, "device must be"),
        ({"contrast": True}, "contrast must go with centers='mean'"),
        ({"sample_rate": 0.0}, "sample_rate must be"),
    ],
)
def test_impossible_costs_are_refused(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        head_costs(100, 8, 4, 2, **wrong)
