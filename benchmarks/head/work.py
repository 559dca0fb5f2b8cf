"""The work of a case on a problem, and the seconds that it takes."""

import time
from collections.abc import Callable

import torch
from benchmarks.head.cases import Case
from benchmarks.head.implementations import BUILDERS, Head
from benchmarks.head.problem import Problem


def bind(case: Case, problem: Problem) -> tuple[Callable[[], None], Callable[[], None]]:
    """The work of a case on a problem, and what drops the gradients that it leaves in ``.grad``."""
    head: Head = BUILDERS[case.implementation](problem)
    optimizer = head.optimizer() if case.steps else None
    leaves = [problem.features, *head.parameters]
    reduced = case.mode == "reduced" and case.implementation != "products"

    def clear() -> None:
        for leaf in leaves:
            leaf.grad = None

    def work() -> None:
        clear()
        with torch.autocast(case.device, torch.bfloat16, enabled=reduced):
            loss = head(problem.features, problem.labels)
        loss.backward()
        if optimizer is not None:
            optimizer.step()

    return work, clear


def timed(work: Callable[[], None], device: str) -> float:
    """Seconds of one call."""
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
