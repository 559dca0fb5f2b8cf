"""ONNX models small enough to check by hand: the mean of the left half of each channel."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Dim = int | str | None
TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "uint16": TensorProto.UINT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
}


def tiny(
    path: Path,
    shape: Sequence[Dim] = ("batch", 3, 4, 4),
    *,
    nhwc: bool = False,
    dtype: str = "float32",
    declared_output: Sequence[Dim] = ("batch", 3),
    scales: bool = False,
    fixed_inside: bool = False,
    output_shape: Sequence[int] | None = None,
    feature_map: bool = False,
    unbatched: bool = False,
    second_output: bool = False,
    second_input: bool = False,
    of_batch: float = 0.0,
) -> Path:
    """Writes the model `(N, 3, 4, 4)` to `(N, 3)`; what is asked for makes it worse.

    `of_batch` is the part of the mean over the batch that it subtracts, as a model does that was
    exported in training mode.
    """
    constants = {
        "begin": np.array([0]),
        "middle": np.array([2]),
        "axis": np.array([2 if nhwc else 3]),
        "axes": np.array([1, 2] if nhwc else [2, 3]),
        "one_row": np.array([1, -1]),
        "number": np.array([127.5], np.float32),
        "new_shape": np.array(output_shape or [1, -1]),
    }
    kind = TYPES[dtype]
    inputs = [helper.make_tensor_value_info("data", kind, list(shape))]
    pixels = "data"
    nodes = []
    if kind != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", ["data"], ["floats"], to=TensorProto.FLOAT))
        pixels = "floats"
    if scales:
        nodes.append(helper.make_node("Sub", [pixels, "number"], ["scaled"]))
        pixels = "scaled"
    if unbatched:
        nodes.append(helper.make_node("Unsqueeze", [pixels, "begin"], ["batch"]))
        pixels = "batch"
    nodes += [
        helper.make_node("Slice", [pixels, "begin", "middle", "axis"], ["left"]),
        helper.make_node("ReduceMean", ["left", "axes"], ["mean"], keepdims=0),
    ]
    final = "left" if feature_map else "mean"
    if output_shape:
        nodes.append(helper.make_node("Reshape", ["mean", "new_shape"], ["reshaped"]))
        final = "reshaped"
    if fixed_inside:
        nodes.append(helper.make_node("Reshape", ["mean", "one_row"], ["row"]))
        final = "row"
    if of_batch:
        constants |= {"first": np.array([0]), "part": np.array(of_batch, np.float32)}
        nodes.append(helper.make_node("ReduceMean", [final, "first"], ["whole"], keepdims=1))
        nodes.append(helper.make_node("Mul", ["whole", "part"], ["shared"]))
        nodes.append(helper.make_node("Sub", [final, "shared"], ["normalized"]))
        final = "normalized"
    if second_input:
        inputs.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [3]))
        nodes.append(helper.make_node("Add", [final, "more"], ["sum"]))
        final = "sum"
    free = feature_map or output_shape or unbatched or 1 in shape[1:]
    declared = None if free else list(declared_output)
    outputs = [helper.make_tensor_value_info(final, TensorProto.FLOAT, declared)]
    if second_output:
        nodes.append(helper.make_node("Neg", [final], ["negative"]))
        outputs.append(
            helper.make_tensor_value_info("negative", TensorProto.FLOAT, list(declared_output))
        )
    graph = helper.make_graph(
        nodes,
        "tiny",
        inputs,
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), str(path))
    return path


def left_means(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """What it should give for RGB images `(N, 4, 4, 3)`."""
    scaled = (images[:, :, :2].astype(np.float64) - np.array(mean)) / np.array(std)
    return scaled.mean(axis=(1, 2))
