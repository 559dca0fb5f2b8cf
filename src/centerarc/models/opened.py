"""Any model by what the user names: a run, weights, a public checkpoint, an ONNX file, the Hub."""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from torch import nn

from centerarc.distributed.process import choose_device
from centerarc.io.files import files_sha256
from centerarc.io.plugins import UnknownNameError
from centerarc.models.backbone import STRIDE, Backbone, create_model, is_built_in, list_models
from centerarc.models.embedder import (
    Channels,
    Embedder,
    EmbedPrecision,
    Finished,
    Layout,
    Preprocessing,
    TorchEmbedder,
)
from centerarc.models.hub import HubModel, download, hub_model, named
from centerarc.models.weights import (
    file_kind,
    load_pretrained,
    load_states,
    named_as,
    read_metadata,
    read_states,
    weights_file,
)

# What most public checkpoints were trained on, and the sizes that are tried besides.
_USUAL_SIZE = 112
_SIZES = (_USUAL_SIZE, *range(STRIDE, 513, STRIDE))


def load_weights(path: str | os.PathLike[str]) -> Backbone:
    """Rebuilds a saved model with its weights, ready to embed.

    A backbone of one's own must be registered before, or by an installed plugin; the file is not
    trusted to name a module to import.

    Args:
        path: A file that `save_weights` wrote; a run folder, of which `best.safetensors` is
            taken, else `last.safetensors`; a folder of `save_pretrained`; or a model on the Hub,
            `hf://owner/name` or `hf://owner/name@revision`.

    Returns:
        The model on the CPU, in eval mode.

    Raises:
        ImportError: If it is on the Hub and the extra `hub` is not installed.
        ValueError: If there is no such file, or it is damaged or not one of ours.
        OSError: If the Hub cannot be reached.
    """
    if (shared := hub_model(path)) is not None:
        file = download(shared)
        with named(shared):
            return load_weights(file)
    file = weights_file(Path(path))
    recipe = read_metadata(file)
    sizes = {name: recipe[name] for name in ("embedding_size", "image_size")}
    try:
        if is_built_in(recipe["name"]):
            # Sizes that a stranger wrote must not ask for all memory.
            with torch.device("meta"):
                _check_size(create_model(recipe["name"], **sizes, **recipe["options"]), file)
        model = create_model(recipe["name"], **sizes, **recipe["options"])
    except ValueError as error:
        kind = UnknownNameError if isinstance(error, UnknownNameError) else ValueError
        raise kind(f"cannot build the model of {str(file)!r}: {error}") from error
    load_pretrained(model, file)
    return model.eval()


def _check_size(model: nn.Module, path: Path) -> None:
    """Refuses a model that is larger than what a file holds; its tensors may be on no device."""
    wanted = sum(tensor.numel() for tensor in model.state_dict().values())
    with safe_open(str(path), framework="pt") as file:
        held = sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    if wanted > held:
        raise ValueError(f"it has {wanted:,} numbers, and the file holds {held:,}")


def load_checkpoint(
    path: str | os.PathLike[str], name: str, image_size: int | None = None
) -> Backbone:
    """Builds a backbone in the sizes of a public checkpoint's tensors, with its weights.

    Args:
        path: The checkpoint; see `load_pretrained`.
        name: Of the backbone, one of `list_models()`.
        image_size: Side of its images in pixels; None finds it, too, 112 where the tensors leave
            it open.

    Returns:
        The model on the CPU, in eval mode.

    Raises:
        ValueError: As of `create_model` and `load_pretrained`.
    """
    place = Path(path)
    states = read_states(place)
    sizes: dict[str, Any] = {"embedding_size": 512, "image_size": image_size or _USUAL_SIZE}
    # A dimension that follows the size of the embedding says it.
    shapes, others = (_shapes(name, sizes | {"embedding_size": size}) for size in (512, 256))
    state = named_as(shapes, states, place)
    found = {key: tuple(state[key].shape) for key in shapes if key in state}
    for key, shape in found.items():
        for length, one, other in zip(shape, shapes[key], others[key], strict=False):
            if one != other:
                sizes["embedding_size"] = length
    if image_size is None and found.keys() == shapes.keys():
        fitting = (s for s in _SIZES if _shapes(name, sizes | {"image_size": s}) == found)
        sizes["image_size"] = next(fitting, _USUAL_SIZE)
    model = create_model(name, **sizes)
    load_states(model, states, place)
    return model.eval()


def _shapes(name: str, sizes: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a backbone's weights."""
    try:
        with torch.device("meta"):
            model = create_model(name, **sizes)
    except Exception:  # others' may compute with numbers when they are built
        model = create_model(name, **sizes)
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


@dataclass(frozen=True)
class OpenedModel:
    """A model and where it came from.

    Args:
        path: The file that was read; of a run folder, the weights in it.
        kind: "weights" for files of ours, "checkpoint" for public ones, "onnx".
        sha256: Of the file.
        embedder: Maps images to embeddings.
        network: The backbone on the CPU or the chosen device; None for ONNX.
        preprocessing: What becomes of an image.
        hub: The repository and commit of a model on the Hub, else None.
        features: What makes embeddings other than weights and pixels do, in words; "" for nothing.
    """

    path: Path
    kind: Literal["weights", "checkpoint", "onnx"]
    sha256: str
    embedder: Embedder
    network: Backbone | None
    preprocessing: Preprocessing
    hub: HubModel | None = None
    features: str = ""

    def finished(
        self,
        *,
        concat_mirror: bool = False,
        subtract: npt.NDArray[np.float32] | None = None,
    ) -> "OpenedModel":
        """Returns the model with what is done to its embeddings before they are compared.

        Args:
            concat_mirror: Put the embedding of the mirror image after that of the image.
            subtract: `(D,)`, taken from each embedding, such as the mean of a set.
        """
        words = [self.features] if self.features else []
        if concat_mirror:
            words.append("image and mirror image concatenated")
        if subtract is not None:
            digest = hashlib.sha256(np.ascontiguousarray(subtract, "<f4").tobytes()).hexdigest()
            words.append(f"less the mean with SHA-256 {digest}")
        if not concat_mirror and subtract is None:
            return self
        embedder = Finished(self.embedder, concat_mirror=concat_mirror, subtract=subtract)
        return replace(self, embedder=embedder, features=", ".join(words))

    @property
    def _graph(self) -> Any:
        """The ONNX model in it, if it is one."""
        from centerarc.models.onnx_model import OnnxModel

        inner = self.embedder.inner if isinstance(self.embedder, Finished) else self.embedder
        return inner if isinstance(inner, OnnxModel) else None

    @property
    def name(self) -> str:
        """What a reader finds it by: its path, or the repository and commit."""
        return str(self.path if self.hub is None else self.hub)

    @property
    def weights_sha256(self) -> str:
        """Of the weights as they are: those that `export_onnx` took, while its file is as it was.

        Of any other ONNX file, such as one that was quantized since, that of its graph.
        """
        if (model := self._graph) is None:
            return self.sha256
        unchanged = (model.metadata or {}).get("graph_sha256") == model.graph_sha256
        return (self.origin_sha256 if unchanged else None) or model.graph_sha256

    @property
    def origin_sha256(self) -> str | None:
        """Of the weights that an ONNX file says it was once made of; None where it does not say."""
        recorded = ((self._graph and self._graph.metadata) or {}).get("weights_sha256")
        return recorded if isinstance(recorded, str) and recorded else None

    @property
    def identity(self) -> dict[str, str]:
        """What is recorded of it: `weights_sha256`, `origin_sha256` where the weights were changed
        since, and `features` where something is done to embeddings.
        """
        origin, weights = self.origin_sha256, self.weights_sha256
        changed = {} if origin in (None, weights) else {"origin_sha256": str(origin)}
        finished = {"features": self.features} if self.features else {}
        return {"weights_sha256": weights, **changed, **finished}

    @property
    def image_size(self) -> int:
        """Side of the images that it takes, in pixels."""
        return self.preprocessing.image_size


def open_model(
    path: str | os.PathLike[str],
    *,
    architecture: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    channels: Channels | None = None,
    layout: Layout | None = None,
    output: str | None = None,
    constants: Mapping[str, float | Sequence[float]] | None = None,
    device: str = "cpu",
    threads: int | None = None,
    precision: EmbedPrecision = "fp32",
) -> OpenedModel:
    """Opens a model by what a user names.

    Args:
        path: A run folder (`best.safetensors`, else `last.safetensors`), a folder of
            `save_pretrained`, a file of `save_weights`, a public checkpoint of arcface_torch with
            its `architecture`, an ONNX file, or `hf://owner/name` or
            `hf://owner/name@revision` on the Hub. What a file is says its content, not its name.
        architecture: Name in the registry of a checkpoint that does not say it, e.g. "iresnet50".
        image_size: Side of the input in pixels: of an ONNX file that leaves it open, whose height
            and width may differ, or of the architecture where the checkpoint does not show it.
        mean: Taken from each pixel value, for models of others; see `OnnxModel`.
        std: Likewise: what the difference is divided by.
        channels: Likewise: "rgb" or "bgr"; of an ONNX file also "gray".
        layout: Of another tool's ONNX file; see `OnnxModel`.
        output: Name of the output of an ONNX file that has several.
        constants: Values of its inputs that are not the images; see `OnnxModel`.
        device: Where the model computes: "cpu", "cuda", "mps", or "auto" for the best one; ONNX
            files on the CPU, or by onnxruntime's CUDA provider.
        threads: Number of threads of an ONNX model; all cores by default.
        precision: What a PyTorch model computes in; see `TorchEmbedder`.

    Returns:
        The model.

    Raises:
        ImportError: If it is an ONNX file and the extra `export` is not installed, or on the Hub
            and the extra `hub` is not.
        ValueError: If there is nothing, it cannot be read, or an argument is not for its kind.
        OSError: If the Hub cannot be reached.
    """
    scaling: dict[str, Any] = {"mean": mean, "std": std, "channels": channels}
    scaling = {name: value for name, value in scaling.items() if value is not None}
    form: dict[str, Any] = {"layout": layout, "output": output, "constants": constants}
    form = {name: value for name, value in form.items() if value}
    if (shared := hub_model(path)) is not None:
        file = download(shared)
        with named(shared):
            found = open_model(
                file,
                architecture=architecture,
                image_size=image_size,
                device=device,
                precision=precision,
                **scaling,
                **form,
            )
        # The folder of a download has the name of its commit.
        return replace(found, hub=HubModel(shared.repo_id, file.parent.name))
    place = Path(path)
    if not place.exists():
        raise ValueError(f"there is no model {str(place)!r}")
    place = weights_file(place)
    kind = file_kind(place)
    if kind == "onnx":
        from centerarc.models.onnx_model import OnnxModel

        if architecture is not None:
            raise ValueError(
                f"architecture is {architecture!r}, but the ONNX file {str(place)!r} is one itself"
            )
        if precision != "fp32":
            raise ValueError(f"precision is {precision!r}; ONNX files compute in their own")
        form |= {"device": device, "threads": threads}
        model = OnnxModel(place, image_size=image_size, **scaling, **form)
        return OpenedModel(place, "onnx", model.sha256, model, None, model.preprocessing)
    if not isinstance(image_size, int | None):
        raise ValueError(f"image_size must be one number for weights of PyTorch, got {image_size}")
    if channels == "gray":
        raise ValueError("channels must be 'rgb' or 'bgr' for weights of PyTorch, got 'gray'")
    if form:
        raise ValueError(f"{min(form)} is for ONNX files; {str(place)!r} is weights of PyTorch")
    if architecture is not None:
        network = load_checkpoint(place, architecture, image_size)
    else:
        if kind != "safetensors":
            raise ValueError(
                f"{str(place)!r} does not say which model it holds; give its architecture, one of "
                f"{', '.join(list_models())}"
            )
        if image_size is not None:
            raise ValueError(f"image_size is {image_size}, but {str(place)!r} says it itself")
        network = load_weights(place)
    preprocessing = Preprocessing(network.image_size, **scaling)
    return OpenedModel(
        place,
        "weights" if architecture is None else "checkpoint",
        files_sha256(place),
        TorchEmbedder(network, choose_device(device), preprocessing, precision=precision),
        network,
        preprocessing,
        features="bfloat16" if precision == "bf16" else "",
    )
