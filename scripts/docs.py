"""Builds the documentation's pages into site/, and fails where they are not whole.

    python scripts/docs.py

Fails on a link or an anchor that leads nowhere, on a docstring that cannot be read, and on a public
name that the pages of the API lack. Needs the dependency group `docs`; imports nothing of the
package, and reads nothing from the network. The pages ask for nothing from elsewhere either.
"""

import ast
import subprocess
import sys
import zlib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def public_names(pages: Path, source: Path) -> set[str]:
    """The full names that pages document: of a package `__all__`, and single objects."""
    names = set()
    for page in pages.glob("*.md"):
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith("::: "):
                package = line.removeprefix("::: ").strip()
                file = source / package.replace(".", "/") / "__init__.py"
                if not file.exists():
                    names.add(package)
                    continue
                for node in ast.parse(file.read_text(encoding="utf-8")).body:
                    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                        names |= {f"{package}.{name}" for name in ast.literal_eval(node.value)}
    return names


def documented_names(inventory: Path) -> set[str]:
    """The names in a site's objects.inv: four lines of header, then compressed lines."""
    body = inventory.read_bytes().split(b"\n", 4)[4]
    return {line.split(" ", 1)[0] for line in zlib.decompress(body).decode().splitlines()}


def main() -> int:
    zensical = Path(sys.executable).parent / "zensical"
    built = subprocess.run(
        [zensical, "build", "--clean", "--strict"], cwd=ROOT, capture_output=True, text=True
    )
    print(built.stdout + built.stderr, end="")
    if built.returncode:
        return built.returncode
    complaints = [line for line in built.stderr.splitlines() if line.startswith("griffe: ")]
    missing = public_names(ROOT / "docs/api", ROOT / "src") - documented_names(
        ROOT / "site/objects.inv"
    )
    for name in sorted(missing):
        print(f"{name} is public, but on no page of the API: it needs a docstring")
    return int(bool(complaints or missing))


if __name__ == "__main__":
    sys.exit(main())
