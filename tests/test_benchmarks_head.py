"""Pages of the head's benchmark: no table without numbers, and tables replaced in place."""

from pathlib import Path
from typing import Any

import pytest
from benchmarks.head.page import update
from benchmarks.head.results import Results


def measured(device: str, seconds: float) -> Results:
    facts: dict[str, Any] = {
        "date": "2026-01-02",
        "command": "python -m benchmarks.head",
        "machine": {"cores": 2, "processor": "a processor", "features": []},
        "device": device,
        "thp": False,
        "round": 0,
    }
    case = {"task": "loss", "mode": "float32", "shape": "10k", "bytes": 1 << 20}
    return Results(
        facts | case | {"implementation": name, "seconds": [seconds]}
        for name in ("products", "textbook", "ours")
    )


def test_the_page_of_a_gpu_is_begun_with_what_was_measured(tmp_path: Path) -> None:
    page = tmp_path / "head-gpu.md"
    update(measured("cuda", 0.5), page)
    text = page.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Goals",
        "## Loss and backward, float32",
    ]
    assert text.count("500 |") == 3
    update(measured("cuda", 0.25), page)
    assert page.read_text(encoding="utf-8") == text.replace("500 |", "250 |")


def test_the_page_of_a_cpu_is_not_begun(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        update(measured("cpu", 0.5), tmp_path / "head.md")


def test_no_page_has_an_empty_table() -> None:
    for page in (Path(__file__).parents[1] / "docs").rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        for part in text.split("<!-- begin: ")[1:]:
            assert part.split("-->", 1)[1].split("<!-- end:")[0].strip(), f"{page}: {part[:40]}"
