"""How well embeddings tell people apart: protocols, numbers with intervals, reports."""

from centerarc.evaluation.accuracy import (
    FoldAccuracy,
    best_accuracy,
    best_threshold,
    kfold_accuracy,
)
from centerarc.evaluation.bootstrap import Interval
from centerarc.evaluation.embedding import embed, pair_scores
from centerarc.evaluation.pair_images import PairImages
from centerarc.evaluation.pairs import Pairs, read_pairs
from centerarc.evaluation.report import ReportData, require_report_extra, write_report
from centerarc.evaluation.roc_curve import Roc, auc, eer, roc, tar_at_far
from centerarc.evaluation.sampling import ImagePairs, make_pairs
from centerarc.evaluation.verification import (
    Estimate,
    VerificationReport,
    evaluate_verification,
)

__all__ = [
    "Estimate",
    "FoldAccuracy",
    "ImagePairs",
    "Interval",
    "PairImages",
    "Pairs",
    "ReportData",
    "Roc",
    "VerificationReport",
    "auc",
    "best_accuracy",
    "best_threshold",
    "eer",
    "embed",
    "evaluate_verification",
    "kfold_accuracy",
    "make_pairs",
    "pair_scores",
    "read_pairs",
    "require_report_extra",
    "roc",
    "tar_at_far",
    "write_report",
]
