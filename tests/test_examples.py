"""The programs in examples/ run as written, learn, and treat the criterion as they say they do."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from centerarc.data.synthetic import SyntheticFaces
from tests.commands import Command, torchrun

EXAMPLES = Path(__file__).parents[1] / "examples"
# Runs an example with faces drawn before, and keeps the prototypes that each process ends with.
DRAWN = """
import os, runpy, sys
import numpy as np, torch
from centerarc.data.synthetic import SyntheticFaces
folder, kept, *sys.argv = sys.argv[1:]
def image(self, index):
    drawn = np.load(f"{folder}/{self.image_size}.npy", mmap_mode="r")
    person, number = divmod(index, self.images_per_identity)
    return np.array(drawn[self.first_identity + person, number])
SyntheticFaces.image = image
names = runpy.run_path(sys.argv[0], run_name="__main__")
if kept:
    criterion = names["criterion"] if "criterion" in names else names["module"].criterion
    prototypes = getattr(criterion, "module", criterion).arcface.prototypes
    torch.save(prototypes.detach(), f"{kept}/rank{os.environ.get('LOCAL_RANK', 0)}.pt")
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All faces of the examples, which take longer to draw than to train on."""
    folder = tmp_path_factory.mktemp("drawn")
    people, images, size = 120, 6, 32
    faces = SyntheticFaces(people, images, image_size=size)
    pictures = np.stack([faces.image(index) for index in range(len(faces))])
    np.save(folder / f"{size}.npy", pictures.reshape(people, images, size, size, 3))
    (folder / "drawn.py").write_text(DRAWN)
    return folder


class Printed(NamedTuple):
    """The numbers that a run printed."""

    losses: dict[int, float]  # of each epoch
    auc: dict[str, float]  # untrained, trained


def run(
    folder: Path, drawn: Path, name: str, *words: str, ranks: int = 0, kept: Path | str = ""
) -> Printed:
    """Runs an example in `folder` and reads what it printed; nothing may be printed twice."""
    options: dict[str, Any] = {"folder": folder, "environment": {"CUDA_VISIBLE_DEVICES": ""}}
    program = str(drawn / "drawn.py")
    words = (str(drawn), str(kept), str(EXAMPLES / name), *words)
    if ranks:
        started = torchrun(*words, program=program, ranks=ranks, **options)
    else:
        started = Command(program, *words, module="tests.commands", **options)
    with started:
        out, errors = started.communicate()
    assert started.returncode == 0, errors
    losses = re.findall(r"^epoch (\d+)  loss ([\d.]+)$", out, re.M)
    found = re.findall(r"^(\w+) AUC ([\d.]+)", out, re.M)
    printed = Printed({int(e): float(loss) for e, loss in losses}, {k: float(v) for k, v in found})
    assert (len(printed.losses), len(printed.auc)) == (len(losses), len(found)), out
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
def test_own_loop_and_accelerate_train_the_same(tmp_path: Path, drawn: Path) -> None:
    own = run(tmp_path, drawn, "own_loop.py")
    learned(own, epochs=4)
    accelerate = run(tmp_path, drawn, "accelerate_loop.py")
    assert accelerate.losses == pytest.approx(own.losses, abs=2e-3)
    assert accelerate.auc == pytest.approx(own.auc, abs=5e-3)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_lightning_leaves_nothing_behind(tmp_path: Path, drawn: Path) -> None:
    learned(run(tmp_path, drawn, "lightning_module.py"), epochs=4)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("name", "arguments"), [("accelerate_loop", []), ("lightning_module", ["2"])]
)
def test_prototypes_are_the_same_in_every_process(
    tmp_path: Path, drawn: Path, name: str, arguments: list[str]
) -> None:
    printed = run(tmp_path, drawn, f"{name}.py", *arguments, ranks=2, kept=tmp_path)
    learned(printed, epochs=4)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert torch.equal(first, second)


@pytest.mark.slow
@pytest.mark.distributed
def test_shards_train_alike_and_resume_on_any_number_of_ranks(tmp_path: Path, drawn: Path) -> None:
    printed = {}
    for ranks in (1, 2):
        (tmp_path / str(ranks)).mkdir()
        printed[ranks] = run(tmp_path / str(ranks), drawn, "ddp_sharded.py", ranks=ranks)
        learned(printed[ranks], epochs=3)
    # Rounding grows with the steps.
    assert printed[2].losses[0] == pytest.approx(printed[1].losses[0], abs=2e-3)
    assert printed[2].losses == pytest.approx(printed[1].losses, rel=1e-2)
    resumed = run(tmp_path / "2", drawn, "ddp_sharded.py", ranks=1)
    assert sorted(resumed.losses) == [3, 4, 5]
    assert resumed.losses[3] < printed[2].losses[2]
    assert resumed.auc["trained"] > printed[2].auc["trained"] + 0.03
