"""Runs that are killed, damaged and hindered: a few of each kind, by the harness of the page."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from benchmarks.common.machine import machine_facts
from benchmarks.common.page import rewrite
from benchmarks.faults.__main__ import KINDS, main
from benchmarks.faults.page import regions_of
from benchmarks.faults.runs import SAID, SURVIVED, Ended, difference
from safetensors.numpy import load_file, save_file

from centerarc.training import train
from tests.training.helpers import make_config


@pytest.mark.slow
def test_what_is_done_to_a_run_is_survived_or_said(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    main(["--short", "--jobs", "1", "--json", str(path)])
    found: list[dict[str, Any]] = json.loads(path.read_text())["found"]
    assert [one for one in found if one["verdict"] not in (SURVIVED, SAID)] == []
    counts = Counter(one["kind"] for one in found)
    assert counts == {kind: short for kind, (_, _, short) in KINDS.items()}
    assert all(one["named"] for one in found if one["kind"] == "flips")


def test_the_page_has_a_place_for_every_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "results" / "faults.md"
    one = {"kind": "flips", "name": "a", "verdict": "lost", "words": "<x>", "named": False}
    record = {"date": "", "command": "", "seed": 0, "machine": machine_facts(), "found": [one]}
    regions = regions_of({**record, "before": record})
    text, missing = rewrite(page.read_text(encoding="utf-8"), regions)
    assert not missing
    assert "| **all** | 1 | 0 | 0 | 0 | 1 | 1 | 0 | 0 | 0 | 1 |" in text
    assert "| before | 1 | 0 | 1 |" in text
    assert "| flips: a | 1 | lost | &lt;x> |" in text


@pytest.fixture
def runs(tmp_path: Path, faces: Path) -> tuple[Path, Path]:
    """A run and its copy."""
    train(make_config(tmp_path / "a", faces, schedule={"epochs": 1}))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    return tmp_path / "a", tmp_path / "b"


def test_a_run_with_one_other_bit_is_lost(runs: tuple[Path, Path]) -> None:
    assert difference(*runs) == ""
    path = runs[1] / "last.safetensors"
    tensors = load_file(path)
    name = "layers.5.weight"
    tensors[name].view("uint32")[0, 0] ^= 1
    save_file(tensors, path)
    assert difference(*runs) == f"last.safetensors: {name} has other bits"
    path.unlink()
    assert difference(*runs) == "last.safetensors is missing"


def test_a_run_with_another_row_is_lost(runs: tuple[Path, Path]) -> None:
    path = runs[1] / "metrics.jsonl"
    rows = path.read_text().splitlines()
    path.write_text("\n".join(rows[1:]))
    assert difference(*runs) == "metrics.jsonl: 3 rows, other than the 4 that must be"


@pytest.mark.parametrize(
    ("codes", "said", "unclear"),
    [
        ([2], "warning: x\nerror: 'a' is damaged\n", ""),
        ([2], "error: it is damaged\n", "does not name"),
        ([1], "Traceback (most recent call last):\nValueError: 'a'\n", "traceback: ValueError"),
        ([-9], "", "no line of error"),
        ([], "error: 'a' is damaged", "hung"),
    ],
)
def test_an_error_is_clear_if_one_line_names_the_thing(
    codes: list[int], said: str, unclear: str
) -> None:
    found = Ended(codes, said).unclear(["'a'"])
    assert found.startswith(unclear)
    assert bool(found) == bool(unclear)
