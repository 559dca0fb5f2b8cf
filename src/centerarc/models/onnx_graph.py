"""What an ONNX file says of itself, read without running it, and which model that is."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# Key in the metadata of an ONNX file under which ours is, as JSON.
METADATA_KEY = "centerarc"

# What a graph begins with that scales pixels itself, as those converted from MXNet do.
_SCALING = {"Sub", "Mul", "Div", "Add", "BatchNormalization"}
_MOVING = {"Cast", "Identity", "Transpose"}


@dataclass(frozen=True)
class OnnxGraph:
    """An ONNX file, read but not run.

    Args:
        metadata: What `export_onnx` recorded in it; None in other tools' files.
        scales_input: Whether it begins with arithmetic on pixels.
        files: The file and those beside it that hold weights.
        sha256: Of its operations and weights as they are; see `graph_sha256`.
    """

    metadata: dict[str, Any] | None
    scales_input: bool
    files: list[Path]
    sha256: str


def read_graph(path: Path) -> OnnxGraph:
    """Reads what an ONNX file says of itself.

    Raises:
        ValueError: If there is none, it is damaged, or keeps weights outside its folder.
        OSError: If a file of weights beside it cannot be read.
    """
    import onnx

    file = repr(str(path))
    if not path.is_file():
        raise ValueError(f"there is no ONNX file {file}")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's errors have no base of their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{file} is damaged or no ONNX file: {reason}") from error
    if not model.graph.node:
        raise ValueError(f"{file} is damaged or no ONNX file: it has no graph")
    images = (v for v in model.graph.input if len(v.type.tensor_type.shape.dim) in (0, 3, 4))
    pixels = {value.name for value in images}
    pixels -= {tensor.name for tensor in model.graph.initializer}
    first = set()
    for node in model.graph.node:  # in the order of computation
        if pixels & set(node.input):
            first.add(node.op_type)
            pixels |= set(node.output) if node.op_type in _MOVING else set()
    outside = {_file_beside(path, one) for t in _all_tensors(model) for one in _locations(t)}
    metadata = _metadata(model, file)
    sha256 = graph_sha256(model, path)
    return OnnxGraph(metadata, bool(first & _SCALING), [path, *sorted(outside)], sha256)


def _metadata(model: Any, file: str) -> dict[str, Any] | None:
    texts = {entry.key: entry.value for entry in model.metadata_props}
    if METADATA_KEY not in texts:
        return None
    try:
        metadata = json.loads(texts[METADATA_KEY])
        if not isinstance(metadata, dict):
            raise ValueError(f"it is {metadata!r:.50}; it must be an object with names")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} holds no valid metadata of ours: {error}") from error
    return metadata


# Which model it is.

# What says nothing of what a model computes.
_REMARKS = ("doc_string", "metadata_props")
# Where a tensor may hold its numbers in place of bytes.
_TYPED = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
_AT_ONCE = 1 << 22
# By ONNX's numbers: float, float16 and double.
_FLOATS: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 10: np.dtype("<f2"), 11: np.dtype("<f8")}


def graph_sha256(model: Any, path: Path) -> str:
    """Returns the SHA-256 of what a model computes: its operations and its weights as they are.

    Metadata, descriptions, the graph's name, declared shapes, and whether weights are in files of
    their own do not count: what was quantized, rounded to float16 or edited is another model
    whatever it says.

    Args:
        model: A `ModelProto`, which this empties.
        path: The file that it is from, next to which are its other files.

    Raises:
        ValueError: If a tensor is damaged or holds NaN; the message has its name.
        OSError: If a file of weights cannot be read.
    """
    for tensor in _all_tensors(model):
        try:
            content = _tensor_digest(tensor, path)
        except (ValueError, OverflowError, TypeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"{str(path)!r} has weights {tensor.name!r:.200} that cannot be used: {reason}"
            ) from error
        tensor.raw_data = content
        for field in ("external_data", "data_location", *_REMARKS, *_TYPED):
            tensor.ClearField(field)
    for graph in _graphs(model.graph):
        graph.ClearField("value_info")
        graph.ClearField("name")
        for value in (*graph.input, *graph.output):
            value.type.tensor_type.ClearField("shape")
        for part in (graph, *graph.node, *graph.input, *graph.output):
            for field in _REMARKS:
                part.ClearField(field)
    digest = hashlib.sha256()
    parts = sorted(model.opset_import, key=lambda one: str(one.domain))
    for part in (*parts, *model.functions, model.graph):
        digest.update(part.SerializeToString(deterministic=True))
    return digest.hexdigest()


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and those in its branches and loops."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _graphs(inner)


def _tensor_digest(tensor: Any, path: Path) -> bytes:
    """A hash of what a tensor holds, wherever and however it is stored."""
    from onnx import numpy_helper

    digest = hashlib.sha256()
    for location in _locations(tensor):
        said = {entry.key: entry.value for entry in tensor.external_data}
        with open(_file_beside(path, location), "rb") as file:
            file.seek(int(said.get("offset") or 0))
            left = int(said.get("length") or -1)
            while left and (data := file.read(_AT_ONCE if left < 0 else min(left, _AT_ONCE))):
                digest.update(_numbers(data, tensor))
                left -= len(data) if left > 0 else 0
        return digest.digest()
    if tensor.string_data:
        digest.update(repr(list(tensor.string_data)).encode())
    elif tensor.HasField("raw_data"):
        digest.update(_numbers(tensor.raw_data, tensor))
    elif tensor.data_type:
        digest.update(_numbers(numpy_helper.to_array(tensor).tobytes(), tensor))
    return digest.digest()


def _numbers(data: bytes, tensor: Any) -> bytes:
    """The bytes of a tensor, none of which is NaN; infinities can be meant, as in masks."""
    kind = _FLOATS.get(tensor.data_type)
    if kind is not None:
        numbers: npt.NDArray[Any] = np.frombuffer(data, kind, len(data) // kind.itemsize)
        if np.isnan(numbers).any():
            raise ValueError("they must be numbers, got nan")
    return data


def _locations(tensor: Any) -> list[str]:
    """The name of the file that a tensor is in, if it is in one of its own."""
    from onnx.external_data_helper import uses_external_data

    if not uses_external_data(tensor):
        return []
    return [entry.value for entry in tensor.external_data if entry.key == "location"] or [""]


def _all_tensors(model: Any) -> Iterator[Any]:
    for graph in (model.graph, *model.functions):
        yield from _tensors(graph)


def _tensors(graph: Any) -> Iterator[Any]:
    """All constants of a graph or function, those in branches and loops too."""
    yield from getattr(graph, "initializer", ())
    for sparse in getattr(graph, "sparse_initializer", ()):
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (*([attribute.t] if attribute.HasField("t") else ()), *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _file_beside(path: Path, location: str) -> Path:
    """The file that a model keeps weights in; the model may come from anyone."""
    place = path.parent / location
    # A model may itself be a link to where it and its weights are, as in download caches.
    folders = {path.parent.resolve(), path.resolve().parent}
    try:
        target = place.resolve()
        inside = any(target.is_relative_to(folder) for folder in folders)
        # One that is missing is named where it is read.
        if inside and (target.is_file() or not target.exists()):
            return place
    except (OSError, RuntimeError, ValueError):  # not a name, or links in a circle
        pass
    raise ValueError(
        f"{str(path)!r} keeps weights in {location!r:.200}, which is not a file in its folder"
    )
