"""The processes of one run: who they are, and the few collectives that training needs."""

import datetime
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Processes:
    """One process among those of a run; a run of a single process needs no process group.

    Every method is a collective where `world_size` > 1: all ranks must call it in the same order.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True on rank 0, the one that writes and prints."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Adds a tensor up over the ranks, in place, and returns it; of one shape on every rank."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather_objects(self, value: Any) -> list[Any]:
        """Collects one small picklable value from each rank, on every rank."""
        values: list[Any] = [value]
        if self.world_size > 1:
            values = [None] * self.world_size
            dist.all_gather_object(values, value)
        return values

    def agree(self, error: str | None) -> None:
        """Raises `ValueError` on all ranks if one brings an error, the first rank's message.

        Between collectives a rank that fails alone would leave the others waiting.
        """
        for rank, message in enumerate(self.gather_objects(error)):
            if message is not None:
                raise ValueError(message if rank == 0 else f"rank {rank}: {message}")

    def on_all(self, action: Callable[[], None]) -> None:
        """Acts on every rank; what fails on one is raised on all, so that none waits forever.

        A `ValueError` or `OSError` of the action is raised as it is on its own rank, and as a
        `ValueError` on the others.
        """
        failed: ValueError | OSError | None = None
        try:
            action()
        except (ValueError, OSError) as problem:
            failed = problem
        try:
            self.agree(None if failed is None else str(failed))
        except ValueError as error:
            raise (error if failed is None else failed) from None

    def on_main(self, action: Callable[[], None]) -> None:
        """Acts on rank 0 while the others wait; what fails there is raised on all."""
        self.on_all(action if self.is_main else lambda: None)

    def close(self) -> None:
        """Leaves the process group."""
        if self.world_size > 1 and dist.is_initialized():
            # gloo's thread drops its last work a moment after it is done, and needs the interpreter
            # to do so; tearing the group down waits for that thread and does not let it have it.
            time.sleep(0.2)
            dist.destroy_process_group()


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """Turns a device's name into a device; raises `ValueError` if it is not there.

    Args:
        name: `auto` (CUDA, else MPS, else the CPU), `cpu`, `cuda` or `mps`.
        local_rank: number of this process on its machine; picks the CUDA device.
    """
    if name == "auto":
        cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
        name = "cuda" if cuda else "mps" if mps else "cpu"
    if name == "cuda":
        found = torch.cuda.device_count()
        if local_rank >= found:
            raise ValueError(
                f"device is 'cuda' for process {local_rank} of this machine, which has "
                f"{found} CUDA devices"
            )
        return torch.device("cuda", local_rank)
    if name == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device is 'mps', which this machine does not have")
    return torch.device(name)


def init_from_env(device: str = "auto", timeout_minutes: float = 30.0) -> Processes:
    """Joins the other processes that torchrun started; alone, it only chooses the device.

    NCCL on CUDA, gloo elsewhere.

    Args:
        device: as in `choose_device`.
        timeout_minutes: how long a collective waits for a rank before it is an error. The ranks
            share the sets of a validation and wait for the slowest, so it must exceed the time
            that one rank needs for its sets; a single set is judged by rank 0 alone.

    Raises:
        ValueError: if torchrun's variables are set in part, the device is not there, or the other
            ranks did not come.
    """
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        return Processes(0, 1, choose_device(device))
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing:
        raise ValueError(
            f"{', '.join(missing)} is not set but others of torchrun's variables are; "
            "start with torchrun, or unset RANK and WORLD_SIZE"
        )
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", rank)))
    if world_size == 1:
        return Processes(0, 1, chosen)
    if chosen.type == "mps":
        raise ValueError("device is 'mps', which trains in one process only; use cpu")
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    try:
        dist.init_process_group(
            "nccl" if chosen.type == "cuda" else "gloo",
            timeout=datetime.timedelta(minutes=timeout_minutes),
            device_id=chosen if chosen.type == "cuda" else None,
        )
    except (RuntimeError, dist.DistError) as error:
        raise ValueError(
            f"rank {rank} could not join the other {world_size - 1} processes at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return Processes(rank, world_size, chosen)
