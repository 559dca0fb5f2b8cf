"""Several processes train what one trains on the same batches."""

import json
import re
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from centerarc.distributed import Processes
from centerarc.models import backbone
from centerarc.training import Trainer, checkpoint, train
from tests.distributed.pool import Pool
from tests.training.helpers import (
    Tiny,
    full_disk,
    make_config,
    register_tiny,
    same_bits,
    whole_criterion,
)

pytestmark = pytest.mark.distributed

# Without dropout: ranks draw differently from one process on purpose. A low rate, because the
# differences of rounding grow with the steps. 2, 3 and 4 ranks divide the batch; the 5 people of
# the training they do not.
CHANGES: dict[str, Any] = {
    "model": {"options": {"norm": True}},
    "validation": {"identities": 2, "num_pairs": 20},
    "optimizer": {"lr": 0.01},
    "schedule": {"epochs": 2},
    "clip_norm": 5.0,
    "batch_size": 12,
}


def _train_on_rank(
    rank: int,
    world: int,
    run_dir: Path,
    faces: Path,
    changes: dict[str, Any],
    resume: bool = False,
    limit: int | None = None,
) -> str:
    """Trains, with at most `limit` bytes a file; returns how that ended."""
    register_tiny()
    config = make_config(run_dir, faces, **changes)
    processes = Processes(rank, world, torch.device("cpu"))
    try:
        trainer = Trainer(config, processes, resume=resume, overwrite=False)
        with nullcontext() if limit is None else full_disk(limit):
            trainer.run()
    except (ValueError, OSError) as error:
        return str(error)
    return "done"


def _rows(run_dir: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("images_per_second", None)
    return rows


def _same_run(one: Path, other: Path) -> None:
    """Asserts that two runs logged the same and ended with the same weights, but for rounding."""
    for a, b in zip(_rows(one), _rows(other), strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            near = pytest.approx(value, rel=1e-4, abs=1e-5) if isinstance(value, float) else value
            assert b[name] == near, (name, a["step"])
    for expected, found in (
        (load_file(one / "last.safetensors"), load_file(other / "last.safetensors")),
        (whole_criterion(one), whole_criterion(other)),
    ):
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


REPLICATED = {"sharded": False}
# The rate of a step depends on the length of the run, unless it does not fall.
STEADY = {"epochs": 3, "warmup_epochs": 0, "power": 1e-30}
# Without a norm: a bias before one has a gradient of rounding alone, which AdamW blows up.
ADAMW = {"optimizer": {"name": "adamw", "lr": 0.001}, "model": {"options": {"norm": False}}}
THRESHOLD = {"center_weight": 0.5, "threshold_weight": 0.3, "threshold_over": "both"}
GRADIENT = {"centers": "separate", "center_update": "gradient"}
CURRICULAR = {"margin": "curricularface", "margin_options": {"momentum": 0.7}}
MAGFACE = {"l_a": 0.5, "u_a": 3.0, "lambda_g": 0.5}


@pytest.mark.parametrize(
    ("worlds", "changes"),
    [
        ((2, 3, 4), {"loss": {"separation_weight": 0.5}}),
        ((4,), {"loss": {"centers": "separate", "center_space": "raw"}}),
        ((3,), {"loss": {**GRADIENT, "separation_weight": 0.5}}),
        ((2,), {"loss": {"label_smoothing": 0.1, "class_weights": "weights.csv"}}),
        ((3,), {"loss": {"sub_centers": 2, "conflict_threshold": 0.3}}),
        ((2,), {"loss": {"margin": "adaface", "margin_options": {"alpha": 0.3}}}),
        ((3,), {"loss": {"margin": "magface", "margin_options": MAGFACE}}),
        ((4,), {"loss": {"margin": "elastic_arcface"}}),
        ((2,), {"loss": {"margin": "ldam"}, "head": REPLICATED}),
        ((3,), {"loss": CURRICULAR}),
        ((3,), {"loss": {"margin": "uniface", "s": 16.0}, "clip_norm": 0.5}),
        ((2,), {"loss": {"margin": "uniface", "s": 16.0}, "head": REPLICATED, "clip_norm": 0.5}),
        ((3,), ADAMW),
        ((2,), {"loss": {"center_weight": "auto", "ramp_steps": 2, "start_cosine": -0.9}}),
        ((3,), {"loss": {"centers": "mean", "center_weight": 0.5}}),
        ((4,), {"loss": {**THRESHOLD, "threshold_memory": 14}}),
        ((2,), {"loss": {**THRESHOLD, "centers": "mean"}, "head": {"fused": True}, "clip_norm": 0}),
        ((2,), {"head": REPLICATED, "loss": {"centers": "mean", "center_negatives": False}}),
        ((4,), {"accumulate": 3, "model": {"options": {"norm": False}}}),
        ((3,), {"head": {"fused": True}, "clip_norm": 0, "optimizer": {"nesterov": True}}),
        ((2,), {"head": REPLICATED, "loss": {"separation_weight": 0.5}}),
        ((2,), {"head": REPLICATED, "loss": {"centers": "separate", "center_space": "raw"}}),
        ((2,), {"head": REPLICATED, "loss": {**GRADIENT, "class_weights": "weights.csv"}}),
    ],
    ids=lambda value: None if isinstance(value, dict) else "-".join(map(str, value)),
)
def test_any_number_of_processes_equals_one(
    pool: Pool,
    tmp_path: Path,
    faces: Path,
    monkeypatch: pytest.MonkeyPatch,
    worlds: tuple[int, ...],
    changes: dict[str, Any],
) -> None:
    changes = {**CHANGES, **{name: _merged(name, value) for name, value in changes.items()}}
    loss = dict(changes.get("loss", {}))
    if "class_weights" in loss:
        loss["class_weights"] = tmp_path / loss["class_weights"]
        people = sorted(folder.name for folder in faces.iterdir())
        rows = [f"{name},{0.5 + place}" for place, name in enumerate(people)]
        loss["class_weights"].write_text("\n".join(["identity,weight", *rows]))
        changes["loss"] = loss
    train(make_config(tmp_path / "one", faces, **changes))
    assert len(_rows(tmp_path / "one")) == 6  # 2 epochs of 2 steps and a validation
    for world in worlds:
        folder = tmp_path / str(world)
        answers = pool.run(_train_on_rank, world, folder, faces, changes, world_size=world)
        assert answers == ["done"] * world
        _same_run(tmp_path / "one", folder)


def _merged(name: str, value: Any) -> Any:
    before = CHANGES.get(name)
    return {**before, **value} if isinstance(before, dict) else value


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": {"centers": "separate"}},
        {"loss": GRADIENT, **ADAMW},
        {"loss": {"center_weight": "auto", "ramp_steps": 3, "start_cosine": -0.9}},
        {"loss": {**THRESHOLD, "centers": "mean", "ramp_steps": 3, "threshold_memory": 14}},
        {"head": {"fused": True}, "clip_norm": 0},
        {"loss": {"margin": "adaface", "margin_options": {"alpha": 0.3}}},
        {"loss": {"margin": "elastic_cosface", "margin_options": {"sigma": 0.1}}},
        {"loss": CURRICULAR},
        {"loss": {"margin": "uniface", "s": 16.0}},
    ],
    ids=[
        "sgd",
        "adamw",
        "in a ramp",
        "means and threshold",
        "fused",
        "adaface",
        "elastic",
        "curricular",
        "uniface",
    ],
)
def test_a_run_of_two_processes_resumes_on_one_two_and_three(
    pool: Pool, tmp_path: Path, faces: Path, changes: dict[str, Any]
) -> None:
    changes = {**CHANGES, **{name: _merged(name, value) for name, value in changes.items()}}

    def trained(name: str, world: int, epochs: int, resume: bool = False) -> Path:
        content = {**changes, "schedule": {**STEADY, "epochs": epochs}}
        folder = tmp_path / name
        answers = pool.run(_train_on_rank, world, folder, faces, content, resume, world_size=world)
        assert answers == ["done"] * world
        return folder

    half = trained("half", 2, 1)
    whole = trained("whole", 2, 2)
    for world in (1, 2, 3):
        shutil.copytree(half, tmp_path / f"on {world}")
        resumed = trained(f"on {world}", world, 2, resume=True)
        _same_run(whole, resumed)
        if world == 2:
            assert same_bits(whole / "last.safetensors", resumed / "last.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": {"centers": "separate", "center_space": "raw", "center_weight": 0.01}},
        {**ADAMW, "loss": {"sub_centers": 2}},
        {"head": REPLICATED, "loss": GRADIENT},
        {"loss": {"centers": "mean"}},
        {"head": REPLICATED, "loss": {"centers": "mean"}},
        {"head": {"fused": True}, "clip_norm": 0},
    ],
    ids=["sgd", "adamw", "replicated", "means", "replicated means", "fused"],
)
def test_fine_tuning_on_several_processes_equals_that_on_one(
    pool: Pool, tmp_path: Path, faces: Path, changes: dict[str, Any]
) -> None:
    """Prototypes that stay and that are new, a frozen epoch, then rates by layer."""
    changes = {**CHANGES, **{name: _merged(name, value) for name, value in changes.items()}}
    people = sorted(folder.name for folder in faces.iterdir())
    (tmp_path / "some.txt").write_text("\n".join(people[1:]))
    some = {"data": {"identities": tmp_path / "some.txt"}, "validation": None}
    train(make_config(tmp_path / "before", faces, **{**changes, **some}))
    model = {**changes["model"], "weights": str(tmp_path / "before")}
    rates = {"backbone_lr_scale": 0.5, "layer_decay": 0.5}
    tuned = {
        **{**changes, "model": model, "validation": None},
        "optimizer": {**changes["optimizer"], **rates},
        "schedule": {"epochs": 2, "warmup_epochs": 0, "freeze_epochs": 1},
    }
    train(make_config(tmp_path / "one", faces, **tuned))
    for world in (2, 3):
        folder = tmp_path / str(world)
        answers = pool.run(_train_on_rank, world, folder, faces, tuned, world_size=world)
        assert answers == ["done"] * world
        _same_run(tmp_path / "one", folder)


def test_sampled_classes_resume_to_the_last_bit_and_need_shards(
    pool: Pool, tmp_path: Path, faces: Path
) -> None:
    changes = {
        **CHANGES,
        "loss": {"sample_rate": 0.5},
        "model": {"options": {"norm": True, "dropout": 0.2}},
        "schedule": STEADY,
    }
    assert pool.run(_train_on_rank, 2, tmp_path / "whole", faces, changes) == ["done"] * 2
    cut = {**changes, "schedule": {**STEADY, "max_steps": 3}}
    assert pool.run(_train_on_rank, 2, tmp_path / "cut", faces, cut) == ["done"] * 2
    assert len(_rows(tmp_path / "cut")) == 5  # of 3 steps, and validations after 2 and 3
    assert pool.run(_train_on_rank, 2, tmp_path / "cut", faces, changes, True) == ["done"] * 2
    assert same_bits(tmp_path / "whole/last.safetensors", tmp_path / "cut/last.safetensors")
    ends = whole_criterion(tmp_path / "whole")
    for name, tensor in whole_criterion(tmp_path / "cut").items():
        assert torch.equal(tensor, ends[name])
    replicated = {**changes, "head": REPLICATED}
    for answer in pool.run(_train_on_rank, 2, tmp_path / "c", faces, replicated):
        assert answer == (
            "loss.sample_rate is 0.5, which with 2 processes needs head.sharded: true; it is false"
        )
    fused = {**CHANGES, "clip_norm": 0, "head": {"sharded": False, "fused": True}}
    for answer in pool.run(_train_on_rank, 2, tmp_path / "c", faces, fused):
        assert answer.startswith("head.fused is true, which with 2 processes needs head.sharded")
    adaface = {**CHANGES, "loss": {"margin": "adaface"}, "head": REPLICATED}
    for answer in pool.run(_train_on_rank, 2, tmp_path / "c", faces, adaface):
        assert answer == (
            "loss.margin is adaface, which looks at the samples of all processes and with 2 "
            "processes needs head.sharded: true; it is false"
        )


def _train_apart(rank: int, folder: Path, faces: Path, changes: dict[str, Any]) -> str:
    return _train_on_rank(rank, 2, folder / str(rank), faces, changes)


def test_a_folder_that_is_not_shared_is_refused(pool: Pool, tmp_path: Path, faces: Path) -> None:
    answers = pool.run(_train_apart, tmp_path, faces, CHANGES)
    assert all("must be in storage that all processes share" in answer for answer in answers)
    assert "1'" in answers[0]  # that of the process which does not see it
    assert not list((tmp_path / "0").glob(".shared-*"))


def test_a_state_that_one_process_cannot_read_ends_all(
    pool: Pool, tmp_path: Path, faces: Path
) -> None:
    folder = tmp_path / "run"
    short = {**CHANGES, "schedule": {**STEADY, "epochs": 1}}
    assert pool.run(_train_on_rank, 2, folder, faces, short) == ["done"] * 2
    answers = pool.run(_resume_blind, folder, faces, {**CHANGES, "schedule": STEADY})
    assert "nothing to resume" in answers[1]
    assert answers[0] == f"rank 1: {answers[1]}"


@pytest.mark.parametrize("name", ["__1_0.distcp", "manifest"])
def test_a_damaged_file_of_one_process_leads_all_to_the_state_before(
    pool: Pool, tmp_path: Path, faces: Path, name: str
) -> None:
    """What rank 0 wrote and what rank 1 did, whichever of them compares it."""
    folder, whole = tmp_path / "run", tmp_path / "whole"
    for epochs, where in ((2, folder), (3, whole)):
        changes = {**CHANGES, "schedule": {**STEADY, "epochs": epochs}}
        assert pool.run(_train_on_rank, 2, where, faces, changes) == ["done"] * 2
    last, before = checkpoint.saved_states(folder)
    files = {path.name for path in last.iterdir()}
    assert files == {".metadata", "__0_0.distcp", "__1_0.distcp", "manifest", "state.pt"}
    shutil.rmtree(before)  # of the same step, before the validation
    assert checkpoint.load_state(folder).content["step"] == 4
    path = last / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    changes = {**CHANGES, "schedule": STEADY}
    answers = pool.run(_train_on_rank, 2, folder, faces, changes, True)
    said = (
        f"({name}: its content changed ({'SHA-256' if name == 'manifest' else 'CRC-32'})); restore"
    )
    assert all(said in answer for answer in answers)
    shutil.copytree(checkpoint.saved_states(whole)[1], before)
    assert pool.run(_train_on_rank, 2, folder, faces, changes, True) == ["done"] * 2
    assert same_bits(whole / "last.safetensors", folder / "last.safetensors")


def _resume_blind(rank: int, folder: Path, faces: Path, changes: dict[str, Any]) -> str:
    if rank == 0:
        return _train_on_rank(rank, 2, folder, faces, changes, resume=True)
    with pytest.MonkeyPatch.context() as patch:
        load_state = checkpoint.load_state
        patch.setattr(checkpoint, "load_state", lambda run, all: load_state(run / "none", all))
        return _train_on_rank(rank, 2, folder, faces, changes, resume=True)


class Idle(Tiny):
    """Has a parameter that its forward pass does not use."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.unused = torch.nn.Parameter(torch.zeros(3))


def _train_idle(rank: int, folder: Path, faces: Path) -> str:
    register_tiny()
    backbone._BUILDERS["idle"] = Idle
    changes = {**CHANGES, "model": {"name": "idle", "options": {"norm": True}}}
    return _train_on_rank(rank, 2, folder, faces, changes)


def test_a_backbone_with_an_unused_parameter_is_refused_by_name(
    pool: Pool, tmp_path: Path, faces: Path
) -> None:
    for answer in pool.run(_train_idle, tmp_path / "run", faces):
        assert answer.startswith("step 1: the backbone does not use its parameter 'unused'")


def test_a_full_folder_is_refused_by_every_rank(pool: Pool, tmp_path: Path, faces: Path) -> None:
    (tmp_path / "config.yaml").write_text("old")
    answers = pool.run(_train_on_rank, 2, tmp_path, faces, CHANGES)
    assert all("already holds a run" in answer for answer in answers)


def test_a_batch_that_does_not_divide_is_refused(pool: Pool, tmp_path: Path, faces: Path) -> None:
    answers = pool.run(_train_on_rank, 2, tmp_path / "run", faces, {**CHANGES, "batch_size": 7})
    said = "batch_size is 7; it must be a multiple of the 2 processes, with at least 1 image each, "
    assert all(f"{said}such as 6" in answer for answer in answers)


def test_a_full_disk_ends_every_rank_with_the_path(pool: Pool, tmp_path: Path, faces: Path) -> None:
    # Enough for the rows of metrics, too little for weights.
    answers = pool.run(_train_on_rank, 2, tmp_path / "run", faces, CHANGES, False, 6000)
    assert all(re.search(r"cannot write .*run/(state/|best)", answer) for answer in answers), (
        answers
    )
