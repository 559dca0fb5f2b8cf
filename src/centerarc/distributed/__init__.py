"""Several processes: their group, and what must be computed over all of them."""

from centerarc.distributed.batchnorm import SyncBatchNorm, convert_batchnorm
from centerarc.distributed.process import Processes, choose_device, init_from_env
from centerarc.distributed.shards import ClassShards

__all__ = [
    "ClassShards",
    "Processes",
    "SyncBatchNorm",
    "choose_device",
    "convert_batchnorm",
    "init_from_env",
]
