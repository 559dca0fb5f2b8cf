"""Files of weights: safetensors of our own, public checkpoints, and what others are."""

import json
import os
import pickle
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from centerarc.io.files import asks_for_room, atomic_path
from centerarc.models.backbone import Backbone
from centerarc.models.hub import HUB_WEIGHTS, download, hub_model


def read_torch_file(path: Path) -> Any:
    """Reads a file that `torch.save` wrote, on the CPU, without executing what it holds.

    Raises:
        ValueError: If it is absent, damaged, compressed, or holds more than tensors and plain
            values; says which, but not the path.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                inside = sum(member.file_size for member in archive.infolist())
            # What torch.save writes is not; a few bytes could become any number.
            if inside > (whole := path.stat().st_size):
                raise ValueError(f"it must not be compressed, got {inside:,} bytes in {whole:,}")
        # Opened here: by its name, torch would take some files for safetensors.
        with open(path, "rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own text advises to load the file unsafely.
        if "global" in str(error).lower():
            name = _GLOBAL.search(str(error))
            held = f" ({name[1]})" if name else ""
            reason = f"it holds objects that are not tensors{held}, which could run code"
        else:
            reason = "the file is damaged, or no file of torch"
        raise ValueError(reason) from error
    except Exception as error:  # a damaged file can fail in any way
        raise ValueError((str(error) or type(error).__name__).splitlines()[0]) from error


METADATA_KEY, CHECKSUM_KEY = "centerarc", "crc32"
# What a folder of a run, or of a shared model, is asked for, the first that exists.
_IN_FOLDERS = ("best.safetensors", "last.safetensors", HUB_WEIGHTS)
# Beside them, who was trained on: one name a line.
PEOPLE_FILE = "people.txt"
_GLOBAL = re.compile(r"GLOBAL (\S+)")
_RECIPE = {"name": str, "embedding_size": int, "image_size": int, "options": dict, "metadata": dict}
# What wrappers of PyTorch put inside names: torch.compile, FSDP, activation checkpointing.
_WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_DEPTH = 4  # how deep weights lie in a checkpoint, at most
_MOST_DIGITS, _SHOWN = 400, 3
_NO_OPTIONS = {"name", "embedding_size", "image_size", "generator"}  # of `create_model`


def save_weights(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model's weights and the recipe that rebuilds it to one safetensors file.

    The file is complete or absent: an interrupted save leaves what was there.

    Args:
        path: The file to write, usually `*.safetensors`.
        model: A model from `create_model`, on any device.
        metadata: Anything worth keeping beside the weights, such as the epoch and scores; must
            survive JSON.

    Raises:
        ValueError: If the model was not built by `create_model`, or the metadata is not JSON.
        OSError: If the file cannot be written, as on a full disk.

    Example:
        >>> import tempfile
        >>> from centerarc.models import create_model, load_weights
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_weights(f"{folder}/face.safetensors", create_model("mobilefacenet"))
        ...     load_weights(f"{folder}/face.safetensors").embedding_size
        512
    """
    recipe = model.recipe if isinstance(model, Backbone) else None
    if recipe is None:
        raise ValueError(
            f"model is a {type(model).__name__} without a recipe; "
            "only models built by create_model can be saved with the recipe to rebuild them"
        )
    try:
        text = json.dumps({**recipe.to_dict(), "metadata": dict(metadata or {})})
    except TypeError as error:
        raise ValueError(f"metadata and model options must be JSON: {error}") from error
    # Copies, as safetensors does not write tied weights.
    tensors = {key: value.contiguous().clone() for key, value in model.state_dict().items()}
    with atomic_path(path) as temporary:
        try:
            write_tensors(tensors, temporary, text)
        except (OSError, SafetensorError) as error:
            said = f"cannot write {os.fspath(path)!r}{asks_for_room(error)} ({error})"
            raise OSError(said) from error


def write_tensors(tensors: dict[str, Tensor], path: Path, text: str) -> None:
    """Writes tensors with a text in ASCII and their checksum: equal ones give equal bytes."""
    save_file(tensors, path, metadata=with_checksum(text, tensors))
    with path.open("r+b") as file:  # safetensors writes what it holds of metadata in any order
        header = file.read(int.from_bytes(file.read(8), "little"))
        said = json.loads(header)["__metadata__"]
        now, then = (json.dumps(said, separators=(",", ":"), sort_keys=s) for s in (False, True))
        file.seek(8)
        file.write(header.replace(now.encode(), then.encode(), 1))


def with_checksum(text: str, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The metadata of a file of weights: a text, and the CRC-32 of it and the tensors."""
    found = zlib.crc32(text.encode("utf-8", "surrogateescape"))
    for name, tensor in sorted(tensors.items()):
        found = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), found)
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found = zlib.crc32(values.numpy().data, found)
    return {METADATA_KEY: text, CHECKSUM_KEY: f"{found:08x}"}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with safe_open(str(path), framework="pt") as file:
        said = file.metadata() or {}
    tensors = load_file(path)
    checksum = said.get(CHECKSUM_KEY)  # files of others have none
    if checksum and checksum != with_checksum(said.get(METADATA_KEY, ""), tensors)[CHECKSUM_KEY]:
        raise ValueError(
            "its content changed after it was written (CRC-32); copy or train it again, or leave "
            f"{CHECKSUM_KEY} out of its metadata if it was changed on purpose"
        )
    return tensors


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the recipe and metadata of a file of `save_weights` without its tensors.

    Returns:
        A dictionary with `name`, `embedding_size`, `image_size`, `options` and `metadata`.

    Raises:
        ValueError: If the file is missing, damaged, or not one of ours.
    """
    if (kind := file_kind(path)) == "onnx":
        raise ValueError(f"{str(path)!r} is an ONNX model, which open_model opens")
    text = None
    try:
        if kind == "safetensors":
            with safe_open(str(path), framework="pt") as file:
                text = (file.metadata() or {}).get(METADATA_KEY)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot read weights from {str(path)!r}: {error}") from error
    if text is None:
        raise ValueError(
            f"{str(path)!r} does not say which model it holds; "
            "name it by --architecture, or build it and use load_pretrained(model, path)"
        )
    try:
        return _check_recipe(json.loads(text, parse_int=_whole))
    except (ValueError, RecursionError) as error:  # not JSON, or nested too deeply
        raise ValueError(f"{str(path)!r} holds no valid recipe of a model: {error}") from error


def _whole(digits: str) -> int | float:
    """A whole number of JSON; one of so many digits that Python refuses it is infinite."""
    return int(digits) if len(digits) < _MOST_DIGITS else float(digits)


def _check_recipe(content: Any) -> dict[str, Any]:
    """Refuses what `save_weights` never writes: the file may come from anyone."""
    if not isinstance(content, dict):
        raise ValueError(f"it is {content!r:.50}; it must be an object with names")
    for key, kind in _RECIPE.items():
        if key not in content:
            raise ValueError(f"{key} is missing")
        value = content[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{key} is {value!r:.50}; it must be of type {kind.__name__}")
    if clash := sorted(_NO_OPTIONS & set(content["options"])):
        raise ValueError(f"options holds {clash[0]!r}, which is not an option of a backbone")
    return content


def weights_file(path: Path) -> Path:
    """The file itself, or the best one of a folder."""
    if not path.is_dir():
        return path
    found = [path / name for name in _IN_FOLDERS if (path / name).is_file()]
    if not found:
        reason = foreign_folder(path) or f"neither {' nor '.join(_IN_FOLDERS)}"
        raise ValueError(f"{str(path)!r} holds no weights: {reason}")
    return found[0]


def load_start(model: Backbone, name: str | os.PathLike[str]) -> Path:
    """Loads the weights that a training starts from: a run, any file of weights, or the Hub.

    Args:
        model: The backbone to train.
        name: As of `load_weights`, or a public checkpoint, as of `load_pretrained`.

    Returns:
        The file.

    Raises:
        ImportError, OSError: As `load_weights`.
        ValueError: If they are not of this backbone; says what the file holds, if it says so.
    """
    file = find_weights(name)
    try:
        load_pretrained(model, file)
    except ValueError as error:
        hint = ""
        with suppress(ValueError):  # what is no weights at all, or does not say which
            if file_kind(file) == "onnx":
                hint = "; an ONNX file cannot be trained, give the weights that it was made of"
            else:
                hint = "; the settings of the model must be those of the file"
                held = read_metadata(file)
                said = ", ".join(f"{key}: {held[key]}" for key in _RECIPE if key != "metadata")
                hint += f": {said}"
        raise ValueError(f"{error}{hint}") from error
    return file


def find_weights(name: str | os.PathLike[str]) -> Path:
    """Returns the file that a user names: itself, the best of a folder, or one of the Hub."""
    shared = hub_model(name)
    return weights_file(Path(name)) if shared is None else download(shared)


def load_pretrained(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Loads a checkpoint's weights into a model, all of them or none.

    Takes safetensors files and torch checkpoints, whatever their names: a state dict, as the public
    arcface_torch backbones are, or a training checkpoint that holds one (`state_dict_backbone`,
    `state_dict`, `model`, ...). A prefix that all names share (`module.`, `model.`, `backbone.`)
    and what wrappers add (`_orig_mod.`) are taken away; what is then left over beside a prefixed
    backbone, such as a head, does not matter. Nothing in a checkpoint is executed.

    Args:
        model: The model that the checkpoint was saved from, e.g. `create_model("iresnet50")`.
        path: The checkpoint.

    Raises:
        ValueError: If the file cannot be read as weights, its names or shapes are not the
            model's, or it holds several sets of them; the model is unchanged then.
    """
    load_states(model, read_states(Path(path)), Path(path))


def load_states(model: nn.Module, states: Mapping[str, dict[str, Tensor]], path: Path) -> None:
    """Loads those weights of a checkpoint that are the model's; see `load_pretrained`."""
    expected = model.state_dict()
    state = named_as(expected, states, path)
    for key, tensor in expected.items():
        if key in state and (reason := _of_another_kind(state[key], tensor)):
            raise ValueError(f"{str(path)!r} does not fit the model: {key} must be {reason}")
    problems = []
    if missing := [key for key in expected if key not in state]:
        problems.append(f"{len(missing)} missing ({_first(missing)})")
    if unexpected := [key for key in state if key not in expected]:
        problems.append(f"{len(unexpected)} unexpected ({_first(unexpected)})")
    if misshapen := [
        f"{key} is {tuple(state[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]:
        problems.append(f"{len(misshapen)} of another shape ({_first(misshapen)})")
    if problems:
        raise ValueError(f"{str(path)!r} does not fit the model: {'; '.join(problems)}")
    for key, tensor in expected.items():
        if reason := _not_finite(state[key], tensor):
            raise ValueError(f"{str(path)!r} holds no usable weights: {key} must be {reason}")
    model.load_state_dict(state)


_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _of_another_kind(found: Tensor, wanted: Tensor) -> str:
    """What a tensor must be to be loaded in place of another, and what it is; empty if it can."""
    if found.is_quantized:
        return "a tensor of plain numbers, got a quantized one"
    if found.layout is not torch.strided:
        return "a dense tensor, got a sparse one"
    if found.is_meta:
        return "a tensor with values, got one of the meta device"
    kind = str(found.dtype).removeprefix("torch.")
    if wanted.is_floating_point():
        names = ", ".join(str(one).removeprefix("torch.") for one in _FLOATS)
        return "" if found.dtype in _FLOATS else f"one of {names}, got {kind}"
    whole = not (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool)
    if found.dtype == wanted.dtype or (whole and wanted.dtype == torch.int64):
        return ""
    return f"{str(wanted.dtype).removeprefix('torch.')}, got {kind}"


def _not_finite(found: Tensor, wanted: Tensor) -> str:
    """Which number of a tensor is none, or too large for the one it replaces; empty if all are."""
    cast = found.to(wanted.dtype)
    wrong = ~torch.isfinite(cast)
    if wrong.any():
        # A mask may have infinities, in the places where a new model has them, too.
        wrong &= cast != wanted.to(cast.device)
    if not wrong.any():
        return ""
    place = wrong.nonzero()[0].tolist()
    kind = str(wanted.dtype).removeprefix("torch.")
    return f"finite in {kind}, got {found[tuple(place)].item()} at {place}"


def read_states(path: Path) -> dict[str, dict[str, Tensor]]:
    """All dictionaries of tensors in a checkpoint, by the names that lead to them."""
    kind = file_kind(path)
    if kind == "onnx":
        raise ValueError(f"{str(path)!r} is an ONNX model, which open_model opens")
    try:
        content = _read_safetensors(path) if kind == "safetensors" else read_torch_file(path)
    except Exception as error:  # a damaged file can fail in any way
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if "objects that are not tensors" in reason:
            reason += "; in the program that made it, save the weights alone: "
            reason += "torch.save(model.state_dict(), 'weights.pt')"
        raise ValueError(f"cannot read weights from {str(path)!r}: {reason}") from error
    states = dict(_states(content, "", _DEPTH))
    if not states:
        held = _first(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{str(path)!r} holds no state dict of tensors; it holds {held}")
    return states


def _states(content: Any, name: str, depth: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    if not isinstance(content, Mapping) or not depth:
        return
    tensors = {
        _WRAPPERS.sub("", str(key)): value
        for key, value in content.items()
        if isinstance(value, Tensor) and not value.is_nested
    }
    if tensors:
        yield name, tensors
    for key, value in content.items():
        yield from _states(value, f"{name}{key}.", depth - 1)


def named_as(
    expected: Mapping[str, Any], states: Mapping[str, dict[str, Tensor]], path: Path
) -> dict[str, Tensor]:
    """The state with most of the expected names, without what stands before each of them."""
    counts: Counter[tuple[str, str]] = Counter()
    for where, state in states.items():
        counts[where, ""] = 0
        for key in state:
            dots = [-1, *(at for at, letter in enumerate(key) if letter == ".")]
            for at in dots:
                if key[at + 1 :] in expected:
                    counts[where, key[: at + 1]] += 1
    (best, most), *_ = counts.most_common(1)
    whole = [where + prefix for (where, prefix), count in counts.items() if count == len(expected)]
    if len(whole) > 1:
        raise ValueError(
            f"{str(path)!r} holds the weights of {len(whole)} such models "
            f"({_first(name or 'its own' for name in whole)}); save the one that is meant alone"
        )
    where, prefix = best
    state = states[where]
    if not most:
        state = max(states.values(), key=len)
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _first(items: Iterable[object]) -> str:
    shown = [str(item) for item in items]
    return ", ".join(shown[:_SHOWN]) + (", ..." if len(shown) > _SHOWN else "")


# What a file is, by its content.

Kind = Literal["safetensors", "torch", "onnx"]

_HEAD = 4096
# No sensible header of safetensors is longer.
_LONGEST_HEADER = 100_000_000
# What torch.save wrote before it wrote zip files, and how other pickles begin.
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_PICKLES = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
# Of protobuf: the wire type of what has a length, and the fields of ONNX's ModelProto.
_LENGTH = 2
_ONNX_FIELDS = {*range(1, 9), 14, 20, 25, 26}
_GRAPH = 7
# Far more than a model has, of which each operator set, function and note is one.
_MOST_FIELDS = 100_000

_CONVERT = "convert it to ONNX:"
_TF2ONNX = f"{_CONVERT} python -m tf2onnx.convert"
_KERAS = f"{_CONVERT} keras.models.load_model('FILE').export('model.onnx', format='onnx')"
_MXNET = (
    f"{_CONVERT} mxnet.onnx.export_model('SYMBOL', 'PARAMS', [(1, 3, 112, 112)], "
    "numpy.float32, 'model.onnx')"
)
_SOURCE = "give the ONNX model that it was made from"
_ARRAYS = "give the model; evaluate alone takes embeddings, too"
_UNPACK = "unpack it and give the model in it"
# What a file is by its first bytes, or those from a place on, and what to do about it.
_STARTS = (
    (4, b"TFL3", "a TensorFlow Lite model", f"{_TF2ONNX} --tflite FILE --output model.onnx"),
    (4, b"ORTM", "a model in onnxruntime's own format", _SOURCE),
    (0, b"\x12\x01\0\0\0\0\0\0", "a file of MXNet parameters", _MXNET),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes", _KERAS),
    (0, b"ftrt", "a TensorRT engine", _SOURCE),
    (0, b"7767517", "an ncnn model", _SOURCE),
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the model", "run git lfs pull"),
    (0, b"\x1f\x8b", "a gzip archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"PAR1", "a Parquet file", _ARRAYS),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
)
# Likewise by what stands early in a text of XML, HTML or JSON.
_TEXTS = (
    (b"<!doctype html", "a web page, not the model", "download it again"),
    (b"<html", "a web page, not the model", "download it again"),
    (b"<net ", "an OpenVINO model", _SOURCE),
    (b'"nodes"', "the symbol file of an MXNet model", _MXNET),
)


def file_kind(path: str | os.PathLike[str]) -> Kind:
    """Returns what a model file is: of safetensors, of `torch.save`, or ONNX.

    The content decides; a name counts only for ONNX files that are damaged. Nothing is unpickled.

    Args:
        path: The file.

    Raises:
        ValueError: If there is none, or it is something else; says what it is and what to do.
        OSError: If it cannot be read.
    """
    place, named = Path(path), repr(os.fspath(path))
    if not place.is_file():
        if place.exists():
            kind = "a folder" if place.is_dir() else "a device or pipe"
            raise ValueError(f"{named} is {kind}; give the file of a model")
        raise ValueError(f"there is no model file {named}")
    with open(place, "rb") as file:
        head, size = file.read(_HEAD), os.fstat(file.fileno()).st_size
        length = int.from_bytes(head[:8], "little")
        if head[8:9] == b"{" and length <= min(size - 8, _LONGEST_HEADER):
            return "safetensors"
        in_zip = _zip_names(file)
        if head.startswith(_LEGACY) or _is_of_torch(in_zip):
            return "torch"
        if _is_onnx(file, size):
            return "onnx"
        frozen = _is_frozen_graph(file, size)
    what, advice = _foreign(head, in_zip, frozen=frozen)
    if not what and size and place.suffix.lower() == ".onnx":
        return "onnx"
    if not what:
        what = "damaged, or not a model" if size else "empty"
        advice = "weights are safetensors or of torch.save, other models ONNX"
    stem = re.sub(r"(-symbol\.json|(-\d{4})?\.params)$", "", str(place))
    words = {"SYMBOL": f"{stem}-symbol.json", "PARAMS": f"{stem}-0000.params", "FILE": str(place)}
    if place.suffix == ".params":
        words["PARAMS"] = str(place)
    advice = re.sub("|".join(words), lambda found: words[found[0]], advice)
    raise ValueError(f"{named} is {what}; {advice}")


def foreign_folder(path: Path) -> str:
    """What models of others a folder without weights holds, and what to do; "" for none."""
    if (path / "saved_model.pb").is_file():
        how = f"{_TF2ONNX} --saved-model {path} --output model.onnx"
        return f"it is a TensorFlow SavedModel; {how}"
    found = sorted(entry.name for entry in path.iterdir() if entry.suffix.lower() == ".onnx")
    return f"it holds ONNX models; name one of them: {', '.join(found)}" if found else ""


def _zip_names(file: BinaryIO) -> list[str]:
    """The members of a zip file; none of any other."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.namelist()
    # Of archives that are damaged, or newer than zipfile reads, no member is known.
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return []


def _inner(names: Iterable[str]) -> set[str]:
    """Members without the folder of the archive's name, in which PyTorch puts all."""
    return {name.partition("/")[2] for name in names}


def _is_torchscript(names: Iterable[str]) -> bool:
    return any(name == "constants.pkl" or name.startswith("code/") for name in _inner(names))


def _is_of_torch(names: Sequence[str]) -> bool:
    return "data.pkl" in _inner(names) and not _is_torchscript(names)


def _foreign(head: bytes, in_zip: Sequence[str], *, frozen: bool) -> tuple[str, str]:
    """What a file is that must be converted or fetched first, and how; empty where unknown."""
    for at, magic, what, advice in _STARTS:
        if head.startswith(magic, at):
            return what, advice
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for word, what, advice in _TEXTS:
        if text[:1] in (b"<", b"{") and word in text:
            return what, advice
    if head.startswith(_PICKLES):
        advice = "in the program that made it, save torch.save(model.state_dict(), 'weights.pt')"
        return "a pickle of Python objects, which could run code", advice
    if frozen:
        how = "--graphdef FILE --inputs IN:0 --outputs OUT:0 --output model.onnx"
        return "a frozen TensorFlow graph", f"{_TF2ONNX} {how}"
    if _is_torchscript(in_zip):
        example = "torch.zeros(1, 3, 112, 112), 'model.onnx', dynamo=False"
        how = f"torch.onnx.export(torch.jit.load('FILE').eval(), {example})"
        return "a TorchScript model", f"{_CONVERT} {how}"
    if _inner(in_zip) & {"models/model.json", "archive_format", "archive_version"}:
        how = "torch.onnx.export(torch.export.load('FILE'), (), 'model.onnx')"
        return "a program of torch.export", f"{_CONVERT} {how}"
    if any(name.endswith(".npy") for name in in_zip):
        return "a file of NumPy arrays", _ARRAYS
    if "model.weights.h5" in in_zip:
        return "a Keras model", _KERAS
    if in_zip:
        inside = [n for n in in_zip if n.lower().endswith((".onnx", ".safetensors", ".pth"))]
        return "a zip archive", f"{_UNPACK}{'' if not inside else f', {inside[0]}'}"
    return "", ""


def _is_frozen_graph(file: BinaryIO, size: int) -> bool:
    """Whether a file begins with a node of a TensorFlow GraphDef: its name, then its operation."""
    try:
        number, start, length = next(_fields(file, 0, size))
        (name, *_), (operation, at, count) = islice(_fields(file, start, start + length), 2)
        file.seek(at)
        return (number, name, operation) == (1, 1, 2) and file.read(min(count, 99)).isalnum()
    except (ValueError, StopIteration):
        return False


def _is_onnx(file: BinaryIO, size: int) -> bool:
    """Whether a whole file is fields of ONNX's ModelProto, the graph among them."""
    try:
        numbers = {number for number, *_ in islice(_fields(file, 0, size), _MOST_FIELDS)}
    except ValueError:
        return False
    return _GRAPH in numbers and numbers <= _ONNX_FIELDS


def _fields(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields number, place and length of each field of a protobuf message, by headers alone."""
    while start < end:
        file.seek(start)
        header = file.read(20)
        tag, used = _varint(header, 0)
        value, used = _varint(header, used)
        if tag & 7 == _LENGTH:
            start += used
            yield tag >> 3, start, value
            start += value
        elif tag & 7 == 0:
            yield tag >> 3, start, 0
            start += used
        else:
            raise ValueError("a field that no message here has")
    if start != end:
        raise ValueError("it is cut off")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A whole number of seven bits a byte, and where the next begins."""
    value = shift = 0
    for place in range(at, len(data)):
        value |= (data[place] & 0x7F) << shift
        shift += 7
        if data[place] < 0x80:
            return value, place + 1
    raise ValueError("it is cut off")
