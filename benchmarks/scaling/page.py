"""Writes tables between their marks in a page, docs/scaling.md by default."""

from pathlib import Path

from benchmarks.head.page import rewrite

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """The rows as Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_regions(regions: dict[str, str], page: Path = PAGE) -> None:
    """Replace what stands between the marks of each name, the page complete or not at all."""
    text, missing = rewrite(page.read_text(encoding="utf-8"), regions)
    if missing:
        raise SystemExit(f"{page} has no marks for {', '.join(missing)}")
    draft = page.with_suffix(".tmp")
    draft.write_text(text, encoding="utf-8")
    draft.replace(page)
