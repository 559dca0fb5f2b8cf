"""How well embeddings tell people apart: protocols, numbers with intervals, reports."""

from centerarc.evaluation.bootstrap import Interval
from centerarc.evaluation.embedding import embed, pair_scores
from centerarc.evaluation.estimate import Estimate
from centerarc.evaluation.formats.lfw_pairs import Pairs, read_pairs
from centerarc.evaluation.formats.pair_images import PairImages
from centerarc.evaluation.report import ReportData, require_report_extra, write_report
from centerarc.evaluation.sampling import ImagePairs, make_pairs
from centerarc.evaluation.separability.measure import Separability, measure_separability
from centerarc.evaluation.verification.accuracy import (
    FoldAccuracy,
    best_accuracy,
    best_threshold,
    kfold_accuracy,
)
from centerarc.evaluation.verification.calibration import CalibratedThreshold, calibrated_threshold
from centerarc.evaluation.verification.comparison import (
    Difference,
    VerificationComparison,
    compare_verification,
    compare_with_first,
)
from centerarc.evaluation.verification.det_curve import Det, det
from centerarc.evaluation.verification.grid_accuracy import contiguous_folds, grid_kfold_accuracy
from centerarc.evaluation.verification.group_breakdown import Breakdown, breakdown, pair_groups
from centerarc.evaluation.verification.result import VerificationReport, evaluate_verification
from centerarc.evaluation.verification.roc_curve import Roc, auc, eer, roc, tar_at_far

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
    "ReportData",
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
    "require_report_extra",
    "roc",
    "tar_at_far",
    "write_report",
]
