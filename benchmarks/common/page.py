"""Tables between their marks in a page. Imports no torch."""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Record = dict[str, Any]
# Head and rows.
Table = tuple[list[str], list[list[str]]]


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """The rows as Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def filled_regions(
    record: Record, tables: Mapping[str, Callable[[Record], Table | None]], caption: str
) -> dict[str, str]:
    """Name -> Markdown of every table that a record can fill, each with the caption below."""
    found = {name: table(record) for name, table in tables.items()}
    return {
        name: f"{markdown_table(*table)}\n\n{caption}"
        for name, table in found.items()
        if table is not None
    }


def rewrite(text: str, regions: Mapping[str, str]) -> tuple[str, list[str]]:
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


def write_regions(regions: Mapping[str, str], page: Path) -> None:
    """Replace what stands between the marks of each name, the page complete or not at all.

    A region that the page has no marks for is named on stderr.
    """
    text, missing = rewrite(page.read_text(encoding="utf-8"), regions)
    draft = page.with_suffix(".tmp")
    draft.write_text(text, encoding="utf-8")
    draft.replace(page)
    for name in missing:
        print(f"{page} has no region {name}", file=sys.stderr)
