"""`centerarc data check`: what a user, or their script, learns of their data."""

import csv
import json
from pathlib import Path

import pytest

from centerarc.cli.data.check import check
from tests.curate.pictures import save, scene
from tests.models.tiny import tiny


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
    assert (found["images"], found["identities"], found["decoded"]) == (43, 21, 42)
    assert (found["left_out_at_opening"], found["labels_judged"]) == (0, None)
    assert found["counts"] == {"truncated": 1, "tiny": 1}
    assert [(p["place"], p["severity"]) for p in found["problems"]] == [
        ("p0/0.png", "error"),
        ("p3/tiny.png", "warning"),
    ]


def test_a_model_judges_what_can_be_read_and_says_how_far_to_trust_it(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (faces / "p0" / "0.png").write_bytes((faces / "p0" / "0.png").read_bytes()[:200])
    report = tmp_path / "report.html"
    model = tiny(tmp_path / "means.onnx")
    found = tmp_path / "all.json"
    done = check(faces, workers=0, model=model, report=report, json=found, device="cpu")
    assert done == 1
    assert "truncated" in report.read_text(encoding="utf-8")
    shown = " ".join(capsys.readouterr().out.split())
    # p0 has one image left, p3 three.
    assert "labels judged by the model: 41 images of 20 people" in shown
    assert "too weak to judge these labels" in shown  # it sees the mean color alone
    assert "too weak to judge" in report.read_text(encoding="utf-8")
    judged = json.loads(found.read_text(encoding="utf-8"))["labels_judged"]
    assert (judged["images"], judged["people"], judged["too_weak"]) == (41, 20, True)


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


def test_terminal_and_page_say_how_many_images_were_decoded_and_how_many_left_out(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (faces / "p0" / "0.png").write_bytes((faces / "p0" / "0.png").read_bytes()[:200])
    (faces / "p1" / "empty.png").touch()
    (faces / "p1" / "notes.txt").touch()
    save(faces / "p2" / "more" / "1.png", scene(500))
    check(faces, workers=0, report=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "42 images were decoded, 1 could not be; 2 images were left out when" in page
    assert "2 images have an error and must not be trained on" in page
    assert "places" not in page.replace('class="places"', "").split("</style>")[1]
    shown = " ".join(capsys.readouterr().out.split())
    assert "42 of 43 images decoded" in shown
    assert "2 more images left out at opening" in shown


def test_people_one_level_too_deep_are_said_to_be_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for person in range(3):
        save(tmp_path / "set" / "part" / f"p{person}" / "1.png", scene(person))
    save(tmp_path / "set" / "thumbnails" / "1.png", scene(9))
    assert check(tmp_path / "set", workers=0) == 0
    shown = capsys.readouterr()
    assert "people seem to lie one level deeper" in shown.err
    assert f"'{tmp_path / 'set' / 'part'}'" in shown.err
    assert "out of reach" in shown.out


def test_labels_that_too_few_readable_images_are_left_to_judge_cost_nothing_else(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for person in ("p0", "p1", "p2"):
        (faces / person / "0.png").write_bytes((faces / person / "0.png").read_bytes()[:200])
    found = tmp_path / "all.json"
    model = tiny(tmp_path / "means.onnx")
    assert check(faces, workers=0, model=model, json=found, device="cpu") == 1
    assert "labels not judged: only 18 identities" in capsys.readouterr().err
    content = json.loads(found.read_text(encoding="utf-8"))
    assert (content["counts"]["truncated"], content["labels_judged"]) == (3, None)
