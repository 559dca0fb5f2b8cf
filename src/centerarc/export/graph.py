"""What an ONNX file says of itself: inputs, outputs, metadata, and the files it is made of."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Key in the metadata of an ONNX file under which ours is, as JSON.
METADATA_KEY = "centerarc"
# What a graph begins with that scales pixels itself, as those converted from MXNet do.
_SCALING = {"Sub", "Mul", "Div", "Add", "BatchNormalization"}
_MOVING = {"Cast", "Identity", "Transpose"}


@dataclass(frozen=True)
class GraphFacts:
    """What is read from the file without running it.

    Args:
        metadata: What `export_onnx` recorded; None in files of others.
        scales_input: Whether the graph begins with arithmetic on the pixels.
        files: The file, and those beside it that hold its weights.
    """

    metadata: dict[str, Any] | None
    scales_input: bool
    files: tuple[Path, ...]


def read_graph(path: Path) -> GraphFacts:
    """Reads an ONNX file without running it.

    Raises:
        ValueError: If there is none, it is damaged, its metadata of ours is, or its weights are in
            something else than a file in its folder.
    """
    import onnx
    from onnx.external_data_helper import uses_external_data

    if not path.is_file():
        raise ValueError(f"there is no ONNX file {str(path)!r}")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's errors have no base of their own
        raise ValueError(
            f"{str(path)!r} is damaged or no ONNX file: {first_line(error)}"
        ) from error
    if not model.graph.node:
        raise ValueError(f"{str(path)!r} is damaged or no ONNX file: it has no graph")
    locations = {
        location
        for graph in (model.graph, *model.functions)
        for tensor in _tensors(graph)
        if uses_external_data(tensor)
        for location in [e.value for e in tensor.external_data if e.key == "location"] or [""]
    }
    outside = {_weights_file(path, location) for location in locations}
    pixels = {value.name for value in model.graph.input}
    pixels -= {tensor.name for tensor in model.graph.initializer}
    first = set()
    for node in model.graph.node:  # in the order of computation
        if pixels & set(node.input):
            first.add(node.op_type)
            pixels |= set(node.output) if node.op_type in _MOVING else set()
    texts = {entry.key: entry.value for entry in model.metadata_props}
    metadata = None
    if METADATA_KEY in texts:
        try:
            metadata = json.loads(texts[METADATA_KEY])
            if not isinstance(metadata, dict):
                raise ValueError(f"it is {metadata!r:.50}; it must be an object with names")
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{str(path)!r} holds no valid metadata of ours: {error}") from error
    return GraphFacts(metadata, bool(first & _SCALING), (path, *sorted(outside)))


def _tensors(graph: Any) -> Iterator[Any]:
    """All constants of a graph or function, those in branches and loops too."""
    yield from getattr(graph, "initializer", ())
    for sparse in getattr(graph, "sparse_initializer", ()):
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _weights_file(path: Path, location: str) -> Path:
    """The file beside a model that it keeps weights in; whose it is, nobody has vouched for."""
    place = path.parent / location
    # A model may itself be a link to where it and its weights are, as in download caches.
    folders = {path.parent.resolve(), path.resolve().parent}
    try:
        target = place.resolve()
        inside = any(target.is_relative_to(folder) for folder in folders)
        # One that is missing is named where it is read.
        if inside and (target.is_file() or not target.exists()):
            return place
    except (OSError, RuntimeError, ValueError):  # no name, or links in a circle
        pass
    raise ValueError(
        f"{str(path)!r} keeps weights in {location!r:.200}, which is no file in its folder"
    )


def files_sha256(paths: tuple[Path, ...]) -> str:
    """Returns the SHA-256 of files one after the other, in hexadecimal digits.

    Raises:
        OSError: If one cannot be read; the message names it.
    """
    digest = hashlib.sha256()
    for path in paths:
        for block in _blocks(path):
            digest.update(block)
    return digest.hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                yield block
    except OSError as error:
        raise OSError(f"cannot read {os.fspath(path)!r}: {error.strerror or error}") from error


def first_line(error: Exception) -> str:
    """Returns the first line of an error's text, or its kind where it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
