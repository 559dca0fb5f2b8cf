"""Templates of several images, as IJB-B and IJB-C have them."""

from centerarc.evaluation.templates.pair_scores import template_pair_scores
from centerarc.evaluation.templates.pooling import WEIGHTINGS, Templates, pool_templates
from centerarc.evaluation.templates.search import search_templates

__all__ = [
    "WEIGHTINGS",
    "Templates",
    "pool_templates",
    "search_templates",
    "template_pair_scores",
]
