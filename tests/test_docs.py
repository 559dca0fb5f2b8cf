"""Links of every page lead somewhere, and every page and public name has its place in docs/."""

import ast
import re
import tomllib
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts.docs import documented_names, public_names

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / ".github").rglob("*.md")])


def prose(page: Path) -> str:
    """A page without its code."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```|^    .*?$", "", text, flags=re.M | re.S)


def links(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(page)))


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings: lower case, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    slugs = [re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings]
    before = [slugs[:n].count(slug) for n, slug in enumerate(slugs)]
    return {f"{slug}-{count}" if count else slug for slug, count in zip(slugs, before, strict=True)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
        if DOCS in page.parents:
            assert DOCS in target.parents, f"{link}: the site has only the pages of docs/"


def test_a_link_that_leads_nowhere_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A, b\n\n## `x` and y\n\n[a](#a-b) `[b](c)` [d](e.md#f)\n\n## A b\n")
    assert links(page) == ["#a-b", "e.md#f"]
    assert anchors(page) == {"a-b", "x-and-y", "a-b-1"}


def entries(nav: list[dict[str, object]]) -> Iterator[str]:
    for entry in nav:
        for value in entry.values():
            if isinstance(value, list):
                yield from entries(value)
            else:
                yield str(value)


def test_every_page_is_in_the_navigation_once() -> None:
    project = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    assert sorted(entries(project["nav"])) == sorted(
        page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")
    )


def test_every_public_package_has_a_page_of_the_api() -> None:
    names = public_names(DOCS / "api", ROOT / "src")
    for module in (ROOT / "src/centerarc").glob("*/__init__.py"):
        for node in ast.parse(module.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                expected = {
                    f"centerarc.{module.parent.name}.{name}"
                    for name in ast.literal_eval(node.value)
                }
                assert expected <= names


def test_the_inventory_of_a_site_is_read(tmp_path: Path) -> None:
    lines = b"a.b py:class 1 api/a.html#$ -\na.b.c py:function 1 api/a.html#$ -\n"
    file = tmp_path / "objects.inv"
    file.write_bytes(b"# one\n# two\n# three\n# four\n" + zlib.compress(lines))
    assert documented_names(file) == {"a.b", "a.b.c"}
