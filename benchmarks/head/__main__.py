"""The runner: ``python -m benchmarks.head --quick``; ``--help`` tells the rest. Imports no torch.

On a CPU each measurement is a process of its own, on a GPU each implementation is in each round.
Within a comparison the implementations take turns, round by round, so that a machine that grows
slower is slow for all of them.
"""

import argparse
import json
import math
import shlex
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from benchmarks.common.machine import available_bytes, machine_facts
from benchmarks.common.runner import ROOT
from benchmarks.head.cases import (
    CUDA_SHAPES,
    DEFAULT_TASKS,
    MODES,
    PEERS,
    SHAPES,
    TASKS,
    Case,
    comparisons,
    rounds_of,
    why_not,
)
from benchmarks.head.page import regions_of, update
from benchmarks.head.processes import run
from benchmarks.head.results import Results

# What a machine lent by the minute should not exceed, beside the verification.
CUDA_MINUTES = 4.5


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """What the user asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.head", description="Measure the head against its peers."
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shapes", help=f"of {','.join(SHAPES)}; by default all of the device")
    parser.add_argument("--tasks", help=f"of {','.join(TASKS)}; by default all of the device")
    parser.add_argument("--modes", default=",".join(MODES), help="of float32,reduced")
    everyone = dict.fromkeys(name for names in TASKS.values() for name in names)
    parser.add_argument("--only", help=f"of {','.join(everyone)}")
    parser.add_argument("--rounds", type=int, help="by default more for the smaller shapes")
    parser.add_argument("--quick", action="store_true", help="one round of the smallest shape")
    parser.add_argument(
        "--thp", action="store_true", help="loss and step in float32 again, with huge pages (CPU)"
    )
    parser.add_argument(
        "--minutes", type=float, help=f"stop then; by default {CUDA_MINUTES} on a GPU"
    )
    parser.add_argument("--page", type=Path, help="rewrite the tables of this Markdown page")
    chosen = parser.parse_args(arguments)
    cuda = chosen.device == "cuda"
    shapes = [shape for shape in SHAPES if cuda or shape not in CUDA_SHAPES]
    tasks = list(TASKS) if cuda else list(DEFAULT_TASKS)
    if chosen.quick:
        shapes, tasks = shapes[:1], ["loss", "step"]
        chosen.rounds = chosen.rounds or 1
    if cuda and chosen.minutes is None:
        chosen.minutes = CUDA_MINUTES
    # No goal looks at the step in reduced precision; on a CPU it is measured where it is named.
    chosen.brief = not cuda and chosen.tasks is None
    chosen.shapes = _listed(parser, "--shapes", chosen.shapes, list(SHAPES)) or shapes
    chosen.tasks = _listed(parser, "--tasks", chosen.tasks, list(TASKS)) or tasks
    chosen.modes = _listed(parser, "--modes", chosen.modes, list(MODES))
    names = sorted({name for names in TASKS.values() for name in names})
    chosen.only = _listed(parser, "--only", chosen.only, names) or names
    if cuda and chosen.thp:
        parser.error("--thp is about memory of the CPU")
    if not cuda and "largest" in chosen.tasks:
        parser.error("--tasks largest needs --device cuda")
    if chosen.rounds is not None and chosen.rounds < 1:
        parser.error("--rounds must be at least 1")
    return chosen


def _listed(
    parser: argparse.ArgumentParser, flag: str, given: str | None, allowed: list[str]
) -> list[str]:
    found = [] if given is None else [item for item in given.split(",") if item]
    for item in found:
        if item not in allowed:
            parser.error(f"{flag}: {item!r} is none of {', '.join(allowed)}")
    return found


def planned(chosen: argparse.Namespace) -> list[list[Case]]:
    """The comparisons, with the cases that were asked for."""
    plan = comparisons(chosen.shapes, chosen.tasks, chosen.modes, chosen.device, False)
    if chosen.brief:
        plan = [cases for cases in plan if (cases[0].task, cases[0].mode) != ("step", "reduced")]
    if chosen.thp and "float32" in chosen.modes:
        tasks = [task for task in chosen.tasks if task in ("loss", "step")]
        plan += comparisons(chosen.shapes, tasks, ["float32"], chosen.device, True)
    kept = [[case for case in cases if case.implementation in chosen.only] for cases in plan]
    return [cases for cases in kept if cases]


def schedule(plan: list[list[Case]], rounds: int | None) -> list[tuple[int, Case]]:
    """Round by round within a comparison, every implementation once in each."""
    turns = []
    for cases in plan:
        counts = {case: rounds_of(case, rounds) for case in cases}
        for turn in range(max(counts.values())):
            turns += [(turn, case) for case in cases if turn < counts[case]]
    return turns


def verify(names: list[str], device: str) -> set[tuple[str, str]]:
    """Run ``verify`` in a process; (implementation, mode) of those that do other work."""
    print("Is it the same work? Largest errors against float64:", flush=True)
    command = [sys.executable, "-m", "benchmarks.head.verify", device, *names]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        last = ""
        for last in process.stdout:
            if not last.startswith("["):
                print(last, end="", flush=True)
    if process.returncode or not last.startswith("["):
        sys.exit("the verification did not come to its end")
    return {(name, mode) for name, _, mode in json.loads(last)}


def batches(turns: list[tuple[int, Case]]) -> list[list[tuple[int, Case]]]:
    """What shares a process: nothing on a CPU, all of an implementation's round on a GPU.

    There the allocator knows what each measurement takes, and a process takes long to start.
    """
    cuda = turns[0][1].device == "cuda"
    groups: dict[Any, list[tuple[int, Case]]] = {}
    for place, (turn, case) in enumerate(turns):
        shared = cuda and case.task != "largest"
        groups.setdefault((turn, case.implementation) if shared else place, []).append((turn, case))
    if not cuda:
        return list(groups.values())
    # What takes longest comes last, where the time may be up: compilation, the search.
    last = {"compiled": 1, "torch_chunked": 3}

    def order(group: list[tuple[int, Case]]) -> tuple[int, int]:
        turn, case = group[0]
        return turn, 2 if case.task == "largest" else last.get(case.implementation, 0)

    return sorted(groups.values(), key=order)


def guess(case: Case) -> float:
    """Seconds that a process may take; only the proportions matter once some have run."""
    n, c, d = case.size
    name = case.implementation
    if case.task == "largest":
        return 30.0
    if case.device == "cuda":
        return 8.0 if name == "compiled" else 2.0
    start = 8.0 if name == "compiled" else 3.0
    # On a CPU fresh memory costs as much as arithmetic.
    arrays = {"torch_chunked": 3, "compiled": 3, "center": 0, "pass": 0, "means": 0}.get(
        name, 5 if name in PEERS else 1
    )
    if name.startswith("center_") or name in ("arcface_torch_sampled", "means_textbook"):
        arrays = 3
    pages = 4.0 * c * (d * arrays + n * min(arrays, 5)) / 5e8
    speed = {"torch_chunked": 0.1, "center": 100.0, "center_cube": 0.1}.get(name, 1.0)
    call = 6.0 * n * c * d / (1.5e11 * speed) + pages
    return start + c * d * 1e-8 + call + (0.0 if call > 5 else max(call, 1.0))


class Record:
    """The file of raw results, and a line a measurement with an estimate of the time left.

    Args:
        file: takes a JSON object a line.
        facts: what all of them share.
        turns: all that is to come.
    """

    def __init__(self, file: IO[str], facts: dict[str, Any], turns: list[tuple[int, Case]]) -> None:
        self._file, self._facts = file, facts
        self._count, self._done = len(turns), 0
        self._left = sum(guess(case) for _, case in turns)
        self._spent = self._guessed = 0.0
        self.never: set[Case] = set()
        print(f"{self._count} measurements, about {self._left / 60:.0f} min", flush=True)

    def drop(self, case: Case) -> None:
        """It will not be measured: it failed in an earlier round."""
        self._done += 1
        self._left -= guess(case)

    def add(self, turn: int, case: Case, found: dict[str, Any], seconds: float = 0.0) -> None:
        """Write what was found, in so many seconds; 0 if nothing was tried."""
        self.drop(case)
        if "seconds" not in found and "classes" not in found:
            self.never.add(case)
        elif seconds:
            self._spent += seconds
            self._guessed += guess(case)
        record = self._facts | case.as_dict() | {"round": turn} | found
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        pace = self._spent / self._guessed if self._guessed else 1.0
        left = f"about {max(0.0, self._left * pace) / 60:.0f} min left"
        print(f"[{self._done}/{self._count}] {shown(case, found)}; {left}", flush=True)


def measure(
    turns: list[tuple[int, Case]], wrong: set[tuple[str, str]], record: Record, end: float
) -> None:
    """Run what is possible, batch by batch, until ``time.monotonic()`` is ``end``."""
    for batch in batches(turns):
        possible = []
        for turn, case in batch:
            free = available_bytes() if case.device == "cpu" else 1 << 62
            reason = why_not(case, free)
            if (case.implementation, case.mode) in wrong:
                reason = "failed the verification"
            if case in record.never:
                record.drop(case)
            elif reason:
                record.add(turn, case, {"skipped": reason})
            else:
                possible.append((turn, case))
        start = time.perf_counter()
        # In this order, so that the process has ended before the next begins.
        found_each = run([case for _, case in possible], end)
        for found, (turn, case) in zip(found_each, possible, strict=False):
            now = time.perf_counter()
            record.add(turn, case, found, now - start)
            start = now
        if time.monotonic() >= end:
            print("the time is up", flush=True)
            return


def main() -> int:
    """Verify, measure, write."""
    chosen = options()
    turns = schedule(planned(chosen), chosen.rounds)
    if not turns:
        print("nothing to measure: no implementation named takes part in these tasks")
        return 2
    # Whoever ends the run early, by hand or by ``timeout``, gets the tables of what there is.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    wrong = verify(sorted({case.implementation for _, case in turns}), chosen.device)
    facts = {
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(["python", "-m", "benchmarks.head", *sys.argv[1:]]),
        "machine": machine_facts(),
    }
    name = f"head-{chosen.device}-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"
    raw = ROOT / "runs" / "bench" / name
    raw.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * chosen.minutes if chosen.minutes else math.inf
    stopped = False
    with raw.open("w", encoding="utf-8") as file:
        try:
            measure(turns, wrong, Record(file, facts, turns), end)
        except KeyboardInterrupt:
            stopped = True
            print("stopped; the tables hold what there is", flush=True)
    results = Results.read(raw)
    print(f"raw results: {raw.relative_to(ROOT)}")
    if not results.records:
        return 1
    for region, body in regions_of(results).items():
        print(f"\n{region}\n\n{body}")
    if chosen.page:
        update(results, chosen.page)
    broken = {
        name
        for name, _ in wrong
        if name.startswith(("ours", "center", "products", "means", "pass"))
    }
    if broken:
        print(f"failed the verification: {', '.join(sorted(broken))}")
    return 1 if broken or stopped else 0


def shown(case: Case, found: dict[str, Any]) -> str:
    """One measurement in a line."""
    thp = ", huge pages" if case.thp else ""
    words = f"{case.shape} {case.task} {case.mode}{thp}, {case.implementation}: "
    if "classes" in found:
        return words + f"{found['classes'] / 1e6:.1f} M classes"
    if "seconds" not in found:
        return words + (found.get("skipped") or found.get("error") or "nothing")
    middle = statistics.median(found["seconds"])
    return words + f"{1e3 * middle:,.2f} ms, {found['bytes'] / (1 << 20):,.1f} MiB"


if __name__ == "__main__":
    sys.exit(main())
