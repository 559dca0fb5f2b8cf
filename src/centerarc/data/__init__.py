"""Labeled face images: where they come from, and how they become batches.

Sources open without torch, which loads with the first batch.
"""

from typing import TYPE_CHECKING, Any

from centerarc.data.augmentation import Augmentation, AugmentationConfig
from centerarc.data.decode import decode_image, read_image
from centerarc.data.folder import FolderSource
from centerarc.data.samplers import (
    Balanced,
    IdentityBatches,
    InBlocks,
    Sampler,
    Shuffled,
    image_weights,
)
from centerarc.data.source import (
    EncodedSource,
    FaceSource,
    Skipped,
    create_source,
    list_sources,
    open_source,
    register_source,
    source_kind,
)
from centerarc.data.views import (
    CachedSource,
    Subset,
    TooFew,
    leave_out,
    read_identities,
    read_leave_out,
    split_identities,
    subset,
    with_enough_images,
    write_identities,
)
from centerarc.io.files import atomic_path
from centerarc.io.parallel import explain_dead_workers

if TYPE_CHECKING:
    from centerarc.data.image_list import ListSource, write_list
    from centerarc.data.loader import TrainLoader, iterate_images, to_input
    from centerarc.data.parquet import ParquetSource
    from centerarc.data.recordio.source import RecordIOSource
    from centerarc.data.shards.source import ShardSource
    from centerarc.data.views import MixedSource, Part

__all__ = [
    "Augmentation",
    "AugmentationConfig",
    "Balanced",
    "CachedSource",
    "EncodedSource",
    "FaceSource",
    "FolderSource",
    "IdentityBatches",
    "InBlocks",
    "ListSource",
    "MixedSource",
    "ParquetSource",
    "Part",
    "RecordIOSource",
    "Sampler",
    "ShardSource",
    "Shuffled",
    "Skipped",
    "Subset",
    "TooFew",
    "TrainLoader",
    "atomic_path",
    "create_source",
    "decode_image",
    "explain_dead_workers",
    "image_weights",
    "iterate_images",
    "leave_out",
    "list_sources",
    "open_source",
    "read_identities",
    "read_image",
    "read_leave_out",
    "register_source",
    "source_kind",
    "split_identities",
    "subset",
    "to_input",
    "with_enough_images",
    "write_identities",
    "write_list",
]

# Loaded on first use: what needs torch, and the kinds of sources that a program does not open.
_LAZY = {
    "ListSource": "image_list",
    "MixedSource": "views",
    "ParquetSource": "parquet",
    "Part": "views",
    "RecordIOSource": "recordio",
    "ShardSource": "shards",
    "TrainLoader": "loader",
    "iterate_images": "loader",
    "to_input": "loader",
    "write_list": "image_list",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'centerarc.data' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"centerarc.data.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
