"""Every setting on resume: it acts, or is refused; the record says what trained the weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from centerarc.data import read_identities
from centerarc.training import TrainConfig, Trainer, load_config, rundir, train
from centerarc.training.checkpoint import load_state
from centerarc.training.config import TrainConfig as Config
from centerarc.training.settings import field_names
from tests.training.helpers import edit_state, make_config, same_bits, whole_criterion

BASE: dict[str, Any] = {
    "validation": {"identities": 2, "num_pairs": 20},
    "optimizer": {"lr": 0.1},
    "schedule": {"epochs": 2, "warmup_epochs": 0},
}
# What acts on the weights of the epochs to come, with another value.
WEIGHTS: dict[str, Any] = {
    "optimizer.lr": 0.2,
    "optimizer.weight_decay": 0.05,
    "optimizer.head_decay": 50.0,
    "optimizer.momentum": 0.5,
    "optimizer.nesterov": True,
    "optimizer.backbone_lr_scale": 0.1,
    "optimizer.layer_decay": 0.5,
    "schedule.epochs": 3,
    "schedule.warmup_epochs": 1.5,
    "schedule.shape": "cosine",
    "schedule.power": 3.0,
    "schedule.freeze_epochs": 1,
    "schedule.max_steps": 5,
    "accumulate": 2,
    "precision": "bf16",
    "clip_norm": 0.1,
}
# What acts on something else: where the memory goes, what is written, what is judged.
ELSEWHERE: dict[str, Any] = {
    "head.sharded": False,
    "head.fused": True,
    "head.workspace_mb": 1.0,
    "compile": True,
    "workers": 1,
    "read_timeout": 9.0,
    "device": "auto",
    "timeout_minutes": 5.0,
    "save_every": 1,
    "save_in_background": False,
    "log.every": 2,
    "log.tensorboard": True,
    "callbacks": [{"name": "none", "options": {}}],
    "on_nonfinite": "skip",
    "nonfinite_budget": 5,
    "rewind_factor": 0.25,
    "data.cache_gb": 1.0,
    "data.on_change": "continue",
    "validation.pairs": None,
    "validation.images": None,
    "validation.missing": None,
    "validation.folds": None,
    "validation.name": "mine",
    "validation.num_pairs": 12,
    "validation.sets": [],
    "validation.best_set": "mean",
    "validation.measure": "accuracy",
    "validation.far": 0.2,
    "validation.every_epochs": 2,
}
# Where a run is, and where its plugins are, is no setting of what it trains.
PLACES = {"run_dir", "plugins", "data.root"}
REFUSED = {"seed", "batch_size", "ema_decay", "optimizer.name", "validation.identities"}
REFUSED_SECTIONS = ("model.", "data.", "loss.")


def with_setting(config: TrainConfig, name: str, value: Any) -> TrainConfig:
    content = config.model_dump(mode="json")
    *sections, leaf = name.split(".")
    inner = content
    for section in sections:
        inner = inner[section]
    inner[leaf] = value
    return Config.model_validate(content)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, faces: Path) -> Path:
    """A run of one epoch of two, and its state."""
    from centerarc.models import backbone as registry
    from tests.training.helpers import register_tiny

    register_tiny()
    folder = tmp_path_factory.mktemp("stopped") / "run"
    train(with_setting(make_config(folder, faces, **BASE), "schedule.max_steps", 2))
    del registry._BUILDERS["tiny"]
    return folder


def resumed(stopped: Path, folder: Path, config: TrainConfig) -> Path:
    shutil.copytree(stopped, folder)
    train(config, resume=True)
    return folder


def test_every_setting_is_known_here() -> None:
    """A new setting has to be put into one of these lists, and is then tried below."""
    kinds = ("folder", "list", "recordio", "shards", "mixed", "synthetic")
    names = {name for kind in kinds for name in field_names({"data": {"source": kind}})}
    refused = REFUSED | {name for name in names if name.startswith(REFUSED_SECTIONS)}
    for one, other in (
        (WEIGHTS, ELSEWHERE),
        (WEIGHTS, refused - {"data.cache_gb", "data.on_change"}),
    ):
        assert not set(one) & set(other)
    assert names == {*WEIGHTS, *ELSEWHERE, *PLACES, *refused}


def test_what_the_state_depends_on_is_refused(tmp_path: Path, faces: Path) -> None:
    config = make_config(tmp_path, faces, **BASE)
    saved = config.model_dump(mode="json")
    for name in field_names({"data": {"source": "folder"}}):
        if name in {*ELSEWHERE, *PLACES} or not (
            name in REFUSED or name.startswith(REFUSED_SECTIONS)
        ):
            continue
        *sections, leaf = name.split(".")
        before: dict[str, Any] = json.loads(json.dumps(saved))
        inner = before
        for section in sections:
            inner = inner[section]
        # The saved one is changed, to what a check of single fields lets through.
        value = inner[leaf]
        now = {
            **{"model.name": "other", "data.source": "list", "optimizer.name": "adamw"},
            **{"data.root": "elsewhere", "data.exclude_folds": [1], "data.identities": "a.txt"},
            **{"data.exclude_pairs": "a.txt", "data.leave_out": "a.csv", "loss.margin": "cosface"},
            **{"data.sampler.kind": "balanced", "loss.centers": "separate"},
            **{"loss.center_space": "raw", "loss.center_update": "gradient"},
            **{"loss.class_weights": "balanced", "loss.conflict_threshold": 0.5},
            **{"loss.margin_options": {"m": 0.2}, "model.options": {}, "validation.identities": 3},
            **{
                "model.weights": "a",
                "loss.sample_rate": 0.5,
                "model.image_size": 32,
                "ema_decay": 0.5,
            },
            **{"data.sampler.block": 10, "data.sampler.images_per_identity": 2},
            **{"loss.label_smoothing": 0.1, "data.sampler.distinct": True},
            **{"loss.start_cosine": 0.3, "loss.threshold_over": "centers"},
        }
        if name in now:
            inner[leaf] = now[name]
        elif isinstance(value, bool):
            inner[leaf] = not value
        elif isinstance(value, float):
            inner[leaf] = value / 2 or 0.25
        elif isinstance(value, int):
            inner[leaf] = value + 1
        else:
            raise AssertionError(f"give a value of {name} to try")
        if name == "data.source":
            before["data"] = {"source": "list", "path": "a.csv"}
        if name == "data.exclude_folds":
            before["data"]["exclude_pairs"] = "a.txt"
        if name in ("loss.center_update", "loss.alpha"):
            before["loss"]["centers"] = "separate"
        if name == "loss.auto_ratio":
            before["loss"]["center_weight"] = "auto"
        if name in ("loss.center_negatives", "loss.center_temperature", "loss.center_momentum"):
            before["loss"]["centers"] = "mean"
        if name in ("loss.threshold_over", "loss.threshold_scale", "loss.threshold_memory"):
            before["loss"]["threshold_weight"] = 1.0
        if name == "data.sampler.block":
            before["data"]["sampler"]["kind"] = "blocks"
        if name == "data.sampler.images_per_identity":
            before["data"]["sampler"]["kind"] = "identities"
        with pytest.raises(ValueError, match=r"cannot resume with another [\w.]+: it was"):
            rundir.changed_settings(config, before)


def test_what_acts_elsewhere_is_taken_and_recorded(tmp_path: Path, faces: Path) -> None:
    config = make_config(tmp_path, faces, **BASE, on_nonfinite="rewind")
    for name, value in ELSEWHERE.items():
        if value != []:
            before = with_setting(config, name, value).model_dump(mode="json")
            old = before
            for part in name.split("."):
                old = old[part]
            recorded = rundir.changed_settings(config, before)
            assert {key: was for key, (was, _) in recorded.items()} == (
                {} if value is None else {name: old}
            )


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_a_setting_acts_on_the_weights(
    tmp_path: Path, faces: Path, stopped: Path, name: str
) -> None:
    kind = {"schedule.max_steps": {"epochs": 2}}.get(name, {})
    base = make_config(tmp_path / "same", faces, **{**BASE, "schedule": BASE["schedule"] | kind})
    same = resumed(stopped, tmp_path / "same", base)
    other = with_setting(
        base.model_copy(update={"run_dir": tmp_path / "other"}), name, WEIGHTS[name]
    )
    changed = resumed(stopped, tmp_path / "other", other)
    assert not same_bits(same / "last.safetensors", changed / "last.safetensors")
    assert load_config(changed / "config.yaml") == other
    (entry,) = json.loads((changed / "results.json").read_text())["resumed_with_changes"]
    assert name in entry["changes"]


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_other_settings_of_the_optimizer_are_those_of_every_group(
    tmp_path: Path, faces: Path, kind: str
) -> None:
    """The rule with the new settings, the buffers kept; compared with optimizers built by hand."""
    old: dict[str, Any] = {"name": kind, "lr": 0.01, "weight_decay": 0.1, "momentum": 0.9}
    new = {**old, "weight_decay": 0.2, "momentum": 0.5, "head_decay": 3.0}
    schedule = {"epochs": 1, "warmup_epochs": 0}
    train(make_config(tmp_path / "run", faces, optimizer=old, schedule=schedule))
    before = whole_criterion(tmp_path / "run")
    from centerarc.distributed import Processes

    longer = make_config(tmp_path / "run", faces, optimizer=new, schedule={**schedule, "epochs": 2})
    alone = Processes(0, 1, torch.device("cpu"))
    trainer = Trainer(longer, alone, resume=True, overwrite=False)
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            decay = {"backbone": 0.2, "no_decay": 0.0, "head": 0.2 * 3.0}[group["name"]]
            assert group["weight_decay"] == pytest.approx(decay)
            assert group.get("momentum", group.get("betas", (0,))[0]) == 0.5
    buffer = {"sgd": "momentum_buffer", "adamw": "exp_avg"}[kind]
    kept = trainer.optimizers[-1].state[trainer.criterion.arcface.prototypes][buffer]
    assert torch.equal(kept, before[f"arcface.prototypes.{buffer}"])


def test_a_momentum_that_was_off_does_not_come_back(tmp_path: Path, faces: Path) -> None:
    for epochs, momentum in ((1, 0.9), (2, 0.0)):
        schedule = {"epochs": epochs, "warmup_epochs": 0}
        config = make_config(
            tmp_path / "run", faces, optimizer={"momentum": momentum}, schedule=schedule
        )
        train(config, resume=epochs > 1)
    kept = load_state(tmp_path / "run").content["optimizer"]
    assert not [name for name, state in kept.items() if "momentum_buffer" in state]


def test_other_pairs_choose_the_best_weights_again(
    tmp_path: Path, faces: Path, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = make_config(tmp_path / "other", faces, **BASE)
    shutil.copytree(stopped, tmp_path / "other")
    # The best so far could not be beaten.
    edit_state(tmp_path / "other", lambda state: state["best"]["sets"]["held_out"].update(auc=2.0))
    shutil.copytree(tmp_path / "other", tmp_path / "same")
    same = train(base.model_copy(update={"run_dir": tmp_path / "same"}), resume=True)
    assert same.best is not None
    assert same.best["step"] == 2
    found = train(with_setting(base, "validation.num_pairs", 12), resume=True)
    assert found.best is not None
    assert found.best["step"] > 2
    assert "the best so far is forgotten" in " ".join(capsys.readouterr().err.split())


def test_a_run_that_ends_before_the_saved_step_is_refused_with_what_to_do(
    tmp_path: Path, faces: Path, stopped: Path
) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    config = make_config(tmp_path / "run", faces, **BASE)
    with pytest.raises(ValueError, match=r"ends after 1; raise schedule\.epochs or .* start a new"):
        train(with_setting(config, "schedule.max_steps", 1), resume=True)
    done = with_setting(config, "schedule.max_steps", 2)
    with pytest.raises(ValueError, match=r"nothing would be trained with optimizer\.momentum"):
        train(with_setting(done, "optimizer.momentum", 0.5), resume=True)
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before
    train(done, resume=True)  # the same again is what it was


def test_moved_images_are_the_same_and_others_are_refused(
    tmp_path: Path, faces: Path, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(faces, moved)
    same = resumed(stopped, tmp_path / "same", make_config(tmp_path / "same", faces, **BASE))
    config = make_config(tmp_path / "run", moved, **BASE)
    run = resumed(stopped, tmp_path / "run", config)
    assert same_bits(same / "last.safetensors", run / "last.safetensors")
    assert load_config(run / "config.yaml") == config
    said = " ".join(capsys.readouterr().err.split())
    assert f"data.root is {str(moved)!r}, and was {str(faces)!r}: the same images" in said
    train(make_config(tmp_path / "run", faces, **BASE), resume=True)  # a finished one may move too
    trained = read_identities(run / "people.txt")[0]
    picture = next((moved / trained).iterdir())
    picture.rename(picture.with_name("0.png"))
    shutil.copytree(stopped, tmp_path / "other")
    with pytest.raises(ValueError, match=r"cannot resume: .*gone: 1 image .* new: 1 image"):
        train(make_config(tmp_path / "other", moved, **BASE), resume=True)


def test_parts_and_lists_may_move_and_their_other_settings_may_not(tmp_path: Path) -> None:
    part = {"source": "folder", "root": "a", "leave_out": "x.csv"}
    data = {"source": "mixed", "parts": [part, {"source": "recordio", "path": "b.rec"}]}
    now = Config.model_validate({"run_dir": str(tmp_path), "data": data})
    content = now.model_dump(mode="json")
    content["data"]["parts"][0] |= {"root": "c", "leave_out": "y.csv"}
    content["data"]["parts"][1]["path"] = "d.rec"
    assert rundir.changed_settings(now, content) == {}
    assert len(rundir.moved(now, content)) == 3
    content["data"]["parts"][1]["weight"] = 2.0
    with pytest.raises(ValueError, match=r"with another data\.parts\.1\.weight: it was 2\.0"):
        rundir.changed_settings(now, content)
    content["data"]["parts"][1]["weight"] = 1.0
    content["data"]["parts"][0]["leave_out"] = None
    with pytest.raises(ValueError, match=r"with another data\.parts\.0\.leave_out: it was None"):
        rundir.changed_settings(now, content)


def _cut_middle(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:100] + bytes(range(128, 228)) + content[200:])


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (Path.unlink, 0),
        (lambda path: path.write_bytes(b""), 0),
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), 0),
        (_cut_middle, 2),
        (lambda path: None, None),
    ],
)
def test_rows_of_the_log_that_are_gone_are_said(
    stopped: Path,
    tmp_path: Path,
    faces: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], object],
    kept: int | None,
) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    rows = path.read_bytes().splitlines(keepends=True)
    assert len(rows) == 3
    damage(path)
    train(make_config(tmp_path / "run", faces, **BASE), resume=True)
    lost = 0 if kept is None else sum(map(len, rows[: 3 - kept]))
    said = f"metrics.jsonl: {lost} bytes of earlier rows are missing\n"
    assert (said in capsys.readouterr().err) is (lost > 0)
