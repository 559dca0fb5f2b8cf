"""Scores of 15.6 million pairs of templates, and their TARs: seconds and memory of a process.

``python -m benchmarks.evaluation.template_scores ours 15658489`` scores them and prints what it
took.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from benchmarks.common.runner import ROOT
from benchmarks.evaluation.cases import TEMPLATE_PAIRS

# As IJB-C has them.
FIRST, SECOND, DIMENSIONS = 3531, 19_593, 512
GENUINE = 19_557
FARS = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5]
# Pairs at once in the plain formula.
_BATCH = 100_000

Float32Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int32]


def problem(count: int) -> tuple[Float32Array, Indices, Indices, npt.NDArray[np.bool_]]:
    """Embeddings, the templates of each pair, and which pairs are genuine.

    The first template of a pair is a gallery's, the second another's; by the first.
    """
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((FIRST + SECOND, DIMENSIONS), dtype=np.float32)
    # Each of the first with as many of the second, drawn without putting back.
    each = np.full(FIRST, count // FIRST)
    each[: count % FIRST] += 1
    first = np.repeat(np.arange(FIRST, dtype=np.int32), each)
    second = np.concatenate(
        [FIRST + rng.permutation(SECOND)[:number].astype(np.int32) for number in each]
    )
    same = np.zeros(count, dtype=np.bool_)
    same[rng.choice(count, count * GENUINE // TEMPLATE_PAIRS + 1, replace=False)] = True
    return embeddings, first, second, same


def plain(embeddings: Float32Array, first: Indices, second: Indices) -> Float32Array:
    """The sum of products of both rows, pairs taken in batches."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    scores = np.empty(first.size, dtype=np.float32)
    for start in range(0, first.size, _BATCH):
        part = slice(start, start + _BATCH)
        scores[part] = np.sum(unit[first[part]] * unit[second[part]], axis=1)
    return scores


def in_a_process(who: str, count: int) -> dict[str, Any]:
    """What scoring takes in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.evaluation.template_scores", who, str(count)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _score(who: str, count: int) -> dict[str, Any]:
    embeddings, first, second, same = problem(count)
    start = time.perf_counter()
    if who == "ours":
        from centerarc.evaluation import tar_at_far
        from centerarc.evaluation.templates import template_pair_scores

        start = time.perf_counter()
        scores = template_pair_scores(embeddings, first, second)
        scored = time.perf_counter()
        tars = tar_at_far(scores, same, FARS)
    else:
        from sklearn.metrics import roc_curve

        start = time.perf_counter()
        scores = plain(embeddings, first, second)
        scored = time.perf_counter()
        far, tar, _ = roc_curve(same, scores, drop_intermediate=False)
        tars = [float(tar[far <= limit * (1 + 1e-12)].max()) for limit in FARS]
    end = time.perf_counter()
    some = np.random.default_rng(1).integers(count, size=1000)
    return {
        "scoring": scored - start,
        "tars": end - scored,
        "seconds": end - start,
        # All of the process, with Python, the embeddings and the pairs.
        "gigabytes": _kilobytes("VmHWM") * 1024 / 1e9,
        "sample": scores[some].tolist(),
        "found": tars,
    }


def check_alike(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Raises an AssertionError if two processes did not find the same, up to float32's rounding."""
    apart = np.abs(np.array(ours["sample"]) - theirs["sample"]).max()
    if apart > 1e-5:
        raise AssertionError(f"scores differ by {apart}")
    # Scores that round differently may swap places.
    if not np.allclose(ours["found"], theirs["found"], atol=2e-3):
        raise AssertionError(f"other TARs: {ours['found']} and {theirs['found']}")


def _kilobytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise OSError(f"the system does not tell {name}")


if __name__ == "__main__":
    print(json.dumps(_score(sys.argv[1], int(sys.argv[2]))))
