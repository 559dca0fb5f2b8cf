"""Offline tools on a set of face images: inspect, check, align, pack, split, embed."""

from typing import TYPE_CHECKING, Any

from centerarc.curate.align import AlignmentSummary, align_folder
from centerarc.curate.check import (
    KINDS,
    CheckResult,
    Problem,
    check_checksums,
    check_source,
    judge_labels,
    write_problems,
)
from centerarc.curate.inspect import (
    CountStatistics,
    Overview,
    count_statistics,
    inspect_source,
    tail_plot,
)
from centerarc.curate.label_errors import (
    Judgement,
    LabelError,
    check_enough_people,
    find_label_errors,
    judgement,
)
from centerarc.curate.packing import PackReport, pack
from centerarc.curate.photos import (
    FACE_RULES,
    Face,
    FaceRule,
    LandmarkTable,
    choose_faces,
    read_landmarks,
)
from centerarc.curate.split import Split, split_source, write_split
from centerarc.curate.yunet import YuNetDetector

if TYPE_CHECKING:
    from centerarc.curate.embed import EmbedReport, embed_to_file

__all__ = [
    "FACE_RULES",
    "KINDS",
    "AlignmentSummary",
    "CheckResult",
    "CountStatistics",
    "EmbedReport",
    "Face",
    "FaceRule",
    "Judgement",
    "LabelError",
    "LandmarkTable",
    "Overview",
    "PackReport",
    "Problem",
    "Split",
    "YuNetDetector",
    "align_folder",
    "check_checksums",
    "check_enough_people",
    "check_source",
    "choose_faces",
    "count_statistics",
    "embed_to_file",
    "find_label_errors",
    "inspect_source",
    "judge_labels",
    "judgement",
    "pack",
    "read_landmarks",
    "split_source",
    "tail_plot",
    "write_problems",
    "write_split",
]


def __getattr__(name: str) -> Any:
    if name not in ("EmbedReport", "embed_to_file"):
        raise AttributeError(f"module 'centerarc.curate' has no attribute {name!r}")
    from centerarc.curate import embed  # needs torch, which the others do not load

    return getattr(embed, name)
