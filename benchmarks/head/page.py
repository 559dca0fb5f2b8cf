"""The page of the results: regions between marks, each rewritten from one file of results.

``python -m benchmarks.head.page runs/bench/FILE.jsonl docs/results/head.md`` does it again. The
page of a GPU is begun if it is not there, with what these results can fill. Imports no torch.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.common.machine import machine_words
from benchmarks.common.page import write_regions
from benchmarks.head.cases import MODES, TASKS
from benchmarks.head.results import Results
from benchmarks.head.tables import comparison_table, goals_table, largest_table


def regions_of(results: Results) -> dict[str, str]:
    """Name -> Markdown of everything that these results can fill."""
    found: dict[str, str | None] = {}
    for device in ("cpu", "cuda"):
        for thp in (False, True):
            chosen = results.select(device=device, thp=thp)
            end = f"thp-{device}" if thp else device
            found[f"goals-{end}"] = goals_table(chosen)
            for task in TASKS:
                if task == "largest":
                    found[f"largest-{end}"] = largest_table(chosen)
                    continue
                for mode in MODES:
                    found[f"{task}-{mode}-{end}"] = comparison_table(chosen, task, mode)
    caption = caption_of(results)
    return {name: f"{body}\n\n{caption}" for name, body in found.items() if body is not None}


def caption_of(results: Results) -> str:
    """When, how and on what."""
    first = next((r for r in results.records if "torch" in r), results.records[0])
    return f"{first['date']}, `{first['command']}`. {machine_words(first)}"


HEADINGS = {
    "goals": "Goals",
    "loss-float32": "Loss and backward, float32",
    "loss-reduced": "Loss and backward, bfloat16 autocast",
    "step-float32": "Whole step, float32",
    "step-reduced": "Whole step, bfloat16 autocast",
    "sampled-float32": "A tenth of the classes",
    "center-float32": "Center term",
    "means-float32": "Mean centers with negatives, float32",
    "means-reduced": "Mean centers with negatives, bfloat16 autocast",
    "largest": "The most classes that fit",
}
BEGINNING = """\
# The head against its peers, on a GPU

What is measured, against what and how is the same as [on a CPU](head.md). *The most classes that
fit* is a whole step of 1024 embeddings under bfloat16 autocast, with float32 prototypes and
momentum; the number of classes is doubled until it no longer fits, then found by bisection.
"""


def begun(names: Iterable[str]) -> str:
    """A page with the marks of these regions."""
    sections = [BEGINNING]
    for name in names:
        heading = HEADINGS[name.rsplit("-", 1)[0]]
        sections.append(f"## {heading}\n\n<!-- begin: {name} -->\n<!-- end: {name} -->\n")
    return "\n".join(sections)


def update(results: Results, page: Path) -> None:
    """Rewrite the page in place, complete or not at all."""
    regions = regions_of(results)
    if not page.exists() and all(name.endswith("-cuda") for name in regions):
        page.write_text(begun(regions), encoding="utf-8")
    write_regions(regions, page)


if __name__ == "__main__":
    update(Results.read(Path(sys.argv[1])), Path(sys.argv[2]))
