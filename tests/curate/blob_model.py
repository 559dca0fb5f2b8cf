"""A hand-made network with YuNet's outputs that finds red blobs, so that OpenCV really runs."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Landmarks of a "face": the blob's center and points around it, in pixels of the network's input.
OFFSETS = np.array([(-17.6, -20.0), (17.6, -20.2), (0.0, 0.0), (-14.5, 20.6), (14.7, 20.5)])
BOX = 64.0
_KERNEL, _PAD = 40, 16  # each cell of 8 pixels looks 16 pixels to every side


def build(path: Path, *, without: str = "", landmarks: int = 5) -> Path:
    """Writes the model; `without` leaves an output away, `landmarks` other than 5 is no YuNet."""
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    outputs: list[onnx.ValueInfoProto] = []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    def node(kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        nodes.append(
            helper.make_node(kind, inputs, [output], f"/{kind}_{len(nodes)}", **attributes)
        )
        return output

    def conv(source: str, weight: np.ndarray, output: str, stride: int = 1, pad: int = 0) -> str:
        kernel = constant(f"{output}_weight", weight.astype(np.float32))
        return node(
            "Conv",
            [source, kernel],
            output,
            kernel_shape=list(weight.shape[2:]),
            strides=[stride, stride],
            pads=[pad] * 4,
        )

    def output(source: str, name: str, channels: int) -> None:
        if name == without:
            return
        moved = node("Transpose", [source], f"{name}_moved", perm=[0, 2, 3, 1])
        shape = constant(f"{name}_shape", np.array([1, -1, channels], np.int64))
        node("Reshape", [moved, shape], name)
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, channels]))

    # OpenCV gives BGR from 0 to 255. How red: R - (B + G) / 2, nothing below 0.
    red = node(
        "Relu", [conv("input", np.array([-0.5, -0.5, 1]).reshape(1, 3, 1, 1) / 255, "r")], "red"
    )
    around = np.arange(_KERNEL) - _PAD
    moments = np.ones((3, 1, _KERNEL, _KERNEL))
    moments[1, 0] = around[None, :] / 8
    moments[2, 0] = around[:, None] / 8
    sums = conv(red, moments, "sums", stride=8, pad=_PAD)
    pick = np.eye(3).reshape(3, 3, 1, 1)
    mass = node(
        "Add",
        [conv(sums, pick[:1], "m0"), constant("eps", np.full((1, 1, 1, 1), 1e-3, np.float32))],
        "mass",
    )
    center = node(
        "Div", [conv(sums, pick[1:], "first"), node("Concat", [mass, mass], "mm", axis=1)], "center"
    )
    size = constant("log_size", np.full((1, 2, 1, 1), np.log(BOX / 8), np.float32))
    sizes = node("Add", [conv(center, np.zeros((2, 2, 1, 1)), "zero"), size], "sizes")
    boxes = node("Concat", [center, sizes], "boxes", axis=1)
    repeat = np.tile(np.eye(2), (landmarks, 1)).reshape(2 * landmarks, 2, 1, 1)
    shift = np.resize(OFFSETS, (landmarks, 2)).astype(np.float32).reshape(1, -1, 1, 1) / 8
    points = node("Add", [conv(center, repeat, "same"), constant("offsets", shift)], "points")
    score = conv(red, np.full((1, 1, 8, 8), 1 / 64), "score", stride=8)
    output(score, "cls_8", 1)
    output(score, "obj_8", 1)
    output(boxes, "bbox_8", 4)
    output(points, "kps_8", 2 * landmarks)
    for stride in (16, 32):  # these see nothing
        for name, channels in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 2 * landmarks)):
            zeros = np.zeros((channels, 1, stride, stride))
            output(
                conv(red, zeros, f"{name}_{stride}_map", stride=stride),
                f"{name}_{stride}",
                channels,
            )
    # As in the published files, the input says one size and OpenCV runs it at any.
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 640, 640])
    graph = helper.make_graph(nodes, "blobs", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def photo(
    width: int,
    height: int,
    *blobs: tuple[float, float],
    radius: float = 8,
    color: tuple[int, int, int] = (255, 20, 20),
) -> np.ndarray:
    """A gray picture with blobs in it."""
    y, x = np.mgrid[:height, :width]
    image = np.full((height, width, 3), 90.0)
    for u, v in blobs:
        cover = np.clip(radius + 0.5 - np.hypot(x - u, y - v), 0, 1)[..., None]
        image = image * (1 - cover) + cover * np.array(color)
    return image.round().astype(np.uint8)
