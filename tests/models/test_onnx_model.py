"""Anyone's ONNX model gives what its graph says, or one line that says why not."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from centerarc.evaluation import embed
from centerarc.models import OnnxModel, Preprocessing, open_model
from tests.models.tiny import left_means, tiny

HALF = (127.5, 127.5, 127.5)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(5, 4, 4, 3), dtype=np.uint8)


@pytest.mark.parametrize("batch", ["batch", None, 1, 2, 5, 8])
@pytest.mark.parametrize("nhwc", [False, True])
def test_any_batch_and_layout_gives_each_image_its_own_row(
    tmp_path: Path, images: np.ndarray, batch: Any, nhwc: bool
) -> None:
    shape = (batch, 4, 4, 3) if nhwc else (batch, 3, 4, 4)
    model = OnnxModel(tiny(tmp_path / "m.onnx", shape, nhwc=nhwc))
    assert (model.image_size, model.embedding_size) == (4, 3)
    assert model.batch_size == (batch if isinstance(batch, int) else None)
    found = model.embed(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, left_means(images, HALF, HALF), atol=1e-6)
    np.testing.assert_allclose(embed(model, images, batch_size=3), found, atol=1e-7)
    assert model.embed(images[:0]).shape == (0, 3)


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_mean_std_and_channel_order_are_what_was_asked_for(
    tmp_path: Path, images: np.ndarray, channels: Any
) -> None:
    mean, std = (10.0, 20.0, 30.0), (1.0, 2.0, 4.0)
    model = OnnxModel(tiny(tmp_path / "m.onnx"), mean=mean, std=std, channels=channels)
    seen = images if channels == "rgb" else images[..., ::-1]
    np.testing.assert_allclose(model.embed(images), left_means(seen, mean, std), rtol=1e-5)


def test_mirror_sums_both_halves(tmp_path: Path, images: np.ndarray) -> None:
    model = OnnxModel(tiny(tmp_path / "m.onnx", nhwc=False))
    both = left_means(images, HALF, HALF) + left_means(images[:, :, ::-1], HALF, HALF)
    np.testing.assert_allclose(model.embed(images, mirror=True), both, atol=1e-6)
    np.testing.assert_allclose(embed(model, images, mirror=True), both, atol=1e-6)


def test_uint8_input_gets_the_pixels_themselves(tmp_path: Path, images: np.ndarray) -> None:
    model = OnnxModel(tiny(tmp_path / "m.onnx", dtype="uint8"))
    expected = left_means(images, (0, 0, 0), (1, 1, 1))
    np.testing.assert_allclose(model.embed(images), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="takes uint8 pixels"):
        OnnxModel(tmp_path / "m.onnx", mean=127.5)


def test_half_precision_input_is_given_half_precision(tmp_path: Path, images: np.ndarray) -> None:
    model = OnnxModel(tiny(tmp_path / "m.onnx", dtype="float16"))
    np.testing.assert_allclose(model.embed(images), left_means(images, HALF, HALF), atol=1e-3)


@pytest.mark.parametrize(
    ("graph", "at_a_time"), [({"declared_output": (1, 3)}, None), ({"fixed_inside": True}, 1)]
)
def test_what_a_graph_does_and_not_what_it_declares_limits_the_batch(
    tmp_path: Path, images: np.ndarray, graph: dict[str, Any], at_a_time: int | None
) -> None:
    model = OnnxModel(tiny(tmp_path / "m.onnx", **graph))
    assert model.batch_size == at_a_time
    np.testing.assert_allclose(model.embed(images), left_means(images, HALF, HALF), atol=1e-6)


def test_an_open_size_and_layout_must_be_given(tmp_path: Path, images: np.ndarray) -> None:
    path = tiny(tmp_path / "m.onnx", ("n", 3, "h", "w"))
    with pytest.raises(
        ValueError, match=r"\(any, 3, any, any\), which leaves .*; image_size must be"
    ):
        OnnxModel(path)
    found = OnnxModel(path, image_size=4).embed(images)
    np.testing.assert_allclose(found, left_means(images, HALF, HALF), atol=1e-6)
    tiny(path, ("n", "c", "h", "w"))
    with pytest.raises(ValueError, match="does not tell the order of its dimensions; layout must"):
        OnnxModel(path, image_size=4)
    found = OnnxModel(path, image_size=4, layout="nchw").embed(images)
    np.testing.assert_allclose(found, left_means(images, HALF, HALF), atol=1e-6)


def test_a_model_that_scales_its_input_needs_mean_and_std(
    tmp_path: Path, images: np.ndarray
) -> None:
    for dtype in ("float32", "float16"):
        path = tiny(tmp_path / "m.onnx", scales=True, dtype=dtype)
        with pytest.raises(ValueError, match="begins with arithmetic on its input"):
            OnnxModel(path)
        expected = left_means(images, HALF, (1, 1, 1))
        found = OnnxModel(path, mean=0, std=1).embed(images)
        np.testing.assert_allclose(found, expected, rtol=1e-2 if dtype == "float16" else 1e-4)


def test_of_several_outputs_one_must_be_named(tmp_path: Path, images: np.ndarray) -> None:
    path = tiny(tmp_path / "m.onnx", second_output=True)
    with pytest.raises(ValueError, match=r"2 outputs \(mean \(any, 3\), negative .*; output must"):
        OnnxModel(path)
    with pytest.raises(ValueError, match="no output 'norm'; it has mean"):
        OnnxModel(path, output="norm")
    found = OnnxModel(path, output="negative").embed(images)
    np.testing.assert_allclose(found, -left_means(images, HALF, HALF), atol=1e-6)


@pytest.mark.parametrize("form", ["(N, 1, D)", "(N, D, 1, 1)", "(D,)", "(1, D) inside"])
def test_an_output_with_dimensions_of_one_is_an_embedding(
    tmp_path: Path, images: np.ndarray, form: str
) -> None:
    shapes = {"(N, 1, D)": [-1, 1, 3], "(N, D, 1, 1)": [-1, 3, 1, 1], "(D,)": [3]}
    model = OnnxModel(tiny(tmp_path / "m.onnx", output_shape=shapes.get(form, [1, 3])))
    np.testing.assert_allclose(model.embed(images), left_means(images, HALF, HALF), atol=1e-6)
    assert model.batch_size == (None if "N" in form else 1)


@pytest.mark.parametrize(
    ("dtype", "mean", "std"),
    [
        ("int32", None, None),
        ("int64", None, None),
        ("int16", None, None),
        ("uint16", None, None),
        ("int8", None, None),
        ("int8", 128, 2),
        ("int32", 128, 1),
    ],
)
def test_whole_numbers_are_the_pixels_unless_said_otherwise(
    tmp_path: Path, images: np.ndarray, dtype: str, mean: float | None, std: float | None
) -> None:
    model = OnnxModel(tiny(tmp_path / "m.onnx", dtype=dtype), mean=mean, std=std)
    less = mean if mean is not None else 128 if dtype == "int8" else 0
    wanted = np.round((images[:, :, :2].astype(np.float64) - less) / (std or 1))
    np.testing.assert_allclose(model.embed(images), wanted.mean(axis=(1, 2)), rtol=1e-5)


@pytest.mark.parametrize("nhwc", [False, True])
def test_gray_is_what_pillow_makes_of_colors(
    tmp_path: Path, images: np.ndarray, nhwc: bool
) -> None:
    shape = ("n", 4, 4, 1) if nhwc else ("n", 1, 4, 4)
    model = OnnxModel(tiny(tmp_path / "m.onnx", shape, nhwc=nhwc), mean=127.5, std=128)
    gray = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])
    expected = ((gray[:, :, :2] - 127.5) / 128).mean(axis=(1, 2))[:, None]
    assert str(model.preprocessing) == "4 x 4 GRAY, (x - 127.5) / 128"
    np.testing.assert_allclose(model.embed(images), expected, atol=1e-6)
    opened = tiny(
        tmp_path / "o.onnx", ("n", "h", "w", "c") if nhwc else ("n", "c", "h", "w"), nhwc=nhwc
    )
    layout: Any = "nhwc" if nhwc else "nchw"
    found = OnnxModel(opened, mean=127.5, std=128, image_size=4, layout=layout, channels="gray")
    np.testing.assert_allclose(found.embed(images), expected, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(4, 2), (2, 4), (3, 4)])
@pytest.mark.parametrize("declared", [True, False])
def test_of_images_that_are_not_square_the_middle_is_taken(
    tmp_path: Path, images: np.ndarray, height: int, width: int, declared: bool
) -> None:
    if declared:
        model = OnnxModel(tiny(tmp_path / "m.onnx", ("n", 3, height, width)))
    else:
        path = tiny(tmp_path / "m.onnx", ("n", 3, "h", "w"))
        model = OnnxModel(path, image_size=(height, width))
    assert (model.image_size, model.preprocessing.crop) == (4, (height, width))
    top, left = (4 - height) // 2, (4 - width) // 2
    for mirror in (False, True):
        middle = images[:, top : top + height, left : left + width]
        expected = left_means(middle, HALF, HALF)
        if mirror:
            expected = expected + left_means(middle[:, :, ::-1], HALF, HALF)
        np.testing.assert_allclose(model.embed(images, mirror=mirror), expected, atol=1e-6)
    written = model.preprocessing.to_dict()
    assert written["crop"] == [height, width]
    assert Preprocessing.from_dict(written) == model.preprocessing


def test_a_model_without_a_batch_gets_one_image_at_a_time(
    tmp_path: Path, images: np.ndarray
) -> None:
    model = OnnxModel(tiny(tmp_path / "m.onnx", (3, 4, 4), unbatched=True))
    assert model.batch_size == 1
    np.testing.assert_allclose(model.embed(images), left_means(images, HALF, HALF), atol=1e-6)


@pytest.mark.parametrize("given", [2, [1, 2, 3]])
def test_further_inputs_get_constants(tmp_path: Path, images: np.ndarray, given: Any) -> None:
    model = OnnxModel(tiny(tmp_path / "m.onnx", second_input=True), constants={"more": given})
    expected = left_means(images, HALF, HALF) + np.array(given)
    np.testing.assert_allclose(model.embed(images), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("bad", "arguments", "message"),
    [
        ({"second_input": True}, {}, r"has 2 inputs .*more \(3\)\); constant must give .* more=0"),
        ({"second_input": True}, {"constants": {"x": 1}}, "has no input 'x'; it has data"),
        (
            {"second_input": True},
            {"constants": {"more": [1, 2]}},
            r"'more' .*one number or all, got \[1",
        ),
        ({"second_input": True}, {"constants": {"data": 1}}, r"input 'more' .* of shape \(3\);"),
        ({"shape": ("n", 2, 4, 4)}, {"layout": "nchw"}, "it has 2 channels; it must have 3, or 1"),
        ({"shape": ("n", 1, 4, 4)}, {"channels": "rgb"}, "channels is 'rgb', but .* takes 'gray'"),
        ({}, {"channels": "gray"}, r"channels is 'gray', but .* has shape \(any, 3, 4, 4\)"),
        ({"dtype": "int32"}, {"mean": 127.5, "std": 127.5}, "pixels become -1 to 1 by mean 127.5"),
        ({"dtype": "int8"}, {"mean": 0}, "takes int8, and pixels become 0 to 255 by mean 0"),
        (
            {"feature_map": True},
            {},
            r"has shape \(1, 3, 4, 2\) for 1 image; an embedding has \(1, D\)",
        ),
        ({}, {"image_size": 112}, "image_size is 112, but .* takes 4"),
        ({}, {"layout": "nhwc"}, "as nhwc it has 4 channels"),
        ({}, {"std": 0}, "std is .*must not be 0"),
        ({}, {"mean": (1, 2)}, r"mean is \(1, 2\); it must be one finite number or three"),
        ({}, {"mean": float("nan")}, "mean is nan"),
        ({}, {"channels": "grb"}, "channels is 'grb'"),
        ({}, {"threads": 0}, "threads is 0"),
        ({"shape": ("n", 3, "h", "w")}, {"image_size": 0}, "image_size is 0"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    tmp_path: Path, bad: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    path = tiny(tmp_path / "m.onnx", **bad)
    with pytest.raises(ValueError, match=message) as caught:
        OnnxModel(path, **arguments)
    assert "\n" not in str(caught.value)


def test_an_input_that_is_no_batch_of_images_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 512])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 512])
    node = onnx.helper.make_node("Neg", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value], [result])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), str(path))
    with pytest.raises(ValueError, match=r"input 'x' .* is tensor\(float\) of shape \(any, 512\)"):
        OnnxModel(path)


@pytest.mark.parametrize("content", [None, b"", b"not a model", b"\x08\x09" * 50])
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.onnx") as caught:
        OnnxModel(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_model_is_named(tmp_path: Path) -> None:
    data = tiny(tmp_path / "m.onnx").read_bytes()
    for length in range(1, len(data), 7):
        (tmp_path / "m.onnx").write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"m\.onnx"):
            OnnxModel(tmp_path / "m.onnx")


def test_images_of_another_size_are_refused(tmp_path: Path, images: np.ndarray) -> None:
    model = OnnxModel(tiny(tmp_path / "m.onnx"))
    for bad in (images[:, :3], images.astype(np.float32), images[0]):
        with pytest.raises(ValueError, match=r"takes uint8 of shape \(N, 4, 4, 3\)"):
            model.embed(bad)
    with pytest.raises(
        ValueError, match="images must be 4 x 4 pixels as the model takes them, got 3 x 4"
    ):
        embed(model, images[:, :3])
    with pytest.raises(ValueError, match="has a device already"):
        embed(model, images, device="cpu")
    with pytest.raises(ValueError, match="must be a PyTorch module or an embedder, got a str"):
        embed("m.onnx", images)  # type: ignore[arg-type]


def weights_outside(path: Path, location: str) -> Path:
    """Writes a model that keeps the number which it subtracts in another file."""
    model = onnx.load(str(tiny(path, scales=True)))
    (number,) = (tensor for tensor in model.graph.initializer if tensor.name == "number")
    onnx.external_data_helper.set_external_data(number, location)
    number.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    return path


def test_the_hash_covers_weights_in_files_of_their_own(tmp_path: Path) -> None:
    path = weights_outside(tmp_path / "m.onnx", "weights.bin")
    hashes = []
    for value in (127.5, 1.0):
        (tmp_path / "weights.bin").write_bytes(np.array([value], np.float32).tobytes())
        hashes.append(OnnxModel(path, mean=0, std=1).sha256)
    assert hashes[0] != hashes[1]
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(OSError, match=r"cannot read .*weights\.bin"):
        OnnxModel(path, mean=0, std=1)


def test_what_a_model_computes_is_hashed_wherever_its_weights_are(tmp_path: Path) -> None:
    whole = OnnxModel(tiny(tmp_path / "whole.onnx", scales=True), mean=0, std=1)
    content = onnx.load(str(tmp_path / "whole.onnx"))
    content.metadata_props.add(key="note", value="something")
    content.graph.node[0].doc_string = content.producer_name = "somebody"
    content.graph.name = "another"
    for tensor in content.graph.initializer:
        if tensor.name == "number":  # as text tools write it
            tensor.float_data[:] = onnx.numpy_helper.to_array(tensor)
            tensor.ClearField("raw_data")
    onnx.save(content, str(tmp_path / "noted.onnx"))
    path = weights_outside(tmp_path / "outside.onnx", "weights.bin")
    (tmp_path / "weights.bin").write_bytes(np.array([127.5], np.float32).tobytes())
    alike = [OnnxModel(tmp_path / "noted.onnx", mean=0, std=1), OnnxModel(path, mean=0, std=1)]
    assert {model.graph_sha256 for model in alike} == {whole.graph_sha256}
    assert len({model.sha256 for model in (whole, *alike)}) == 3
    (tmp_path / "weights.bin").write_bytes(np.array([127.0], np.float32).tobytes())
    assert OnnxModel(path, mean=0, std=1).graph_sha256 != whole.graph_sha256
    others = [tiny(tmp_path / "m.onnx", scales=True, nhwc=True, shape=("n", 4, 4, 3))]
    others.append(tiny(tmp_path / "n.onnx"))
    assert whole.graph_sha256 not in {
        OnnxModel(other, mean=0, std=1).graph_sha256 for other in others
    }


@pytest.mark.skipif(os.name != "posix", reason="devices and links")
@pytest.mark.parametrize(
    "location", ["", ".", "/dev/zero", "../secret", "link", "pipe", "x" * 5000, "round", "a\0b"]
)
def test_weights_in_anything_but_a_file_of_the_models_folder_are_refused(
    tmp_path: Path, location: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"four")
    (folder / "link").symlink_to("../secret")
    (folder / "round").symlink_to("round")
    os.mkfifo(folder / "pipe")
    path = weights_outside(folder / "m.onnx", location)
    with pytest.raises(
        (ValueError, OSError), match=r"m\.onnx. keeps weights in|cannot read .*round"
    ) as caught:
        OnnxModel(path, mean=0, std=1)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_a_model_and_its_weights_may_both_be_links_into_a_cache(
    tmp_path: Path, images: np.ndarray
) -> None:
    for name in ("blobs", "snapshot"):
        (tmp_path / name).mkdir()
    weights_outside(tmp_path / "blobs" / "abc", "weights.bin")
    (tmp_path / "blobs" / "def").write_bytes(np.array([127.5], np.float32).tobytes())
    (tmp_path / "snapshot" / "m.onnx").symlink_to("../blobs/abc")
    (tmp_path / "snapshot" / "weights.bin").symlink_to("../blobs/def")
    model = OnnxModel(tmp_path / "snapshot" / "m.onnx", mean=0, std=1)
    found = model.embed(images)
    np.testing.assert_allclose(found, left_means(images, HALF, (1, 1, 1)), rtol=1e-4)


def test_metadata_that_contradicts_the_input_is_refused(tmp_path: Path) -> None:
    path = tiny(tmp_path / "m.onnx")
    model = onnx.load(str(path))
    facts = {**Preprocessing(4).to_dict(), "image_size": 64}
    model.metadata_props.add(key="centerarc", value=json.dumps(facts))
    onnx.save(model, str(path))
    with pytest.raises(ValueError, match=r"\(any, 3, 4, 4\), but .* ours in it says image_size 64"):
        OnnxModel(path)


def test_a_model_that_cannot_run_says_so_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tiny(tmp_path / "m.onnx", ("n", 3, "h", "w"), fixed_inside=True)
    model = onnx.load(str(path))
    (row,) = (tensor for tensor in model.graph.initializer if tensor.name == "one_row")
    row.CopyFrom(onnx.numpy_helper.from_array(np.array([7, -1]), "one_row"))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"cannot run .*m\.onnx"):
        OnnxModel(path, image_size=4)
    assert capfd.readouterr().err == ""


# On a GPU, of which these tests know what onnxruntime is asked for.

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class Runtime:
    """onnxruntime as it is with a GPU, or without what its CUDA provider needs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, offered: bool, starts: str) -> None:
        self.asked: list[list[str]] = []
        self.options: list[dict[str, str]] = []
        real = onnxruntime.InferenceSession
        names = [CUDA, CPU] if offered else [CPU]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)

        def session(path: str, options: Any, providers: list[Any]) -> Any:
            wanted = [each if isinstance(each, str) else each[0] for each in providers]
            self.asked.append(wanted)
            self.options += [each[1] for each in providers if not isinstance(each, str)]
            if CUDA in wanted and starts == "fails":
                raise RuntimeError("libcublas is missing\nmore")
            found = real(path, options, providers=[CPU])
            if CUDA in wanted and starts == "yes":
                monkeypatch.setattr(found, "get_providers", lambda: [CUDA, CPU])
            return found

        monkeypatch.setattr(onnxruntime, "InferenceSession", session)


def test_a_gpu_is_taken_where_it_is_there(
    tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime(monkeypatch, offered=True, starts="yes")
    path = tiny(tmp_path / "m.onnx")
    expected = OnnxModel(path).embed(images)
    assert runtime.asked == [[CPU]]
    for device in ("auto", "cuda"):
        model = OnnxModel(path, device=device)
        assert (model.device, runtime.asked.pop()) == ("cuda", [CUDA, CPU])
        np.testing.assert_array_equal(model.embed(images), expected)
    assert runtime.options == [{"use_tf32": "0"}] * 2
    opened = open_model(path, device="auto")
    assert isinstance(opened.embedder, OnnxModel)
    assert opened.embedder.device == "cuda"


@pytest.mark.parametrize(
    ("offered", "starts", "message"),
    [
        (False, "no", "onnxruntime here has no CUDA provider: .* pip install onnxruntime-gpu"),
        (True, "no", "its provider does not start; are there a GPU, and CUDA and cuDNN"),
        (True, "fails", r"its provider does not start.*libcublas is missing\)$"),
    ],
)
def test_without_a_gpu_auto_takes_the_cpu_and_cuda_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offered: bool, starts: str, message: str
) -> None:
    runtime = Runtime(monkeypatch, offered, starts)
    path = tiny(tmp_path / "m.onnx")
    assert OnnxModel(path, device="auto").device == "cpu"
    assert runtime.asked[-1] == [CPU]
    with pytest.raises(ValueError, match=f"device is 'cuda', but {message}") as caught:
        open_model(path, device="cuda")
    assert "\n" not in str(caught.value)
