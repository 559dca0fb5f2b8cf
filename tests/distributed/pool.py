"""Processes that stay for the whole session and are one gloo group of the size a test asks for."""

import datetime
import multiprocessing
import tempfile
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

WORLD_SIZE = 2

# Imported once, in the process that all workers are forked from. Said before any test runs, since
# the library starts that process too; ranks that each import torch first meet late, or too late.
PRELOADED = [
    "torch._dynamo",  # which any optimizer loads when it is made
    "torch.distributed.checkpoint",
    "torch.nn.parallel",
    "centerarc.distributed",
    "centerarc.cli.commands",
    "centerarc.training.loop",
]
if "forkserver" in multiprocessing.get_all_start_methods():
    multiprocessing.set_forkserver_preload(PRELOADED)

# A rank that waits for one which failed gives up, and the pool a little later.
COLLECTIVE_SECONDS = 30
ANSWER_SECONDS = 120


def _serve(rank: int, pipe: Connection) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    while True:
        store, world_size, function, arguments = pipe.recv()
        try:
            if store is not None:
                if dist.is_initialized():
                    dist.destroy_process_group()
                dist.init_process_group(
                    "gloo",
                    init_method=f"file://{store}",
                    rank=rank,
                    world_size=world_size,
                    timeout=datetime.timedelta(seconds=COLLECTIVE_SECONDS),
                )
            pipe.send((True, function(rank, *arguments)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))


class Pool:
    """Runs a module-level function on every rank; workers start when they are first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pipes: list[Connection] = []
        self.workers: list[Any] = []
        self.groups = 0
        self.joined = 0

    def run(
        self, function: Callable[..., Any], *arguments: Any, world_size: int = WORLD_SIZE
    ) -> list[Any]:
        """Returns function(rank, *arguments) of each rank, which must be picklable."""
        self._start(world_size)
        store = None
        if self.joined != world_size:
            self.groups += 1
            store = str(self.folder / f"store{self.groups}")
        for pipe in self.pipes[:world_size]:
            pipe.send((store, world_size, function, arguments))
        answers = []
        for rank, pipe in enumerate(self.pipes[:world_size]):
            if not pipe.poll(ANSWER_SECONDS):
                self.kill()
                pytest.fail(f"rank {rank} does not answer")
            try:
                answers.append(pipe.recv())
            except EOFError:
                self.kill()
                pytest.fail(f"rank {rank} died")
        if complaints := [text for good, text in answers if not good]:
            self.kill()  # ranks that count their groups differently would never meet again
            pytest.fail("\n".join(complaints))
        self.joined = world_size
        return [answer for _, answer in answers]

    def _start(self, world_size: int) -> None:
        context = multiprocessing.get_context("forkserver")
        for rank in range(len(self.workers), world_size):
            here, there = context.Pipe()
            worker = context.Process(target=_serve, args=(rank, there), daemon=True)
            worker.start()
            self.pipes.append(here)
            self.workers.append(worker)

    def kill(self) -> None:
        for worker in self.workers:
            worker.kill()
        self.pipes, self.workers, self.joined = [], [], 0


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    with tempfile.TemporaryDirectory() as folder:
        pool = Pool(Path(folder))
        yield pool
        pool.kill()
