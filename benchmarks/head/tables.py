"""Markdown from results. Imports no torch."""

from collections.abc import Iterable

from benchmarks.head.cases import EAGER_PEERS, PEERS, SHAPES, TASKS
from benchmarks.head.goals import COLUMNS, GOALS
from benchmarks.head.results import Results

NAMES = {
    "products": "three bare products",
    "textbook": "textbook ArcFace",
    "pml": "pytorch-metric-learning",
    "arcface_torch": "arcface_torch's formula",
    "arcface_torch_sampled": "arcface_torch's way",
    "compiled": "`torch.compile` of a lean ArcFace",
    "torch_chunked": "`linear_cross_entropy`, chunked (no margin)",
    "ours": "**centerarc**",
    "ours_recompute": "**centerarc**, `Chunked(recompute=True)`",
    "ours_fused": "**centerarc**, `PrototypeSGD(fused=True)`",
    "ours_sampled": "**centerarc**, `sample_rate=0.1`, `PrototypeSGD`",
    "center": "**centerarc**, center loss and update",
    "pass": "one pass over the centers, `negative_logsumexp`",
    "means": "**centerarc**, `MeanCenterLoss` and its update",
    "means_textbook": "textbook: N x C cosines, `cross_entropy`, `index_add_`",
    "center_matrix": "distances N x C",
    "center_cube": "differences N x C x D",
}
# What the tables without products and peers compare with.
BASELINES = {"sampled": "arcface_torch_sampled", "center": "center_matrix", "means": "pass"}
MIB = 1 << 20


def shape_words(shape: str) -> str:
    """Such as 128 x 10,000."""
    n, c, _ = SHAPES[shape]
    return f"{n} x {c:,}"


def comparison_table(results: Results, task: str, mode: str) -> str | None:
    """All shapes of a task in one mode; None if nothing was measured."""
    chosen = results.select(task=task, mode=mode)
    shapes = [shape for shape in SHAPES if chosen.select(shape=shape).records]
    baseline = BASELINES.get(task)
    heads = ["over products", "over the fastest peer", "over the fastest eager peer"]
    if baseline:
        heads = [f"over {NAMES[baseline]}"]
    rows = []
    for shape in shapes:
        peers = [results.fastest(names, shape, task, mode) for names in (PEERS, EAGER_PEERS)]
        below = [baseline] if baseline else ["products", *peers]
        for name in TASKS[task]:
            times = results.rounds(name, shape, task, mode)
            middle = results.milliseconds(name, shape, task, mode)
            memory = results.bytes(name, shape, task, mode)
            if middle is None or memory is None:
                continue
            mib = f"{memory / MIB:,.{0 if memory > 10 * MIB else 1}f}"
            row = [shape_words(shape), NAMES[name], str(len(times)), spread(middle, times), mib]
            for other in below:
                base = results.milliseconds(other, shape, task, mode) if other else None
                row.append("" if base is None else times_words(middle / base))
            rows.append(row)
    if not rows:
        return None
    table = lines_of(["N x C", "implementation", "rounds", "ms", "MiB", *heads], rows)
    return "\n".join([*table, *notes(chosen)])


def times_words(ratio: float) -> str:
    """Such as 1.35x or 0.012x."""
    return f"{ratio:.2f}x" if ratio >= 0.1 else f"{ratio:.2g}x"


def spread(middle: float, times: list[float]) -> str:
    """Median and, of several rounds, the least and the most."""
    digits = 3 if middle < 1 else 1 if middle < 100 else 0
    shown = f"{middle:,.{digits}f}"
    if len(times) > 1:
        shown += f" ({min(times):,.{digits}f} to {max(times):,.{digits}f})"
    return shown


def notes(results: Results) -> list[str]:
    """What is missing from a table, and why; a blank line before them."""
    found: dict[str, None] = {}
    for record in results.records:
        why = record.get("skipped") or record.get("error")
        if why:
            name = NAMES[record["implementation"]].replace("**", "")
            found[f"{name} at {shape_words(record['shape'])}: {why}"] = None
    return ["", "Not measured: " + "; ".join(found) + "."] if found else []


def goals_table(results: Results) -> str | None:
    """The goals beside what was measured; None if nothing that they need was."""
    rows, measured = [], False
    for goal in GOALS:
        if not any(goal.ratio(results, shape) for shape in COLUMNS):
            continue
        row = [goal.words]
        for shape, bound in zip(COLUMNS, goal.bounds or (None,) * len(COLUMNS), strict=True):
            found = goal.ratio(results, shape)
            goal_words = "" if bound is None else f"at most {bound:.2f}x: "
            if found is None:
                row.append(f"{goal_words}not measured")
                continue
            measured = True
            ratio, peer = found
            of = f" of {NAMES[peer]}" if peer and bound is not None else ""
            verdict = "" if bound is None else ", met" if ratio <= bound else ", missed"
            row.append(f"{goal_words}**{times_words(ratio)}**{of}{verdict}")
        rows.append(row)
    heads = ["goal", *map(shape_words, COLUMNS)]
    return "\n".join(lines_of(heads, rows)) if measured else None


def largest_table(results: Results) -> str | None:
    """The most classes that fit; None if nothing was measured."""
    rows = []
    for name in TASKS["largest"]:
        for record in results.select(task="largest", implementation=name).records:
            if record.get("classes"):
                end = record["fails_at"]
                rows.append(
                    [
                        NAMES[name],
                        f"{record['classes'] / 1e6:.1f}",
                        f"{record['milliseconds']:,.0f}",
                        "none failed" if end is None else f"{end / 1e6:.1f}: {record['reason']}",
                    ]
                )
    if not rows:
        return None
    heads = ["implementation", "million classes", "ms a step there", "fails at (millions)"]
    return "\n".join([*lines_of(heads, rows), *notes(results.select(task="largest"))])


def lines_of(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a Markdown table."""
    heads = list(heads)
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]
