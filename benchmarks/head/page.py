"""The page of the results: regions between marks, each rewritten from one file of results.

``python -m benchmarks.head.page runs/bench/FILE.jsonl docs/results/head.md`` does it anew. Imports
no torch.
"""

import os
import re
import sys
from pathlib import Path

from benchmarks.head.cases import MODES, TASKS
from benchmarks.head.machine import machine_words
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


def rewrite(text: str, regions: dict[str, str]) -> tuple[str, list[str]]:
    """Put each region between its marks; also returns the names that the page has no marks for."""
    missing = []
    for name, body in regions.items():
        begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        new = f"{begin}\n\n{body}\n\n{end}"
        found = pattern.search(text)
        if found is None:
            missing.append(name)
        else:
            text = text[: found.start()] + new + text[found.end() :]
    return text, missing


def update(results: Results, page: Path) -> list[str]:
    """Rewrite the page in place, complete or not at all; returns the regions it lacks."""
    text, missing = rewrite(page.read_text(encoding="utf-8"), regions_of(results))
    draft = page.with_suffix(".tmp")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, page)
    return missing


if __name__ == "__main__":
    for region in update(Results.read(Path(sys.argv[1])), Path(sys.argv[2])):
        print(f"{sys.argv[2]} has no region {region}")
