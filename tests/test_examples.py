"""The programs in examples/ run as written, learn, and treat the criterion as they say they do."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
# Runs an example and keeps the prototypes that each process ends with.
KEEP = """
import os, runpy, sys, torch
sys.argv = sys.argv[1:]
names = runpy.run_path(sys.argv[0], run_name="__main__")
criterion = names["criterion"] if "criterion" in names else names["module"].criterion
criterion = getattr(criterion, "module", criterion)
torch.save(criterion.arcface.prototypes.detach(), f"rank{os.environ.get('LOCAL_RANK', 0)}.pt")
"""


class Printed(NamedTuple):
    """The numbers that a run printed."""

    losses: dict[int, float]  # of each epoch
    auc: dict[str, float]  # untrained, trained


def run(folder: Path, *command: str) -> Printed:
    """Runs Python in `folder` and reads what it printed; nothing may be printed twice."""
    environment = dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    losses = re.findall(r"^epoch (\d+)  loss ([\d.]+)$", done.stdout, re.M)
    found = re.findall(r"^(\w+) AUC ([\d.]+)", done.stdout, re.M)
    printed = Printed({int(e): float(loss) for e, loss in losses}, {k: float(v) for k, v in found})
    assert (len(printed.losses), len(printed.auc)) == (len(losses), len(found)), done.stdout
    return printed


def learned(printed: Printed, epochs: int) -> None:
    """The loss falls from epoch to epoch, and people not trained on are told apart better."""
    losses = [printed.losses[epoch] for epoch in sorted(printed.losses)]
    assert len(losses) == epochs
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.7 * losses[0]
    # Drawn faces have colors, which even an untrained network sees: 0.62.
    assert printed.auc["trained"] > max(0.65, printed.auc.get("untrained", 0) + 0.08)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_fits_a_screen(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60


@pytest.mark.slow
def test_own_loop_and_accelerate_train_the_same(tmp_path: Path) -> None:
    own = run(tmp_path, str(EXAMPLES / "own_loop.py"))
    learned(own, epochs=4)
    accelerate = run(tmp_path, str(EXAMPLES / "accelerate_loop.py"))
    assert accelerate.losses == pytest.approx(own.losses, abs=2e-3)
    assert accelerate.auc == pytest.approx(own.auc, abs=5e-3)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_lightning_leaves_nothing_behind(tmp_path: Path) -> None:
    learned(run(tmp_path, str(EXAMPLES / "lightning_module.py")), epochs=4)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("name", "arguments"), [("accelerate_loop", []), ("lightning_module", ["2"])]
)
def test_prototypes_are_the_same_in_every_process(
    tmp_path: Path, name: str, arguments: list[str]
) -> None:
    (tmp_path / "keep.py").write_text(KEEP)
    example = str(EXAMPLES / f"{name}.py")
    learned(run(tmp_path, *TORCHRUN, "2", "keep.py", example, *arguments), epochs=4)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert torch.equal(first, second)


@pytest.mark.slow
@pytest.mark.distributed
def test_shards_train_alike_and_resume_on_any_number_of_ranks(tmp_path: Path) -> None:
    example = str(EXAMPLES / "ddp_sharded.py")
    printed = {}
    for ranks in ("1", "2"):
        (tmp_path / ranks).mkdir()
        printed[ranks] = run(tmp_path / ranks, *TORCHRUN, ranks, example)
        learned(printed[ranks], epochs=3)
    # Rounding grows with the steps.
    assert printed["2"].losses[0] == pytest.approx(printed["1"].losses[0], abs=2e-3)
    assert printed["2"].losses == pytest.approx(printed["1"].losses, rel=1e-2)
    resumed = run(tmp_path / "2", *TORCHRUN, "1", example)
    assert sorted(resumed.losses) == [3, 4, 5]
    assert resumed.losses[3] < printed["2"].losses[2]
    assert resumed.auc["trained"] > printed["2"].auc["trained"] + 0.03
