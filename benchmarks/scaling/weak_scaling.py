"""One training step of a sharded head on 1, 2 and 4 processes: its time and its traffic.

``python -m benchmarks.scaling.weak_scaling``; ``--write`` puts the table into docs/scaling.md.
Classes a rank are the same throughout. First the samples a rank are too, so that every rank's work
grows with their number; then the samples of all ranks, and every rank's work is constant.
"""

import argparse
import datetime
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from benchmarks.common.machine import machine_facts, machine_words
from benchmarks.common.page import markdown_table, write_regions
from benchmarks.common.runner import ROOT
from benchmarks.scaling.wire import counted_bytes

from centerarc import CenterArcFaceLoss, PrototypeSGD
from centerarc.distributed import ClassShards, head_costs

RANKS = (1, 2, 4)
WARM_UP = 3


@dataclass(frozen=True)
class Problem:
    """One line of the table."""

    ranks: int
    samples: int  # a rank
    classes: int  # a rank
    dim: int
    steps: int


def _measure(rank: int, problem: Problem, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=problem.ranks,
        timeout=datetime.timedelta(minutes=5),
    )
    classes = problem.classes * problem.ranks
    criterion = CenterArcFaceLoss(
        classes,
        problem.dim,
        shards=ClassShards(classes, equal_batches=True),
        implementation="chunked",
        generator=torch.Generator().manual_seed(0),
    )
    optimizer = PrototypeSGD(criterion.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(rank)
    times, moved = [], 0
    for _ in range(WARM_UP + problem.steps):
        features = torch.randn(problem.samples, problem.dim, generator=generator)
        features.requires_grad_()
        labels = torch.randint(classes, (problem.samples,), generator=generator)
        dist.barrier()
        start = time.perf_counter()
        with counted_bytes() as bytes_of:
            arcface_loss, center_loss = criterion(features, labels)
            (arcface_loss + center_loss).backward()
        optimizer.step()
        optimizer.zero_grad()
        # The step of all ranks ends with the last of them.
        took = torch.tensor(time.perf_counter() - start)
        dist.all_reduce(took, op=dist.ReduceOp.MAX)
        times.append(float(took))
        moved = sum(bytes_of.values())
    if rank == 0:
        torch.save({"times": times[WARM_UP:], "moved": moved}, f"{folder}/result.pt")
    dist.destroy_process_group()


def measure(problem: Problem) -> tuple[list[float], int]:
    """Seconds of each step and bytes a rank hands to collectives in one."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_measure, (problem, folder), nprocs=problem.ranks)
        result = torch.load(Path(folder) / "result.pt", weights_only=True)
    return result["times"], result["moved"]


def line(problem: Problem) -> list[str]:
    """Measure, and put it into words."""
    times, moved = measure(problem)
    costs = head_costs(
        problem.classes * problem.ranks,
        problem.dim,
        problem.samples,
        problem.ranks,
        equal_batches=True,
    )
    seconds = statistics.median(times)
    cores = os.cpu_count() or 1
    return [
        f"{problem.ranks}{' (more than cores)' if problem.ranks > cores else ''}",
        f"{problem.ranks * problem.samples}",
        f"{problem.ranks * problem.classes:,}".replace(",", " "),
        f"{1e3 * seconds:.0f} ({1e3 * min(times):.0f} to {1e3 * max(times):.0f})",
        f"{costs.flops / 1e9:.1f}",
        f"{costs.flops * problem.ranks / seconds / 1e9:.0f}",
        f"{moved:,} / {costs.wire_payload:,}".replace(",", " "),
    ]


HEAD = [
    "ranks",
    "samples, all",
    "classes, all",
    "ms a step, median (range)",
    "GFLOP a rank",
    "GFLOP/s, all",
    "bytes a rank, counted / formula",
]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling.weak_scaling")
    parser.add_argument("--samples", type=int, default=64, help="a rank, on the most ranks")
    parser.add_argument("--classes", type=int, default=25_000, help="a rank")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--write", action="store_true", help="into docs/scaling.md")
    chosen = parser.parse_args()
    rows = []
    for most in (None, chosen.samples * max(RANKS)):
        for ranks in RANKS:
            samples = chosen.samples if most is None else most // ranks
            rows.append(line(Problem(ranks, samples, chosen.classes, chosen.dim, chosen.steps)))
            print("  ".join(rows[-1]), flush=True)
    facts = machine_words({"machine": machine_facts(), "torch": torch.__version__, "threads": 1})
    command = "python -m benchmarks.scaling.weak_scaling --write"
    body = (
        f"{markdown_table(HEAD, rows)}\n\n{datetime.date.today()}, `{command}`, gloo, "
        f"{chosen.dim} dimensions, one thread a rank. {facts}"
    )
    print(body)
    if chosen.write:
        write_regions({"weak-scaling": body}, ROOT / "docs" / "scaling.md")


if __name__ == "__main__":
    main()
