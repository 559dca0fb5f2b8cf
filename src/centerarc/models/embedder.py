"""Any model as an embedder, opened by what the user names."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from centerarc.data.loader import to_input
from centerarc.models.backbone import Backbone, create_model, list_models
from centerarc.models.onnx_model import OnnxModel, files_sha256
from centerarc.models.preprocessing import Channels, Layout, Preprocessing
from centerarc.models.weights import RUN_FILES, load_pretrained, load_weights

# What every model is to those who want embeddings, and a PyTorch module as one.


@runtime_checkable
class Embedder(Protocol):
    """Maps images to embeddings, whatever computes them.

    Attributes:
        image_size: Side of the square images that it takes, in pixels; None takes any.
    """

    @property
    def image_size(self) -> int | None: ...

    def embed(
        self, images: npt.NDArray[np.uint8], *, mirror: bool = False
    ) -> npt.NDArray[np.float32]:
        """Embeds a batch.

        Args:
            images: `(N, S, S, 3)` uint8 RGB.
            mirror: Sum the features of each image and of its mirror image.

        Returns:
            `(N, D)` float32, not normalised.
        """
        ...


class TorchEmbedder:
    """A PyTorch module as an embedder.

    Args:
        model: Maps float32 `(N, 3, S, S)`, scaled as `to_input` does, to `(N, D)`. It is moved to
            `device` and stays there; the mode of each part of it is put back after each batch.
        device: Where to compute.

    Attributes:
        model: The module.
        image_size: Its `image_size`, or None if it has none.

    Example:
        >>> from centerarc.models import create_model
        >>> embedder = TorchEmbedder(create_model("mobilefacenet", embedding_size=64))
        >>> embedder.embed(np.zeros((2, 112, 112, 3), np.uint8)).shape
        (2, 64)
    """

    def __init__(self, model: nn.Module, device: str | torch.device = "cpu") -> None:
        self.model = model.to(device)
        self.device = torch.device(device)
        size = getattr(model, "image_size", None)
        self.image_size: int | None = size if isinstance(size, int) else None

    def embed(
        self, images: npt.NDArray[np.uint8], *, mirror: bool = False
    ) -> npt.NDArray[np.float32]:
        """Embeds a batch; see `Embedder.embed`."""
        with _evaluating(self.model), torch.inference_mode():
            inputs = to_input(torch.from_numpy(np.ascontiguousarray(images)).to(self.device))
            features: torch.Tensor = self.model(inputs).float()
            if mirror:
                features = features + self.model(inputs.flip(-1)).float()
            result: npt.NDArray[np.float32] = features.cpu().numpy()
        return result


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    if not any(training for _, training in modes):
        yield
        return
    try:
        model.eval()
        yield
    finally:
        # Not model.train(mode): a frozen part of a training model was in eval mode before.
        for module, training in modes:
            module.training = training


# Any model by what the user names: a run, a weights file, a public checkpoint, an ONNX file.

# What public checkpoints were trained on.
_USUAL_SIZE = 112


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
    """

    path: Path
    kind: Literal["weights", "checkpoint", "onnx"]
    sha256: str
    embedder: Embedder
    network: Backbone | None
    preprocessing: Preprocessing

    @property
    def weights_sha256(self) -> str:
        """Of the weights that it rests on, the same for ours and for an ONNX file made of them."""
        metadata = self.embedder.metadata if isinstance(self.embedder, OnnxModel) else None
        recorded = (metadata or {}).get("weights_sha256")
        return recorded if isinstance(recorded, str) and recorded else self.sha256

    @property
    def image_size(self) -> int:
        """Side of the images that it takes, in pixels."""
        return self.preprocessing.image_size


def open_model(
    path: str | os.PathLike[str],
    *,
    architecture: str | None = None,
    image_size: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    channels: Channels | None = None,
    layout: Layout | None = None,
    output: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> OpenedModel:
    """Opens a model by what a user names.

    Args:
        path: A run folder (`best.safetensors`, else `last.safetensors`), a file of `save_weights`,
            a public checkpoint of arcface_torch with its `architecture`, or a `.onnx` file.
        architecture: Name in the registry of a checkpoint that does not say it, e.g. "iresnet50".
        image_size: Side of the input in pixels: of an ONNX file that leaves it open, or of the
            architecture.
        mean: Of an ONNX file of others; see `OnnxModel`.
        std: Likewise.
        channels: Likewise.
        layout: Likewise.
        output: Name of the output of an ONNX file that has several.
        device: Where a PyTorch model computes, e.g. "cuda". ONNX files run on the CPU.
        threads: Number of threads of an ONNX model; all cores by default.

    Returns:
        The model.

    Raises:
        ImportError: If it is an ONNX file and the extra `export` is not installed.
        ValueError: If there is nothing, it cannot be read, or an argument is not for its kind.
    """
    place = Path(path)
    for_onnx = {"mean": mean, "std": std, "channels": channels, "layout": layout, "output": output}
    if place.suffix.lower() == ".onnx" and not place.is_dir():
        if architecture is not None:
            raise ValueError(
                f"architecture is {architecture!r}, but the ONNX file {str(place)!r} is one itself"
            )
        if device not in ("cpu", "auto"):
            raise ValueError(f"device is {device!r}; ONNX files run on the CPU")
        model = OnnxModel(place, image_size=image_size, threads=threads, **_as_given(for_onnx))
        return OpenedModel(place, "onnx", model.sha256, model, None, model.preprocessing)
    if not place.exists():
        raise ValueError(f"there is no model {str(place)!r}")
    if given := sorted(_as_given(for_onnx)):
        raise ValueError(
            f"{given[0]} is for ONNX files; {str(place)!r} says itself how it takes images"
        )
    network: Backbone
    if architecture is not None:
        file = place
        network = create_model(
            architecture, image_size=_USUAL_SIZE if image_size is None else image_size
        )
        load_pretrained(network, file)
        network.eval()
    else:
        file = _weights_file(place)
        if image_size is not None:
            raise ValueError(f"image_size is {image_size}, but {str(place)!r} says it itself")
        network = load_weights(file)
    kind: Literal["weights", "checkpoint"] = "weights" if architecture is None else "checkpoint"
    embedder = TorchEmbedder(network, device)
    digest = files_sha256((file,))
    return OpenedModel(file, kind, digest, embedder, network, Preprocessing(network.image_size))


def _weights_file(place: Path) -> Path:
    if place.is_dir():
        found = [place / name for name in RUN_FILES if (place / name).is_file()]
        return found[0] if found else place  # the loader says what it looked for
    if place.suffix != ".safetensors":
        raise ValueError(
            f"{str(place)!r} does not say which model it holds; give its architecture, one of "
            f"{', '.join(list_models())}"
        )
    return place


def _as_given(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}
