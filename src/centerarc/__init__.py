"""centerarc: train face-recognition models with the joint Center + ArcFace loss.

The losses are all that a program with its own training loop needs::

    from centerarc import CenterArcFaceLoss

They load on first use, so that ``import centerarc`` costs nothing.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "LDAM",
    "AdaFace",
    "ArcFace",
    "CenterArcFaceLoss",
    "CenterLoss",
    "Chunked",
    "CombinedMargin",
    "CosFace",
    "CurricularFace",
    "DynamicArcFace",
    "ElasticArcFace",
    "ElasticCosFace",
    "MVSoftmax",
    "MagFace",
    "MarginSoftmaxLoss",
    "MeanCenterLoss",
    "PrototypeSGD",
    "SphereFaceR",
    "TermWeight",
    "UniFace",
    "UnifiedThresholdLoss",
    "negative_logsumexp",
]

if TYPE_CHECKING:
    from centerarc.losses.center import CenterLoss
    from centerarc.losses.center_arcface import CenterArcFaceLoss
    from centerarc.losses.class_size_margins import LDAM, DynamicArcFace
    from centerarc.losses.elastic_margins import ElasticArcFace, ElasticCosFace
    from centerarc.losses.head.chunked import Chunked
    from centerarc.losses.head.class_pass import negative_logsumexp
    from centerarc.losses.head.prototype_sgd import PrototypeSGD
    from centerarc.losses.margin_softmax import MarginSoftmaxLoss
    from centerarc.losses.margins import ArcFace, CombinedMargin, CosFace, SphereFaceR
    from centerarc.losses.mean_centers import MeanCenterLoss
    from centerarc.losses.negative_margins import CurricularFace, MVSoftmax
    from centerarc.losses.norm_margins import AdaFace, MagFace
    from centerarc.losses.term_weight import TermWeight
    from centerarc.losses.unified_threshold import UniFace, UnifiedThresholdLoss


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'centerarc' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("centerarc.losses"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
