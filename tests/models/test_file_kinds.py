"""A model file is what its content says: opened whatever its name, or named with what to do."""

import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from centerarc.cli import main
from centerarc.curate import embed_to_file
from centerarc.data import FolderSource
from centerarc.evaluation import read_embeddings
from centerarc.models import (
    create_model,
    from_pretrained,
    load_pretrained,
    load_weights,
    open_model,
    read_metadata,
    save_weights,
)
from tests.curate.pictures import many
from tests.models.tiny import tiny


def model(seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    sizes = {"embedding_size": 8, "image_size": 16}
    return create_model("mobilefacenet_small", generator=generator, **sizes).eval()


@pytest.mark.parametrize("name", ["m.pt", "m", "m.SAFETENSORS", "m.onnx", "weights.bin"])
def test_what_was_saved_under_any_name_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    save_weights(path, model(), metadata={"epoch": 3})
    assert read_metadata(path)["metadata"] == {"epoch": 3}
    other = model(1)
    load_pretrained(other, path)
    for found in (other, load_weights(path), from_pretrained(path), open_model(path).network):
        assert found is not None
        torch.testing.assert_close(found.state_dict(), model().state_dict(), rtol=0, atol=0)
    assert open_model(path).kind == "weights"


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth.tar", "w"])
def test_a_torch_checkpoint_under_any_name_is_read(tmp_path: Path, name: str) -> None:
    torch.save(model().state_dict(), tmp_path / name)
    opened = open_model(tmp_path / name, architecture="mobilefacenet_small")
    assert (opened.kind, opened.image_size) == ("checkpoint", 16)
    with pytest.raises(ValueError, match=f"{name}.* does not say which model it holds"):
        load_weights(tmp_path / name)


@pytest.mark.parametrize("name", ["m.ONNX", "m", "m.pth", "m.safetensors"])
def test_an_onnx_model_under_any_name_is_opened(tmp_path: Path, name: str) -> None:
    opened = open_model(tiny(tmp_path / name), device="auto")
    assert (opened.kind, opened.image_size) == ("onnx", 4)
    for load in (load_weights, read_metadata):
        with pytest.raises(ValueError, match="is an ONNX model, which open_model opens"):
            load(tmp_path / name)


def test_embeddings_under_any_name_are_read(tmp_path: Path) -> None:
    many(tmp_path / "faces", people=2, images=2)
    opened = open_model(tiny(tmp_path / "m.onnx"))
    source = FolderSource(tmp_path / "faces", image_size=4)
    for kind in ("npz", "parquet"):
        embed_to_file(opened, source, tmp_path / f"e.{kind}")
        expected = read_embeddings(tmp_path / f"e.{kind}").embedding
        for name in (
            f"e.{kind}.1",
            f"copy-of-{kind}",
            f"e.{'npz' if kind == 'parquet' else 'parquet'}",
        ):
            path = tmp_path / kind / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes((tmp_path / f"e.{kind}").read_bytes())
            np.testing.assert_array_equal(read_embeddings(path).embedding, expected)
    words = ["evaluate", "--gallery", str(tmp_path / "npz" / "copy-of-npz")]
    with pytest.raises(SystemExit) as stop:
        main(
            [*words, "--probes", str(tmp_path / "parquet" / "copy-of-parquet"), "--resamples", "0"]
        )
    assert stop.value.code == 0


def node() -> bytes:
    """A node of a TensorFlow graph, with its name and its operation."""
    content = b"\n\x05input\x12\x0bPlaceholder"
    return b"\n" + bytes([len(content)]) + content


def zipped(names: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.onnx"))
    return buffer.getvalue()


CONVERT = "convert it to ONNX: "
# By layout as their makers document it, each too small to run.
FOREIGN = {
    "tflite": (
        b"\x1c\0\0\0TFL3" + bytes(56),
        f"a TensorFlow Lite model; {CONVERT}python -m tf2onnx.convert --tflite .*model.x",
    ),
    "mxnet": (
        (0x112).to_bytes(8, "little") + bytes(8) + (1).to_bytes(8, "little") + bytes(40),
        f"a file of MXNet parameters; {CONVERT}mxnet.onnx.export_model",
    ),
    "mxnet symbol": (
        json.dumps({"nodes": [{"op": "null", "name": "data"}], "arg_nodes": [0]}).encode(),
        f"the symbol file of an MXNet model; {CONVERT}mxnet.onnx.export_model",
    ),
    "frozen": (
        node() * 3,
        f"a frozen TensorFlow graph; {CONVERT}python -m tf2onnx.convert --graphdef .*model.x",
    ),
    "keras h5": (
        b"\x89HDF\r\n\x1a\n" + bytes(80),
        f"an HDF5 file, as Keras writes; {CONVERT}keras",
    ),
    "keras": (
        zipped({"metadata.json": b"{}", "config.json": b"{}", "model.weights.h5": b""}),
        f"a Keras model; {CONVERT}keras.models.load_model",
    ),
    "ort": (b"\x20\0\0\0ORTM" + bytes(56), "onnxruntime's own format; give the ONNX model that"),
    "openvino": (b"<?xml version='1.0'?>\n<net name='m' version='11'>", "an OpenVINO model; give"),
    "ncnn": (b"7767517\n75 83\nInput data 0 1 data\n", "an ncnn model; give the ONNX model"),
    "pickle": (pickle.dumps({"weights": [1, 2]}), "a pickle of Python objects, which could run"),
    "git lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n",
        "a pointer of Git LFS, not the model; run git lfs pull",
    ),
    "page": (b"\n<!DOCTYPE html><html><body>Quota exceeded", "a web page, not the model; download"),
    "zip": (
        zipped({"buffalo/w600k_r50.onnx": b""}),
        "a zip archive; unpack .* in it, buffalo/w600k",
    ),
    "tar": (tarred(), "a tar archive; unpack it"),
    "gzip": (b"\x1f\x8b\x08" + bytes(20), "a gzip archive; unpack it"),
    "parquet": (b"PAR1" + bytes(20), "a Parquet file; give the model; evaluate alone takes"),
    "npz": (zipped({"embedding.npy": b""}), "a file of NumPy arrays; give the model"),
    "empty": (b"", "is empty; weights are safetensors or of torch.save, other models ONNX"),
    "text": (b"hello", "is damaged, or not a model; weights are safetensors"),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("name", ["model.x", "model.x.onnx", "model.x.pth"])
def test_a_model_of_another_tool_is_named_with_what_to_do(
    tmp_path: Path, kind: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content, expected = FOREIGN[kind]
    path = tmp_path / name
    path.write_bytes(content)
    if kind == "text" and name.endswith(".onnx"):
        expected = "is damaged or no ONNX file"
    for architecture in (None, "mobilefacenet_small") if not name.endswith(".onnx") else (None,):
        with pytest.raises(ValueError, match=expected) as error:
            open_model(path, architecture=architecture)
        assert "\n" not in str(error.value)
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(path), "--pairs", "pairs.txt"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(48, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.flatten(1))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_and_exported_programs_are_named_with_what_to_do(tmp_path: Path) -> None:
    example = torch.zeros(1, 3, 4, 4)
    torch.jit.trace(Net(), example).save(str(tmp_path / "m.pt"))
    torch.export.save(torch.export.export(Net(), (example,)), tmp_path / "m.pt2")
    for name, expected in (
        ("m.pt", r"a TorchScript model; convert it to ONNX: torch.onnx.export\(torch.jit.load\("),
        ("m.pt2", r"a program of torch.export; .* torch.onnx.export\(torch.export.load\("),
    ):
        for architecture in (None, "iresnet18"):
            with pytest.raises(ValueError, match=expected):
                open_model(tmp_path / name, architecture=architecture)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_pickled_model_is_not_loaded_and_named_by_its_class(
    tmp_path: Path, zipped: bool
) -> None:
    path = tmp_path / "m.pth"
    torch.save(Net(), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        ValueError, match=r"not tensors \(.*Net\).*save the weights alone: torch.sa"
    ):
        open_model(path, architecture="iresnet18")


def test_a_folder_of_another_tool_says_what_to_name(tmp_path: Path) -> None:
    tiny(tmp_path / "w600k_r50.onnx")
    with pytest.raises(ValueError, match=r"holds ONNX models; name one of them: w600k_r50\.onnx"):
        open_model(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01\x12\x00")
    with pytest.raises(ValueError, match=f"TensorFlow SavedModel; {CONVERT}.* --saved-model"):
        open_model(tmp_path)
