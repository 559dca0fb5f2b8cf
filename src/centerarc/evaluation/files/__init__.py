"""The files that say what to judge a model on: pairs, templates, galleries, metadata."""

from centerarc.evaluation.files.bin_set import BinSet
from centerarc.evaluation.files.lfw_pairs import PairImages, Pairs, read_pairs
from centerarc.evaluation.files.pair_list import PairList, PairListImages, read_pair_list
from centerarc.evaluation.files.pair_set import PairSet, open_pair_set
from centerarc.evaluation.files.templates import (
    IjbFaces,
    IjbFiles,
    IjbImages,
    IjbLandmarks,
    IjbPairs,
    TemplateList,
    TemplateListImages,
    find_ijb_files,
    read_ijb_images,
    read_ijb_landmarks,
    read_ijb_pairs,
    read_ijb_subjects,
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
