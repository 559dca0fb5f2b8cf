"""The code blocks of README and docs run as they stand, from top to bottom."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from centerarc.cli import main
from centerarc.data import create_source
from centerarc.evaluation.files import read_pairs
from centerarc.training import load_config

README = Path(__file__).parents[1] / "README.md"
CHINESE = README.with_name("README.zh-CN.md")
DOCS = [README, CHINESE, *sorted((README.parent / "docs").rglob("*.md"))]


def blocks(path: Path) -> list[tuple[str, str]]:
    """Language and text of each fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)


BLOCKS = blocks(README)


def test_there_is_something_to_run() -> None:
    assert [kind for kind, _ in BLOCKS if kind == "python"]


@pytest.mark.usefixtures("plugins_undone")
@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_python_blocks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for number, (kind, code) in enumerate(blocks(path)):
        if kind == "python":
            exec(compile(code, f"{path.name}, block {number}", "exec"), namespace)


@pytest.mark.parametrize(
    "line",
    sorted(
        {
            line.strip()
            for path in DOCS
            for kind, code in blocks(path)
            if kind == "bash"
            for line in code.replace("\\\n", " ").splitlines()
            if line.strip().startswith("centerarc ")
        }
    ),
)
def test_commands_and_their_flags_exist(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line, comments=True)[1:]
    command = words[: 2 if words[0] in ("data", "gallery") else 1]
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert not end.value.code
    shown = capsys.readouterr().out
    if words[0] == "train":
        load_config(README.parent / words[1], words[2:])
        return
    for word in words[1:]:
        if word.startswith("--"):
            assert word in shown, f"{word} is not a flag of centerarc {' '.join(command)}"


def test_the_commands_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On drawn people, with a network and a schedule that take seconds."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(README.parent / "configs")
    people = create_source("synthetic", num_identities=12, images_per_identity=3, image_size=64)
    for index, label in enumerate(people.labels):
        place = tmp_path / f"faces/P{label}/P{label}_{index % 3 + 1:04d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(people.image(index)).save(place)
    pairs = ["2\t1", "P0\t1\t2", "P0\t1\tP1\t2", "P1\t1\t3", "P1\t2\tP0\t3"]
    (tmp_path / "pairs.txt").write_text("\n".join(pairs) + "\n", encoding="utf-8")
    small = "--model.name mobilefacenet_small --model.embedding_size 16 --model.image_size 32"
    small += " --validation.identities 4 --schedule.epochs 1 --batch_size 8 --workers 0"
    text = next(code for kind, code in BLOCKS if kind == "bash" and "centerarc train" in code)
    lines = text.replace("\\\n", " ").splitlines()
    assert [line.split()[1] for line in lines] == ["train", "evaluate"]
    for line in lines:
        words = shlex.split(line)[1:] + (shlex.split(small) if " train " in line else [])
        with pytest.raises(SystemExit) as end:
            main(words)
        assert not end.value.code, line
    assert "P0" not in (tmp_path / "runs/mine/people.txt").read_text(encoding="utf-8").split()
    assert (tmp_path / "mine.html").stat().st_size > 10_000


def test_drawn_faces_are_written_as_a_folder_of_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = blocks(README.parent / "docs" / "data.md")
    exec(next(code for kind, code in page if kind == "python" and '"drawn"' in code), {})
    source = create_source("folder", root="drawn")
    assert (len(source.identities), len(source)) == (8, 32)
    for place in map(Path, map(source.place, range(len(source)))):
        assert re.fullmatch(rf"{place.parent.name}_000[1-4]\.png", place.name)


def test_the_pairs_that_are_shown_are_read(tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text(next(code for kind, code in BLOCKS if kind == "text"), encoding="utf-8")
    pairs = read_pairs(path)
    assert pairs.names == ["Ann_Lee/Ann_Lee_0001", "Ann_Lee/Ann_Lee_0002", "Bob_Ray/Bob_Ray_0004"]
    assert pairs.same.tolist() == [True, False]


def shape(path: Path) -> list[str]:
    """Levels of headings, cells of rows and targets of links, in the order of the page."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    rows = [
        re.sub(r"[^|]", "", line) or re.match(r"#*", line)[0]  # type: ignore[index]
        for line in text.splitlines()
        if line.startswith(("|", "#"))
    ]
    return rows + sorted(re.findall(r"\]\(([^)]+)\)", text))


def test_the_chinese_readme_is_the_same_page() -> None:
    assert blocks(CHINESE) == BLOCKS
    swapped = [link.replace(CHINESE.name, README.name) for link in shape(README)]
    assert shape(CHINESE) == swapped


def test_the_files_that_the_contributing_guide_names_exist() -> None:
    text = (README.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    package = README.parent / "src" / "centerarc"
    for cell in re.findall(r"^\| .* \| (.*) \|$", text, re.M):
        folder = package
        for name in re.findall(r"`([\w/]+(?:\.py|/))`", cell):
            # A name without a folder stands beside the one before it.
            place = package / name if (package / name).exists() else folder / name
            assert place.exists(), name
            folder = place.parent
