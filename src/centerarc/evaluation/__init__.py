"""How well embeddings tell people apart: protocols, and numbers with intervals."""

from centerarc.evaluation.accuracy import (
    FoldAccuracy,
    best_accuracy,
    best_threshold,
    contiguous_folds,
    grid_kfold_accuracy,
    kfold_accuracy,
)
from centerarc.evaluation.all_pair_scores import score_all_pairs
from centerarc.evaluation.all_pairs import AllPairs, TarPoint
from centerarc.evaluation.all_pairs_report import (
    AllPairsComparison,
    AllPairsReport,
    compare_all_pairs,
    report_all_pairs,
)
from centerarc.evaluation.comparison import (
    Difference,
    IdentificationComparison,
    VerificationComparison,
    compare_identification,
    compare_verification,
    compare_with_first,
)
from centerarc.evaluation.embedding import (
    Embeddings,
    ImagePairs,
    embed,
    make_pairs,
    pair_scores,
    read_embeddings,
)
from centerarc.evaluation.files.pair_set import PairImages
from centerarc.evaluation.files.pairs import Pairs, read_pairs
from centerarc.evaluation.gallery import GallerySearch, search_gallery
from centerarc.evaluation.groups import Breakdown, breakdown, pair_groups
from centerarc.evaluation.identification import (
    IdentificationReport,
    OpenSetPoint,
    cmc,
    evaluate_identification,
    tpir_at_fpir,
)
from centerarc.evaluation.intervals import Estimate, Interval
from centerarc.evaluation.left_out import LeaveOneOut, leave_one_out
from centerarc.evaluation.margin_rule import MarginRule
from centerarc.evaluation.misfits import AlikePeople, Misfit, WeakSpots, weak_spots
from centerarc.evaluation.open_set import (
    Calibration,
    OperatingPoint,
    SizePoint,
    calibrate,
    operating_point,
)
from centerarc.evaluation.pareto_tail import ExtremeTail, extreme_tail
from centerarc.evaluation.people_rates import Rate
from centerarc.evaluation.roc_curve import Det, Roc, auc, det, eer, roc, tar_at_far
from centerarc.evaluation.seeds import (
    ArmSummary,
    SeedDifference,
    SeedMean,
    StudySummary,
    measure_names,
    measured,
    summarize_arms,
)
from centerarc.evaluation.separability import Separability, measure_separability
from centerarc.evaluation.templates import (
    WEIGHTINGS,
    Templates,
    pool_templates,
    search_templates,
    template_pair_scores,
)
from centerarc.evaluation.verification import (
    CalibratedThreshold,
    HeldOutFar,
    VerificationReport,
    calibrated_threshold,
    evaluate_verification,
    held_out_fars,
)

__all__ = [
    "WEIGHTINGS",
    "AlikePeople",
    "AllPairs",
    "AllPairsComparison",
    "AllPairsReport",
    "ArmSummary",
    "Breakdown",
    "CalibratedThreshold",
    "Calibration",
    "Det",
    "Difference",
    "Embeddings",
    "Estimate",
    "ExtremeTail",
    "FoldAccuracy",
    "GallerySearch",
    "HeldOutFar",
    "IdentificationComparison",
    "IdentificationReport",
    "ImagePairs",
    "Interval",
    "LeaveOneOut",
    "MarginRule",
    "Misfit",
    "OpenSetPoint",
    "OperatingPoint",
    "PairImages",
    "Pairs",
    "Rate",
    "Roc",
    "SeedDifference",
    "SeedMean",
    "Separability",
    "SizePoint",
    "StudySummary",
    "TarPoint",
    "Templates",
    "VerificationComparison",
    "VerificationReport",
    "WeakSpots",
    "auc",
    "best_accuracy",
    "best_threshold",
    "breakdown",
    "calibrate",
    "calibrated_threshold",
    "cmc",
    "compare_all_pairs",
    "compare_identification",
    "compare_verification",
    "compare_with_first",
    "contiguous_folds",
    "det",
    "eer",
    "embed",
    "evaluate_identification",
    "evaluate_verification",
    "extreme_tail",
    "grid_kfold_accuracy",
    "held_out_fars",
    "kfold_accuracy",
    "leave_one_out",
    "make_pairs",
    "measure_names",
    "measure_separability",
    "measured",
    "operating_point",
    "pair_groups",
    "pair_scores",
    "pool_templates",
    "read_embeddings",
    "read_pairs",
    "report_all_pairs",
    "roc",
    "score_all_pairs",
    "search_gallery",
    "search_templates",
    "summarize_arms",
    "tar_at_far",
    "template_pair_scores",
    "tpir_at_fpir",
    "weak_spots",
]
