"""PyTorch backbones as ONNX files, checked against PyTorch."""

import copy
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from centerarc import __version__
from centerarc.io.files import atomic_path
from centerarc.models.backbone import Backbone
from centerarc.models.embedder import Preprocessing, TorchEmbedder, check_alone
from centerarc.models.onnx_graph import METADATA_KEY, graph_sha256
from centerarc.models.onnx_model import OnnxModel, require_export_extra

INPUT, OUTPUT = "images", "embedding"
DEFAULT_OPSET = 20
# Below, the exporter itself does not go; above, onnxruntime of the last years does not.
OPSETS = range(18, 24)
# Protobuf, which ONNX files are, cannot hold more.
_MOST_BYTES = 2**31 - 2**20


@dataclass(frozen=True)
class Comparison:
    """How far two models are apart on the same images.

    Args:
        batch_size: Images at a time.
        images: Their number.
        largest_difference: Of one number of an embedding.
        largest_number: Of PyTorch's embeddings, without sign.
        smallest_cosine: Between the two embeddings of an image.
    """

    batch_size: int
    images: int
    largest_difference: float
    largest_number: float
    smallest_cosine: float

    @property
    def relative_difference(self) -> float:
        """The largest difference as a part of the largest number."""
        if self.largest_number == 0:
            return 0.0 if self.largest_difference == 0 else float("inf")
        return self.largest_difference / self.largest_number


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how far it is from PyTorch.

    Args:
        opset: Version of ONNX's operators.
        size: Bytes of the file.
        comparisons: With PyTorch, one for each batch size.
        preprocessing: What the file says of its input.
        embedding_size: D.
    """

    opset: int
    size: int
    comparisons: list[Comparison]
    preprocessing: Preprocessing
    embedding_size: int

    @property
    def largest_difference(self) -> float:
        """Of any number of any embedding from PyTorch's."""
        return max(result.largest_difference for result in self.comparisons)

    @property
    def smallest_cosine(self) -> float:
        """Between the two embeddings of one image."""
        return min(result.smallest_cosine for result in self.comparisons)


def export_onnx(
    model: Backbone,
    path: str | os.PathLike[str],
    *,
    samples: npt.NDArray[np.uint8],
    opset: int = DEFAULT_OPSET,
    tolerance: float = 1e-3,
    weights_sha256: str | None = None,
    preprocessing: Preprocessing | None = None,
) -> ExportReport:
    """Writes a backbone to one ONNX file and holds it to PyTorch on images.

    Input `images` is float32 `(N, 3, S, S)` for any N, scaled as `preprocessing` says; output
    `embedding` is `(N, D)`, not normalized. The file's metadata holds that under the key
    "centerarc", as JSON: image_size, mean, std, channels, layout, embedding_size, recipe,
    version, weights_sha256, and graph_sha256, by which one sees
    whether it was changed since. It holds no path of the machine that it was made on.

    The file is read back by onnxruntime and compared with PyTorch on the samples, one at a time and
    all at once. If they differ by more than `tolerance`, no file is left.

    Args:
        model: The backbone, on any device; it is not changed.
        path: The file to write, usually `*.onnx`.
        samples: `(N, S, S, 3)` uint8 RGB, faces such as it will get, at least one.
        opset: Version of ONNX's operators, 18 to 23.
        tolerance: The largest difference of a number from PyTorch's, as a part of the largest
            number of PyTorch's embeddings.
        weights_sha256: Of the file that the weights came from, to be recorded.
        preprocessing: How the model takes images; None is RGB, (x - 127.5) / 127.5, as all that
            is trained here.

    Returns:
        What was written.

    Raises:
        ImportError: If the extra `export` is not installed.
        ValueError: If an argument is out of range, the model is over 2 GB, it cannot be exported,
            or the file differs from PyTorch by more than the tolerance.
    """
    require_export_extra()
    if opset not in OPSETS:
        raise ValueError(f"opset is {opset}; it must be from {OPSETS[0]} to {OPSETS[-1]}")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance is {tolerance}; it must be between 0 and 1, both excluded")
    preprocessing = preprocessing or Preprocessing(model.image_size)
    wanted = (model.image_size, model.image_size, 3)
    if samples.dtype != np.uint8 or samples.ndim != 4 or samples.shape[1:] != wanted:
        raise ValueError(
            f"samples is {samples.dtype} of shape {samples.shape}; it must be uint8 of shape "
            f"(N, {', '.join(map(str, wanted))})"
        )
    if len(samples) == 0:
        raise ValueError("samples holds no image to compare with PyTorch on")
    size = sum(t.numel() * 4 for t in (*model.parameters(), *model.buffers()))
    if size > _MOST_BYTES:
        raise ValueError(f"the model has {size / 1e9:.1f} GB of weights; one ONNX file holds 2 GB")
    # What is exported is float32 on the CPU, whatever the caller continues with.
    network = copy.deepcopy(model).to("cpu", torch.float32).eval()
    truth = TorchEmbedder(network, preprocessing=preprocessing)
    check_alone(truth, samples.__getitem__, len(samples), f"the {type(model).__name__}")
    content = _onnx_proto(network, opset)
    _describe(content, network, preprocessing, weights_sha256)
    import onnx

    with atomic_path(path) as temporary:
        onnx.save_model(content, str(temporary))
        onnx.checker.check_model(str(temporary), full_check=True)
        results = list(_compare(network, temporary, samples, preprocessing))
        worst = max(results, key=lambda result: result.relative_difference)
        if not worst.relative_difference <= tolerance:
            raise ValueError(
                f"the exported model differs from PyTorch by {worst.largest_difference:.2g} at "
                f"batch size {worst.batch_size}, which is {worst.relative_difference:.2g} of the "
                f"largest number; {tolerance:g} is allowed, so no file is written"
            )
        written = temporary.stat().st_size
    return ExportReport(opset, written, results, preprocessing, model.embedding_size)


def _onnx_proto(network: Backbone, opset: int) -> Any:
    side = network.image_size
    # Two images: with one, the exporter would take the number for a constant.
    example = torch.zeros(2, 3, side, side)
    try:
        with _quiet():
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=opset,
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ValueError(
            f"cannot export the {type(network).__name__}: {str(error).strip().splitlines()[0]}"
        ) from error
    assert program is not None
    return program.model_proto


def _describe(
    content: Any, network: Backbone, preprocessing: Preprocessing, weights_sha256: str | None
) -> None:
    # The exporter notes for each node in which line of which file it comes from.
    graph = content.graph
    values = (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer)
    nodes = (node for function in content.functions for node in function.node)
    for part in (content, graph, *content.functions, *values, *nodes):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    facts = {
        "version": __version__,
        **preprocessing.to_dict(),
        "input": INPUT,
        "output": OUTPUT,
        "embedding_size": network.embedding_size,
        "recipe": network.recipe.to_dict() if network.recipe is not None else None,
        "weights_sha256": weights_sha256,
        "graph_sha256": graph_sha256(copy.deepcopy(content), Path()),
    }
    content.metadata_props.add(key=METADATA_KEY, value=json.dumps(facts))
    side = network.image_size
    content.doc_string = (
        f"Face recognition. {INPUT}: float32 (N, 3, {side}, {side}), aligned faces, "
        f"{preprocessing.scaling}. {OUTPUT}: float32 (N, {network.embedding_size}), not "
        "normalized; compare by cosine."
    )


def _compare(
    network: Backbone, path: Path, samples: npt.NDArray[np.uint8], preprocessing: Preprocessing
) -> Iterator[Comparison]:
    """Embeds images with both, one at a time and all at once."""
    truth, model = TorchEmbedder(network, preprocessing=preprocessing), OnnxModel(path)
    alone = [truth.embed(samples[i : i + 1]) for i in range(len(samples))]
    wide = np.concatenate(alone).astype(np.float64)
    for size in sorted({1, len(samples)}):
        parts = [model.embed(samples[i : i + size]) for i in range(0, len(samples), size)]
        found = np.concatenate(parts).astype(np.float64)
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wide, axis=1)
        cosines = (found * wide).sum(axis=1) / np.maximum(lengths, 1e-300)
        yield Comparison(
            batch_size=size,
            images=len(samples),
            largest_difference=float(np.abs(found - wide).max()),
            largest_number=float(np.abs(wide).max()),
            smallest_cosine=float(cosines.min()),
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps to itself what the exporter says about itself; errors are raised all the same."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
