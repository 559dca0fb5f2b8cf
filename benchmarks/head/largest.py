"""The most classes that a whole step fits on a GPU: double until it does not, then bisect."""

import gc
import time
from typing import Any

import torch
from benchmarks.head.cases import SHAPES, Case
from benchmarks.head.problem import draw
from benchmarks.head.work import bind, timed

FIRST = 1 << 20
# Stop when the bracket is this narrow, or the time is up.
NARROW = 1.03
SECONDS = 30.0
STEP = 1 << 16


def largest(case: Case) -> dict[str, Any]:
    """The most classes that fit, the time of a step there, and why there were no more."""
    start = time.perf_counter()
    fits, fails, milliseconds, reason = 0, None, None, "the time was up"
    classes = FIRST
    while time.perf_counter() - start < SECONDS:
        found = attempt(case, classes)
        # Whatever an attempt held must be gone before the next.
        gc.collect()
        torch._dynamo.reset()
        torch.cuda.empty_cache()
        if isinstance(found, float):
            fits, milliseconds = classes, 1e3 * found
        else:
            fails, reason = classes, found
        if fails is None:
            classes = 2 * fits
        elif fails <= FIRST // 16 or (fits and fails / fits < NARROW):
            break
        else:
            classes = (fits + fails) // 2 // STEP * STEP or fails // 2
            if classes in (fits, fails):
                break
    return {"classes": fits, "fails_at": fails, "milliseconds": milliseconds, "reason": reason}


def attempt(case: Case, classes: int) -> float | str:
    """Seconds of the second step with so many classes, or what stopped it."""
    n, _, d = SHAPES[case.shape]
    try:
        work, _ = bind(case, draw(n, classes, d, case.device, reduced=case.mode == "reduced"))
        timed(work, case.device)
        return timed(work, case.device)
    except torch.OutOfMemoryError:
        return "out of memory"
    except RuntimeError as error:
        return str(error).strip().splitlines()[0][:120]
