"""The page of the results: regions between marks, each rewritten from one file of results.

``python -m benchmarks.head.page runs/bench/FILE.jsonl docs/results/head.md`` does it again. Imports
no torch.
"""

import sys
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


def update(results: Results, page: Path) -> None:
    """Rewrite the page in place, complete or not at all."""
    write_regions(regions_of(results), page)


if __name__ == "__main__":
    update(Results.read(Path(sys.argv[1])), Path(sys.argv[2]))
