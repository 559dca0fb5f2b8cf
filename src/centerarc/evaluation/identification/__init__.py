"""Who is it? Probes looked up in galleries of known people."""

from centerarc.evaluation.identification.comparison import (
    IdentificationComparison,
    compare_identification,
)
from centerarc.evaluation.identification.gallery_search import GallerySearch, search_gallery
from centerarc.evaluation.identification.rates import OpenSetPoint, cmc, tpir_at_fpir
from centerarc.evaluation.identification.result import IdentificationReport, evaluate_identification

__all__ = [
    "GallerySearch",
    "IdentificationComparison",
    "IdentificationReport",
    "OpenSetPoint",
    "cmc",
    "compare_identification",
    "evaluate_identification",
    "search_gallery",
    "tpir_at_fpir",
]
