"""Writes a table between its marks in docs/scaling.md."""

from pathlib import Path

from benchmarks.head.page import rewrite

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """The rows as Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_region(name: str, body: str) -> None:
    """Replace what stands between the marks of ``name``, the page complete or not at all."""
    text, missing = rewrite(PAGE.read_text(encoding="utf-8"), {name: body})
    if missing:
        raise SystemExit(f"{PAGE} has no marks for {name}")
    draft = PAGE.with_suffix(".tmp")
    draft.write_text(text, encoding="utf-8")
    draft.replace(PAGE)
