"""Measurements in this process: ``python -m benchmarks.head.child '[{"task": ...}, ...]'``.

It prints a JSON object for each: seconds (one a repetition), bytes above the inputs, and where it
ran; or why there is nothing to tell.
"""

import contextlib
import gc
import json
import sys
import warnings
from typing import Any

import torch
from benchmarks.head.cases import Case
from benchmarks.head.implementations import Absent
from benchmarks.head.largest import largest
from benchmarks.head.memory import peak_above
from benchmarks.head.problem import draw
from benchmarks.head.work import bind, timed

SECONDS = {"cpu": 1.0, "cuda": 0.3}
# A call as long as this is its own warm-up: what a process does once was done on the small problem.
LONG = 5.0
# Small, yet large enough that no implementation takes a shortcut for small problems.
WARM_N, WARM_C = 32, 4096


def measure(case: Case) -> dict[str, Any]:
    """Warm up, find the memory, repeat for about a second."""
    n, c, d = case.size
    reduced = case.mode == "reduced"
    compiled = case.implementation == "compiled"
    if not compiled:
        warm, clear = bind(case, draw(WARM_N, WARM_C, d, case.device, reduced=reduced))
        for _ in range(2):
            warm()
        del warm, clear
    work, clear = bind(case, draw(n, c, d, case.device, reduced=reduced))
    if case.device == "cuda" or compiled:
        # Compilation and tuning take memory of their own, once.
        work()
        clear()
    first: list[float] = []
    peak, way = peak_above(lambda: first.append(timed(work, case.device)), case.device)
    seconds = first
    if first[0] < LONG:
        repetitions = max(1, min(200, round(SECONDS[case.device] / first[0])))
        seconds = [timed(work, case.device) for _ in range(repetitions)]
    return {"seconds": seconds, "bytes": peak, "memory_by": way}


def environment(device: str) -> dict[str, Any]:
    """What the tables have to say of PyTorch and the device."""
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
        found["gpu_bytes"] = torch.cuda.get_device_properties(0).total_memory
        found["cuda"] = torch.version.cuda
        with contextlib.suppress(ImportError):
            import triton

            found["triton"] = triton.__version__
    return found


def found_for(case: Case) -> dict[str, Any]:
    """What there is to tell of a case."""
    result: dict[str, Any] = {}
    try:
        if case.device == "cuda" and not torch.cuda.is_available():
            raise Absent("no CUDA device")
        result = environment(case.device)
        if case.task == "largest":
            return result | largest(case)
        return result | measure(case)
    except Absent as error:
        return result | {"skipped": str(error)}
    except torch.OutOfMemoryError:
        return result | {"skipped": "out of memory"}
    except Exception as error:
        line = f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
        return result | {"error": line}


def main(argument: str) -> None:
    """Run the cases and print what came of each."""
    warnings.simplefilter("ignore")
    # The kernel kills the largest process when memory runs out; let it be this one.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    for number, fields in enumerate(json.loads(argument)):
        if number:
            gc.collect()
            # Every shape is compiled again, and after eight of them in vain.
            torch._dynamo.reset()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        print(json.dumps(found_for(Case(**fields))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
