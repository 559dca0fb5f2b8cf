"""Whole protocols: from a model and the files of a benchmark to every number, and to files."""

from centerarc.evaluation.all_pairs_report import AllPaired, AllPairsSettings
from centerarc.evaluation.embedding import is_embedding_file
from centerarc.evaluation.protocols.all_pairs import evaluate_all_pairs
from centerarc.evaluation.protocols.images import evaluate_galleries, evaluate_pairs
from centerarc.evaluation.protocols.judging import (
    Evaluation,
    Identified,
    SearchSettings,
    Settings,
    Verified,
)
from centerarc.evaluation.protocols.request import Request, RequestError, evaluate_request
from centerarc.evaluation.protocols.result_files import (
    StoredEvaluation,
    read_evaluation,
    write_evaluation,
)
from centerarc.evaluation.protocols.side_by_side import Comparison, compare_files
from centerarc.evaluation.protocols.subject import (
    EmbeddingsSubject,
    ModelSubject,
    Subject,
    opened_embeddings,
)
from centerarc.evaluation.protocols.templates import evaluate_ijb, evaluate_templates

__all__ = [
    "AllPaired",
    "AllPairsSettings",
    "Comparison",
    "EmbeddingsSubject",
    "Evaluation",
    "Identified",
    "ModelSubject",
    "Request",
    "RequestError",
    "SearchSettings",
    "Settings",
    "StoredEvaluation",
    "Subject",
    "Verified",
    "compare_files",
    "evaluate_all_pairs",
    "evaluate_galleries",
    "evaluate_ijb",
    "evaluate_pairs",
    "evaluate_request",
    "evaluate_templates",
    "is_embedding_file",
    "opened_embeddings",
    "read_evaluation",
    "write_evaluation",
]
