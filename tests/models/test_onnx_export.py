"""What was exported is the model: same numbers, any batch, told in the file how to feed it."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from centerarc import __version__
from centerarc.data import to_input
from centerarc.data.synthetic import SyntheticFaces
from centerarc.evaluation import embed, evaluate_verification, make_pairs, pair_scores
from centerarc.models import (
    Backbone,
    ExportReport,
    OnnxModel,
    Preprocessing,
    Recipe,
    TorchEmbedder,
    create_model,
    export_onnx,
    list_models,
    open_model,
    require_export_extra,
)
from centerarc.models.backbone import apply_in_full_precision
from centerarc.models.iresnet import IResNet
from centerarc.models.mobilefacenet import MobileFaceNet
from centerarc.models.onnx_export import DEFAULT_OPSET, OPSETS
from centerarc.models.vit import VisionTransformer

SIZE = 32


class Small(Backbone):
    """A backbone that exports in a second."""

    def __init__(self, embedding_size: int = 16) -> None:
        super().__init__(embedding_size, SIZE)
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 5, 4, padding=2, bias=False), nn.BatchNorm2d(8), nn.PReLU(8)
        )
        self.fc = nn.Linear(8 * (SIZE // 4) ** 2, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size)
        self.recipe = Recipe("small", embedding_size, SIZE)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.check_images(images)
        return apply_in_full_precision(self.stem(images).flatten(1), self.fc, self.features)


def lively(model: Backbone) -> Backbone:
    """Lets the normalizations see faces, so that embeddings of different faces differ."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        model(to_input(torch.from_numpy(faces(16, 1)[1])))
    return model


def faces(people: int, images: int) -> tuple[SyntheticFaces, np.ndarray]:
    source = SyntheticFaces(people, images, image_size=SIZE)
    return source, np.stack([source.image(i) for i in range(len(source))])


class Exported:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "model.onnx"
        torch.manual_seed(0)
        self.model = lively(Small())
        self.samples = faces(5, 1)[1]
        self.report: ExportReport = export_onnx(
            self.model, self.path, samples=self.samples, weights_sha256="ab" * 32
        )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("exported"))


def test_any_batch_gives_what_pytorch_gives(exported: Exported) -> None:
    # Through onnxruntime alone, fed as the file's words say.
    session = onnxruntime.InferenceSession(str(exported.path))
    images = faces(7, 1)[1]
    inputs = ((images.astype(np.float32) - 127.5) / 127.5).transpose(0, 3, 1, 2).copy()
    with torch.no_grad():
        expected = exported.model.eval()(torch.from_numpy(inputs)).numpy()
    for count in (1, 3, 7):
        (found,) = session.run(["embedding"], {"images": inputs[:count]})
        np.testing.assert_allclose(found, expected[:count], rtol=1e-3, atol=1e-5)


def test_the_report_measures_one_at_a_time_and_all_at_once(exported: Exported) -> None:
    report = exported.report
    assert [result.batch_size for result in report.comparisons] == [1, 5]
    assert 0 <= report.largest_difference < 1e-4
    assert 1 - 1e-6 < report.smallest_cosine <= 1 + 1e-12
    assert report.size == exported.path.stat().st_size
    assert report.embedding_size == 16


def test_the_file_says_how_to_feed_it(exported: Exported) -> None:
    file = onnx.load(str(exported.path))
    facts = json.loads({entry.key: entry.value for entry in file.metadata_props}["centerarc"])
    assert facts == {
        "version": __version__,
        "image_size": SIZE,
        "mean": [127.5] * 3,
        "std": [127.5] * 3,
        "channels": "rgb",
        "layout": "nchw",
        "input": "images",
        "output": "embedding",
        "embedding_size": 16,
        "recipe": {
            "name": "small",
            "embedding_size": 16,
            "image_size": SIZE,
            "options": {},
        },
        "weights_sha256": "ab" * 32,
        "graph_sha256": OnnxModel(exported.path).graph_sha256,
    }
    assert [(entry.domain, entry.version) for entry in file.opset_import] == [("", 20)]
    assert "float32 (N, 3, 32, 32)" in file.doc_string
    (value,) = file.graph.input
    first, *rest = value.type.tensor_type.shape.dim
    assert first.dim_param
    assert [dim.dim_value for dim in rest] == [3, SIZE, SIZE]
    model = OnnxModel(exported.path)
    assert (model.metadata, model.image_size, model.embedding_size) == (facts, SIZE, 16)
    with pytest.raises(ValueError, match=r"channels is 'bgr', but .* takes 'rgb'"):
        OnnxModel(exported.path, channels="bgr")


@pytest.fixture
def traced(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporting takes seconds; where that is not what may be wrong, it was done before."""

    def content(*_: Any) -> Any:
        file = onnx.load(str(exported.path))
        del file.metadata_props[:]
        return file

    monkeypatch.setattr("centerarc.models.onnx_export._onnx_proto", content)


@pytest.mark.usefixtures("traced")
def test_a_model_of_others_is_exported_with_how_it_takes_images(
    tmp_path: Path, exported: Exported
) -> None:
    path = tmp_path / "m.onnx"
    wanted = Preprocessing(SIZE, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), channels="bgr")
    export_onnx(exported.model, path, samples=exported.samples, preprocessing=wanted)
    assert OnnxModel(path).preprocessing == wanted
    expected = TorchEmbedder(exported.model.eval(), preprocessing=wanted).embed(exported.samples)
    np.testing.assert_allclose(
        OnnxModel(path).embed(exported.samples), expected, rtol=1e-4, atol=1e-5
    )
    assert "BGR, (x - (1, 2, 3)) / (4, 5, 6)" in onnx.load(str(path)).doc_string


def test_what_tools_made_of_an_exported_file_is_another_model(
    tmp_path: Path, exported: Exported
) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    assert open_model(exported.path).identity == {"weights_sha256": "ab" * 32}
    path = tmp_path / "int8.onnx"
    quantization.quantize_dynamic(exported.path, path)
    again = onnx.load(str(exported.path))
    onnx.save(again, str(tmp_path / "outside.onnx"), save_as_external_data=True, size_threshold=256)
    assert OnnxModel(path).metadata == OnnxModel(exported.path).metadata
    found = open_model(path).identity
    assert found["origin_sha256"] == "ab" * 32 != found["weights_sha256"]
    assert open_model(tmp_path / "outside.onnx").identity == {"weights_sha256": "ab" * 32}


def test_it_is_one_file_that_tells_nothing_of_the_machine(exported: Exported) -> None:
    assert list(exported.path.parent.iterdir()) == [exported.path]
    data = exported.path.read_bytes()
    assert str(Path(torch.__file__).parent).encode() not in data
    assert str(Path.cwd()).encode() not in data
    assert b"stack_trace" not in data
    assert b"test_exporter" not in data


def test_the_model_in_hand_is_not_changed(tmp_path: Path, exported: Exported) -> None:
    model = copy.deepcopy(exported.model).double().train()
    model.features.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    export_onnx(model, tmp_path / "m.onnx", samples=exported.samples, weights_sha256="ab" * 32)
    assert model.training
    assert not model.features.training
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    # Same weights, same file: nothing in it hangs on when or where it was made.
    assert exported.path.read_bytes() == (tmp_path / "m.onnx").read_bytes()


def test_the_accuracy_is_the_same_to_the_last_pair(exported: Exported) -> None:
    source, images = faces(12, 5)
    pairs = make_pairs(source.labels, 300, seed=0, folds=5)
    reports = []
    for model in (exported.model, OnnxModel(exported.path)):
        embeddings = embed(model, images, mirror=True, batch_size=16)
        scores = pair_scores(embeddings, pairs.index_a, pairs.index_b)
        reports.append(evaluate_verification(scores, pairs.same, pairs.fold))
    torch_report, onnx_report = reports
    assert torch_report.accuracy.value > 0.5
    assert scores.std() > 0.1, "embeddings that rounding cannot tell apart"
    assert torch_report.accuracy.value == onnx_report.accuracy.value
    assert torch_report.fold_accuracy == onnx_report.fold_accuracy
    assert torch_report.auc.value == pytest.approx(onnx_report.auc.value, abs=1e-4)


@pytest.mark.usefixtures("traced")
def test_a_difference_above_the_tolerance_leaves_no_file(
    tmp_path: Path, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = OnnxModel._call

    def off(self: OnnxModel, inputs: Any) -> Any:
        return keep(self, inputs) * 1.01

    (tmp_path / "m.onnx").write_bytes(b"before")
    monkeypatch.setattr(OnnxModel, "_call", off)
    with pytest.raises(ValueError, match=r"differs from PyTorch by .* 0\.01 of the largest"):
        export_onnx(exported.model, tmp_path / "m.onnx", samples=exported.samples)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == b"before"
    export_onnx(exported.model, tmp_path / "m.onnx", samples=exported.samples, tolerance=0.02)


def test_a_model_that_cannot_be_traced_is_named(tmp_path: Path, exported: Exported) -> None:
    class Undecided(Backbone):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if images.mean() > 0:
                return images.mean((2, 3))
            return images.amax((2, 3))

    with pytest.raises(ValueError, match="cannot export the Undecided: ") as caught:
        export_onnx(Undecided(3, SIZE), tmp_path / "m.onnx", samples=exported.samples)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"opset": 17}, "opset is 17; it must be from 18 to 23"),
        ({"opset": 24}, "opset is 24"),
        ({"tolerance": 0.0}, "tolerance is 0.0"),
        ({"samples": np.zeros((0, SIZE, SIZE, 3), np.uint8)}, "samples holds no image"),
        ({"samples": np.zeros((1, 3, SIZE, SIZE), np.uint8)}, r"shape \(N, 32, 32, 3\)"),
        ({"samples": np.zeros((1, SIZE, SIZE, 3), np.float32)}, "samples is float32"),
    ],
)
def test_bad_arguments_are_named(
    tmp_path: Path, exported: Exported, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        export_onnx(
            exported.model, tmp_path / "m.onnx", **{"samples": exported.samples, **arguments}
        )
    assert not list(tmp_path.iterdir())


def test_a_model_beyond_two_gigabytes_is_refused_at_once(
    tmp_path: Path, exported: Exported
) -> None:
    with torch.device("meta"):
        model = create_model("iresnet18", embedding_size=50_000, image_size=112)
    with pytest.raises(ValueError, match=r"5\.1 GB of weights; one ONNX file holds 2 GB"):
        export_onnx(model, tmp_path / "m.onnx", samples=np.zeros((1, 112, 112, 3), np.uint8))


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "centerarc.models.onnx_model.find_spec", lambda name: None if name == "onnxscript" else name
    )
    message = r"ONNX models need onnxscript: pip install 'centerarc\[export\]'"
    with pytest.raises(ImportError, match=message):
        require_export_extra()
    with pytest.raises(ImportError, match=message):
        OnnxModel(tmp_path / "m.onnx")


def shallow(family: str) -> Backbone:
    """A model whose layers all of a family repeat; exporting iresnet200 takes most of a minute."""
    sizes = {"embedding_size": 16, "image_size": SIZE}
    if family == "vit":
        rates = {"drop_path": 0.1, "mask_ratio": 0.1, "dropout": 0.0}
        return VisionTransformer(256, 2, **sizes, **rates, gradient_checkpointing=False)
    if family == "mobilefacenet":
        return MobileFaceNet((1, 1, 1, 1), 1, **sizes)
    return IResNet((2, 1, 1, 1), **sizes, dropout=0.0, width=1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "opset"),
    [("iresnet", OPSETS[0]), ("mobilefacenet", OPSETS[-1]), ("vit", DEFAULT_OPSET)],
)
def test_a_model_of_each_family_exports_and_so_do_the_oldest_and_newest_opset(
    tmp_path: Path, family: str, opset: int
) -> None:
    path = tmp_path / "m.onnx"
    model, samples = lively(shallow(family)), faces(3, 1)[1]
    report = export_onnx(model, path, samples=samples, opset=opset)
    assert report.smallest_cosine > 1 - 1e-6
    assert onnx.load(str(path)).opset_import[0].version == opset


def layers(model: nn.Module) -> set[tuple[object, ...]]:
    """The kinds of layers in a model, whatever their widths and how often they come."""

    def kind(layer: nn.Module) -> tuple[object, ...]:
        if isinstance(layer, nn.Conv2d):
            return nn.Conv2d, layer.kernel_size, layer.stride, layer.padding, layer.groups > 1
        return type(layer), frozenset(type(part) for part in layer.children())

    return {kind(layer) for layer in model.modules()}


@pytest.mark.parametrize("name", list_models())
def test_every_model_is_made_of_layers_that_export(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, embedding_size=16, image_size=SIZE)
        exported = shallow(re.sub(r"[0-9]+$|_.*$", "", name))
    assert type(model) is type(exported)
    assert layers(model) <= layers(exported)
