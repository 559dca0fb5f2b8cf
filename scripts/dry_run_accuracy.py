"""Compares what a dry run says with what the run then takes, on drawn faces.

    python scripts/dry_run_accuracy.py [--rounds 2] [--only NAME ...]

Each round does a dry run and a run of each configuration, every one in processes of its own, with
one thread each. The times are those from the call of `dry_run` or `train` to its end, without the
start of the program.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SMALL = {"name": "mobilefacenet_small", "image_size": 32, "embedding_size": 64}
LARGE = {"name": "iresnet18", "image_size": 64, "embedding_size": 128}


def recipe(
    model: dict[str, Any],
    people: int,
    images: int,
    data: dict[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A run on drawn faces on the CPU."""
    drawn = {"source": "synthetic", "num_identities": people, "images_per_identity": images}
    return {
        "model": model,
        "data": {**drawn, **(data or {})},
        "device": "cpu",
        "batch_size": 32,
        **more,
    }


JUDGED = {"identities": 10, "num_pairs": 500}
ONE, TWO = {"epochs": 1}, {"epochs": 2}
# Name: the settings, and the number of processes.
RUNS: dict[str, tuple[dict[str, Any], int]] = {
    "small, workers: 0": (recipe(SMALL, 40, 16, workers=0, schedule=TWO), 1),
    "small, workers: 2": (recipe(SMALL, 40, 16, workers=2, schedule=TWO), 1),
    "small, judged": (recipe(SMALL, 50, 16, workers=0, schedule=TWO, validation=JUDGED), 1),
    "large, judged": (recipe(LARGE, 40, 16, workers=1, schedule=ONE, validation=JUDGED), 1),
    "small, 2 processes": (recipe(SMALL, 40, 16, workers=0, schedule=TWO), 2),
    "small, cached": (
        recipe(SMALL, 40, 16, {"cache_gb": 1.0}, workers=0, schedule={"epochs": 6}),
        1,
    ),
}


def child(kind: str, path: str) -> None:
    """Does one of the two in this process, and writes what was said or taken."""
    from centerarc.training import check_config, dry_run, train

    config = check_config(json.loads(Path(path).read_text(encoding="utf-8")))
    begun = time.perf_counter()
    if kind == "dry":
        found = dry_run(config)
        taken = time.perf_counter() - begun
        result = [found.opening_seconds + found.seconds, found.peak_memory / 1e6, taken]
    else:
        peak = train(config).summary["peak_memory_mb"]
        result = [time.perf_counter() - begun, max(peak)]
    if os.environ.get("RANK", "0") == "0":
        Path(f"{path}.{kind}").write_text(json.dumps(result), encoding="utf-8")


def once(name: str, kind: str) -> list[float]:
    """Does one of the two in processes of its own."""
    settings, processes = RUNS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.json")
        path.write_text(json.dumps({**settings, "run_dir": f"{folder}/run"}), encoding="utf-8")
        words = [__file__, "--child", kind, str(path)]
        if processes > 1:
            launcher = ["-m", "torch.distributed.run", "--standalone"]
            words = [*launcher, f"--nproc-per-node={processes}", *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(
            [sys.executable, *words], check=True, env=environment, stderr=subprocess.DEVNULL
        )
        found: list[float] = json.loads(Path(f"{path}.{kind}").read_text(encoding="utf-8"))
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[*RUNS])
    parser.add_argument("--child", nargs=2)
    flags = parser.parse_args()
    if flags.child:
        child(*flags.child)
        return
    print("| run | s said | s taken | ratio | MB said | MB taken | ratio | s of the dry run |")
    print("|---|---|---|---|---|---|---|---|")
    for name in flags.only:
        rows = [[*once(name, "dry"), *once(name, "run")] for _ in range(flags.rounds)]
        print(rows, file=sys.stderr, flush=True)
        said, memory, own, taken, peak = map(statistics.median, zip(*rows, strict=True))
        time_ratio = statistics.median(row[0] / row[3] for row in rows)
        memory_ratio = statistics.median(row[1] / row[4] for row in rows)
        print(
            f"| {name} | {said:.1f} | {taken:.1f} | {time_ratio:.2f} | {memory:.0f} | {peak:.0f} "
            f"| {memory_ratio:.2f} | {own:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
