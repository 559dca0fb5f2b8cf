"""Labelled face images: where they come from, and how they become batches."""

from centerarc.data.augmentation import Augmentation, AugmentationConfig
from centerarc.data.cache import CachedSource
from centerarc.data.decode import decode_image, read_image
from centerarc.data.encoded import EncodedSource
from centerarc.data.files import atomic_path
from centerarc.data.folder import FolderSource, Skipped
from centerarc.data.loader import TrainLoader, iterate_images
from centerarc.data.source import FaceSource
from centerarc.data.sources import create_source, list_sources
from centerarc.data.subset import Subset, TooFew, split_identities, subset, with_enough_images
from centerarc.data.tensors import to_input
from centerarc.data.workers import explain_dead_workers

__all__ = [
    "Augmentation",
    "AugmentationConfig",
    "CachedSource",
    "EncodedSource",
    "FaceSource",
    "FolderSource",
    "Skipped",
    "Subset",
    "TooFew",
    "TrainLoader",
    "atomic_path",
    "create_source",
    "decode_image",
    "explain_dead_workers",
    "iterate_images",
    "list_sources",
    "read_image",
    "split_identities",
    "subset",
    "to_input",
    "with_enough_images",
]
