"""centerarc: train face-recognition models with the joint Center + ArcFace loss.

The losses are all that a program with its own training loop needs::

    from centerarc import CenterArcFaceLoss

They load on first use, so that ``import centerarc`` costs nothing.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "ArcFace",
    "CenterArcFaceLoss",
    "CenterLoss",
    "Chunked",
    "CombinedMargin",
    "CosFace",
    "MarginSoftmaxLoss",
    "PrototypeSGD",
    "SphereFaceR",
    "negative_logsumexp",
]

if TYPE_CHECKING:
    from centerarc.losses import (
        ArcFace,
        CenterArcFaceLoss,
        CenterLoss,
        Chunked,
        CombinedMargin,
        CosFace,
        MarginSoftmaxLoss,
        PrototypeSGD,
        SphereFaceR,
        negative_logsumexp,
    )


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'centerarc' has no attribute {name!r}")
    from centerarc import losses

    return getattr(losses, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
