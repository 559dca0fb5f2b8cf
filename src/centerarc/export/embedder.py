"""What every model is to those who want embeddings, and a PyTorch module as one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from centerarc.data import to_input


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
