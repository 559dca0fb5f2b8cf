"""Several processes: their group, and what must be computed over all of them."""

from centerarc.distributed.batchnorm import SyncBatchNorm, convert_batchnorm
from centerarc.distributed.process import Processes, choose_device, init_from_env
from centerarc.losses.head.costs import HeadCosts, head_costs
from centerarc.losses.head.shards import ClassShards, class_state

__all__ = [
    "ClassShards",
    "HeadCosts",
    "Processes",
    "SyncBatchNorm",
    "choose_device",
    "class_state",
    "convert_batchnorm",
    "head_costs",
    "init_from_env",
]
