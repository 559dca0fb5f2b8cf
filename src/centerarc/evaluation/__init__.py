"""How well embeddings tell people apart: protocols, numbers with intervals, reports."""

from centerarc.evaluation.accuracy import (
    FoldAccuracy,
    best_accuracy,
    best_threshold,
    contiguous_folds,
    grid_kfold_accuracy,
    kfold_accuracy,
)
from centerarc.evaluation.comparison import (
    Difference,
    VerificationComparison,
    compare_verification,
    compare_with_first,
)
from centerarc.evaluation.embedding import ImagePairs, embed, make_pairs, pair_scores
from centerarc.evaluation.files.lfw_pairs import PairImages, Pairs, read_pairs
from centerarc.evaluation.groups import Breakdown, breakdown, pair_groups
from centerarc.evaluation.intervals import Estimate, Interval
from centerarc.evaluation.roc_curve import Det, Roc, auc, det, eer, roc, tar_at_far
from centerarc.evaluation.separability import Separability, measure_separability
from centerarc.evaluation.thresholds import CalibratedThreshold, calibrated_threshold
from centerarc.evaluation.verification import VerificationReport, evaluate_verification

__all__ = [
    "Breakdown",
    "CalibratedThreshold",
    "Det",
    "Difference",
    "Estimate",
    "FoldAccuracy",
    "ImagePairs",
    "Interval",
    "PairImages",
    "Pairs",
    "Roc",
    "Separability",
    "VerificationComparison",
    "VerificationReport",
    "auc",
    "best_accuracy",
    "best_threshold",
    "breakdown",
    "calibrated_threshold",
    "compare_verification",
    "compare_with_first",
    "contiguous_folds",
    "det",
    "eer",
    "embed",
    "evaluate_verification",
    "grid_kfold_accuracy",
    "kfold_accuracy",
    "make_pairs",
    "measure_separability",
    "pair_groups",
    "pair_scores",
    "read_pairs",
    "roc",
    "tar_at_far",
]
