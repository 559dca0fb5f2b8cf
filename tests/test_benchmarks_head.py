"""The head's benchmark: its pages, and what it says of leaving out small negatives."""

from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.head.density import state
from benchmarks.head.page import update
from benchmarks.head.results import Results
from benchmarks.head.sparse import MARGIN, SCALE, late_state, tolerant


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


@pytest.mark.parametrize(("tolerance", "most"), [(-1.0, 1e-5), (1e-6, 1e-5), (1e-2, 1e-2)])
def test_a_loss_without_small_negatives_has_the_gradient_of_autograd(
    tolerance: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.head.sparse.DENSE", 1.0)
    x, w, labels = late_state(3000)
    features, weight = (t.double().requires_grad_() for t in (x, w))
    units = torch.nn.functional.normalize(features), torch.nn.functional.normalize(weight)
    logits = SCALE * (units[0] @ units[1].T)
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1).detach() / SCALE
    logsumexp = logits.scatter(1, labels.unsqueeze(1), -torch.inf).logsumexp(1)
    factor = torch.sigmoid(logsumexp.detach() - SCALE * (own.acos() + MARGIN).cos())
    (factor * logsumexp).mean().backward()
    *found, multiplied = tolerant(x, w, labels, tolerance)
    for gradient, exact in zip(found, (features.grad, weight.grad), strict=True):
        assert exact is not None
        assert float((gradient - exact).norm() / exact.norm()) < most
    assert (multiplied == len(x) * len(w)) == (tolerance < 0)


def test_a_state_of_equal_negatives_needs_nearly_all_of_them() -> None:
    x = torch.eye(256, 512)
    w = torch.eye(512)[256:]
    w = torch.cat([w, w, w, w])  # at right angles to all features
    cells = state(x, w, torch.zeros(256, dtype=torch.int64)).split(" | ")
    assert cells[1:4] == ["0.00", "0.00", "0.0"]
    assert cells[5] == cells[6] == "100%"
