"""Counts the house: modules, lines, and how much four journeys through the code have to read.

    python scripts/house.py [--root src/centerarc] [--rooms] [--check]

A journey's closure is every file that its first files import, directly or through others. Names
that a package re-exports are followed to the file that defines them; imports for type checkers only
do not count. `--check` exits with 1 where a target is missed.
"""

import argparse
import ast
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "centerarc"
# Journey: what it starts from (the first list whose files exist), and the most files it may read.
JOURNEYS = {
    "training loop": (["training.loop"], 64),
    "joint loss": (["losses.center_arcface"], 16),
    "image path to batch": (["data.loader", "data.folder"], 10),
    "evaluation page": (["evaluation.protocols.request", "report.evaluation_page"], 60),
}
# Where the same files stood in earlier trees, so that both can be counted.
EARLIER = {"report.evaluation_page": "evaluation.report.evaluation_page"}
MOST_MODULES, MOST_LINES = 130, 28_000
LONGEST, SHORTEST = 600, 40
ENTRY_POINTS = ("__init__.py", "__main__.py")


def read_modules(root: Path) -> dict[str, Path]:
    """Returns the path of each module by its dotted name, without the package's own name."""
    modules = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def imported_names(tree: ast.AST, for_checkers: bool = False) -> Iterator[tuple[str, str]]:
    """Yields (module, name) of each import of ours, with the package's own name cut off."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.expr):
            continue  # no statement is in one
        test = node.test if isinstance(node, ast.If) else None
        for_types = isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"
        if for_types and not for_checkers:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            for alias in node.names:
                yield (node.module or "")[len(PACKAGE) + 1 :], alias.name
        yield from imported_names(node, for_checkers)


class House:
    """The modules of a package and what they import of each other."""

    def __init__(self, root: Path) -> None:
        self.paths = read_modules(root)
        self.lines = {name: len(p.read_text().splitlines()) for name, p in self.paths.items()}
        trees = {name: ast.parse(path.read_text()) for name, path in self.paths.items()}
        self._exports = {
            (package, name): module
            for package, tree in trees.items()
            if self.paths[package].name == "__init__.py"
            for module, name in imported_names(tree, for_checkers=True)
            if module != package
        }
        self.imports = {
            module: {self._defined_in(*names) for names in imported_names(tree)} - {module}
            for module, tree in trees.items()
        }

    def _defined_in(self, module: str, name: str) -> str:
        while (module, name) in self._exports:
            module = self._exports[(module, name)]
        submodule = f"{module}.{name}".lstrip(".")
        return submodule if submodule in self.paths else module

    def closure(self, starts: list[str]) -> set[str]:
        """Returns the modules that `starts` import, directly or not, and `starts` themselves."""
        found: set[str] = set()
        waiting = [start if start in self.paths else EARLIER[start] for start in starts]
        while waiting:
            module = waiting.pop()
            if module not in found:
                found.add(module)
                waiting.extend(self.imports[module])
        return found

    def misses(self) -> list[str]:
        """Returns a line for each target that is missed."""
        found = []
        if len(self.paths) > MOST_MODULES:
            found.append(f"{len(self.paths)} modules; at most {MOST_MODULES}")
        if sum(self.lines.values()) > MOST_LINES:
            found.append(f"{sum(self.lines.values())} lines; at most {MOST_LINES}")
        for name, (starts, most) in JOURNEYS.items():
            if (count := len(self.closure(starts))) > most:
                found.append(f"{name}: {count} files; at most {most}")
        for name, path in self.paths.items():
            if self.lines[name] > LONGEST:
                found.append(f"{path}: {self.lines[name]} lines; at most {LONGEST}")
            elif self.lines[name] < SHORTEST and path.name not in ENTRY_POINTS:
                found.append(f"{path}: {self.lines[name]} lines; at least {SHORTEST}")
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("src") / PACKAGE)
    parser.add_argument("--rooms", action="store_true", help="files and lines of each folder too")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    flags = parser.parse_args()
    house = House(flags.root)
    lengths = house.lines.values()
    print(f"{len(lengths)} modules, {sum(lengths)} lines, median {statistics.median(lengths):.0f}")
    for name, (starts, _) in JOURNEYS.items():
        closure = house.closure(starts)
        print(f"{name:20} {len(closure):4} files {sum(house.lines[m] for m in closure):6} lines")
    if flags.rooms:
        folders: dict[Path, list[int]] = {}
        for name, path in house.paths.items():
            folders.setdefault(path.parent.relative_to(flags.root), []).append(house.lines[name])
        for folder, counts in sorted(folders.items()):
            print(f"{folder!s:24} {len(counts):4} files {sum(counts):6} lines")
    misses = house.misses()
    print(*misses, sep="\n")
    sys.exit(flags.check and bool(misses))


if __name__ == "__main__":
    main()
