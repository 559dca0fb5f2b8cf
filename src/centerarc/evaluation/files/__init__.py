"""The files that say what to judge a model on: pairs, templates, galleries, metadata."""

from centerarc.evaluation.files.ijb import (
    IjbFaces,
    IjbFiles,
    IjbImages,
    IjbLandmarks,
    IjbPairs,
    find_ijb_files,
    read_ijb_images,
    read_ijb_landmarks,
    read_ijb_pairs,
    read_ijb_subjects,
)
from centerarc.evaluation.files.pair_set import (
    BinSet,
    ListedImages,
    PairImages,
    PairSet,
    open_pair_set,
)
from centerarc.evaluation.files.pairs import Pairs, read_pair_list, read_pairs
from centerarc.evaluation.files.pickles import UnsafePickleError, read_plain_pickle
from centerarc.evaluation.files.templates import TemplateList, read_template_list

__all__ = [
    "BinSet",
    "IjbFaces",
    "IjbFiles",
    "IjbImages",
    "IjbLandmarks",
    "IjbPairs",
    "ListedImages",
    "PairImages",
    "PairSet",
    "Pairs",
    "TemplateList",
    "UnsafePickleError",
    "find_ijb_files",
    "open_pair_set",
    "read_ijb_images",
    "read_ijb_landmarks",
    "read_ijb_pairs",
    "read_ijb_subjects",
    "read_pair_list",
    "read_pairs",
    "read_plain_pickle",
    "read_template_list",
]
