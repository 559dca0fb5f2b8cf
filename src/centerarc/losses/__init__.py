"""The losses. Imports torch and nothing of ours above it."""

from centerarc.losses.center import CenterLoss
from centerarc.losses.center_arcface import CenterArcFaceLoss
from centerarc.losses.centers import update_centers
from centerarc.losses.chunked import Chunked
from centerarc.losses.functional import (
    center_arcface_loss,
    center_loss,
    center_separation,
    margin_softmax_loss,
)
from centerarc.losses.margin_softmax import BatchMetrics, MarginSoftmaxLoss
from centerarc.losses.margins import (
    ArcFace,
    CombinedMargin,
    CosFace,
    Margin,
    SphereFaceR,
    create_margin,
    list_margins,
)
from centerarc.losses.negative_logsumexp import negative_logsumexp
from centerarc.losses.prototype_sgd import PrototypeSGD
from centerarc.losses.sampling import sample_classes
from centerarc.losses.target import Target

__all__ = [
    "ArcFace",
    "BatchMetrics",
    "CenterArcFaceLoss",
    "CenterLoss",
    "Chunked",
    "CombinedMargin",
    "CosFace",
    "Margin",
    "MarginSoftmaxLoss",
    "PrototypeSGD",
    "SphereFaceR",
    "Target",
    "center_arcface_loss",
    "center_loss",
    "center_separation",
    "create_margin",
    "list_margins",
    "margin_softmax_loss",
    "negative_logsumexp",
    "sample_classes",
    "update_centers",
]
