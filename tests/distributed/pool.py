"""Two processes that stay for the whole session and are one gloo group."""

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

WORLD_SIZE = 2


def _serve(rank: int, meeting_place: str, pipe: Connection) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting_place}", rank=rank, world_size=WORLD_SIZE
    )
    while (job := pipe.recv()) is not None:
        function, arguments = job
        try:
            pipe.send((True, function(rank, *arguments)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))
    dist.destroy_process_group()


class Pool:
    """Runs a module-level function on every rank."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        ends = [context.Pipe() for _ in range(WORLD_SIZE)]
        self.pipes = [here for here, _ in ends]
        self.workers = [
            context.Process(target=_serve, args=(rank, str(folder / "store"), there), daemon=True)
            for rank, (_, there) in enumerate(ends)
        ]
        for worker in self.workers:
            worker.start()

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Returns function(rank, *arguments) of each rank, which must be picklable."""
        for pipe in self.pipes:
            pipe.send((function, arguments))
        answers = []
        for rank, pipe in enumerate(self.pipes):
            assert pipe.poll(120), f"rank {rank} does not answer"
            answers.append(pipe.recv())
        for good, answer in answers:
            assert good, answer
        return [answer for _, answer in answers]

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)
        for worker in self.workers:
            worker.join(10)


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    with tempfile.TemporaryDirectory() as folder:
        pool = Pool(Path(folder))
        yield pool
        pool.close()
