"""Two processes train what one trains on the same batches."""

import json
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from centerarc.distributed import Processes
from centerarc.training import Trainer, train
from tests.distributed.pool import Pool
from tests.training.helpers import full_disk, make_config, register_tiny

pytestmark = pytest.mark.distributed

# Without dropout: ranks draw differently from one process on purpose. A low rate, because the
# differences of rounding grow with the steps.
CHANGES: dict[str, Any] = {
    "model": {"options": {"norm": True}},
    "validation": {"identities": 2, "num_pairs": 20},
    "optimizer": {"lr": 0.01},
    "clip_norm": 5.0,
}


def _train_on_rank(
    rank: int, run_dir: Path, faces: Path, changes: dict[str, Any], limit: int | None = None
) -> str:
    """Trains, with at most `limit` bytes a file; returns how that ended."""
    register_tiny()
    config = make_config(run_dir, faces, **changes)
    processes = Processes(rank, 2, torch.device("cpu"))
    try:
        trainer = Trainer(config, processes, resume=False, overwrite=False)
        with nullcontext() if limit is None else full_disk(limit):
            trainer.run()
    except (ValueError, OSError) as error:
        return str(error)
    return "done"


@pytest.mark.parametrize(
    "loss",
    [
        {"separation_weight": 0.5},
        {"centers": "separate", "center_space": "raw"},
        {"centers": "separate", "center_update": "gradient"},
    ],
    ids=["shared", "paper", "gradient"],
)
def test_two_processes_equal_one(
    pool: Pool, tmp_path: Path, faces: Path, loss: dict[str, Any]
) -> None:
    changes = {**CHANGES, "loss": loss}
    train(make_config(tmp_path / "one", faces, **changes))
    assert pool.run(_train_on_rank, tmp_path / "two", faces, changes) == ["done"] * 2
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert len(one) == len(two) == 12
    for a, b in zip(one, two, strict=True):
        a.pop("images_per_second", None)
        b.pop("images_per_second", None)
        assert a.keys() == b.keys()
        for name, value in a.items():
            near = pytest.approx(value, rel=1e-4, abs=1e-5) if isinstance(value, float) else value
            assert b[name] == near, name
    expected = load_file(tmp_path / "one" / "last.safetensors")
    found = load_file(tmp_path / "two" / "last.safetensors")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    states = [
        torch.load(tmp_path / name / "state" / "state.pt", weights_only=True)["criterion"]
        for name in ("one", "two")
    ]
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_a_full_folder_is_refused_by_every_rank(pool: Pool, tmp_path: Path, faces: Path) -> None:
    (tmp_path / "config.yaml").write_text("old")
    answers = pool.run(_train_on_rank, tmp_path, faces, CHANGES)
    assert all("already holds a run" in answer for answer in answers)


def test_a_batch_that_does_not_divide_is_refused(pool: Pool, tmp_path: Path, faces: Path) -> None:
    answers = pool.run(_train_on_rank, tmp_path / "run", faces, {**CHANGES, "batch_size": 7})
    assert all("batch_size is 7; it must be a multiple of the 2" in answer for answer in answers)


def test_a_full_disk_ends_every_rank_with_the_path(pool: Pool, tmp_path: Path, faces: Path) -> None:
    # Enough for the rows of metrics, too little for weights.
    answers = pool.run(_train_on_rank, tmp_path / "run", faces, CHANGES, 6000)
    assert all(re.search(r"cannot write .*run/state/", answer) for answer in answers), answers
