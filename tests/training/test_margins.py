"""Margins that keep a state, draw, or look at the sizes of classes, in whole runs."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from centerarc.losses import AdaFace, ElasticArcFace, MagFace, list_margins
from centerarc.models import read_metadata
from centerarc.training import Trainer, check_config, train
from centerarc.training.checkpoint import load_state
from centerarc.training.config import LossConfig
from centerarc.training.head import class_sizes, make_criterion, make_margin
from centerarc.training.logging import read_metrics
from tests.training.helpers import make_config, same_bits, whole_criterion

STEADY = {"epochs": 2, "warmup_epochs": 0, "power": 1e-30}
NEEDS_M = {"sphereface_r": {"m": 1.5}}


@pytest.mark.parametrize("name", list_margins())
def test_a_run_that_is_cut_within_an_epoch_resumes_to_the_last_bit(
    tmp_path: Path, faces: Path, name: str
) -> None:
    def config(folder: str, **schedule: Any) -> Any:
        loss = {"margin": name, **NEEDS_M.get(name, {})}
        changes = {"loss": loss, "schedule": {**STEADY, **schedule}}
        return make_config(tmp_path / folder, faces, **changes)

    train(config("whole"))
    train(config("cut", max_steps=3))
    train(config("cut"), resume=True)
    assert same_bits(tmp_path / "whole/last.safetensors", tmp_path / "cut/last.safetensors")
    ends = whole_criterion(tmp_path / "whole")
    assert ends.keys() == whole_criterion(tmp_path / "cut").keys()
    for key, tensor in whole_criterion(tmp_path / "cut").items():
        assert torch.equal(tensor, ends[key]), key
    if name == "adaface":
        assert ends["arcface.margin.mean"] != 20
    if name.startswith("elastic"):
        assert ends["arcface.margin.passes"] == load_state(tmp_path / "cut").content["step"]


def test_a_margin_that_the_default_m_does_not_suit_says_what_to_set() -> None:
    with pytest.raises(
        ValueError, match=r"^loss: SphereFaceR: m must .* got 0.5; set loss.m, such as 1.5$"
    ):
        make_margin(LossConfig(margin="sphereface_r"))
    with pytest.raises(ValueError, match=r"got 5\.0$"):
        make_margin(LossConfig(margin="sphereface_r", m=5))


def test_the_trainer_counts_the_images_of_each_person(tmp_path: Path, faces: Path) -> None:
    few = sorted(next(iter(sorted(faces.iterdir()))).iterdir())[:5]
    listed = tmp_path / "faces.csv"
    rows = [f"{path},{path.parent.name}" for path in few[:2]]
    rows += [f"{path},{path.parent.name}" for path in sorted(faces.glob("P01/*"))]
    listed.write_text("\n".join(["path,identity", *rows]))
    config = make_config(tmp_path / "run", faces, loss={"margin": "ldam"})
    content = config.model_dump(mode="json")
    content["data"] = {"source": "list", "path": str(listed)}
    config = check_config(content)
    trainer = Trainer(config, _alone(), resume=False, overwrite=False)
    margins = trainer.criterion.arcface.margin.margins
    expected = 0.5 * (2 / np.array([2, 6])) ** 0.25
    np.testing.assert_allclose(margins.numpy(), expected, rtol=1e-7)
    trainer.parts.loader.close()


@pytest.mark.parametrize("changes", [{}, {"head": {"fused": True}}], ids=str)
def test_the_threshold_of_uniface_is_started_learned_logged_and_saved(
    tmp_path: Path, faces: Path, changes: Any
) -> None:
    loss = {"margin": "uniface", "m": 0.4, "s": 16}
    config = make_config(tmp_path / "run", faces, loss=loss, schedule=STEADY, **changes)
    train(config)
    rows = [row for row in read_metrics(tmp_path / "run") if row["kind"] == "train"]
    people = len(list(faces.iterdir()))
    assert rows[0]["margin_threshold"] == pytest.approx(math.log(10 * people) / 16, rel=1e-6)
    bias = float(whole_criterion(tmp_path / "run")["arcface.margin.bias"])
    saved = read_metadata(tmp_path / "run/last.safetensors")["metadata"]["margin_threshold"]
    assert saved == pytest.approx(bias / 16, rel=1e-6)
    assert saved != rows[0]["margin_threshold"]


def test_curricularface_follows_the_target_cosines_of_a_run(tmp_path: Path, faces: Path) -> None:
    options = {"margin": "curricularface", "margin_options": {"momentum": 0.5}}
    config = make_config(tmp_path / "run", faces, loss=options, schedule=STEADY)
    train(config)
    rows = [row for row in read_metrics(tmp_path / "run") if row["kind"] == "train"]
    t = 0.0
    for row in rows:
        t = 0.5 * t + 0.5 * row["target_cosine"]
    found = float(whole_criterion(tmp_path / "run")["arcface.margin.t"])
    assert found == pytest.approx(t, rel=1e-5)


def _alone() -> Any:
    from centerarc.distributed import Processes

    return Processes(0, 1, torch.device("cpu"))


class Named:
    """Three people with 4, none and 2 images."""

    identities = ("Ann", "Bob", "Cy")
    labels = np.array([0, 0, 0, 0, 2, 2])


def test_sizes_are_those_of_the_source_and_needed() -> None:
    assert class_sizes(Named()).tolist() == [4, 0, 2]  # type: ignore[arg-type]
    generator = torch.Generator()
    config = LossConfig(margin="ldam")
    with pytest.raises(ValueError, match="LDAM must have the number of images of each class"):
        make_criterion(config, 3, 4, generator)
    made = make_criterion(config, 3, 4, generator, sizes=class_sizes(Named()))  # type: ignore[arg-type]
    assert made.arcface.margin.margins.numel() == 3  # type: ignore[attr-defined]


def test_settings_reach_the_margin() -> None:
    options = {"h": 0.5, "alpha": 0.2}
    made = make_margin(LossConfig(margin="adaface", margin_options=options))
    assert isinstance(made, AdaFace)
    assert (made.m, made.h, made.alpha) == (0.4, 0.5, 0.2)
    made = make_margin(LossConfig(margin="magface", margin_options={"lambda_g": 20}))
    assert made == MagFace(lambda_g=20.0)
    plus = {"plus": True, "sigma": 0.0175}
    made = make_margin(LossConfig(margin="elastic_arcface", margin_options=plus), seed=7)
    assert isinstance(made, ElasticArcFace)
    assert (made.plus, made.sigma, made.seed) == (True, 0.0175, 7)
    made = make_margin(LossConfig(margin="elastic_arcface", margin_options={"seed": 3}), seed=7)
    assert isinstance(made, ElasticArcFace)
    assert made.seed == 3
    with pytest.raises(ValueError, match=r"loss: m is 0\.4, but margin 'magface' takes l_m, u_m"):
        make_margin(LossConfig(margin="magface", m=0.4))
    with pytest.raises(ValueError, match=r"loss: counts must be a torch\.Tensor, got float"):
        make_margin(LossConfig(margin="ldam", margin_options={"counts": 3.0}))
    with pytest.raises(ValueError, match="loss: ElasticArcFace: plus must be true or false"):
        make_margin(LossConfig(margin="elastic_arcface", margin_options={"plus": 0.5}))


def test_options_read_from_flags_keep_their_kinds(tmp_path: Path) -> None:
    from centerarc.training import load_config

    path = tmp_path / "run.yaml"
    path.write_text("run_dir: r\ndata: {source: synthetic}\nloss: {margin: elastic_cosface}\n")
    flags = ["--loss.margin_options.plus", "true", "--loss.margin_options.sigma", "0.025"]
    options = load_config(path, [*flags, "--loss.margin_options.m", "1"]).loss.margin_options
    assert options == {"plus": True, "sigma": 0.025, "m": 1.0}
    assert [type(value) for value in options.values()] == [bool, float, float]
