"""Any model by what the user names: a run, weights, a public checkpoint, an ONNX file, the Hub."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from centerarc.io.files import files_sha256
from centerarc.models.backbone import Backbone, create_model, list_models
from centerarc.models.embedder import Channels, Embedder, Layout, Preprocessing, TorchEmbedder
from centerarc.models.hub import HubModel, download, hub_model, named
from centerarc.models.weights import load_pretrained, load_weights, weights_file

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
        hub: The repository and commit of a model on the Hub, else None.
    """

    path: Path
    kind: Literal["weights", "checkpoint", "onnx"]
    sha256: str
    embedder: Embedder
    network: Backbone | None
    preprocessing: Preprocessing
    hub: HubModel | None = None

    @property
    def name(self) -> str:
        """What a reader finds it by: its path, or the repository and commit."""
        return str(self.path if self.hub is None else self.hub)

    @property
    def weights_sha256(self) -> str:
        """Of the weights that it rests on, the same for ours and for an ONNX file made of them."""
        from centerarc.models.onnx_model import OnnxModel

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
        path: A run folder (`best.safetensors`, else `last.safetensors`), a folder of
            `save_pretrained`, a file of `save_weights`, a public checkpoint of arcface_torch with
            its `architecture`, a `.onnx` file, or `hf://owner/name` or
            `hf://owner/name@revision` on the Hub.
        architecture: Name in the registry of a checkpoint that does not say it, e.g. "iresnet50".
        image_size: Side of the input in pixels: of an ONNX file that leaves it open, or of the
            architecture.
        mean: Of another tool's ONNX file; see `OnnxModel`.
        std: Likewise.
        channels: Likewise.
        layout: Likewise.
        output: Name of the output of an ONNX file that has several.
        device: Where a PyTorch model computes, e.g. "cuda". ONNX files run on the CPU.
        threads: Number of threads of an ONNX model; all cores by default.

    Returns:
        The model.

    Raises:
        ImportError: If it is an ONNX file and the extra `export` is not installed, or on the Hub
            and the extra `hub` is not.
        ValueError: If there is nothing, it cannot be read, or an argument is not for its kind.
        OSError: If the Hub cannot be reached.
    """
    for_onnx = {"mean": mean, "std": std, "channels": channels, "layout": layout, "output": output}
    given: dict[str, Any] = {name: v for name, v in for_onnx.items() if v is not None}
    if (shared := hub_model(path)) is not None:
        file = download(shared)
        with named(shared):
            found = open_model(
                file, architecture=architecture, image_size=image_size, device=device, **given
            )
        # The folder of a download has the name of its commit.
        return replace(found, hub=HubModel(shared.repo_id, file.parent.name))
    place = Path(path)
    if place.suffix.lower() == ".onnx" and not place.is_dir():
        from centerarc.models.onnx_model import OnnxModel

        if architecture is not None:
            raise ValueError(
                f"architecture is {architecture!r}, but the ONNX file {str(place)!r} is one itself"
            )
        if device not in ("cpu", "auto"):
            raise ValueError(f"device is {device!r}; ONNX files run on the CPU")
        model = OnnxModel(place, image_size=image_size, threads=threads, **given)
        return OpenedModel(place, "onnx", model.sha256, model, None, model.preprocessing)
    if not place.exists():
        raise ValueError(f"there is no model {str(place)!r}")
    if given:
        raise ValueError(
            f"{min(given)} is for ONNX files; {str(place)!r} says itself how it takes images"
        )
    if architecture is not None:
        size = _USUAL_SIZE if image_size is None else image_size
        network = create_model(architecture, image_size=size).eval()
        load_pretrained(network, place)
    else:
        if not place.is_dir() and place.suffix != ".safetensors":
            raise ValueError(
                f"{str(place)!r} does not say which model it holds; give its architecture, one of "
                f"{', '.join(list_models())}"
            )
        if image_size is not None:
            raise ValueError(f"image_size is {image_size}, but {str(place)!r} says it itself")
        place = weights_file(place)
        network = load_weights(place)
    return OpenedModel(
        place,
        "weights" if architecture is None else "checkpoint",
        files_sha256(place),
        TorchEmbedder(network, device),
        network,
        Preprocessing(network.image_size),
    )
