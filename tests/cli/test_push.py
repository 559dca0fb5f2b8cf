"""``centerarc push`` as a user meets it, and the other commands on what was pushed."""

import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import BaseModel

from centerarc.cli import main
from centerarc.evaluation import read_embeddings
from centerarc.io.files import files_sha256
from centerarc.models.pretrained import public_part
from centerarc.training import TrainConfig, load_config
from centerarc.training.loop import train
from tests.evaluation.protocols.faces import folder, lfw_pairs
from tests.models.fake_hub import FakeHub, fake_hub
from tests.training.helpers import make_config, register_tiny, write_faces


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of our own trainer in `runs/mine`, and faces to judge it on."""
    register_tiny()
    root = tmp_path_factory.mktemp("push")
    folder(root / "faces")
    lfw_pairs(root / "pairs.txt")
    validation = {"identities": 2, "num_pairs": 20}
    config = make_config(root / "runs" / "mine", write_faces(root / "mine"), validation=validation)
    train(config)
    return root


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub(tmp_path, monkeypatch) as server:
        yield server


@pytest.fixture(autouse=True)
def _there(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register_tiny()
    monkeypatch.chdir(files)
    monkeypatch.setenv("COLUMNS", "200")


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert isinstance(stop.value.code, int)
    return stop.value.code


def test_a_run_is_pushed_and_every_command_takes_it(
    hub: FakeHub, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("push", "runs/mine", "ann/faces", "--private", "--license", "mit") == 0
    repository = hub.repositories["ann/faces"]
    assert repository.private
    pinned = f"hf://ann/faces@{repository.branches['main']}"
    shown = capsys.readouterr().out
    assert f"pushed runs/mine to {hub.url}/ann/faces" in shown
    assert f"to use it: {pinned}" in shown
    assert "not published: run_dir" in shown
    made = []
    for number, model in enumerate(("runs/mine", "hf://ann/faces", pinned)):
        out = tmp_path / f"{number}.npz"
        assert run("embed", "faces", "--model", model, "-o", out, "--workers", 0) == 0
        made.append(read_embeddings(out))
    for found in made[1:]:
        np.testing.assert_array_equal(found.embedding, made[0].embedding)
        assert found.metadata["model_file"] == pinned
    words = ["--pairs", "pairs.txt", "--images", "faces", "--workers", 0]
    assert run("evaluate", "hf://ann/faces", *words, "--json", tmp_path / "a.json") == 0
    judged = json.loads((tmp_path / "a.json").read_text())
    assert judged["model"]["file"] == pinned
    assert judged["command"].startswith("centerarc evaluate hf://ann/faces --pairs")
    assert judged["model"]["weights_sha256"] == files_sha256("runs/mine/best.safetensors")
    many = write_faces(tmp_path / "many", people=22, images=2)
    assert run("data", "check", many, "--model", "hf://ann/faces", "--workers", 0) in (0, 1)


def test_what_evaluate_writes_is_on_the_card(tmp_path: Path) -> None:
    pairs = ["--pairs", "pairs.txt", "--images", "faces", "--far", "0.5"]
    search = ["--gallery", "faces", "--probes", "faces"]
    for name, words in (("pairs", pairs), ("search", search)):
        out = tmp_path / f"{name}.json"
        assert run("evaluate", "runs/mine", *words, "--json", out, "--workers", 0) == 0
    words = ["--evaluation", tmp_path / "pairs.json", tmp_path / "search.json"]
    assert run("push", "runs/mine", "ann/faces", "--to", tmp_path / "out", *words) == 0
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    found = json.loads((tmp_path / "pairs.json").read_text())["verification"]
    accuracy, interval = found["kfold_accuracy"]["value"], found["kfold_accuracy"]["interval95"]
    cells = f"{100 * accuracy:.2f}% | {100 * interval[0]:.2f} to {100 * interval[1]:.2f}%"
    assert f"| accuracy, 2 folds, each at the threshold of the others | {cells} |" in card
    assert "| TAR at FAR 50% |" in card
    found = json.loads((tmp_path / "search.json").read_text())["identification"]
    assert f"| rank 1 | {100 * found['cmc']['1']['value']:.2f}% |" in card
    results = json.loads(Path("runs/mine/results.json").read_text())
    assert f"| AUC | {100 * results['best']['auc']:.2f}% |" in card
    assert "**12 of 12 probes are also in the gallery" in card
    best = results["best"]
    assert f"of epoch {best['epoch']}, after {best['step']} steps, chosen by" in card
    assert f"{results['train_identities']} people, {results['train_images']} images" in card
    assert "Ann" not in card  # one of the faces


def test_the_published_settings_train_the_same_again(tmp_path: Path) -> None:
    assert run("push", "runs/mine", "ann/faces", "--to", tmp_path / "out") == 0
    text = (tmp_path / "out" / "config.yaml").read_text()
    assert str(Path.cwd()) not in text
    assert "# Not published: run_dir" in text
    before = load_config("runs/mine/config.yaml")
    flags = ["--run-dir", str(before.run_dir), "--data.root", str(before.data.root)]
    flags += ["--workers", "0", "--device", "cpu", "--log.every", "1"]
    assert load_config(tmp_path / "out" / "config.yaml", flags) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs/none", "ann/x"], "there is no model file 'runs/none'"),
        (["runs/mine", "faces"], "repo_id must be owner/name"),
        (["hf://ann/x", "ann/x"], "model must be on this machine"),
        (["runs/mine", "ann/x", "--to", "faces"], "--to is 'faces', which holds other files"),
        (["runs/mine", "ann/x", "--to", "o", "--private"], "--private is for an upload"),
        (["runs/mine", "ann/x", "--to", "o", "--branch", "v"], "--branch is for an upload"),
        (["runs/mine", "ann/x", "--to", "o", "--license", "A B"], "--license must be an ident"),
        (["runs/mine", "ann/x", "--to", "o", "--evaluation", "n.json"], "no evaluation 'n.json'"),
        (["runs/mine", "ann/public", "--private"], "--private is true, but hf://ann/public is"),
    ],
)
def test_what_is_wrong_is_one_line(
    hub: FakeHub, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.models.fake_hub import Repository

    hub.repositories["ann/public"] = Repository()
    assert run("push", *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("o").exists()
    assert list(hub.repositories) == ["ann/public"]


def leaves(annotation: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of all settings, and what each may be."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for key, field in annotation.model_fields.items():
            yield from leaves(field.annotation, f"{name}.{key}" if name else key)
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, list, typing.Annotated):
        for part in typing.get_args(annotation):
            yield from leaves(part, name)
    else:
        yield name, annotation


def test_every_setting_that_is_a_choice_is_published_and_no_path_is() -> None:
    """A new setting fails here until it is clear on which side it is."""
    found = list(leaves(TrainConfig))
    assert ("data.root", Path) in found
    for name, kind in found:
        values = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
        texts = [value for value in values if isinstance(value, str)]
        if kind is Path:
            texts = ["secret.csv", "/home/ann/secret"]
        for text in texts:
            content: Any = text
            for part in reversed(name.split(".")):
                content = {part: content}
            published, left_out = public_part(content)
            private = kind is Path or name == "device"
            assert (left_out != []) == private, (name, text)
            assert (text in yaml.safe_dump(published)) != private, (name, text)
