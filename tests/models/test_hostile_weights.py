"""Weights that cannot be used are refused in a line: the tensor, its value, and what may be."""

import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file
from torch import Tensor, nn

from centerarc.models import load_pretrained, load_weights, open_model
from centerarc.models.backbone import create_model
from tests.models.tiny import tiny

KEY, COUNT = "0.weight", "1.num_batches_tracked"


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def refused(path: Path, load: Callable[[Path], Any] | None = None) -> str:
    """What is said of a file, without its folder; a model that it was loaded into is unchanged."""
    target = model()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(ValueError) as error:
        load_pretrained(target, path) if load is None else load(path)
    torch.testing.assert_close(dict(target.state_dict()), before, rtol=0, atol=0)
    said = str(error.value)
    assert "\n" not in said
    assert repr(str(path)) in said
    return said.replace(f"{path.parent}{os.sep}", "")


def changed(value: float, place: tuple[int, int] = (2, 1)) -> Tensor:
    weight = torch.zeros(4, 3)
    weight[place] = value
    return weight


FLOATS = "must be one of float16, bfloat16, float32, float64, got"
# Whether safetensors can hold it, and what is said of it.
TENSORS: list[tuple[str, Tensor, bool, str]] = [
    (KEY, changed(torch.nan), True, "must be finite in float32, got nan at [2, 1]"),
    (KEY, changed(torch.inf), True, "must be finite in float32, got inf at [2, 1]"),
    (KEY, changed(-torch.inf, (0, 0)), True, "must be finite in float32, got -inf at [0, 0]"),
    (KEY, changed(torch.nan).half(), True, "must be finite in float32, got nan at [2, 1]"),
    (KEY, changed(torch.inf).bfloat16(), True, "must be finite in float32, got inf at [2, 1]"),
    (KEY, changed(1).double() * 1e300, True, "must be finite in float32, got 1e+300 at [2, 1]"),
    ("1.running_var", torch.tensor([1, torch.nan, 1, 1]), True, "must be finite in float32, got n"),
    (KEY, changed(1).to(torch.complex64), True, f"{FLOATS} complex64"),
    (KEY, changed(1).to(torch.complex128), False, f"{FLOATS} complex128"),
    (KEY, changed(1).bool(), True, f"{FLOATS} bool"),
    (KEY, changed(1).int(), True, f"{FLOATS} int32"),
    (KEY, changed(1).to(torch.uint8), True, f"{FLOATS} uint8"),
    (KEY, changed(1).to(torch.uint16), True, f"{FLOATS} uint16"),
    (KEY, changed(1).to(torch.float8_e4m3fn), True, f"{FLOATS} float8_e4m3fn"),
    (KEY, changed(1).to(torch.float8_e5m2), True, f"{FLOATS} float8_e5m2"),
    (KEY, changed(1).to_sparse(), False, "must be a dense tensor, got a sparse one"),
    (KEY, changed(1).to_sparse_csr(), False, "must be a dense tensor, got a sparse one"),
    (KEY, changed(1).to("meta"), False, "must be a tensor with values, got one of the meta dev"),
    (KEY, changed(1).expand(10**6, 4, 3), False, "0.weight is (1000000, 4, 3) instead of (4, 3)"),
    (
        KEY,
        torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.int64), torch.ones(1), (10**9,) * 2),
        False,
        "must be a dense tensor, got a sparse one",
    ),
    (COUNT, torch.tensor(3.0), True, "1.num_batches_tracked must be int64, got float32"),
    (COUNT, torch.tensor(True), True, "1.num_batches_tracked must be int64, got bool"),
    (COUNT, torch.tensor(1j), False, "1.num_batches_tracked must be int64, got complex64"),
]


@pytest.mark.filterwarnings("ignore")  # torch's about sparse tensors, which are still in beta
@pytest.mark.parametrize("kind", ["safetensors", "pt"])
@pytest.mark.parametrize(("key", "tensor", "storable", "said"), TENSORS, ids=lambda v: str(v)[:40])
def test_a_tensor_that_is_no_weight_is_named(
    tmp_path: Path, kind: str, key: str, tensor: Tensor, storable: bool, said: str
) -> None:
    state, path = {**model().state_dict(), key: tensor}, tmp_path / f"w.{kind}"
    if kind == "pt":
        torch.save(state, path)
    elif storable:
        save_file(state, path)
    else:
        return
    found = refused(path)
    assert said in found
    assert key in found
    assert found.startswith((f"'w.{kind}' does not fit the model: ", f"'w.{kind}' holds no usabl"))


@pytest.mark.filterwarnings("ignore")  # torch's about quantized and nested tensors
def test_quantized_and_nested_tensors_are_named(tmp_path: Path) -> None:
    for tensor, said in (
        (torch.quantize_per_tensor(changed(1), 0.1, 0, torch.qint8), "got a quantized one"),
        (torch.nested.nested_tensor([torch.zeros(3)] * 4), "1 missing (0.weight)"),
    ):
        torch.save({**model().state_dict(), KEY: tensor}, tmp_path / "w.pt")
        assert said in refused(tmp_path / "w.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_of_other_precision_are_taken(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {**model().state_dict(), KEY: changed(0.5).to(dtype), COUNT: torch.tensor(7).int()}
    for path in (tmp_path / "w.pt", tmp_path / "w.safetensors"):
        torch.save(state, path) if path.suffix == ".pt" else save_file(state, path)
        target = model()
        load_pretrained(target, path)
        assert target.state_dict()[KEY].equal(changed(0.5))
        assert target.state_dict()[COUNT] == 7


def test_a_mask_may_have_infinities_where_a_new_model_has_them(tmp_path: Path) -> None:
    def masked(place: int) -> nn.Module:
        module = nn.Linear(2, 2)
        mask = torch.zeros(3)
        mask[place] = -torch.inf
        module.register_buffer("mask", mask)
        return module

    torch.save(masked(1).state_dict(), tmp_path / "w.pt")
    load_pretrained(masked(1), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"mask must be finite in float32, got -inf at \[1\]"):
        load_pretrained(masked(0), tmp_path / "w.pt")


RECIPE = {"name": "mobilefacenet", "embedding_size": 16, "image_size": 32, "metadata": {}}
EMBEDDING, IMAGE = "must be between 1 and 65536", "positive multiple of 16, at most 4096"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"embedding_size": 10**12}, f"embedding_size is 1000000000000; it {EMBEDDING}"),
        ({"embedding_size": 0}, f"embedding_size is 0; it {EMBEDDING}"),
        ({"embedding_size": -1}, f"embedding_size is -1; it {EMBEDDING}"),
        ({"embedding_size": 1e12}, "embedding_size is 1000000000000.0; it must be of type int"),
        ({"embedding_size": None}, "embedding_size is None; it must be of type int"),
        ({"embedding_size": 65536}, "numbers, and the file holds 1"),
        ({"image_size": 16 * 10**11}, f"image_size is 1600000000000; it must be a {IMAGE}"),
        ({"image_size": 16 * 10**30}, f"it must be a {IMAGE}"),
        ({"image_size": 4096}, "numbers, and the file holds 1"),
        ({"name": "vit_t", "image_size": 16 * 10**7}, f"it must be a {IMAGE}"),
        ({"name": "vit_t", "image_size": 4096}, "numbers, and the file holds 1"),
        ({"name": "iresnet10", "options": {"width": 1e9}}, "width is 1000000000.0; it must be a"),
        ({"name": "iresnet10", "options": {"width": float("nan")}}, "width is nan; it must be a"),
        ({"name": "iresnet10", "options": {"width": float("inf")}}, "width is inf; it must be a"),
        ({"name": "iresnet10", "options": {"dropout": float("nan")}}, "dropout is nan; it must be"),
        ({"name": "iresnet10", "options": {"depth": 10**9}}, "has no option 'depth'"),
        ({"name": "vit_t", "options": {"mask_ratio": 2}}, "mask_ratio is 2; it must be in [0, 1)"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_absurd_sizes_of_a_recipe_are_named_and_not_built(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    text = json.dumps({"options": {}, **RECIPE, **changes})
    save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors", metadata={"centerarc": text})
    assert said in refused(tmp_path / "w.safetensors", load_weights)


def test_a_size_of_five_thousand_digits_is_named(tmp_path: Path) -> None:
    text = json.dumps({"options": {}, **RECIPE, "embedding_size": 0})
    text = text.replace('"embedding_size": 0', f'"embedding_size": {"1" * 5000}')
    save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors", metadata={"centerarc": text})
    said = refused(tmp_path / "w.safetensors", load_weights)
    assert "embedding_size is inf; it must be of type int" in said


def test_an_image_beyond_any_use_is_refused_where_a_model_is_made() -> None:
    with pytest.raises(ValueError, match=r"image_size is 160000; .* multiple of 16, at most 4096"):
        create_model("mobilefacenet_small", image_size=160_000)


@pytest.mark.parametrize("load", [load_weights, open_model, None], ids=["weights", "open", "into"])
def test_what_is_no_file_is_refused_without_waiting(
    tmp_path: Path, load: Callable[[Path], Any] | None
) -> None:
    os.mkfifo(tmp_path / "w.pt")
    assert (
        refused(tmp_path / "w.pt", load) == "'w.pt' is a device or pipe; give the file of a model"
    )
    (tmp_path / "folder").mkdir()
    said = refused(tmp_path / "folder", load)
    expected = "is a folder; give the file" if load is None else "holds no weights: neither best."
    assert said.startswith(f"'folder' {expected}")


@pytest.mark.parametrize("kind", ["safetensors", "pt", "legacy.pt"])
@pytest.mark.parametrize("kept", [0, 1, 8, 9, 0.5, -1])
def test_a_file_that_was_cut_short_is_named(tmp_path: Path, kind: str, kept: float) -> None:
    path, state = tmp_path / f"w.{kind}", model().state_dict()
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "pt")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if kept == 0.5 else int(kept)])
    said = refused(path)
    assert ("is empty" if kept == 0 else "w.") in said
    assert said.startswith(("'w.", "cannot read weights from 'w."))


def _tensor(dtype: str, shape: list[int], offsets: list[int]) -> str:
    return json.dumps({KEY: {"dtype": dtype, "shape": shape, "data_offsets": offsets}})


def _header(text: str, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text.encode() + data


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            _header(
                '{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
            ),
            "",
        ),
        (_header('{"a":{"dtype":"F32","shape":[4000000000],"data_offsets":[0,4]}}', b"1234"), ""),
        (_header('{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', b"1234"), ""),
        (_header('{"a":{"dtype":"X9","shape":[1],"data_offsets":[0,4]}}', b"1234"), "`X9`"),
        (
            _header('{"0.weight":{"dtype":"F32","shape":[0,99999999],"data_offsets":[0,0]}}'),
            "(0, 99",
        ),
        (_header("{" * 1000), "invalid JSON"),
        (_header("{}"), "holds no state dict of tensors"),
        (struct.pack("<Q", 2**63) + b"{}", "is damaged, or not a model"),
    ],
    ids=lambda v: repr(v)[:40],
)
def test_a_header_that_promises_too_much_is_refused(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    assert said in refused(path)


def _edited(path: Path, edit: Callable[[str, bytes], bytes], compression: int) -> None:
    """Writes a zip file of `torch.save` again, with other content."""
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, edit(name, data))


def test_a_checkpoint_that_unpacks_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({KEY: changed(1)}, path)
    _edited(path, lambda n, d: bytes(10**6) if n.endswith("data/0") else d, zipfile.ZIP_DEFLATED)
    said = refused(path)
    assert said.startswith("cannot read weights from 'w.pt': it must not be compressed, got 1,000,")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_that_promises_more_numbers_than_it_has_is_refused(
    tmp_path: Path, legacy: bool
) -> None:
    path = tmp_path / "w.pt"
    torch.save({KEY: torch.arange(7.0)}, path, _use_new_zipfile_serialization=not legacy)
    before = b"K\x07N" if legacy else b"K\x07t"
    after = b"J" + (10**9).to_bytes(4, "little") + before[-1:]

    def promise(name: str, data: bytes) -> bytes:
        assert not name.endswith("data.pkl") or before in data
        return data.replace(before, after) if name.endswith("data.pkl") else data

    if legacy:
        path.write_bytes(promise("data.pkl", path.read_bytes()))
    else:
        _edited(path, promise, zipfile.ZIP_STORED)
    assert refused(path).startswith("cannot read weights from 'w.pt': ")


def _onnx(path: Path, change: Callable[[TensorProto], None]) -> None:
    tiny(path, scales=True)
    found = onnx.load(path)
    change(next(t for t in found.graph.initializer if t.data_type == TensorProto.FLOAT))
    onnx.save(found, path)


def _raw(value: float) -> Callable[[TensorProto], None]:
    return lambda t: t.CopyFrom(helper.make_tensor(t.name, t.data_type, [1], [value]))


def _bytes(value: float) -> Callable[[TensorProto], None]:
    packed = struct.pack("<f", value)
    return lambda t: t.CopyFrom(helper.make_tensor(t.name, t.data_type, [1], packed, raw=True))


def _half(t: TensorProto) -> None:
    t.CopyFrom(helper.make_tensor(t.name, TensorProto.FLOAT16, [1], [float("nan")]))


def _dims(t: TensorProto) -> None:
    t.CopyFrom(TensorProto(name=t.name, data_type=t.data_type, dims=[10**12], float_data=[1.0]))


def _offset(t: TensorProto) -> None:
    t.ClearField("raw_data")
    t.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "m.onnx"), ("offset", "1" * 5000)):
        t.external_data.add(key=key, value=value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            _raw(float("nan")),
            "'number' that cannot be used: they must be numbers, got nan",
        ),
        (
            _bytes(float("nan")),
            "'number' that cannot be used: they must be numbers, got nan",
        ),
        (_half, "'number' that cannot be used: they must be numbers, got nan"),
        (_dims, "'number' that cannot be used: cannot reshape"),
        (_offset, "'number' that cannot be used: Exceeds the limit"),
    ],
)
def test_weights_of_onnx_that_are_no_numbers_are_named(
    tmp_path: Path, change: Callable[[TensorProto], None], said: str
) -> None:
    _onnx(tmp_path / "m.onnx", change)
    assert said in refused(tmp_path / "m.onnx", lambda path: open_model(path, mean=0, std=1))
