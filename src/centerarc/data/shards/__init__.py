"""WebDataset shards: labeled faces in tar files, read in any order."""

from centerarc.data.shards.manifest import (
    MANIFEST_NAME,
    Manifest,
    ShardInfo,
    read_manifest,
    verify_checksums,
    write_manifest,
)
from centerarc.data.shards.source import ShardSource
from centerarc.data.shards.tar import scan_shard, write_index
from centerarc.data.shards.writer import ShardSample, write_shard

__all__ = [
    "MANIFEST_NAME",
    "Manifest",
    "ShardInfo",
    "ShardSample",
    "ShardSource",
    "read_manifest",
    "scan_shard",
    "verify_checksums",
    "write_index",
    "write_manifest",
    "write_shard",
]
