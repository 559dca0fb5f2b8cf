"""The result of a study in its file, and its numbers in words."""

import json
from pathlib import Path

import pytest

from centerarc.report.study_result import (
    Measured,
    StudyArm,
    StudyCurve,
    StudyResult,
    StudyRow,
    StudyRun,
    StudySetFacts,
    value_words,
)


def small_result() -> StudyResult:
    """Two arms, one of which has a seed less."""
    return StudyResult(
        title="margins",
        baseline="softmax",
        primary_set="all_pairs",
        primary_measure="tar@0.001",
        arms=[StudyArm("softmax", {"loss.m": 0}), StudyArm("arcface", {}, {"loss.m": 0.2})],
        seeds=[0, 1],
        sets=[
            StudySetFacts("all_pairs", "all_pairs", {"all_pairs": "faces"}, {"people": 50}, "T.")
        ],
        runs=[
            StudyRun("softmax", 0, "done", measures={"all_pairs": {"tar@0.001": 0.2}}),
            StudyRun("arcface", 0, "done", measures={"all_pairs": {"tar@0.001": 0.25}}),
            StudyRun("softmax", 1, "done", measures={"all_pairs": {"tar@0.001": 0.22}}),
            StudyRun("arcface", 1, "diverged", "step 3: the loss is not finite"),
        ],
        rows=[
            StudyRow("all_pairs", "tar@0.001", "softmax", 2, Measured(0.21, 0.19, 0.23)),
            StudyRow(
                *("all_pairs", "tar@0.001", "arcface", 1, Measured(0.25)),
                difference=Measured(0.05, 0.01, 0.09),
                pairs=1,
                doubt=0.03,
            ),
        ],
        curves=[StudyCurve("all_pairs", "softmax", [0.1, 1], [0.5, 1], [0.4, 1], [0.6, 1])],
        command="centerarc study study.yaml",
        study={"study_dir": "runs/margins"},
        machine={"torch": "2.13"},
        notes=["arcface, seed 1: diverged."],
    )


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    result = small_result()
    result.write(tmp_path / "study.json")
    assert StudyResult.read(tmp_path / "study.json") == result
    assert not result.complete
    assert [row.arm for row in result.rows_of("all_pairs", "tar@0.001")] == ["softmax", "arcface"]
    assert result.rows_of("all_pairs", "auc") == []


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": 1}', '{"format": 1, "arms": [3]}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "study.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"study\.json' must be the result of a study: "):
        StudyResult.read(path)
    with pytest.raises(ValueError, match="must be the result of a study"):
        StudyResult.read(tmp_path / "none.json")


def test_a_newer_format_is_named(tmp_path: Path) -> None:
    small_result().write(tmp_path / "study.json")
    content = json.loads((tmp_path / "study.json").read_text())
    (tmp_path / "study.json").write_text(json.dumps({**content, "format": 2}))
    with pytest.raises(ValueError, match="it is of another version"):
        StudyResult.read(tmp_path / "study.json")


def test_numbers_in_words() -> None:
    assert value_words("auc", Measured(0.5)) == "50.00"
    assert value_words("auc", Measured(0.01, -0.02, 0.04), "+") == "+1.00 (-2.00 to +4.00)"
    spread = value_words("threshold_spread", Measured(0.0312, 0.02, 0.04))
    assert spread == "0.0312 (0.0200 to 0.0400)"
