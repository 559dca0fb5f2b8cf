#!/usr/bin/env bash
# insightface 2.1, onnx 1.23.2, onnxruntime 1.32.0.
#
# What an ONNX file is for, and how its images are prepared, is guessed:
# - By the size of its input: a face recogniser for 96 x 96 pixels is opened as an attribute model,
#   which crops by the box instead of the five landmarks and subtracts another mean. The same
#   recogniser for 112 x 112 is taken for what it is.
# - By the names of its first eight nodes: with one called Sub... and one called Mul..., the pixels
#   go in as they are, else (x - 127.5) / 127.5. The same graph with its nodes renamed, which is
#   what another version of an exporter does, gives another embedding: here their cosine is below 0.5.
#
# Seen:
#   112 pixels: ArcFaceONNX recognition
#   96 pixels: Attribute attribute_16
#   nodes Sub_0, Mul_1: mean 0.0, std 1.0
#   nodes node_sub, node_mul: mean 127.5, std 127.5
#
# Exits with 0 while this is so, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    insightface==2.1 onnx==1.23.2 onnxruntime==1.32.0
cd "$work"
cat > guess.py <<'PY'
import numpy as np
from insightface.model_zoo import get_model
from onnx import TensorProto, helper, numpy_helper, save

rng = np.random.default_rng(0)


def recogniser(path, pixels, names=("sub", "mul"), normalise=False):
    """One linear layer on pooled pixels, with or without the preparation of pixels in the graph."""
    weight = rng.standard_normal((3 * 16, 16)).astype("float32")
    stride = pixels // 4
    nodes, images = [], "images"
    if normalise:
        nodes += [
            helper.make_node("Sub", ["images", "mean"], ["centered"], name=names[0]),
            helper.make_node("Mul", ["centered", "factor"], ["normalised"], name=names[1]),
        ]
        images = "normalised"
    nodes += [
        helper.make_node("AveragePool", [images], ["pooled"], name="pool",
                         kernel_shape=[stride] * 2, strides=[stride] * 2),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"),
        helper.make_node("MatMul", ["flat", "weight"], ["embeddings"], name="linear"),
    ]
    graph = helper.make_graph(
        nodes,
        "recogniser",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, pixels, pixels])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["n", 16])],
        [
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(np.float32(127.5), "mean"),
            numpy_helper.from_array(np.float32(1 / 127.5), "factor"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(model, path)
    return get_model(path, providers=["CPUExecutionProvider"])


for pixels in (112, 96):
    model = recogniser(f"{pixels}.onnx", pixels)
    print(f"{pixels} pixels: {type(model).__name__} {model.taskname}")

image = rng.integers(0, 256, (112, 112, 3), dtype=np.uint8)
embeddings = []
for names in (("Sub_0", "Mul_1"), ("node_sub", "node_mul")):
    rng = np.random.default_rng(1)
    model = recogniser("named.onnx", 112, names, normalise=True)
    print(f"nodes {', '.join(names)}: mean {model.input_mean}, std {model.input_std}")
    embeddings.append(model.get_feat(image).ravel())
a, b = embeddings
cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
assert cosine < 0.5, cosine
PY
"$work/venv/bin/python" guess.py 2>errors | tee seen || { cat errors; exit 1; }
diff seen - <<'SEEN'
112 pixels: ArcFaceONNX recognition
96 pixels: Attribute attribute_16
nodes Sub_0, Mul_1: mean 0.0, std 1.0
nodes node_sub, node_mul: mean 127.5, std 127.5
SEEN
