"""The flags by which a command is told of a model, and the model opened."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from centerarc.export import OpenedModel


@Parameter(name="*")
@dataclass(frozen=True)
class ModelFlags:
    """What a model's file does not say.

    Parameters
    ----------
    architecture
        Backbone of a public checkpoint that does not name it, e.g. iresnet50.
    size
        Side of the images that the model takes, where its file leaves that open.
    mean
        Of an ONNX model of others: taken from each pixel value, 0 to 255; one number or three
        with commas between. 127.5 by default.
    std
        Likewise: what the difference is divided by. 127.5 by default.
    channels
        Likewise: rgb by default, or bgr.
    layout
        Of an ONNX model whose input's shape leaves it open: nchw for N x 3 x H x W, nhwc for
        N x H x W x 3.
    output_name
        Of an ONNX model with several outputs: the one that is the embedding.
    """

    architecture: str = ""
    size: int | None = None
    mean: str = ""
    std: str = ""
    channels: Literal["rgb", "bgr"] | None = None
    layout: Literal["nchw", "nhwc"] | None = None
    output_name: str = ""


def opened_model(path: Path, flags: ModelFlags | None, device: str = "cpu") -> "OpenedModel":
    """Opens what a user calls a model.

    Args:
        path: A run folder, a weights file, a public checkpoint or an ONNX file.
        flags: What its file does not say.
        device: auto, cpu, cuda or mps; an ONNX file takes auto for the CPU.

    Returns:
        The model.

    Raises:
        ValueError: If it cannot be opened, or a flag is wrong or not for its kind; the message
            names the flag.
    """
    from centerarc.distributed import choose_device
    from centerarc.export import open_model

    given = ModelFlags() if flags is None else flags
    on_cpu = path.suffix.lower() == ".onnx" and device == "auto"
    return open_model(
        path,
        architecture=given.architecture or None,
        image_size=given.size,
        mean=_numbers("mean", given.mean),
        std=_numbers("std", given.std),
        channels=given.channels,
        layout=given.layout,
        output=given.output_name or None,
        device="cpu" if on_cpu else str(choose_device(device)),
    )


def _numbers(name: str, text: str) -> Any:
    if not text:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"{name} must be one number or three with commas between, e.g. 127.5; got {text!r}"
        ) from None
