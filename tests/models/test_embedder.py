"""A model by whatever a user calls it: the same embeddings, and flags only where they fit."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from centerarc.cli import main
from centerarc.curate import embed_to_file
from centerarc.data import FolderSource
from centerarc.evaluation import embed
from centerarc.evaluation.protocols import ModelSubject
from centerarc.models import (
    Backbone,
    OnnxModel,
    TorchEmbedder,
    create_model,
    export_onnx,
    open_model,
    save_weights,
)
from centerarc.models.embedder import check_alone
from tests.evaluation.protocols.faces import FLAGS, folder, lfw_pairs
from tests.models.tiny import tiny


@pytest.fixture
def model() -> Backbone:
    return create_model("mobilefacenet_small", embedding_size=8, image_size=32).eval()


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(3, 32, 32, 3), dtype=np.uint8)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_run_and_its_weights_are_the_same_model(
    tmp_path: Path, model: Backbone, images: np.ndarray
) -> None:
    other = create_model("mobilefacenet_small", embedding_size=8, image_size=32)
    save_weights(tmp_path / "last.safetensors", other)
    save_weights(tmp_path / "best.safetensors", model)
    expected = TorchEmbedder(model).embed(images)
    for path in (tmp_path, tmp_path / "best.safetensors"):
        opened = open_model(path)
        assert opened.path == tmp_path / "best.safetensors"
        assert opened.sha256 == sha256(tmp_path / "best.safetensors")
        assert (opened.kind, opened.image_size) == ("weights", 32)
        assert opened.network is not None
        assert not opened.network.training
        np.testing.assert_array_equal(opened.embedder.embed(images), expected)


def test_a_public_checkpoint_needs_its_architecture(tmp_path: Path) -> None:
    model = create_model("mobilefacenet_small").eval()
    path = tmp_path / "public.pth"
    torch.save(model.state_dict(), path)
    with pytest.raises(ValueError, match=r"public\.pth.*give its architecture, one of iresnet10,"):
        open_model(path)
    opened = open_model(path, architecture="mobilefacenet_small")
    images = np.full((1, 112, 112, 3), 99, np.uint8)
    np.testing.assert_array_equal(opened.embedder.embed(images), TorchEmbedder(model).embed(images))
    assert (opened.kind, opened.sha256) == ("checkpoint", sha256(path))
    with pytest.raises(ValueError, match="unknown model 'resnet50'; did you mean iresnet50"):
        open_model(path, architecture="resnet50")


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_weights_of_others_are_given_images_as_they_were_trained_on(
    tmp_path: Path, channels: Any, model: Backbone, images: np.ndarray
) -> None:
    torch.save(model.state_dict(), tmp_path / "m.pth")
    save_weights(tmp_path / "m.safetensors", model)
    mean, std = (10.0, 20.0, 30.0), (64.0, 128.0, 256.0)
    seen = images if channels == "rgb" else images[..., ::-1]
    inputs = ((seen.astype(np.float64) - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(inputs)).numpy()
    for name in ("m.pth", "m.safetensors"):
        public = "mobilefacenet_small" if name == "m.pth" else None
        opened = open_model(
            tmp_path / name, architecture=public, mean=mean, std=std, channels=channels
        )
        assert opened.preprocessing.to_dict()["channels"] == channels
        np.testing.assert_allclose(opened.embedder.embed(images), expected, rtol=1e-5, atol=1e-6)


def test_an_onnx_file_is_opened_with_its_preprocessing(tmp_path: Path) -> None:
    path = tiny(tmp_path / "m.onnx", ("n", 3, "h", "w"))
    opened = open_model(path, image_size=4, mean=1, std=2, channels="bgr")
    assert isinstance(opened.embedder, OnnxModel)
    assert (opened.kind, opened.network, opened.sha256) == ("onnx", None, sha256(path))
    assert str(opened.preprocessing) == "4 x 4 BGR, (x - 1) / 2"
    tiny(path, ("n", "h", "w", "c"), nhwc=True)
    assert open_model(path, image_size=4, layout="nhwc").preprocessing.layout == "nhwc"


@pytest.mark.parametrize(
    ("file", "arguments", "message"),
    [
        ("m.onnx", {"architecture": "iresnet50"}, "architecture is 'iresnet50', but the ONNX"),
        ("m.onnx", {"device": "mps"}, "device must be 'cpu', 'cuda' or 'auto' for ONNX .*'mps'"),
        ("w.safetensors", {"layout": "nchw"}, "layout is for ONNX files; .* is weights of PyTorch"),
        ("w.safetensors", {"image_size": 64}, r"image_size is 64, but .*w\.safetensors"),
        ("none", {}, "there is no model"),
        (".", {}, "holds no weights: it holds ONNX models; name one of them: m.onnx"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, model: Backbone, file: str, arguments: dict[str, Any], message: str
) -> None:
    tiny(tmp_path / "m.onnx")
    save_weights(tmp_path / "w.safetensors", model)
    with pytest.raises(ValueError, match=message):
        open_model(tmp_path / file, **arguments)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_a_model_whose_embedding_depends_on_the_batch_is_refused(
    tmp_path: Path, batch_size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    source = FolderSource(folder(tmp_path / "faces"), image_size=4)
    opened = open_model(tiny(tmp_path / "m.onnx", of_batch=0.9), mean=0, std=1)
    expected = r"one image another embedding alone than among 4, by \d+ degrees.* model\.eval\(\)"
    with pytest.raises(ValueError, match=f"m.onnx gives {expected}"):
        embed_to_file(opened, source, tmp_path / "e.npz", batch_size=batch_size)
    with pytest.raises(ValueError, match=f"m.onnx gives {expected}"):
        ModelSubject(opened, batch_size=batch_size).embed(source)
    with pytest.raises(ValueError, match=expected):
        embed(opened.embedder, source, batch_size=batch_size)
    words = ["evaluate", str(tmp_path / "m.onnx"), "--batch-size", str(batch_size), *FLAGS]
    words += ["--pairs", str(lfw_pairs(tmp_path / "pairs.txt")), "--images", str(source.root)]
    with pytest.raises(SystemExit) as stop:
        main([*words, "--workers", "0"])
    assert stop.value.code == 2
    assert "m.onnx gives one image another embedding" in capsys.readouterr().err
    assert not list(tmp_path.glob("e.*"))


@pytest.mark.parametrize(("unit", "alone"), [(False, "0"), (True, "not finite")])
def test_a_model_that_has_nothing_to_normalize_over_for_one_image_is_refused(
    tmp_path: Path, unit: bool, alone: str
) -> None:
    class Batchwise:
        image_size = 4

        def embed(self, images: np.ndarray, *, mirror: bool = False) -> np.ndarray:
            found = images.astype(np.float32).mean((1, 2))
            with np.errstate(invalid="ignore"):
                return (found - found.mean(0)) / (found.std(0) if unit else 1)

    source = FolderSource(folder(tmp_path / "faces"), image_size=4)
    opened = open_model(tiny(tmp_path / "m.onnx"), mean=0, std=1)
    opened = replace(opened, embedder=Batchwise())
    expected = f"among 4, and alone one that is {alone}: it normalizes over the batch"
    with pytest.raises(ValueError, match=expected):
        embed_to_file(opened, source, tmp_path / "e.npz")
    with pytest.raises(ValueError, match=expected):
        ModelSubject(opened).embed(source)


def test_equal_images_are_no_company_for_each_other() -> None:
    class LessTheMean:
        image_size = 4

        def embed(self, images: np.ndarray, *, mirror: bool = False) -> np.ndarray:
            found = images.astype(np.float32).mean((1, 2)) + 5
            return found - 0.9 * found.mean(0)

    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3), dtype=np.uint8)
    images[:5] = images[0]
    with pytest.raises(ValueError, match="normalizes over the batch"):
        check_alone(LessTheMean(), images.__getitem__, len(images), "the model")
    check_alone(LessTheMean(), images[:5].__getitem__, 5, "the model")  # one image cannot tell


def test_a_model_that_moves_a_little_with_the_batch_warns(tmp_path: Path) -> None:
    source = FolderSource(folder(tmp_path / "faces"), image_size=4)
    opened = open_model(tiny(tmp_path / "m.onnx", of_batch=0.1), mean=0, std=1)
    with pytest.warns(UserWarning, match=r"m.onnx gives .* so results depend on the batch size"):
        embed_to_file(opened, source, tmp_path / "e.npz")


class Stubborn(Backbone):
    """Stays in training mode, whatever it is asked."""

    def __init__(self, random: bool) -> None:
        super().__init__(embedding_size=3, image_size=16)
        self.norm = torch.nn.BatchNorm2d(3, track_running_stats=False, affine=False)
        self.random = random

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.random:
            return torch.nn.functional.dropout(images.flatten(1), 0.5, training=True)
        return self.norm(images).mean(dim=(2, 3)) + 0.3


@pytest.mark.parametrize(("random", "reason"), [(True, "is dropout active"), (False, "normalizes")])
def test_a_backbone_that_stays_in_training_mode_is_refused(
    tmp_path: Path, random: bool, reason: str
) -> None:
    torch.manual_seed(1)
    source = FolderSource(folder(tmp_path / "faces"), image_size=16)
    with pytest.raises(ValueError, match=reason):
        embed(TorchEmbedder(Stubborn(random)), source)
    samples = np.stack([source.image(number) for number in range(8)])
    with pytest.raises(ValueError, match=f"the Stubborn gives .*{reason}"):
        export_onnx(Stubborn(random), tmp_path / "m.onnx", samples=samples)


def test_images_that_would_be_stretched_before_the_middle_is_taken_are_refused(
    tmp_path: Path,
) -> None:
    opened = open_model(tiny(tmp_path / "m.onnx", ("n", 3, 4, 2)))
    square = FolderSource(folder(tmp_path / "faces", "Ann"), image_size=4)
    assert ModelSubject(opened).embed(square).embedding.shape == (2, 3)
    path = tmp_path / "narrow" / "Ann" / "1.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.zeros((8, 6, 3), np.uint8)).save(path)
    narrow = FolderSource(tmp_path / "narrow", image_size=4)
    expected = "has 8 x 6 pixels, .* takes the middle 4 x 2 of square images; pad .* to 8 x 8"
    for embed_them in (
        lambda: ModelSubject(opened).embed(narrow),
        lambda: embed_to_file(opened, narrow, tmp_path / "e.npz"),
    ):
        with pytest.raises(ValueError, match=expected):
            embed_them()


def test_a_damaged_or_lone_first_image_is_no_reason(tmp_path: Path) -> None:
    root = folder(tmp_path / "faces", "Ann", images=3)
    (root / "Ann" / "Ann_0000.png").write_bytes(b"damaged")
    opened = open_model(tiny(tmp_path / "m.onnx"), mean=0, std=1)
    report = embed_to_file(opened, FolderSource(root, image_size=4), tmp_path / "e.npz")
    assert (report.images, sum(report.left_out.values())) == (3, 1)
    one = FolderSource(folder(tmp_path / "one", "Bob", images=1), image_size=4)
    assert embed(opened.embedder, one).shape == (1, 3)
