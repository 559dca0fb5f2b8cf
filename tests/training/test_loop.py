"""A whole run: what it leaves, how it goes on, when it refuses."""

import functools
import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from centerarc.data import read_identities
from centerarc.distributed import Processes
from centerarc.models import backbone as registry
from centerarc.models import load_weights, read_metadata
from centerarc.training import (
    TrainConfig,
    Trainer,
    TrainingInterrupted,
    dump_config,
    load_config,
    rundir,
    train,
    validation,
)
from centerarc.training.checkpoint import load_state
from centerarc.training.sources import make_sources
from centerarc.training.step import StepReport, TrainStep
from tests.training.helpers import Tiny, full_disk, make_config, same_bits

VALIDATION = {"identities": 2, "num_pairs": 20}
SHORT = {"epochs": 1, "warmup_epochs": 0}
TIMES = ("images_per_second", "seconds")


def _rows(run_dir: Path) -> list[dict[str, Any]]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def _stop_after(monkeypatch: pytest.MonkeyPatch, steps: int, error: type[Exception]) -> None:
    """Lets a run end after some steps: asked to (StepReport.stop), or by a crash."""
    original = TrainStep.__call__
    seen = 0

    def call(self: TrainStep, *arguments: Any, stop: bool = False) -> StepReport:
        nonlocal seen
        seen += 1
        if seen > steps:
            raise error
        asked = error is TrainingInterrupted and seen == steps
        return original(self, *arguments, stop=stop or asked)

    monkeypatch.setattr(TrainStep, "__call__", call)


def test_a_run_leaves_weights_metrics_and_a_summary(tmp_path: Path, faces: Path) -> None:
    config = make_config(tmp_path / "run", faces, validation=VALIDATION, clip_norm=5.0)
    result = train(config)
    rows = _rows(config.run_dir)
    trained = [row for row in rows if row["kind"] == "train"]
    judged = [row for row in rows if row["kind"] == "validation"]
    assert [row["step"] for row in trained] == list(range(1, 10))  # 24 images, 8 a step
    assert [row["epoch"] for row in judged] == [1, 2, 3]
    for row in trained:
        assert row["loss"] == pytest.approx(row["arcface_loss"] + row["center_loss"], rel=1e-6)
        assert 0 <= row["accuracy"] <= 1
        assert row["grad_norm"] > 0
    assert trained[0]["lr"] == pytest.approx(0.1 / 3)
    best = max(judged, key=lambda row: row["auc"])
    summary = json.loads((config.run_dir / "results.json").read_text())
    assert result.best is not None
    assert summary["best"]["auc"] == result.best["auc"] == best["auc"]
    assert summary["steps"] == 9
    assert summary["train_identities"] == 4
    if Path("/proc/self/status").exists():
        (peak,) = summary["peak_memory_mb"]
        assert 50 < peak < 10_000
    held_out = {f"P{number:02d}" for number in range(6)} - set(
        read_identities(config.run_dir / "people.txt")
    )
    assert len(held_out) == 2  # those of the validation
    for name in ("best", "last"):
        model = load_weights(config.run_dir / f"{name}.safetensors")
        assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 8)
    assert load_config(config.run_dir / "config.yaml") == config


def test_best_weights_are_those_of_the_best_validation(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.6, 0.9, 0.7])
    weights: list[dict[str, torch.Tensor]] = []

    def score(model: torch.nn.Module, *_: Any) -> Any:
        weights.append({k: v.clone() for k, v in model.state_dict().items()})
        return np.zeros(20)

    monkeypatch.setattr(validation, "score_images", score)
    monkeypatch.setattr(validation, "measured", lambda *_: {"auc": next(scores)})
    config = make_config(tmp_path / "run", faces, validation=VALIDATION)
    sets = {"held_out": {"auc": 0.9}}
    assert train(config).best == {
        **{"step": 6, "epoch": 2, "set": "held_out", "auc": 0.9},
        "sets": sets,
    }
    best = load_weights(config.run_dir).state_dict()
    assert all(torch.equal(best[name], weights[1][name]) for name in best)


def test_without_validation_the_last_weights_count(tmp_path: Path, faces: Path) -> None:
    config = make_config(tmp_path / "run", faces, schedule=SHORT)
    assert train(config).best is None
    assert not (config.run_dir / "best.safetensors").exists()
    assert load_weights(config.run_dir).embedding_size == 8


@pytest.mark.parametrize("steps", [1, 3, 5, 8], ids=lambda n: f"after step {n}")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": {"centers": "separate"}},
        {"loss": {"center_weight": "auto", "ramp_steps": 7, "start_cosine": -0.9}},
        {
            "loss": {
                **{"centers": "mean", "threshold_weight": "auto", "threshold_over": "both"},
                **{"threshold_memory": 11, "ramp_steps": 7},
            },
        },
        {"ema_decay": 0.9},
    ],
    ids=["shared", "separate", "in a ramp", "means and threshold", "averaged"],
)
def test_interrupted_and_resumed_equals_uninterrupted_to_the_last_bit(
    tmp_path: Path,
    faces: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
    changes: dict[str, Any],
) -> None:
    def config(name: str) -> TrainConfig:
        return make_config(
            tmp_path / name, faces, validation=VALIDATION, log={"every": 2}, **changes
        )

    train(config("whole"))
    with monkeypatch.context() as patch:
        _stop_after(patch, steps, TrainingInterrupted)
        with pytest.raises(TrainingInterrupted, match=f"after step {steps} of 9.*--resume"):
            train(config("cut"))
    assert not (tmp_path / "cut" / "last.safetensors").exists()
    train(config("cut"), resume=True)
    for name in ("best.safetensors", "last.safetensors"):
        assert same_bits(tmp_path / "whole" / name, tmp_path / "cut" / name)
    assert _rows(tmp_path / "whole") == _rows(tmp_path / "cut")


def test_what_a_resumed_run_changes_is_said_and_kept(
    tmp_path: Path, faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tmp_path / "run", faces, schedule=SHORT)
    train(config)
    faster: dict[str, Any] = {"optimizer": {"lr": 0.5}, "schedule": {**SHORT, "epochs": 2}}
    longer = make_config(tmp_path / "run", faces, **faster)
    capsys.readouterr()
    train(longer, resume=True)
    summary = json.loads((tmp_path / "run/results.json").read_text())
    changes = {"optimizer.lr": [0.1, 0.5], "schedule.epochs": [1, 2]}
    first = summary["steps"] // 2
    assert summary["resumed_with_changes"] == [{"step": first, "changes": changes}]
    said = " ".join(capsys.readouterr().err.split())
    changed = "optimizer.lr 0.1 -> 0.5, schedule.epochs 1 -> 2"
    assert f"changed from now on: {changed}" in said
    header = (tmp_path / "run/config.yaml").read_text().splitlines()[0]
    assert header == f"# from step {first + 1}: {changed}"
    assert load_config(tmp_path / "run/config.yaml") == longer


@pytest.mark.parametrize("max_steps", [None, 6], ids=["whole", "cut"])
def test_a_finished_run_that_is_resumed_stays_as_it_is(
    tmp_path: Path, faces: Path, capsys: pytest.CaptureFixture[str], max_steps: int | None
) -> None:
    schedule = {"epochs": 2, "max_steps": max_steps}
    changes: dict[str, Any] = {"schedule": schedule, "validation": VALIDATION}
    first = train(make_config(tmp_path / "run", faces, **changes))
    before = _content(tmp_path / "run")
    other = make_config(tmp_path / "run", faces, **changes, optimizer={"lr": 0.5})
    with pytest.raises(ValueError, match=r"done, and nothing .* optimizer\.lr 0\.1 -> 0\.5; raise"):
        train(other, resume=True)
    assert _content(tmp_path / "run") == before
    # What was edited, or is gone, is as it was again.
    (tmp_path / "run/config.yaml").write_text(dump_config(other))
    (tmp_path / "run/last.safetensors").unlink()
    train(make_config(tmp_path / "run", faces, **changes), resume=True)
    assert load_config(tmp_path / "run/config.yaml").optimizer.lr == 0.1
    assert _content(tmp_path / "run").keys() == before.keys()
    before = _content(tmp_path / "run")
    again = train(make_config(tmp_path / "run", faces, **changes), resume=True)
    assert "steps are done; raise schedule." in capsys.readouterr().err
    assert _content(tmp_path / "run") == before
    assert (again.best, again.summary) == (first.best, json.loads(json.dumps(first.summary)))


def test_a_run_that_was_cut_short_keeps_its_validations_when_it_is_extended(
    tmp_path: Path, faces: Path
) -> None:
    def config(max_steps: int | None) -> TrainConfig:
        schedule = {"epochs": 3, "max_steps": max_steps}
        return make_config(tmp_path / "run", faces, schedule=schedule, validation=VALIDATION)

    train(config(4))  # of 3 steps an epoch
    train(config(None), resume=True)
    rows = [(row["kind"], row["step"]) for row in _rows(tmp_path / "run")]
    assert [step for kind, step in rows if kind == "validation"] == [3, 4, 6, 9]
    assert [step for kind, step in rows if kind == "train"] == list(range(1, 10))


def test_a_schedule_that_ends_before_the_saved_step_is_refused(tmp_path: Path, faces: Path) -> None:
    train(make_config(tmp_path / "run", faces, schedule={"epochs": 2}))
    before = _content(tmp_path / "run")
    shorter = make_config(tmp_path / "run", faces, schedule={"epochs": 2, "max_steps": 3})
    with pytest.raises(ValueError, match=r"8 steps are done, and the schedule ends after 3; raise"):
        train(shorter, resume=True)
    assert _content(tmp_path / "run") == before


def test_two_runs_cannot_train_in_one_folder(tmp_path: Path, faces: Path) -> None:
    config = make_config(tmp_path / "run", faces, schedule=SHORT)
    train(config)
    said = r"run' is in use: another process trains there \(.*\); end it first, or"
    with rundir.locked(config.run_dir), pytest.raises(ValueError, match=said):
        train(config, resume=True)
    train(config, resume=True)


def test_other_class_weights_are_refused_on_resume(tmp_path: Path, faces: Path) -> None:
    path = tmp_path / "weights.csv"

    def config(epochs: int) -> TrainConfig:
        loss = {"class_weights": path}
        return make_config(tmp_path / "run", faces, loss=loss, schedule={"epochs": epochs})

    rows = [f"{folder.name},1.5" for folder in faces.iterdir()]
    path.write_text("\n".join(["identity,weight", *rows]))
    train(config(1))
    path.write_text(path.read_text().replace("1.5", "2.5", 1))
    with pytest.raises(ValueError, match=r"loss\.class_weights, '.*weights.csv', are others"):
        train(config(2), resume=True)
    path.write_text(path.read_text().replace("2.5", "1.5"))
    train(config(2), resume=True)


def test_a_crash_costs_the_steps_since_the_last_save_and_nothing_else(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(name: str) -> TrainConfig:
        return make_config(tmp_path / name, faces, validation=VALIDATION, save_every=3)

    train(config("whole"))
    with monkeypatch.context() as patch:
        _stop_after(patch, 5, MemoryError)
        with pytest.raises(MemoryError):
            train(config("cut"))
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # killed while writing
    train(config("cut"), resume=True)
    assert same_bits(tmp_path / "whole/last.safetensors", tmp_path / "cut/last.safetensors")
    assert _rows(tmp_path / "whole") == _rows(tmp_path / "cut")


def test_a_save_that_fails_leaves_the_old_state(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save
    saves = 0

    def broken_save(content: Any, file: Any) -> None:
        nonlocal saves
        saves += isinstance(content, dict)  # the criterion's tensors come one by one
        save(content, file)
        if saves == 2:
            file.write_bytes(file.read_bytes()[:100])
            raise OSError("no space left on device")

    config = make_config(tmp_path / "run", faces)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", broken_save)
        with pytest.raises(OSError, match="no space"):
            train(config)
    assert load_state(config.run_dir).content["epochs_done"] == 1
    assert {path.name for path in (config.run_dir / "state").iterdir()} == {"1-step-4"}
    train(config, resume=True)


def test_a_run_is_not_overwritten_unasked(tmp_path: Path, faces: Path) -> None:
    config = make_config(tmp_path / "run", faces, schedule=SHORT)
    train(config)
    (config.run_dir / "notes.txt").write_text("mine")
    before = (config.run_dir / "last.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"already holds a run.*--resume.*--overwrite"):
        train(config)
    assert (config.run_dir / "last.safetensors").read_bytes() == before
    train(config, overwrite=True)
    assert len(_rows(config.run_dir)) == 4
    assert (config.run_dir / "notes.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="exclude each other"):
        train(config, overwrite=True, resume=True)


def test_resuming_needs_a_state_and_the_same_run(tmp_path: Path, faces: Path) -> None:
    config = make_config(tmp_path / "run", faces, schedule=SHORT)
    with pytest.raises(ValueError, match="nothing to resume"):
        train(config, resume=True)
    train(config)
    other = make_config(tmp_path / "run", faces, schedule=SHORT, loss={"m": 0.3})
    with pytest.raises(ValueError, match=r"another loss\.m: it was 0\.5, now it is 0\.3"):
        train(other, resume=True)
    longer = make_config(tmp_path / "run", faces, schedule={"epochs": 2, "warmup_epochs": 0})
    assert train(longer, resume=True).summary["steps"] == 8


def test_a_loss_that_is_not_finite_stops_and_names_the_step(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = StepReport.read
    count = 0

    def read(self: StepReport) -> dict[str, float]:
        nonlocal count
        count += 1
        values = original(self)
        return {**values, "arcface_loss": float("nan")} if count == 6 else values

    monkeypatch.setattr(StepReport, "read", read)
    config = make_config(tmp_path / "run", faces, log={"every": 5})
    with pytest.raises(ValueError, match=rf"^step 6: the loss is not .*arcface nan.*{ADVICE}"):
        train(config)
    assert load_state(config.run_dir).content["step"] == 4  # the end of the epoch before


@pytest.mark.parametrize(("weight", "idle"), [(0.01, True), (1.0, False), (0.0, False)])
def test_the_log_tells_the_share_of_each_loss_and_that_one_does_nothing(
    tmp_path: Path, faces: Path, capsys: pytest.CaptureFixture[str], weight: float, idle: bool
) -> None:
    config = make_config(tmp_path / "run", faces, loss={"center_weight": weight}, log={"every": 4})
    train(config)
    rows = _rows(config.run_dir)
    assert [row["step"] for row in rows] == [4, 8, 12]
    for row in rows:
        if weight:
            assert 0 < row["center_share"] < (0.001 if idle else 0.2)
            assert row["center_share"] + row["arcface_share"] == pytest.approx(1)
        else:
            assert "center_share" not in row
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("% of the gradient)") == (3 if weight else 0)
    assert said.count("does nothing visible: raise loss.center_weight") == idle


def test_the_log_has_the_weight_in_force_and_the_loss_with_it(tmp_path: Path, faces: Path) -> None:
    loss = {"center_weight": 2.0, "ramp_steps": 8}
    for every in (1, 4):
        config = make_config(tmp_path / str(every), faces, loss=loss, log={"every": every})
        train(config)
    rows = _rows(tmp_path / "1")
    assert [row["center_weight"] for row in rows] == [min(step / 4, 2.0) for step in range(12)]
    for row in rows:
        total = row["arcface_loss"] + row["center_weight"] * row["center_loss"]
        assert row["loss"] == pytest.approx(total, rel=1e-9)
        assert "added" not in row
    for number, row in enumerate(_rows(tmp_path / "4")):
        window = rows[4 * number : 4 * number + 4]
        assert row["loss"] == pytest.approx(sum(one["loss"] for one in window) / 4, rel=1e-6)
        assert row["center_weight"] == window[-1]["center_weight"]


def test_the_threshold_is_logged_shown_and_saved_with_the_weights(
    tmp_path: Path, faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loss = {"center_weight": 0.5, "centers": "mean", "threshold_weight": 0.3}
    train(make_config(tmp_path / "run", faces, loss=loss, validation=VALIDATION))
    rows = [row for row in _rows(tmp_path / "run") if row["kind"] == "train"]
    assert rows[0]["threshold"] == 0.5
    assert rows[-1]["threshold"] != 0.5
    for row in rows:
        total = row["arcface_loss"] + 0.5 * row["center_loss"] + 0.3 * row["threshold_loss"]
        assert row["loss"] == pytest.approx(total, rel=1e-9)
        assert row["threshold_weight"] == 0.3
        shares = [row[f"{name}_share"] for name in ("arcface", "center", "threshold")]
        assert sum(shares) == pytest.approx(1)
    said = " ".join(capsys.readouterr().err.split())
    assert f"threshold {rows[-1]['threshold_loss']:.3f} (" in said
    assert f"of the gradient) at {rows[-1]['threshold']:.3f} cosine" in said
    assert "does nothing visible" not in said  # the first step knows no means
    state = load_state(tmp_path / "run").content
    last = read_metadata(tmp_path / "run/last.safetensors")["metadata"]["threshold"]
    assert last == pytest.approx(float(state["terms"]["threshold.bias"]) / 16, rel=1e-6)
    best = read_metadata(tmp_path / "run/best.safetensors")["metadata"]
    after = {row["step"]: row["threshold"] for row in rows}  # before the step of that number
    assert best["threshold"] == pytest.approx(after.get(best["step"] + 1, last), rel=1e-6)


def test_a_batch_with_few_pairs_is_pointed_out(tmp_path: Path, faces: Path) -> None:
    """Of 36 images 6 of each person: in a batch of 8, 1 - (28/36)^5 = 72% have a partner."""
    from centerarc.training.terms import pairs_note

    def note(loss: dict[str, Any], **changes: Any) -> str:
        config = make_config(tmp_path / "run", faces, loss=loss, **changes)
        return pairs_note(config, make_sources(config, quiet=True).train)

    pairs = {"threshold_weight": 1.0}
    assert note({}) == note(pairs) == ""
    said = note(pairs, batch_size=2)  # 1 - (34/36)^5
    assert (
        "loss.threshold_over is pairs, but only 25% of the images of a batch have another" in said
    )
    assert "data.sampler.kind: identities" in said
    sampler = {"kind": "identities", "images_per_identity": 2}
    data = {"source": "folder", "root": faces, "sampler": sampler}
    assert note(pairs, batch_size=2, data=data) == ""
    assert note({**pairs, "threshold_memory": 8}, batch_size=2) == ""
    assert note({**pairs, "threshold_over": "centers"}, batch_size=2) == ""


def test_auto_does_not_depend_on_what_is_logged(tmp_path: Path, faces: Path) -> None:
    for every in (1, 3, 12):
        loss = {"center_weight": "auto", "auto_ratio": 2.0}
        train(make_config(tmp_path / str(every), faces, loss=loss, log={"every": every}))
    for every in (3, 12):
        assert same_bits(tmp_path / "1/last.safetensors", tmp_path / f"{every}/last.safetensors")
    shares = [row["center_share"] for row in _rows(tmp_path / "1")]
    assert shares[0] == 0  # nothing is known before the first step
    assert sum(shares[6:]) / 6 == pytest.approx(2 / 3, abs=0.1)


ADVICE = (
    r" at a learning rate of 0\.\d+, with '[^']+', '[^']+', '[^']+' and 5 more "
    r"\(all are in '[^']+run/nonfinite/step-(\d+)\.txt'\); "
    r"the training diverges: try a lower optimizer\.lr, a longer"
)


def test_every_way_to_diverge_names_step_rate_and_what_to_do(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(**changes: Any) -> str:
        with pytest.raises(ValueError, match="the training diverges: try a lower optim") as error:
            train(make_config(tmp_path / "run", faces, **changes), overwrite=True)
        (listed,) = (tmp_path / "run" / "nonfinite").iterdir()
        assert len(listed.read_text().splitlines()) == 8
        assert not (tmp_path / "run" / "last.safetensors").exists()
        return str(error.value)

    options = {"options": {"norm": False}}
    wild: dict[str, Any] = {"optimizer": {"lr": 1e6}, "model": options}
    assert re.match(r"step [2-9]: the (embeddings|weights|loss)", said(**wild))
    assert "a clip_norm such as 5, precision: fp32" in said(**wild, precision="bf16")

    original = StepReport.read
    with monkeypatch.context() as patch:
        patch.setattr(StepReport, "read", lambda self: {**original(self), "grad_norm": math.inf})
        told = said(clip_norm=5.0)
    assert re.match(rf"step 1: the norm of the gradients is not finite{ADVICE}", told)

    call = TrainStep.__call__

    def poison(self: TrainStep, *arguments: Any, **more: Any) -> StepReport:
        report = call(self, *arguments, **more)
        if self.model.steps == 8:  # type: ignore[attr-defined]
            next(self.model.parameters()).data[0] = math.nan
        return report

    class Counting(Tiny):
        steps = 0

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.steps += self.training
            return super().forward(images)

    monkeypatch.setitem(registry._BUILDERS, "tiny", Counting)
    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "__call__", poison)
        told = said(schedule={"epochs": 2})
    assert re.match(rf"step 8: the weights are not finite \(layers\.0\.weight\){ADVICE}", told)
    assert load_state(tmp_path / "run").content["step"] == 4  # the last that is of use

    class Overflowing(Tiny):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) * (1 if self.training else math.inf)

    monkeypatch.setitem(registry._BUILDERS, "tiny", Overflowing)
    told = said(validation=VALIDATION)
    place = "step 3: validation after epoch 1: held_out: the embedding of '[^']+' is not finite"
    assert re.match(rf"{place}{ADVICE}", told)


def test_people_of_excluded_folds_and_of_the_validation_are_not_trained_on(
    tmp_path: Path, faces: Path
) -> None:
    lines = ["3\t1"]
    for fold in range(3):
        a, b = f"P{2 * fold:02d}", f"P{2 * fold + 1:02d}"
        lines += [f"{a}\t1\t2", f"{a}\t1\t{b}\t1"]
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("\n".join(lines) + "\n")
    config = make_config(
        tmp_path / "run",
        faces,
        data={"exclude_pairs": pairs, "exclude_folds": [3]},
        validation={"pairs": pairs, "images": faces, "folds": [1]},
    )
    sources = make_sources(config)
    assert sources.train.identities == ["P02", "P03"]
    assert "left out 4 people; the pairs name 4" in sources.notes
    assert sources.validation is not None
    (pairs_of_fold,) = sources.validation.sets
    assert sorted(pairs_of_fold.source.identities) == ["P00", "P01"]
    assert pairs_of_fold.same.tolist() == [True, False]


def test_held_out_people_are_not_trained_on(tmp_path: Path, faces: Path) -> None:
    for wanted, expected in ((2, 2), (0.5, 3)):
        config = make_config(tmp_path / "run", faces, validation={"identities": wanted})
        sources = make_sources(config)
        assert sources.validation is not None
        (pairs,) = sources.validation.sets
        held_out = set(pairs.source.identities)
        assert len(held_out) == expected
        assert not held_out & set(sources.train.identities)
        labels = pairs.source.labels
        same = labels[pairs.index_a] == labels[pairs.index_b]
        np.testing.assert_array_equal(same, pairs.same)
    config = make_config(tmp_path / "run", faces, validation={"identities": 6})
    with pytest.raises(
        ValueError, match=r"validation\.identities is 6, but there are 6 people.* at most 4"
    ):
        make_sources(config)


def test_tensorboard_files_are_written_if_asked_for(tmp_path: Path, faces: Path) -> None:
    pytest.importorskip("tensorboard")
    config = make_config(tmp_path / "run", faces, schedule=SHORT, log={"tensorboard": True})
    train(config)
    assert list((config.run_dir / "tensorboard").iterdir())


@pytest.mark.slow
def test_compiling_changes_the_numbers_by_rounding_only(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The whole of torch.compile but for the code generator, which takes ten seconds.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    changes: dict[str, Any] = {
        "model": {"options": {"norm": True}},
        "validation": VALIDATION,
        "ema_decay": 0.9,
    }
    plain = make_config(tmp_path / "plain", faces, **changes)
    compiled = make_config(tmp_path / "compiled", faces, compile=True, **changes)
    train(plain)
    train(compiled)
    for expected, found in zip(_rows(plain.run_dir), _rows(compiled.run_dir), strict=True):
        name = "loss" if expected["kind"] == "train" else "auc"
        assert found[name] == pytest.approx(expected[name], rel=1e-3)
    weights = load_file(compiled.run_dir / "last.safetensors")
    assert weights.keys() == load_file(plain.run_dir / "last.safetensors").keys()


def _content(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_refused_resume_leaves_the_folder_as_it_was(tmp_path: Path, faces: Path) -> None:
    root = tmp_path / "faces"
    shutil.copytree(faces, root)
    train(make_config(tmp_path / "run", root, schedule=SHORT, validation=VALIDATION))
    before = _content(tmp_path / "run")
    longer = {"epochs": 2, "warmup_epochs": 0}
    fewer = {**VALIDATION, "identities": 3}
    with pytest.raises(ValueError, match=r"another validation\.identities: it was 2, now it is 3"):
        train(make_config(tmp_path / "run", root, schedule=longer, validation=fewer), resume=True)
    assert _content(tmp_path / "run") == before
    again = make_config(tmp_path / "run", root, schedule=longer, validation=VALIDATION)
    shutil.copytree(root / "P00", root / "P99")
    with pytest.raises(ValueError, match="data and validation now leave them, new: 6 images"):
        train(again, resume=True)
    assert _content(tmp_path / "run") == before
    shutil.rmtree(root / "P99")
    states = [*(tmp_path / "run/state").glob("*/state.pt")]
    for state in states:
        state.write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"cannot resume: .*damaged \(state\.pt: has 6 bytes"):
        train(again, resume=True)
    for state in states:
        state.write_bytes(before[str(state)])
    assert _content(tmp_path / "run") == before
    train(again, resume=True)


class Wider(Tiny):
    """Of one more number than was asked for."""

    def __init__(self, *, embedding_size: int, **options: Any) -> None:
        super().__init__(embedding_size=embedding_size + 1, **options)


def test_a_state_of_another_model_is_refused_in_one_line(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path / "run", faces, schedule=SHORT)
    train(config)
    monkeypatch.setitem(registry._BUILDERS, "tiny", Wider)  # the plugin was edited meanwhile
    with pytest.raises(ValueError, match="cannot resume: the state is of another model") as error:
        train(config, resume=True)
    assert "\n" not in str(error.value)


def test_a_configuration_edited_in_the_folder_of_the_run_is_no_way_around(
    tmp_path: Path, faces: Path
) -> None:
    config = make_config(tmp_path / "run", faces, schedule=SHORT)
    train(config)
    path = tmp_path / "run/config.yaml"
    path.write_text(path.read_text().replace("s: 30.0", "s: 16.0"))
    before = _content(tmp_path / "run")
    with pytest.raises(ValueError, match=r"another loss\.s: it was 30\.0, now it is 16\.0; start"):
        train(load_config(path), resume=True)
    assert _content(tmp_path / "run") == before


@pytest.mark.parametrize(("batch_size", "accumulate"), [(1, 1), (4, 4), (3, 2)])
def test_a_single_image_for_batch_norm_is_refused_before_training(
    tmp_path: Path, faces: Path, batch_size: int, accumulate: int
) -> None:
    sizes = {"batch_size": batch_size, "accumulate": accumulate}
    with pytest.raises(ValueError, match=f"batch_size is {batch_size} and accumulate is") as said:
        train(make_config(tmp_path / "run", faces, **sizes))
    assert not (tmp_path / "run").exists()
    sizes["batch_size"] = int(str(said.value).rsplit(" ", 1)[1])
    train(make_config(tmp_path / "run", faces, **sizes, schedule={"epochs": 1}))


def test_a_single_image_is_enough_without_batch_norm(tmp_path: Path, faces: Path) -> None:
    changes: dict[str, Any] = {"model": {"options": {"norm": False}}, "batch_size": 1}
    config = make_config(tmp_path / "run", faces, schedule=SHORT, **changes)
    assert train(config).summary["steps"] == 36


def test_a_full_disk_names_the_state(tmp_path: Path, faces: Path) -> None:
    config = make_config(tmp_path / "run", faces)
    train(config)
    before = _content(config.run_dir)
    trainer = Trainer(config, Processes(0, 1, torch.device("cpu")), resume=True, overwrite=False)
    for limit, name in ((300, "-step-"), (4000, "state.pt")):
        with full_disk(limit):
            trainer._save_state()
            with pytest.raises(OSError, match=rf"cannot write .*{name}.*disk full"):
                trainer.states.wait()
        # The run that holds the folder says so there.
        now = {k: v for k, v in _content(config.run_dir).items() if not str(k).endswith(".lock")}
        assert now == before


def test_of_a_state_that_cannot_be_written_only_a_full_disk_is_asked_for(
    tmp_path: Path, faces: Path
) -> None:
    config = make_config(tmp_path / "run", faces)
    train(config)
    trainer = Trainer(config, Processes(0, 1, torch.device("cpu")), resume=True, overwrite=False)
    shutil.rmtree(config.run_dir / "state")
    (config.run_dir / "state").touch()
    trainer._save_state()
    with pytest.raises(
        OSError, match=r"cannot write '.*-step-\d+' \(\[Errno \d+\] Not a directory"
    ):
        trainer.states.wait()


def test_people_whose_names_are_no_unicode_can_be_trained_on(tmp_path: Path, faces: Path) -> None:
    root = tmp_path / "faces"
    shutil.copytree(faces, root)
    try:
        (root / "P00").rename(root / os.fsdecode(b"P\xff"))
    except OSError:
        pytest.skip("this file system refuses such names")
    config = make_config(tmp_path / os.fsdecode(b"run\xff"), root, schedule=SHORT)
    assert train(config).summary["train_identities"] == 6
    assert os.fsdecode(b"P\xff") in read_identities(config.run_dir / "people.txt")
    assert load_config(config.run_dir / "config.yaml") == config
