"""The README's two commands on the few people that someone has pictures of at home."""

import shlex
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from centerarc.cli import main
from centerarc.data import create_source
from tests.curate.pictures import save
from tests.training.helpers import SIZE, register_tiny

ROOT = Path(__file__).parents[2]
COMMANDS = [
    shlex.split(line)[1:]
    for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    if line.startswith(("centerarc train", "centerarc evaluate"))
]
# A model that takes no minutes; all else is as the README's recipe has it.
SMALL = {"name": "tiny", "embedding_size": 8, "image_size": SIZE}


@cache
def drawn(person: int, place: int) -> NDArray[np.uint8]:
    """A picture of a person, the same whatever the number of people."""
    faces = create_source("synthetic", num_identities=30, images_per_identity=5, image_size=SIZE)
    return faces.image(5 * person + place)


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(number, marks=[] if number in (2, 3, 4, 5, 6, 10, 20) else pytest.mark.slow)
        for number in range(2, 31)
    ],
)
def test_the_recipe_works_from_four_people_on(
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    register_tiny()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    names = [f"Some_One{label}" for label in range(number)]
    images = np.random.default_rng(number).integers(1, 6, number)
    images[:2] = [2, 4]  # those of the pairs
    for label, name in enumerate(names):
        for place in range(images[label]):
            save(Path("faces") / name / f"{name}_{place + 1:04d}.png", drawn(label, place))
    Path("pairs.txt").write_text(f"1 1\n{names[0]} 1 2\n{names[0]} 1 {names[1]} 4\n")
    train, evaluate = COMMANDS
    small = [word for name, value in SMALL.items() for word in (f"--model.{name}", str(value))]
    if number not in (4, 20):  # what depends on the people happens before the second epoch
        small += ["--schedule.epochs", "2"]
    code = run(*train, *small, "--workers", "0")
    said = capsys.readouterr()
    if number < 4:
        assert code == 2
        assert "the pairs name 2 of" in said.err
        return
    assert code == 0, said.err
    assert run(*evaluate, "--workers", "0") == 0
    assert Path("mine.html").exists()
    assert "2 pairs of pairs.txt" in capsys.readouterr().out
