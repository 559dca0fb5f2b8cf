"""The files that say what to judge a model on: pairs, templates, galleries, metadata."""

from centerarc.evaluation.formats.bin_set import BinSet
from centerarc.evaluation.formats.ijb_faces import IjbFaces, IjbFiles, find_ijb_files
from centerarc.evaluation.formats.ijb_metadata import (
    IjbImages,
    IjbLandmarks,
    IjbPairs,
    read_ijb_images,
    read_ijb_landmarks,
    read_ijb_pairs,
    read_ijb_subjects,
)
from centerarc.evaluation.formats.lfw_pairs import Pairs, read_pairs
from centerarc.evaluation.formats.pair_images import PairImages
from centerarc.evaluation.formats.pair_list import PairList, read_pair_list
from centerarc.evaluation.formats.pair_list_images import PairListImages
from centerarc.evaluation.formats.pair_set import PairSet, open_pair_set
from centerarc.evaluation.formats.template_list import (
    TemplateList,
    TemplateListImages,
    read_template_list,
)

__all__ = [
    "BinSet",
    "IjbFaces",
    "IjbFiles",
    "IjbImages",
    "IjbLandmarks",
    "IjbPairs",
    "PairImages",
    "PairList",
    "PairListImages",
    "PairSet",
    "Pairs",
    "TemplateList",
    "TemplateListImages",
    "find_ijb_files",
    "open_pair_set",
    "read_ijb_images",
    "read_ijb_landmarks",
    "read_ijb_pairs",
    "read_ijb_subjects",
    "read_pair_list",
    "read_pairs",
    "read_template_list",
]
