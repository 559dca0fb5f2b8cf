"""From photos to aligned faces: five landmarks are brought to the ArcFace template."""

from centerarc.data.alignment.align_folder import AlignmentSummary, align_folder
from centerarc.data.alignment.detect import YuNetDetector
from centerarc.data.alignment.faces import FACE_RULES, Face, FaceRule, choose_faces
from centerarc.data.alignment.landmarks import LandmarkTable, read_landmarks
from centerarc.data.alignment.similarity import similarity_transform
from centerarc.data.alignment.template import arcface_template
from centerarc.data.alignment.warp import warp

__all__ = [
    "FACE_RULES",
    "AlignmentSummary",
    "Face",
    "FaceRule",
    "LandmarkTable",
    "YuNetDetector",
    "align_folder",
    "arcface_template",
    "choose_faces",
    "read_landmarks",
    "similarity_transform",
    "warp",
]
