"""A run that starts from weights: the backbone, the people who stay, frozen epochs, rates."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from centerarc.data import create_source
from centerarc.data.views import write_identities
from centerarc.distributed import Processes
from centerarc.evaluation.embedding import embed
from centerarc.losses import CenterArcFaceLoss
from centerarc.models import backbone as registry
from centerarc.models import create_model, load_weights, weights
from centerarc.models.backbone import Backbone, parameter_depths
from centerarc.training import Trainer, TrainingInterrupted, check_config, load_config, train
from centerarc.training.config import OptimizerConfig
from centerarc.training.optimizer import make_optimizers, set_rate
from tests.training.helpers import (
    SIZE,
    Tiny,
    make_config,
    register_tiny,
    same_bits,
    whole_criterion,
)
from tests.training.test_loop import _stop_after

SHORT: dict[str, Any] = {"epochs": 2, "warmup_epochs": 0}
PEOPLE = ["P00", "P02", "P03", "P05"]  # of P00 to P05


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory, faces: Path) -> Path:
    """A run on four of the six people, for each kind of centers."""
    register_tiny()
    folder = tmp_path_factory.mktemp("before")
    write_identities(folder / "people.txt", PEOPLE)
    data = {"identities": folder / "people.txt"}
    for name, loss in LOSSES.items():
        changes = {"data": data, "schedule": {"epochs": 6}, "optimizer": {"lr": 0.02}}
        train(make_config(folder / name, faces, **changes, loss=loss))
    del registry._BUILDERS["tiny"]
    return folder


LOSSES: dict[str, dict[str, Any]] = {
    "shared": {},
    "raw": {"center_space": "raw", "center_weight": 0.01},
    "separate": {"centers": "separate", "center_space": "raw", "center_weight": 0.01},
    "unit centers": {"centers": "separate", "center_update": "gradient"},
    "sub-centers": {"sub_centers": 2},
    "means": {"centers": "mean"},
}


def started(folder: Path, faces: Path, weights: Path, **changes: Any) -> Trainer:
    config = make_config(folder, faces, **{**changes, "model": {"weights": str(weights)}})
    return Trainer(config, Processes(0, 1, torch.device("cpu")), resume=False, overwrite=False)


@pytest.mark.parametrize("name", LOSSES)
def test_people_who_stay_keep_their_prototypes_and_new_ones_get_means(
    tmp_path: Path, faces: Path, before: Path, name: str
) -> None:
    loss = LOSSES[name]
    trainer = started(tmp_path / "run", faces, before / name, loss=loss)
    model = load_weights(before / name)
    for key, tensor in model.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[key], tensor)
    source = create_source("folder", root=faces, image_size=SIZE)
    embeddings = embed(model, source).astype(np.float64)
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    old = whole_criterion(before / name)
    now = trainer.criterion.state_dict()
    raw = loss.get("center_space") == "raw"
    expected: dict[str, tuple[Tensor, bool]] = {
        "arcface.prototypes": (now["arcface.prototypes"], raw and "centers" not in loss)
    }
    if "centers" in loss:
        expected["center.centers"] = (now["center.centers"], raw)
    for key, (rows, keeps_length) in expected.items():
        for label, person in enumerate(source.identities):
            if person in PEOPLE:
                wanted = old[key][PEOPLE.index(person)].double().numpy()
            else:
                of_person = embeddings[source.labels == label]
                unit = of_person / lengths[source.labels == label]
                wanted = (of_person if keeps_length else unit).mean(axis=0)
            if not keeps_length:
                wanted = wanted / np.linalg.norm(wanted, axis=-1, keepdims=True)
            found = rows[label].double().numpy()
            if name == "sub-centers" and person not in PEOPLE:
                assert (found @ wanted > 0.98).all()
                assert not np.allclose(found[0], found[1])
            else:
                np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    if name == "means":
        counts = now["center.counts"].tolist()
        kept = dict(zip(PEOPLE, old["center.counts"].tolist(), strict=True))
        assert min(kept.values()) > 6
        assert counts == [kept.get(person, 6) for person in source.identities]
    (line,) = [note for note in trainer.notes if note.startswith("prototypes: ")]
    assert line == (
        "prototypes: 4 people as before, by name; 2 people from the mean of their embeddings"
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        # Prototypes stay, centers of raw space cannot be those of unit space or none.
        ("shared", "separate", "4 people as before, by name; 2 people from"),
        ("unit centers", "separate", "4 people as before, by name; 2 people from"),
        ("means", "separate", "4 people as before, by name; 2 people from"),
        # Prototypes that are centers of raw space need its length.
        ("shared", "raw", "0 people as before, by name (those of "),
    ],
)
def test_what_another_loss_cannot_keep_is_the_mean_of_embeddings(
    tmp_path: Path, faces: Path, before: Path, old: str, new: str, said: str
) -> None:
    trainer = started(tmp_path / "run", faces, before / old, loss=LOSSES[new])
    model = load_weights(before / old)
    source = create_source("folder", root=faces, image_size=SIZE)
    embeddings = embed(model, source).astype(np.float64)
    means = [embeddings[source.labels == label].mean(axis=0) for label in range(6)]
    now = trainer.criterion.state_dict()
    found = trainer.criterion.centers.detach().double().numpy()
    np.testing.assert_allclose(found, means, rtol=1e-5, atol=1e-6)
    if new != "raw":
        kept = whole_criterion(before / old)["arcface.prototypes"]
        places = [source.identities.index(person) for person in PEOPLE]
        wanted = nn.functional.normalize(kept.double(), dim=1)
        torch.testing.assert_close(now["arcface.prototypes"][places].double(), wanted)
    (line,) = [note for note in trainer.notes if note.startswith("prototypes: ")]
    assert said in line
    assert ("all centers from the mean" in line) == (new != "raw")


def test_other_people_of_the_same_names_are_not_taken_for_them(
    tmp_path: Path, faces: Path, before: Path
) -> None:
    """Sets that number their people all have a person 1."""
    root = tmp_path / "faces"
    for old, new in zip(PEOPLE, PEOPLE[1:] + PEOPLE[:1], strict=True):
        shutil.copytree(faces / old, root / new)
    trainer = started(tmp_path / "run", root, before / "shared")
    (line,) = [note for note in trainer.notes if note.startswith("prototypes: ")]
    assert line.startswith("prototypes: 0 people as before, by name (those of the same names in ")
    assert "are other people); 4 people from the mean" in line
    # A run that hardly knew its own people is no evidence against a name.
    log = shutil.copytree(before / "shared", tmp_path / "before") / "metrics.jsonl"
    rows = [json.loads(text) for text in log.read_text().splitlines()]
    log.write_text("\n".join(json.dumps({**row, "target_cosine": 0.1}) for row in rows))
    trainer = started(tmp_path / "again", root, tmp_path / "before")
    assert any(note.startswith("prototypes: 4 people as before, by") for note in trainer.notes)


@pytest.mark.parametrize("kind", ["file", "arcface_torch", "of DDP", "run without its state"])
def test_weights_alone_start_a_run_too(
    tmp_path: Path, faces: Path, before: Path, kind: str
) -> None:
    run = before / "shared"
    state = load_file(run / "last.safetensors")
    path = tmp_path / "backbone.pt"
    if kind == "file":
        path = tmp_path / "a.safetensors"
        shutil.copy(run / "last.safetensors", path)
    elif kind == "run without its state":
        path = tmp_path / "moved"
        path.mkdir()
        shutil.copy(run / "last.safetensors", path)
        shutil.copy(run / "people.txt", path)
    else:
        prefix = "module." if kind == "of DDP" else ""
        torch.save({prefix + name: tensor for name, tensor in state.items()}, path)
    trainer = started(tmp_path / "run", faces, path)
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, state[name])
    assert any("0 people as before, by name; 6 people from" in note for note in trainer.notes)


def test_a_model_of_the_hub_starts_a_run(
    tmp_path: Path, faces: Path, before: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(model: Any) -> Path:
        asked.append(str(model))
        return before / "shared/best.safetensors"

    monkeypatch.setattr(weights, "download", download)
    shutil.copy(before / "shared/last.safetensors", before / "shared/best.safetensors")
    config = make_config(tmp_path / "run", faces, model={"weights": "hf://ann/faces@v1"})
    train(config)
    assert asked == ["hf://ann/faces@v1"]
    assert load_config(tmp_path / "run/config.yaml").model.weights == "hf://ann/faces@v1"


def test_weights_that_do_not_fit_are_refused_before_anything_is_written(
    tmp_path: Path, faces: Path, before: Path
) -> None:
    def refused(weights: Path, **model: Any) -> str:
        changes = {"model": {"weights": str(weights), **model}}
        with pytest.raises(ValueError, match=r"^model\.weights: ") as error:
            train(make_config(tmp_path / "run", faces, **changes))
        assert not (tmp_path / "run").exists()
        return str(error.value)

    told = refused(before / "shared", embedding_size=9)
    assert (
        "the settings of the model must be those of the file: name: tiny, embedding_size: 8" in told
    )
    assert "there is no model file" in refused(tmp_path / "none.pt")
    assert "holds no weights" in refused(tmp_path)
    (tmp_path / "a.onnx").write_bytes(b"onnx")
    assert "an ONNX file cannot be trained" in refused(tmp_path / "a.onnx")
    with pytest.raises(ValueError, match="the path is empty"):
        make_config(tmp_path / "run", faces, model={"weights": ""})
    with pytest.raises(ValueError, match=r"freeze_epochs is 2; it must be below epochs, 2"):
        make_config(tmp_path / "run", faces, schedule={**SHORT, "freeze_epochs": 2})


@pytest.mark.parametrize("optimizer", [{"name": "sgd"}, {"name": "adamw", "lr": 0.01}])
def test_a_frozen_backbone_stays_to_the_last_bit_while_the_head_learns(
    tmp_path: Path, faces: Path, before: Path, optimizer: dict[str, Any]
) -> None:
    changes: dict[str, Any] = {
        "model": {"weights": str(before / "shared")},
        "optimizer": {**optimizer, "weight_decay": 0.1},
        "ema_decay": 0.9,
        "clip_norm": 1.0,
        "accumulate": 2,
    }
    schedule = {**SHORT, "freeze_epochs": 1, "power": 1e-30}  # of any length
    train(make_config(tmp_path / "run", faces, **changes, schedule={**schedule, "max_steps": 4}))
    assert same_bits(before / "shared/last.safetensors", tmp_path / "run/last.safetensors")
    first = whole_criterion(tmp_path / "run")["arcface.prototypes"]
    assert (first.norm(dim=1) - 1).abs().max() > 1e-3  # it has moved
    train(make_config(tmp_path / "run", faces, **changes, schedule=schedule), resume=True)
    assert not same_bits(before / "shared/last.safetensors", tmp_path / "run/last.safetensors")
    whole = make_config(tmp_path / "whole", faces, **changes, schedule=schedule)
    train(whole)
    assert same_bits(tmp_path / "whole/last.safetensors", tmp_path / "run/last.safetensors")


def test_a_run_resumes_when_what_it_started_from_is_gone(
    tmp_path: Path, faces: Path, before: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(before / "shared", tmp_path / "old")
    changes: dict[str, Any] = {"model": {"weights": str(tmp_path / "old")}, "schedule": SHORT}
    train(make_config(tmp_path / "whole", faces, **changes))
    with monkeypatch.context() as patch:
        _stop_after(patch, 3, TrainingInterrupted)
        with pytest.raises(TrainingInterrupted):
            train(make_config(tmp_path / "cut", faces, **changes))
    shutil.rmtree(tmp_path / "old")
    train(make_config(tmp_path / "cut", faces, **changes), resume=True)
    assert same_bits(tmp_path / "whole/last.safetensors", tmp_path / "cut/last.safetensors")


@pytest.mark.parametrize(
    ("name", "depth", "places"),
    [
        (
            "iresnet18",  # the stem, 8 units, the linear layer
            9,
            {"conv1.weight": 0, "prelu.weight": 0, "layer1.0.conv1.weight": 1}
            | {"layer4.1.bn3.bias": 8, "bn2.weight": 8, "fc.weight": 9, "features.bias": 9},
        ),
        (
            "mobilefacenet",  # two convolutions, 3 + 12 bottlenecks, a convolution, the embedding
            18,
            {"layers.0.layers.2.weight": 0, "layers.1.layers.0.weight": 1}
            | {
                "layers.2.layers.0.layers.0.weight": 2,
                "layers.3.layers.0.layers.0.layers.1.bias": 3,
            }
            | {"layers.7.layers.1.layers.2.layers.0.weight": 16, "conv_sep.layers.0.weight": 17}
            | {"features.layers.3.weight": 18},
        ),
        (
            "vit_t",  # the patches, 12 blocks, two linear layers
            14,
            {"patch_embed.proj.weight": 0, "pos_embed": 0, "mask_token": 0}
            | {"blocks.0.norm1.weight": 1, "blocks.11.mlp.fc2.weight": 12, "norm.weight": 12}
            | {"feature.0.weight": 13, "feature.3.bias": 14},
        ),
    ],
)
def test_rates_fall_with_the_distance_from_the_embedding(
    name: str, depth: int, places: dict[str, int]
) -> None:
    with torch.device("meta"):
        model = create_model(name)
    depths = parameter_depths(model)
    assert set(depths) == {name for name, _ in model.named_parameters()}
    assert set(depths.values()) == set(range(depth + 1))
    assert {name: depths[name] for name in places} == places
    rates = {"lr": 0.5, "backbone_lr_scale": 0.1, "layer_decay": 0.8}
    for kind in ("sgd", "adamw"):
        criterion = CenterArcFaceLoss(5, 512)
        config = OptimizerConfig(name=kind, **rates)  # type: ignore[arg-type]
        optimizers = make_optimizers(model, criterion, config)
        set_rate(optimizers, 0.5)
        found = {
            parameter: group["lr"]
            for optimizer in optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        assert found.pop(criterion.arcface.prototypes) == 0.5
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                expected = 0.5 * 0.1 * 0.8 ** (depth - depths[key])
                assert found.pop(parameter) == pytest.approx(expected), key
        assert not found


def test_a_backbone_of_one_layer_has_no_rates_by_layer() -> None:
    class Flat(Tiny):
        def ordered_layers(self) -> Any:
            yield self

    model = Flat(embedding_size=8, image_size=SIZE)
    with pytest.raises(ValueError, match=r"layer_decay is 0\.5, but .* is a single layer"):
        make_optimizers(model, CenterArcFaceLoss(5, 8), OptimizerConfig(layer_decay=0.5))

    class Wrapping(Backbone):  # as around a network of another library
        def __init__(self) -> None:
            super().__init__(8, SIZE)
            self.net = nn.Module()
            self.net.embeddings = nn.Conv2d(3, 4, 16)
            self.net.encoder = nn.Module()
            self.net.encoder.layer = nn.ModuleList(nn.TransformerEncoderLayer(4, 2) for _ in "abc")
            self.net.norm = nn.LayerNorm(4)
            self.scale = nn.Parameter(torch.ones(1))

    depths = parameter_depths(Wrapping())
    assert depths["net.embeddings.weight"] == 0
    assert [depths[f"net.encoder.layer.{n}.linear1.weight"] for n in range(3)] == [1, 2, 3]
    assert depths["net.norm.weight"] == 3
    assert depths["scale"] == 0
    assert max(parameter_depths(Tiny(embedding_size=8, image_size=SIZE)).values()) == 1


@pytest.mark.slow
def test_fine_tuning_beats_a_start_from_scratch_at_equal_steps(tmp_path: Path) -> None:
    """On drawn faces of other people, and judged on others again."""

    def auc(name: str, seed: int, people: int, epochs: int, **changes: Any) -> float:
        content: dict[str, Any] = {
            "run_dir": tmp_path / name,
            "model": {"name": "mobilefacenet_small", "embedding_size": 64, "image_size": 32},
            "data": {"source": "synthetic", "num_identities": people + 24, "seed": seed},
            "validation": {"identities": 24, "num_pairs": 400, "every_epochs": epochs},
            "loss": {"s": 16.0, "m": 0.2},
            "optimizer": {"lr": 0.05},
            "schedule": {"epochs": epochs, "warmup_epochs": 0},
            **{"batch_size": 32, "workers": 0, "device": "cpu"},
        }
        content["data"] |= {"images_per_identity": 8, "cache_gb": 0.5}
        for section, values in changes.items():
            content[section] |= values
        best = train(check_config(content)).best
        assert best is not None
        assert best["step"] <= 10 or name == "first"
        return float(best["auc"])

    auc("first", 1, 60, 3)
    scratch = auc("scratch", 2, 20, 2)
    tuned = auc(
        "tuned",
        2,
        20,
        2,
        model={"weights": str(tmp_path / "first")},
        optimizer={"backbone_lr_scale": 0.3, "layer_decay": 0.9},
        schedule={"freeze_epochs": 1},
    )
    assert tuned > scratch + 0.05
