"""Sharing a model: the real client against a hub on this machine, and what must never leave."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants
from safetensors import safe_open
from safetensors.torch import save_file

from centerarc.io.files import files_sha256
from centerarc.models import (
    Backbone,
    HubModel,
    TorchEmbedder,
    create_model,
    from_pretrained,
    load_weights,
    model_card,
    open_model,
    push_to_hub,
    read_metadata,
    save_pretrained,
    save_weights,
)
from centerarc.models import hub as hub_module
from centerarc.models.hub import hub_model
from tests.models.fake_hub import FakeHub, Repository, fake_hub
from tests.models.test_weights import Payload
from tests.training.helpers import SIZE, register_tiny

IMAGES = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)
SETS = {
    "lfw": {"auc": 0.975, "tar_at_far_0.001": 0.5, "best_accuracy": 0.9, "pairs": 1200},
    "held_out": {"auc": 0.985, "pairs": 300},
}
SECRETS = ("/home/ann", "secret", "Zoe Miller", "host-7")


@pytest.fixture(autouse=True)
def _tiny() -> None:
    register_tiny()


def small(seed: int) -> Backbone:
    generator = torch.Generator().manual_seed(seed)
    options = {"embedding_size": 8, "image_size": SIZE, "norm": True}
    return create_model("tiny", **options, generator=generator)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub(tmp_path, monkeypatch) as server:
        yield server


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run whose settings, metadata and files hold what belongs to its machine and people."""
    folder = tmp_path / "runs" / "secret-run"
    loss = {"margin": "arcface", "m": 0.5, "s": 30.0, "center_weight": 1.0}
    metadata = {"epoch": 3, "ema_decay": 0.99, "metrics": SETS, "loss": loss}
    save_weights(folder / "best.safetensors", small(1), metadata=metadata)
    save_weights(folder / "last.safetensors", small(2), metadata={**metadata, "metrics": {}})
    config = {
        "run_dir": "/home/ann/runs/secret-run",
        "model": {"name": "tiny", "embedding_size": 8, "image_size": SIZE},
        "data": {
            "source": "mixed",
            "parts": [
                {"source": "folder", "root": "/home/ann/secret", "name": "secret", "weight": 2.0},
                {"source": "list", "path": "secret.csv", "path_column": "secret"},
                {"source": "secret", "options": {"shelf": "secret", "row": 3}},
            ],
            "exclude_pairs": "../secret/pairs.txt",
            "sampler": {"kind": "shuffled"},
        },
        "validation": {
            "pairs": "secret.txt",
            "images": "/home/ann/secret",
            "best_set": "held_out",
            "name": "",
        },
        "loss": {**loss, "class_weights": "secret.csv"},
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0005},
        "schedule": {"epochs": 4, "warmup_epochs": 1.0, "shape": "cosine"},
        "batch_size": 64,
        "precision": "fp32",
        "plugins": ["/home/ann/secret.py"],
        "tags": ["Zoe Miller", 7],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "people.txt").write_text("Zoe Miller\n")
    (folder / "metrics.jsonl").write_text('{"host": "host-7"}\n')
    results = {"train_identities": 1234, "train_images": 56789, "device": "host-7"}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def embedded(model: Any) -> np.ndarray:
    return TorchEmbedder(model).embed(IMAGES)


# To the hub and back.


def test_a_pushed_run_gives_the_same_embeddings_to_the_last_bit(
    hub: FakeHub, run_dir: Path
) -> None:
    report = push_to_hub(run_dir, "ann/faces", license="apache-2.0")
    repository = hub.repositories["ann/faces"]
    assert sorted(repository.files) == ["README.md", "config.yaml", "model.safetensors"]
    assert repository.files["model.safetensors"] == (run_dir / "best.safetensors").read_bytes()
    assert (report.model, report.url) == (
        HubModel("ann/faces", repository.branches["main"]),
        f"{hub.url}/ann/faces",
    )
    expected = embedded(load_weights(run_dir / "best.safetensors"))
    for name in ("ann/faces", "hf://ann/faces", str(report.model)):
        found = from_pretrained(name)
        assert not found.training
        np.testing.assert_array_equal(embedded(found), expected)
    np.testing.assert_array_equal(embedded(load_weights("hf://ann/faces@main")), expected)
    opened = open_model("hf://ann/faces")
    np.testing.assert_array_equal(opened.embedder.embed(IMAGES), expected)
    assert opened.name == str(report.model)  # the commit, whatever main is later
    assert opened.sha256 == files_sha256(run_dir / "best.safetensors")


def test_only_the_weights_are_downloaded_and_only_once(hub: FakeHub, run_dir: Path) -> None:
    push_to_hub(run_dir, "ann/faces")
    hub.requests.clear()
    from_pretrained("ann/faces")
    from_pretrained("ann/faces")
    gets = [line for line in hub.requests if line.startswith("GET") and "/resolve/" in line]
    assert gets == ["GET /ann/faces/resolve/main/model.safetensors"]
    hub.requests.clear()
    from_pretrained("ann/faces", local_files_only=True)
    assert hub.requests == []


def test_revisions_and_branches(hub: FakeHub, run_dir: Path) -> None:
    first = push_to_hub(run_dir, "ann/faces")
    push_to_hub(run_dir / "last.safetensors", "ann/faces", branch="v2", commit_message="the end")
    push_to_hub(run_dir / "last.safetensors", "ann/faces", branch="v2")
    assert hub.repositories["ann/faces"].messages[1] == "the end"
    best, last = (embedded(load_weights(run_dir / f"{n}.safetensors")) for n in ("best", "last"))
    np.testing.assert_array_equal(embedded(from_pretrained("ann/faces", revision="v2")), last)
    np.testing.assert_array_equal(embedded(load_weights("hf://ann/faces@v2")), last)
    np.testing.assert_array_equal(embedded(load_weights("hf://ann/faces")), best)
    np.testing.assert_array_equal(embedded(load_weights(str(first.model))), best)
    with pytest.raises(ValueError, match=r"revision is 'x', but hf://ann/faces@v2 names one"):
        from_pretrained("hf://ann/faces@v2", revision="x")


def test_private_stays_private(hub: FakeHub, run_dir: Path, tmp_path: Path) -> None:
    push_to_hub(run_dir, "ann/mine", private=True)
    assert hub.repositories["ann/mine"].private
    from_pretrained("ann/mine")
    with pytest.raises(ValueError, match=r"there is no hf://ann/mine, or it is private; check"):
        from_pretrained("ann/mine", token=False, cache_dir=tmp_path / "new")
    push_to_hub(run_dir, "ann/mine", private=True)  # again is no problem
    hub.repositories["ann/open"] = Repository()
    with pytest.raises(ValueError, match=r"private is true, but hf://ann/open is there already"):
        push_to_hub(run_dir, "ann/open", private=True)
    assert hub.repositories["ann/open"].messages == []


def test_a_folder_whose_card_was_edited_is_pushed_with_it(
    hub: FakeHub, run_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "shared"
    save_pretrained(run_dir, folder, repo_id="ann/faces")
    (folder / "README.md").write_text("# By hand\n")
    push_to_hub(folder, "ann/faces")
    files = hub.repositories["ann/faces"].files
    assert files["README.md"] == b"# By hand\n"
    for name in ("config.yaml", "model.safetensors"):
        assert files[name] == (folder / name).read_bytes()
    with pytest.raises(ValueError, match=r"license must not be given for .*README\.md is publ"):
        push_to_hub(folder, "ann/faces", license="mit")


# What goes wrong is one line that names the repository.


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf://ann/none", "there is no hf://ann/none, or it is private; .*`hf auth login`"),
        ("hf://ann/gated", "hf://ann/gated is gated: ask for access at https://.*/ann/gated, then"),
        ("hf://ann/empty", r"hf://ann/empty has no model\.safetensors; it is not a model that"),
        ("hf://ann/broken", "hf://ann/broken: .* is damaged, or not a model"),
        ("hf://ann/other", "hf://ann/other: .* does not say which model it holds"),
        ("hf://ann/alien", "hf://ann/alien: cannot build the model of .*unknown model 'alien'"),
        ("hf://ann/empty@v9", "hf://ann/empty@v9: there is no branch, tag or commit 'v9'"),
        ("hf://ann", "'hf://ann' must be hf://owner/name or hf://owner/name@revision"),
        ("hf://ann/a/b", "'hf://ann/a/b' must be hf://owner/name"),
        ("hf://ann/..", r"'hf://ann/\.\.' must be hf://owner/name"),
        ("hf://ann/x@../y", r"'hf://ann/x@\.\./y' must be hf://owner/name"),
        ("hf://ann/x@", "'hf://ann/x@' must be hf://owner/name"),
    ],
)
def test_what_cannot_be_loaded(hub: FakeHub, tmp_path: Path, name: str, message: str) -> None:
    hub.repositories |= {f"ann/{n}": Repository() for n in ("empty", "broken", "other", "alien")}
    hub.repositories["ann/gated"] = Repository(gated=True)
    recipe = {"name": "alien", "embedding_size": 8, "image_size": 32, "options": {}, "metadata": {}}
    for repository, said in (("other", None), ("alien", {"centerarc": json.dumps(recipe)})):
        save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors", metadata=said)
        content = (tmp_path / "x.safetensors").read_bytes()
        hub.repositories[f"ann/{repository}"].add("main", {"model.safetensors": content})
    hub.repositories["ann/broken"].add("main", {"model.safetensors": b"not safetensors"})
    for load in (load_weights, open_model, from_pretrained):
        with pytest.raises(ValueError, match=message) as error:
            load(name)
        assert "\n" not in str(error.value)


def test_weights_of_another_library_load_where_their_backbone_is_named(
    hub: FakeHub, tmp_path: Path
) -> None:
    model = create_model("tiny", embedding_size=512, image_size=SIZE).eval()
    save_file(model.state_dict(), tmp_path / "x.safetensors")
    hub.repositories["ann/other"] = Repository()
    hub.repositories["ann/other"].add(
        "main", {"model.safetensors": (tmp_path / "x.safetensors").read_bytes()}
    )
    opened = open_model("hf://ann/other", architecture="tiny", image_size=SIZE)
    np.testing.assert_array_equal(opened.embedder.embed(IMAGES), embedded(model))
    assert opened.kind == "checkpoint"


def test_a_pickle_is_never_read(hub: FakeHub, tmp_path: Path) -> None:
    torch.save({"w": Payload(tmp_path / "harm")}, tmp_path / "evil.bin")
    content = (tmp_path / "evil.bin").read_bytes()
    hub.repositories["ann/evil"] = Repository()
    hub.repositories["ann/evil"].add(
        "main", {"model.safetensors": content, "pytorch_model.bin": content}
    )
    for load in (load_weights, open_model, from_pretrained):
        with pytest.raises(ValueError, match="does not say which model it holds"):
            load("hf://ann/evil")
    with pytest.raises(ValueError, match="cannot read weights"):
        open_model("hf://ann/evil", architecture="tiny")
    assert not (tmp_path / "harm").exists()
    assert not [line for line in hub.requests if "pytorch_model" in line]


def test_who_may_not_write_learns_what_to_do(hub: FakeHub, run_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"no access to hf://ann/new \(401, Invalid us.*`hf auth"):
        push_to_hub(run_dir, "ann/new", token="hf_wrong")
    hub.wrong_license = "mitt"
    with pytest.raises(
        OSError, match=r"cannot serve hf://ann/a: .*license must be one of"
    ) as error:
        push_to_hub(run_dir, "ann/a", license="mitt")
    assert "\n" not in str(error.value)
    del hub.repositories["ann/a"]
    for name in ("faces", "ann/../faces", "a/b/c", "ann/fa--ces", "ann/" + "x" * 100):
        with pytest.raises(ValueError, match=f"repo_id must be owner/name.* got '{name}'"):
            push_to_hub(run_dir, name)
    assert hub.repositories == {}


def test_without_the_hub_and_without_a_download(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot reach the Hub for hf://ann/faces, and no earlier"):
        from_pretrained("ann/faces", cache_dir=tmp_path, local_files_only=True)
    with pytest.raises(ValueError, match="there is no model 'runs/mine/7': neither a folder"):
        from_pretrained("runs/mine/7")


def test_a_hub_that_does_not_answer_is_one_line(
    hub: FakeHub, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="cannot reach the Hub for hf://ann/faces, and no earlier"):
        from_pretrained("ann/faces")
    with pytest.raises(OSError, match=r"the Hub cannot serve hf://ann/x: .*offline") as error:
        push_to_hub(run_dir, "ann/x")
    assert "\n" not in str(error.value)


def test_the_extra_is_named(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "find_spec", lambda _: None)
    for act in (
        lambda: push_to_hub(run_dir, "ann/faces"),
        lambda: load_weights("hf://ann/faces"),
        lambda: from_pretrained("ann/faces"),
    ):
        with pytest.raises(ImportError, match=r"huggingface-hub: pip install 'centerarc\[hub\]'"):
            act()


def test_paths_are_no_repositories() -> None:
    assert hub_model("runs/mine") is None
    assert hub_model(Path("/models/hf.safetensors")) is None
    assert hub_model("hf://ann/faces@refs/pr/1") == HubModel("ann/faces", "refs/pr/1")
    assert hub_model(Path("hf://ann/faces")) == HubModel("ann/faces")  # pathlib drops a slash


# The folder, and what must not be in it.


def test_nothing_of_the_machine_or_of_people_is_in_the_folder(
    run_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    left_out = save_pretrained(run_dir, folder, repo_id="ann/faces")
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.yaml",
        "model.safetensors",
    }
    for path in folder.iterdir():
        content = path.read_bytes()
        for secret in (*SECRETS, str(tmp_path)):
            assert secret.encode() not in content, (path.name, secret)
    assert set(left_out) == {
        "run_dir",
        "data.parts.root",
        "data.parts.name",
        "data.parts.path",
        "data.parts.path_column",
        "data.parts.source",
        "data.parts.options.shelf",
        "plugins",
        "data.exclude_pairs",
        "validation.pairs",
        "validation.images",
        "loss.class_weights",
        "tags",
    }
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["data"]["parts"] == [
        {"source": "folder", "weight": 2.0},
        {"source": "list"},
        {"options": {"row": 3}},
    ]
    assert config["validation"] == {"best_set": "held_out", "name": ""}
    assert (config["model"]["name"], config["tags"]) == ("tiny", [7])


def test_metadata_of_weights_is_published_only_where_it_is_harmless(tmp_path: Path) -> None:
    metadata = {
        "note": "trained by Zoe Miller",
        "loss": {"margin": "arcface", "class_weights": "/home/ann/secret.csv", "m": 0.4},
        "model": {"name": "secret"},
        "epoch": 3,
    }
    save_weights(tmp_path / "w.safetensors", small(1), metadata=metadata)
    left_out = save_pretrained(tmp_path / "w.safetensors", tmp_path / "out", repo_id="ann/faces")
    assert left_out == ["metadata.note", "metadata.loss.class_weights", "metadata.model.name"]
    assert read_metadata(tmp_path / "out" / "model.safetensors")["metadata"] == {
        "loss": {"margin": "arcface", "m": 0.4},
        "model": {},
        "epoch": 3,
    }
    content = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert not any(secret.encode() in content for secret in SECRETS)
    expected = embedded(load_weights(tmp_path / "w.safetensors"))
    np.testing.assert_array_equal(embedded(from_pretrained(tmp_path / "out")), expected)


def test_what_others_wrote_into_the_header_stays_here(tmp_path: Path) -> None:
    save_weights(tmp_path / "a.safetensors", small(1))
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        said = {**file.metadata(), "author": "Zoe Miller"}
    save_file(tensors, tmp_path / "b.safetensors", metadata=said)
    save_pretrained(tmp_path / "b.safetensors", tmp_path / "out", repo_id="ann/faces")
    assert b"Zoe Miller" not in (tmp_path / "out" / "model.safetensors").read_bytes()
    assert read_metadata(tmp_path / "out" / "model.safetensors")["name"] == "tiny"


def test_the_options_of_a_model_are_part_of_it(tmp_path: Path) -> None:
    model = create_model("tiny", image_size=SIZE, embedding_size=4, dropout=0.4)
    save_weights(tmp_path / "w.safetensors", model)
    save_pretrained(tmp_path / "w.safetensors", tmp_path / "out", repo_id="ann/faces")
    assert from_pretrained(tmp_path / "out").get_submodule("layers.4").p == 0.4
    assert "tiny, dropout 0.4" in (tmp_path / "out" / "README.md").read_text()
    assert not (tmp_path / "out" / "config.yaml").exists()


def test_a_folder_with_other_things_is_not_written_to(run_dir: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in run_dir.iterdir()}
    with pytest.raises(ValueError, match=r"folder is .*secret-run', which holds other files"):
        save_pretrained(run_dir, run_dir, repo_id="ann/faces")
    assert {path: path.read_bytes() for path in run_dir.iterdir()} == before
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"folder is .*, a file; it must be a folder"):
        save_pretrained(run_dir, tmp_path / "file", repo_id="ann/faces")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "config.yaml").write_text("precious: 1\n")
    with pytest.raises(ValueError, match=r"whose config\.yaml is not of a shared model"):
        save_pretrained(run_dir, mine, repo_id="ann/faces")
    clone = tmp_path / "clone"
    (clone / ".git").mkdir(parents=True)
    (clone / ".gitattributes").touch()
    save_pretrained(run_dir, clone, repo_id="ann/faces")
    (clone / "README.md").write_text("edited")
    with pytest.raises(ValueError, match="a card that may have been edited; --overwrite"):
        save_pretrained(run_dir, clone, repo_id="ann/faces")
    assert (clone / "README.md").read_text() == "edited"
    save_pretrained(run_dir, clone, repo_id="ann/faces", overwrite=True)
    assert (clone / "README.md").read_text() != "edited"


def test_settings_of_another_model_are_refused(run_dir: Path, tmp_path: Path) -> None:
    save_weights(run_dir / "other.safetensors", create_model("tiny", image_size=32))
    with pytest.raises(ValueError, match=r"config\.yaml' is not of other\.safetensors: its model"):
        save_pretrained(run_dir / "other.safetensors", tmp_path / "out", repo_id="ann/faces")


# The card.


def estimate(value: float | None, *interval: float) -> dict[str, Any]:
    return {"value": value, "interval95": list(interval) or None, "reason": "too few | pairs"}


def evaluation(weights: Path, **changes: Any) -> dict[str, Any]:
    groups = [
        {
            "name": name,
            "accuracy": estimate(0.9, 0.85, 0.95),
            "tar": estimate(None),
            "far": estimate(0.1),
            "num_genuine": 10,
            "num_impostor": 20,
        }
        for name in ("f", "f | m")
    ]
    return {
        "format": "centerarc evaluation 2",
        "command": "centerarc evaluate /home/ann/secret",
        "model": {
            "file": "/home/ann/secret",
            "weights_sha256": files_sha256(weights),
            "mirror": True,
        },
        "data": {
            "name": "pairs_1.txt",
            "protocol": "verification of pairs of images",
            "pairs": "/home/ann/secret/pairs_1.txt",
            "people_trained_on": ["Zoe Miller"],
        },
        "verification": {
            "kfold_accuracy": estimate(0.9912, 0.9863, 0.9951),
            "convention": "exact: halfway",
            "fold_accuracy": dict.fromkeys("12345", 0.99),
            "threshold": 0.31,
            "auc": estimate(0.9987, 0.997, 0.999),
            "eer": estimate(0.0095, 0.006, 0.0141),
            "tar_at_far": {"0.001": estimate(0.9702, 0.94, 0.99), "1e-06": estimate(None)},
            "num_genuine": 3000,
            "num_impostor": 3001,
            "num_people": 1680,
            "intervals": "over 1,000 resamples.",
            "breakdowns": {"sex": {"threshold": 0.31, "groups": groups}},
        },
        **changes,
    }


def card_of(source: Path, tmp_path: Path, *evaluations: dict[str, Any], **more: Any) -> str:
    files = []
    for number, content in enumerate(evaluations):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(content))
    folder = tmp_path / f"card of {source.name}"
    save_pretrained(source, folder, repo_id="ann/my_faces", evaluations=files, **more)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert not any(secret in text for secret in SECRETS)
    return text


def test_the_card_says_which_pictures_were_on_both_sides(run_dir: Path, tmp_path: Path) -> None:
    said = (
        "3 of 9 probes are also in the gallery: so (--json has examples)",
        "2 of 9 pairs have the same picture on both sides: so",
        "1 of 9 distractors is a picture of the gallery or the probes, so of no one else",
    )
    notes = [*said, "/home/ann/secret: 3 images of 2 identities; left out 1"]
    text = card_of(run_dir, tmp_path, evaluation(run_dir / "best.safetensors", notes=notes))
    for note in said:
        assert f"**{note.removesuffix(' (--json has examples)')}.**" in text


@pytest.mark.parametrize(
    ("loss", "formula"),
    [
        ({"margin": "magface", "m": 0.5, "margin_options": {}}, "MagFace (s = 30) + 1 x center"),
        ({"margin": "adaface", "m": 0.4}, "AdaFace (m = 0.4, s = 30) + 1 x center"),
        ({"margin": "of_mine", "m": 0.4}, "of_mine (m = 0.4, s = 30) + 1 x center"),
    ],
)
def test_a_margin_is_shown_with_the_parameters_that_it_has(loss: Any, formula: str) -> None:
    assert model_card._formula({"s": 30.0, "center_weight": 1.0, **loss}) == formula


def test_the_card_says_what_is_known(run_dir: Path, tmp_path: Path) -> None:
    shown = evaluation(run_dir / "best.safetensors")
    text = card_of(run_dir, tmp_path, shown, license="apache-2.0")
    for words in (
        "an embedding of 8 numbers",
        'open_model("hf://ann/my_faces")',
        "16 x 16 pixels",
        "1,234 people, 56,789 images",
        "ArcFace (m = 0.5, s = 30) + 1 x center",
        "sgd, learning rate 0.1, momentum 0.9, weight decay 0.0005",
        "4 epochs: 1 of warm-up, then cosine decay to 0",
        "of epoch 3, chosen by the validation; their running average, which decays by 0.99",
        "| measure | lfw | held\\_out |",
        "| AUC | 97.50% | 98.50% |",
        "| TAR at FAR 0.1% | 50.00% |  |",
        "| pairs | 1,200 | 300 |",
        "The AUC of held\\_out chose the weights",
        "## Evaluation on pairs\\_1.txt",
        "`embed(faces, mirror=True)`",
        "3,000 pairs of one person and 3,001 of two; 1,680 people",
        "| accuracy, 5 folds, each at the threshold of the others | 99.12% | 98.63 to 99.51% |",
        "| TAR at FAR 0.1% | 97.02% | 94.00 to 99.00% |",
        "Not measurable: too few \\| pairs.",
        "| f \\| m | 90.00% (85.00 to 95.00%) | not measurable | 10.00% |",
        "Trained on 1,234 people",
        "In pairs\\_1.txt, 1 of the people has the name of someone in the training set",
        "Measured by sex above",
        "Choose yours",
    ):
        assert words in text, words
    assert "Not measured by group" not in text
    assert "drawn" not in text


def test_the_card_has_the_learned_threshold(tmp_path: Path) -> None:
    loss = {"margin": "arcface", "m": 0.3, "s": 32.0, "center_weight": 0.0}
    loss |= {"threshold_weight": "auto", "threshold_over": "pairs"}
    metadata = {"epoch": 3, "loss": loss, "threshold": 0.43219}
    save_weights(tmp_path / "w.safetensors", small(1), metadata=metadata)
    text = card_of(tmp_path / "w.safetensors", tmp_path)
    assert "ArcFace (m = 0.3, s = 32) + auto x threshold" in text
    assert "| learned threshold | 0.432, a cosine, on training images |" in text


def test_the_hub_reads_the_header_of_the_card(run_dir: Path, tmp_path: Path) -> None:
    shown = evaluation(run_dir / "best.safetensors")
    card = ModelCard(card_of(run_dir, tmp_path, shown, license="apache-2.0"))
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "centerarc"
    assert card.data.pipeline_tag == "image-feature-extraction"
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found == {
        "accuracy": 0.9912,
        "auc": 0.9987,
        "eer": 0.0095,
        "tar_at_far_0.001": 0.9702,
    }
    assert {result.dataset_name for result in card.data.eval_results} == {"pairs_1.txt"}


def test_a_card_without_knowledge_claims_nothing(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", small(1))
    text = card_of(tmp_path / "w.safetensors", tmp_path)
    assert "license" not in text.partition("\n---\n")[0]
    for words in (
        "How many people it was trained on is not recorded here",
        "Not evaluated beyond the validation of its training",
        "Not measured by group",
    ):
        assert words in text, words
    for words in ("## Validation", "optimizer", "schedule", "config.yaml", "None"):
        assert words not in text, words


def test_a_backbone_of_ones_own_is_said_to_need_its_code(run_dir: Path, tmp_path: Path) -> None:
    words = "is not part of centerarc: import the code that registers it first"
    assert f"The backbone tiny {words}" in card_of(run_dir, tmp_path)
    save_weights(tmp_path / "w.safetensors", create_model("mobilefacenet_small", image_size=32))
    assert words not in card_of(tmp_path / "w.safetensors", tmp_path)


def test_a_model_of_drawn_faces_says_so(run_dir: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    config["data"] = {"source": "synthetic", "num_identities": 40}
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    text = card_of(run_dir, tmp_path)
    assert "It does not recognize people in photos" in text
    assert "of no use on photos" in text


@pytest.mark.parametrize("change", ["model", "format", "json", "none", "part", "rate"])
def test_an_evaluation_of_another_model_or_damaged_is_refused(
    run_dir: Path, tmp_path: Path, change: str
) -> None:
    content = evaluation(run_dir / "last.safetensors")
    if change in ("part", "rate"):
        content = evaluation(run_dir / "best.safetensors")
        content["verification"] |= {"part": {"auc": {}}, "rate": {"eer": "low"}}[change]
    if change == "format":
        content["format"] = "another"
    file = tmp_path / "mine.json"
    if change != "none":
        file.write_text("{" if change == "json" else json.dumps(content))
    message = {
        "model": r"mine\.json' is not an evaluation of .*best\.safetensors': the SHA-256",
        "format": r"mine\.json' is not what centerarc evaluate --json writes",
        "json": r"cannot read .*mine\.json'",
        "part": r"mine\.json' is damaged: KeyError 'value'",
        "rate": r"mine\.json' is damaged: TypeError",
        "none": r"there is no evaluation .*mine\.json'",
    }[change]
    with pytest.raises(ValueError, match=message):
        save_pretrained(run_dir, tmp_path / "out", repo_id="ann/x", evaluations=[file])
    assert not (tmp_path / "out").exists()


def test_settings_changed_by_hand_are_shown_as_they_are(run_dir: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    config |= {"optimizer": {"name": "sgd", "lr": None}, "schedule": [1], "batch_size": None}
    config["loss"] |= {"s": None, "center_weight": [2]}
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    assert "| optimizer | sgd, learning rate None |" in card_of(run_dir, tmp_path)


def test_a_license_is_an_identifier(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"license must be an identifier .*got 'MIT License'"):
        save_pretrained(run_dir, tmp_path / "out", repo_id="ann/x", license="MIT License")


def test_the_code_on_the_card_runs(hub: FakeHub, run_dir: Path) -> None:
    push_to_hub(run_dir, "ann/faces")
    text = hub.repositories["ann/faces"].files["README.md"].decode()
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    namespace: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), namespace)
    assert namespace["similarity"] == pytest.approx(1)  # two black images
