"""`centerarc data check`: what a user, or their script, learns of their data."""

import csv
import json
from pathlib import Path

import pytest

from centerarc.cli.data.check import check
from tests.data.inspection.pictures import save, scene


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    root = tmp_path / "faces"
    for person in range(21):
        for number in range(2):
            save(root / f"p{person}" / f"{number}.png", scene(2 * person + number, 112))
    save(root / "p3" / "tiny.png", scene(999, 20))
    return root


def places(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return [row["place"] for row in csv.DictReader(file)]


def test_good_images_end_with_zero_and_bad_ones_with_one(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(faces, workers=0) == 0
    (faces / "p1" / "copy.png").write_bytes((faces / "p2" / "0.png").read_bytes())
    assert check(faces, workers=0, problems=tmp_path / "problems.csv") == 1
    assert places(tmp_path / "problems.csv") == ["p1/copy.png", "p2/0.png"]
    shown = capsys.readouterr().out
    assert "duplicate across identities" in shown
    assert "to leave out: 2 rows" in shown


def test_warnings_are_left_out_when_asked(faces: Path, tmp_path: Path) -> None:
    check(faces, workers=0, problems=tmp_path / "errors.csv")
    check(faces, workers=0, problems=tmp_path / "warnings.csv", leave_out="warnings")
    assert places(tmp_path / "errors.csv") == []
    assert places(tmp_path / "warnings.csv") == ["p3/tiny.png"]
    check(faces, workers=0, problems=tmp_path / "none.csv", leave_out="warnings", min_side=20)
    assert places(tmp_path / "none.csv") == []


def test_everything_is_in_the_json(faces: Path, tmp_path: Path) -> None:
    (faces / "p0" / "0.png").write_bytes((faces / "p0" / "0.png").read_bytes()[:200])
    assert check(faces, workers=0, json=tmp_path / "all.json") == 1
    found = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert (found["images"], found["identities"], found["readable"]) == (43, 21, 42)
    assert found["counts"] == {"truncated": 1, "tiny": 1}
    assert [(p["place"], p["severity"]) for p in found["problems"]] == [
        ("p0/0.png", "error"),
        ("p3/tiny.png", "warning"),
    ]


def test_a_model_judges_what_can_be_read(faces: Path, tmp_path: Path) -> None:
    from centerarc.models import create_model, save_weights

    save_weights(tmp_path / "face.safetensors", create_model("mobilefacenet", embedding_size=16))
    (faces / "p0" / "0.png").write_bytes((faces / "p0" / "0.png").read_bytes()[:200])
    report = tmp_path / "report.html"
    model = tmp_path / "face.safetensors"
    assert check(faces, workers=0, model=model, report=report, device="cpu") == 1
    assert "truncated" in report.read_text(encoding="utf-8")


def test_a_model_that_cannot_be_used_is_refused_before_the_work(
    faces: Path, tmp_path: Path
) -> None:
    with pytest.raises((ValueError, OSError), match="nowhere"):
        check(faces, model=tmp_path / "nowhere.safetensors")
    for path in (faces / "p0").iterdir():
        path.unlink()
    (faces / "p0").rmdir()
    for path in (faces / "p1").iterdir():
        path.unlink()
    (faces / "p1").rmdir()
    with pytest.raises(ValueError, match="only 19 identities have two"):
        check(faces, model=tmp_path / "nowhere.safetensors")
