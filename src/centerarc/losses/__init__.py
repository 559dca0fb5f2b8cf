"""Losses, margins, and the pass over the classes. Needs only PyTorch."""

from centerarc.losses.center import CenterLoss, center_loss, center_separation, update_centers
from centerarc.losses.center_arcface import CenterArcFaceLoss, center_arcface_loss
from centerarc.losses.class_size_margins import LDAM, DynamicArcFace
from centerarc.losses.elastic_margins import ElasticArcFace, ElasticCosFace
from centerarc.losses.head.chunked import Chunked
from centerarc.losses.head.class_pass import negative_logsumexp, sample_classes
from centerarc.losses.head.epilogues import HardNegatives
from centerarc.losses.head.prototype_sgd import PrototypeSGD
from centerarc.losses.margin_softmax import BatchMetrics, MarginSoftmaxLoss, margin_softmax_loss
from centerarc.losses.margins import (
    ArcFace,
    BatchMargin,
    CombinedMargin,
    CosFace,
    Margin,
    SphereFaceR,
    Target,
    create_margin,
    list_margins,
    register_margin,
)
from centerarc.losses.mean_centers import MeanCenterLoss, mean_center_loss
from centerarc.losses.negative_margins import CurricularFace, MVSoftmax, NegativeMargin
from centerarc.losses.norm_margins import AdaFace, MagFace
from centerarc.losses.term_weight import TermWeight
from centerarc.losses.unified_threshold import UniFace, UnifiedThresholdLoss, unified_threshold_loss

__all__ = [
    "LDAM",
    "AdaFace",
    "ArcFace",
    "BatchMargin",
    "BatchMetrics",
    "CenterArcFaceLoss",
    "CenterLoss",
    "Chunked",
    "CombinedMargin",
    "CosFace",
    "CurricularFace",
    "DynamicArcFace",
    "ElasticArcFace",
    "ElasticCosFace",
    "HardNegatives",
    "MVSoftmax",
    "MagFace",
    "Margin",
    "MarginSoftmaxLoss",
    "MeanCenterLoss",
    "NegativeMargin",
    "PrototypeSGD",
    "SphereFaceR",
    "Target",
    "TermWeight",
    "UniFace",
    "UnifiedThresholdLoss",
    "center_arcface_loss",
    "center_loss",
    "center_separation",
    "create_margin",
    "list_margins",
    "margin_softmax_loss",
    "mean_center_loss",
    "negative_logsumexp",
    "register_margin",
    "sample_classes",
    "unified_threshold_loss",
    "update_centers",
]
