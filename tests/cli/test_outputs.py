"""What a command writes replaces nothing in silence: it is refused before the work, or resumed."""

from pathlib import Path

import pytest

from centerarc.cli import main
from tests.curate.pictures import save, scene
from tests.evaluation.protocols.faces import FLAGS, embeddings, folder, lfw_pairs, model

ONNX = ["m.onnx", *FLAGS]
PAIRS = ["evaluate", *ONNX, "--pairs", "pairs.txt", "--images", "faces"]
# A command that would take long or fail, whose result is there: its words before the file.
WRITES = [
    [*PAIRS, "--json"],
    [*PAIRS, "--report"],
    ["evaluate", "gone.onnx", "--gallery", "faces", "--probes", "faces", "--json"],
    ["compare", "gone.json", "gone2.json", "--json"],
    ["compare", "gone.json", "gone2.json", "--report"],
    ["embed", "faces", "--model", "gone.onnx", "--out"],
    ["export", "gone.safetensors", "--out"],
    ["push", "gone.safetensors", "ann/faces", "--to"],
    ["data", "inspect", "faces", "--report"],
    ["data", "check", "faces", "--json"],
    ["data", "check", "faces", "--report"],
    ["data", "check", "faces", "--problems"],
    ["data", "pack", "faces"],
    ["data", "split", "faces", "--count", "2", "--out"],
    ["train", "recipe.yaml", "--data.root", "faces", "--run-dir"],
]
SUFFIXES = {"embed": ".npz", "export": ".onnx", "--report": ".html", "--problems": ".csv"}
FOLDERS = {
    "push": "README.md",
    "pack": "left-out.csv",
    "split": "train.txt",
    "train": "config.yaml",
}


@pytest.fixture
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "faces")
    lfw_pairs(tmp_path / "pairs.txt")
    model(tmp_path / "m.onnx")
    (tmp_path / "recipe.yaml").write_text("data: {source: folder}\n")


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert isinstance(end.value.code, int)
    return end.value.code


def contents() -> dict[str, bytes | None]:
    return {
        str(path): path.read_bytes() if path.is_file() else None for path in Path.cwd().rglob("*")
    }


@pytest.mark.usefixtures("_there")
@pytest.mark.parametrize("words", WRITES, ids=lambda words: f"{words[0]} {words[1]} {words[-1]}")
def test_what_is_there_is_not_replaced_unless_asked_for(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    kind = next((word for word in words[:2] if word in FOLDERS), None)
    suffix = next((SUFFIXES[word] for word in (words[0], words[-1]) if word in SUFFIXES), ".json")
    out = Path("there" if kind else f"there{suffix}")
    precious = out / FOLDERS[kind] if kind else out
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("precious")
    before = contents()
    assert run(*words, str(out)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "--overwrite" in said
    assert str(out) in said
    assert contents() == before


@pytest.mark.usefixtures("_there")
def test_scores_beside_another_evaluation_are_an_output_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("o.scores.npz").write_text("precious")
    assert run(*PAIRS, "--json", "o.json") == 2
    assert "'o.scores.npz', which exists already; --overwrite" in capsys.readouterr().err
    assert run(*PAIRS, "--json", "o.json", "--overwrite", "--workers", "0") == 0
    assert Path("o.scores.npz").read_bytes() != b"precious"


@pytest.mark.usefixtures("_there")
def test_files_are_replaced_where_asked_for() -> None:
    embeddings(Path("e.npz"), [("Ann/1.png", "Ann", [1, 0]), ("Bob/1.png", "Bob", [0, 1])])
    save(Path("small") / "ann" / "1.png", scene(1))
    for words in (
        ["data", "inspect", "small", "--workers", "0", "--report", "i.html"],
        ["data", "check", "small", "--workers", "0", "--json", "c.json", "--problems", "p.csv"],
        ["embed", "faces", "--model", *ONNX, "--workers", "0", "--out", "o.npz"],
    ):
        assert run(*words) == 0
        before = contents()
        assert run(*words) == 2
        assert contents() == before
        assert run(*words, "--overwrite") == 0
