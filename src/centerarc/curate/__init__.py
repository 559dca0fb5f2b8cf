"""Offline tools on a set of face images: inspect, check, align, pack, split, embed."""

from centerarc.curate.align import AlignmentSummary, align_folder
from centerarc.curate.check import CheckResult, check_checksums, check_source, judge_labels
from centerarc.curate.embed import EmbedReport, embed_to_file
from centerarc.curate.faces import FACE_RULES, Face, FaceRule, YuNetDetector, choose_faces
from centerarc.curate.inspect import (
    CountStatistics,
    Overview,
    count_statistics,
    inspect_source,
    tail_plot,
)
from centerarc.curate.label_errors import Judgement, LabelError, find_label_errors, judgement
from centerarc.curate.likeness import check_enough_people
from centerarc.curate.packing import PackReport, pack
from centerarc.curate.photos import LandmarkTable, read_landmarks
from centerarc.curate.problems import KINDS, Problem, write_problems

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
    "tail_plot",
    "write_problems",
]
