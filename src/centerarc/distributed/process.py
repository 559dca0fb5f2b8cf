"""The processes of one run: who they are, and the few collectives that training needs."""

import datetime
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

Item = TypeVar("Item")
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class LostProcess(ConnectionError, ValueError):
    """Another process of the run ended, or does not answer."""


@dataclass(frozen=True)
class Processes:
    """One process among those of a run; a run of a single process needs no process group.

    Every method is a collective where `world_size` > 1: all ranks must call it in the same order.
    `group` is the process group that they use, by default that of all, and `timeout_minutes` how
    long it waits for a rank.
    """

    rank: int
    world_size: int
    device: torch.device
    group: dist.ProcessGroup | None = None
    timeout_minutes: float = 30.0

    @property
    def is_main(self) -> bool:
        """True on rank 0, the one that writes and prints."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Adds a tensor up over the ranks, in place, and returns it; of one shape on every rank."""
        if self.world_size > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def gather_objects(self, value: Any) -> list[Any]:
        """Collects one small picklable value from each rank, on every rank."""
        values: list[Any] = [value]
        if self.world_size > 1:
            values = [None] * self.world_size
            dist.all_gather_object(values, value, group=self.group)
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

        An error of the action is raised as it is on its own rank, and as a `ValueError` on the
        others.
        """
        failed: Exception | None = None
        try:
            action()
        except Exception as problem:  # lack of memory too, which has many names
            failed = problem
        # A sum takes a fraction of the time of collecting what to say.
        if not float(self.sum(torch.tensor([float(failed is not None)], device=self.device))):
            return
        try:
            self.agree(None if failed is None else str(failed) or type(failed).__name__)
        except Exception as error:
            raise (error if failed is None else failed) from None

    @property
    def agrees_quickly(self) -> bool:
        """Whether ranks can agree at any time; on a GPU they would wait for the work under way."""
        return self.device.type == "cpu"

    def in_step(self, items: Iterator[Item]) -> Iterator[Item]:
        """Yields the items of each rank, of which all have as many.

        What fails on one rank is raised on all, as by `on_all`, if they agree quickly.
        """
        while True:
            found: list[Item] = []
            if self.agrees_quickly:
                self.on_all(lambda found=found: found.extend(islice(items, 1)))  # type: ignore[misc]
            else:
                found.extend(islice(items, 1))
            if not found:
                return
            yield found[0]

    def on_main(self, action: Callable[[], None]) -> None:
        """Acts on rank 0 while the others wait; what fails there is raised on all."""
        self.on_all(action if self.is_main else lambda: None)

    def peak_memory(self) -> int | None:
        """Returns the most memory held by this process, in MB (10^6 bytes); on a GPU, its memory.

        None where the system does not say.
        """
        if self.device.type == "cuda":
            return round(torch.cuda.max_memory_allocated(self.device) / 1e6)
        status = Path("/proc/self/status")  # getrusage also counts what started this process
        if not status.exists():
            return None
        lines = map(str.split, status.read_text().splitlines())
        return next((round(int(n[1]) * 1024 / 1e6) for n in lines if n[0] == "VmHWM:"), None)

    def for_thread(self) -> "Processes":
        """The same processes, to be used in another thread: with a group of their own, by gloo."""
        if self.world_size == 1:
            return self
        timeout = datetime.timedelta(minutes=self.timeout_minutes)
        group = dist.new_group(timeout=timeout, backend="gloo")
        return replace(self, device=torch.device("cpu"), group=group)

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
    timeout = datetime.timedelta(minutes=timeout_minutes)
    try:
        store = _store_of_restart(timeout)
        dist.init_process_group(
            "nccl" if chosen.type == "cuda" else "gloo",
            timeout=timeout,
            device_id=chosen if chosen.type == "cuda" else None,
            store=store,
            rank=-1 if store is None else rank,
            world_size=-1 if store is None else world_size,
        )
    except (RuntimeError, dist.DistError) as error:
        raise ValueError(
            f"rank {rank} could not join the other {world_size - 1} processes at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return Processes(rank, world_size, chosen, timeout_minutes=timeout_minutes)


def _store_of_restart(timeout: datetime.timedelta) -> Store | None:
    """A part of torchrun's store for this restart alone; None where PyTorch's choice does.

    Torchrun keeps its store over restarts, where ranks would find the addresses of those before.
    On several machines its counts differ between them; there a variable gives each start a store.
    """
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    of_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not of_agent or restart == "0" or os.environ.get("GROUP_WORLD_SIZE") != "1":
        return None
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(host, port, is_master=False, timeout=timeout)
    return PrefixStore(f"restart-{restart}", store)


@contextmanager
def joined(device: str = "auto", timeout_minutes: float = 30.0) -> Iterator[Processes]:
    """Joins the other processes as `init_from_env` does, and leaves them at the end of the block.

    Raises:
        ValueError: As `init_from_env`; a `LostProcess` where another process ended, or did not
            answer within the time.
    """
    processes = init_from_env(device, timeout_minutes)
    try:
        yield processes
    except (RuntimeError, dist.DistError) as error:
        words = str(error)
        if processes.world_size == 1 or (
            not isinstance(error, dist.DistError) and ("gloo" not in words and "NCCL" not in words)
        ):
            raise
        # gloo says where in its source it is, and adds advice to its developers.
        said = re.sub(r"^\[\S+\] |\. This is typically.*", "", words.splitlines()[0])
        why = "which says why it ended unless it was killed"
        if "timed out" in words.lower() or "timeout" in words.lower():
            why = (
                f"which did not answer for {timeout_minutes:g} minutes (timeout_minutes): it is "
                "stopped, hangs or cannot be reached"
            )
        raise LostProcess(f"process {processes.rank} lost another one, {why} ({said})") from error
    finally:
        processes.close()


def launcher(processes: int) -> str:
    """The words that start as many processes on this machine, with the restarts that they have now.

    They stand before the command and end with a blank; empty without torchrun.
    """
    restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")
    times = f"--max-restarts {restarts} " if restarts != "0" else ""
    return f"torchrun --nproc-per-node {processes} {times}-m " if processes > 1 or times else ""
