"""Several sets judge a run: what is read, who is trained on, what is logged, what decides."""

import io
import json
import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.metrics import roc_auc_score, roc_curve

from centerarc.data import FolderSource, read_identities, to_input
from centerarc.distributed import Processes
from centerarc.models import load_weights
from centerarc.models.weights import read_metadata
from centerarc.training import (
    Trainer,
    TrainingInterrupted,
    check_config,
    dump_config,
    load_config,
    train,
    validation,
)
from centerarc.training.config import PairsFields, ValidationConfig
from centerarc.training.logging import Display
from centerarc.training.sources import make_sources
from tests.distributed.pool import Pool
from tests.training.helpers import make_config, register_tiny, write_faces

PAIRS = [(0, 1, 1), (2, 3, 1), (4, 5, 1), (0, 7, 0), (1, 8, 0), (3, 9, 0), (6, 7, 1), (2, 8, 0)]
BIN_NOTE = "people of the validation set lfw may be trained on: a file that holds its images"


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> FolderSource:
    """Two people with 6 images each, who share no name with those trained on."""
    root = write_faces(tmp_path_factory.mktemp("others") / "faces", people=2)
    for folder in sorted(root.iterdir()):
        folder.rename(root / folder.name.replace("P", "Q"))
    return FolderSource(root)


@pytest.fixture(scope="module")
def bin_set(others: FolderSource) -> Path:
    path = Path(others.root).parent / "lfw.bin"
    sides = [others.encoded(side) for a, b, _ in PAIRS for side in (a, b)]
    path.write_bytes(pickle.dumps((sides, [bool(same) for *_, same in PAIRS])))
    return path


@pytest.fixture(scope="module")
def csv_list(others: FolderSource) -> Path:
    """Pairs of people who are in the training set too: their folders name them."""
    path = Path(others.root).parent / "agedb.csv"
    rows = [f"P{a:02d}/P{a:02d}_0001.png,P{b:02d}/P{b:02d}_0002.png" for a, b in ((0, 0), (0, 1))]
    path.write_text(f"image_a,image_b,same\n{rows[0]},1\n{rows[1]},0\n")
    return path


def _rows(run_dir: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "validation"]


def test_every_set_is_judged_and_logged_after_every_epoch(
    tmp_path: Path, faces: Path, others: FolderSource, bin_set: Path, csv_list: Path
) -> None:
    further = [{"pairs": bin_set, "name": "again"}, {"pairs": csv_list, "images": faces}]
    config = make_config(
        tmp_path / "run", faces, validation={"pairs": bin_set, "sets": further, "far": 0.25}
    )
    result = train(config)
    rows = _rows(config.run_dir)
    assert [(row["epoch"], row["set"]) for row in rows] == [
        (epoch, name) for epoch in (1, 2, 3) for name in ("lfw", "again", "agedb")
    ]
    # The last epoch's numbers of the .bin set, from scikit-learn.
    model = load_weights(config.run_dir / "last.safetensors")
    images = np.stack([others.image(number) for number in range(len(others))])
    with torch.no_grad():
        embedding = torch.nn.functional.normalize(
            model(to_input(torch.from_numpy(images))).double()
        )
    a, b, same = np.array(PAIRS).T
    scores = (embedding[a] * embedding[b]).sum(1).numpy()
    far, tar, _ = roc_curve(same, scores, drop_intermediate=False)
    last = rows[-3]
    assert last["auc"] == pytest.approx(roc_auc_score(same, scores))
    assert last["tar_at_far_0.25"] == pytest.approx(tar[far <= 0.25].max())
    assert last["pairs"] == 8
    assert "accuracy" in last  # 10 folds: thresholds from other folds
    ignored = ("set", "kind")
    assert [last[k] for k in last if k not in ignored] == [
        rows[-2][k] for k in last if k not in ignored
    ]
    assert "tar_at_far_0.25" not in rows[-1]  # one impostor pair carries no such rate
    # What is left of the run: the first set chose, all sets are there.
    summary = json.loads((config.run_dir / "results.json").read_text())
    best = max(rows[::3], key=lambda row: row["auc"])
    assert summary["best"] == result.best
    assert summary["best"]["set"] == "lfw"
    assert summary["best"]["epoch"] == best["epoch"]
    assert summary["best"]["auc"] == best["auc"]
    assert list(summary["best"]["sets"]) == ["lfw", "again", "agedb"]
    assert [row["best"] for row in rows if row["epoch"] == best["epoch"]] == [True] * 3
    metadata = read_metadata(config.run_dir / "best.safetensors")["metadata"]
    assert metadata["metrics"] == summary["best"]["sets"]
    # People whom the list names are not trained on.
    assert read_identities(config.run_dir / "people.txt") == ["P02", "P03", "P04", "P05"]


def test_a_set_without_names_is_said_once(faces: Path, tmp_path: Path, bin_set: Path) -> None:
    config = make_config(tmp_path, faces, validation={"identities": 2, "sets": [bin_set]})
    sources = make_sources(config)
    assert sources.validation is not None
    assert [pairs.name for pairs in sources.validation.sets] == ["held_out", "lfw"]
    assert len([note for note in sources.notes if BIN_NOTE in note]) == 1
    assert len(sources.train.identities) == 4


def test_a_set_ordered_by_kind_is_named_and_judged(others: FolderSource, tmp_path: Path) -> None:
    ordered = sorted(PAIRS, key=lambda pair: -pair[2])
    sides = [others.encoded(side) for a, b, _ in ordered for side in (a, b)]
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps((sides, [bool(same) for *_, same in ordered])))
    notes: list[str] = []
    validation.listed_pairs(PairsFields(pairs=path), 112, notes)
    assert "4 stratified folds" in " ".join(notes)
    assert str(path) in " ".join(notes)


def test_sets_are_paths_or_sections_and_come_back_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("run_dir: a\ndata: {source: synthetic}\nvalidation: {identities: 9}\n")
    config = load_config(path, ["--validation.sets", "[faces/lfw.bin, {pairs: b.csv, name: b}]"])
    assert config.validation is not None
    assert [one.title for one in config.validation.all_sets] == ["held_out", "lfw", "b"]
    assert config.validation.deciding_set == "held_out"
    path.write_text(dump_config(config))
    assert load_config(path) == config
    flags = ["--validation.identities", "none", "--validation.best-set", "mean"]
    alone = load_config(path, flags)
    assert alone.validation is not None
    assert [one.title for one in alone.validation.all_sets] == ["lfw", "b"]
    assert alone.validation.deciding_set == "mean"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, r"validation: give pairs \(and images\), identities or sets"),
        ({"pairs": "a.bin", "identities": 2}, "give pairs or identities, not both"),
        ({"pairs": "pairs.txt"}, "pairs is 'pairs.txt', which needs images, the folder"),
        (
            {"sets": ["a/pairs.txt"]},
            r"validation\.sets\.0: pairs is .*: \{pairs: a/pairs\.txt, images: FOLDER\}",
        ),
        ({"sets": [{"pairs": "a.bin", "images": "b"}]}, r"sets\.0: images goes with pairs\.txt"),
        ({"sets": [{"name": "a"}]}, r"validation\.sets\.0\.pairs is missing"),
        ({"sets": ["a.bin", "b/a.bin"]}, "a set is named 'a', as is another set; give it another"),
        ({"sets": ["mean.bin"]}, "named 'mean', as is the mean over all sets"),
        ({"sets": ["a.bin"], "best_set": "b"}, "best_set is 'b'; it must be one of a, mean"),
        ({"sets": ["a.bin"], "name": "b"}, "name goes with pairs or identities"),
        ({"sets": ["a.bin"], "measure": "acc"}, r"measure is 'acc'; it must be 'auc', 'accuracy'"),
        ({"sets": ["a.bin"], "far": 0}, r"validation\.far is 0; it must be greater than 0"),
    ],
)
def test_a_wrong_setting_is_named(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_config({"run_dir": "a", "data": {"source": "synthetic"}, "validation": content})


def test_what_cannot_judge_is_refused_at_the_start(
    tmp_path: Path, faces: Path, bin_set: Path, others: FolderSource
) -> None:
    tar = {"pairs": bin_set, "measure": "tar"}
    with pytest.raises(ValueError, match=r"set lfw has too few pairs: FAR 0\.001 needs at least"):
        make_sources(make_config(tmp_path, faces, validation=tar))
    # A set that only is watched may be small.
    tar |= {"best_set": "held_out", "identities": 2, "pairs": None, "sets": [bin_set], "far": 0.05}
    make_sources(make_config(tmp_path, faces, validation=tar))
    genuine = tmp_path / "genuine.bin"
    genuine.write_bytes(pickle.dumps(([others.encoded(0), others.encoded(1)], [True])))
    with pytest.raises(ValueError, match=r"genuine\.bin: all 1 pairs are genuine pairs"):
        make_sources(make_config(tmp_path, faces, validation={"sets": [genuine]}))


# Numbers of two sets after three epochs.
SCORES = {
    "a": {"auc": [0.6, 0.9, 0.7], "accuracy": [0.8, 0.6, 0.7], "tar_at_far_0.1": [0.1, 0.2, 0.3]},
    "b": {"auc": [0.95, 0.6, 0.94], "best_accuracy": [0.6, 0.7, 0.9], "tar_at_far_0.1": [0.9] * 3},
}


@pytest.mark.parametrize(
    ("settings", "epoch"),
    [
        ({}, 2),
        ({"best_set": "b"}, 1),
        ({"best_set": "mean"}, 3),
        ({"measure": "accuracy"}, 1),
        ({"measure": "accuracy", "best_set": "mean"}, 3),
        ({"measure": "tar"}, 3),
        ({"measure": "tar", "best_set": "b"}, 1),  # the earlier of equals
    ],
)
def test_the_best_weights_are_chosen_as_configured(
    settings: dict[str, Any], epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = np.arange(40) % 2 == 0
    nothing = np.zeros(40, dtype=np.int64)
    source: Any = None
    sets = [validation.ValidationPairs(n, source, nothing, nothing, same, nothing) for n in "ab"]
    paths = {"sets": ["a.bin", "b.bin"], "far": 0.1, **settings}
    content = {"run_dir": "r", "data": {"source": "synthetic"}, "validation": paths}
    config = check_config(content).validation
    assert config is not None
    judges = validation.Validation(sets, config)
    best: dict[str, Any] = {}
    for number in range(3):

        def found(pairs: validation.ValidationPairs, *_: Any, at: int = number) -> Any:
            return {name: values[at] for name, values in SCORES[pairs.name].items()}

        monkeypatch.setattr(validation, "score_images", lambda *_: np.zeros(40))
        monkeypatch.setattr(validation, "measured", found)
        alone = Processes(0, 1, torch.device("cpu"))
        results = judges.judge(torch.nn.Identity(), alone, 1, 0)
        if judges.is_better(results, best):
            best, chosen = results, number + 1
    assert chosen == epoch
    if settings.get("best_set") == "mean":
        assert results["mean"]["auc"] == pytest.approx(0.82)
    # After a change of what decides, numbers that do not have it are beaten.
    assert judges.is_better(results, {"c": {"auc": 1.0}})


def test_a_damaged_image_of_listed_pairs_is_refused_or_its_pairs_are_skipped(
    tmp_path: Path, others: FolderSource
) -> None:
    root = write_faces(tmp_path / "faces", people=2)
    rows = ["P00/P00_0001.png,P00/P00_0002.png,1", "P00/P00_0001.png,P01/P01_0001.png,0"]
    rows += ["P00/P00_0003.png,P00/P00_0002.png,1"]
    (tmp_path / "pairs.csv").write_text("\n".join(["image_a,image_b,same", *rows]))
    (root / "P00" / "P00_0003.png").write_bytes(b"damaged")
    given = {"pairs": tmp_path / "pairs.csv", "images": root}
    with pytest.raises(ValueError, match=r"cannot read .*P00_0003"):
        validation.listed_pairs(PairsFields(**given), 16, [])
    notes: list[str] = []
    pairs, _ = validation.listed_pairs(PairsFields(**given, missing="skip"), 16, notes)
    assert pairs.same.tolist() == [True, False]
    assert "pairs: 1 of 3 pairs are left out with 1 image, first: cannot read" in notes[-1]


def test_what_was_judged_without_some_pairs_is_compared_by_those_in_common() -> None:
    same = np.arange(40) % 2 == 0
    nothing = np.zeros(40, dtype=np.int64)
    source: Any = None
    pairs = validation.ValidationPairs("a", source, nothing, nothing, same, nothing)
    config = ValidationConfig(sets=[{"pairs": Path("a.bin")}])  # type: ignore[list-item]
    judges = validation.Validation([pairs], config)
    scores = np.where(same, 0.8, 0.2) + np.random.default_rng(0).normal(0, 0.3, 40)

    def judged(scores: np.ndarray) -> dict[str, Any]:
        judges.scores = {"a": torch.from_numpy(scores)}
        return {"a": validation.measured(pairs, scores, 0.1)}

    best = judged(scores)
    judges.best_scores = judges.scores
    # Without the pairs that it gets wrong, the same model has a higher number, and is no better.
    wrong = np.where(same, scores < 0.5, scores > 0.5)
    fewer = judged(np.where(wrong, np.nan, scores))
    assert fewer["a"]["auc"] > best["a"]["auc"]
    assert fewer["a"]["left_out"] == wrong.sum() > 0
    assert not judges.is_better(fewer, best)
    # One that is better by the pairs left is, whatever the numbers say.
    judged(np.where(np.arange(40) < 4, np.nan, scores))
    judges.best_scores = judges.scores
    kept = {"a": validation.measured(pairs, judges.scores["a"].numpy(), 0.1)}
    assert not judges.is_better(judged(np.where(same, 0.5, 0.6)), kept)
    assert judges.is_better(judged(np.where(same, 0.9, 0.1)), kept)
    assert judges.is_better(fewer, {})
    # A best of which the scores are not known stays.
    judges.best_scores = {}
    assert not judges.is_better(fewer, best)
    with pytest.raises(ValueError, match="1 of 40 pairs are left, too few to judge by"):
        judged(np.where(np.arange(40) < 1, 0.5, np.nan))


def test_sets_stand_in_columns_on_the_terminal() -> None:
    shown = io.StringIO()
    display = Display(1, 0, 1, console=Console(file=shown, width=40))
    results = {
        "lfw": {"auc": 0.5, "accuracy": 0.75, "tar_at_far_0.001": 0.125, "pairs": 8},
        "agedb_30": {"auc": 1.0, "accuracy": 1.0, "pairs": 8},
        "x": {"auc": 1.0, "best_accuracy": 1.0, "tar_at_far_0.001": 0.5, "pairs": 8},
    }
    display.validation_rows(12, results, "x")
    assert shown.getvalue().splitlines() == [
        "epoch 12  lfw       auc 0.5000        accuracy 75.00%  tar@0.001 12.50%",
        "epoch 12  agedb_30  auc 1.0000       accuracy 100.00%",
        "epoch 12  x         auc 1.0000  best accuracy 100.00%  tar@0.001 50.00%  best",
    ]


def test_tensorboard_has_a_group_for_each_set(tmp_path: Path, faces: Path, bin_set: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    judged = {"identities": 2, "num_pairs": 20, "sets": [bin_set]}
    config = make_config(
        tmp_path, faces, validation=judged, schedule={"epochs": 1}, log={"tensorboard": True}
    )
    train(config)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    tags = set(board.Tags()["scalars"])
    assert {"validation/held_out/auc", "validation/lfw/auc", "train/loss"} <= tags


def _judge_on_rank(
    rank: int, run_dir: Path, faces: Path, changes: dict[str, Any], broken: str
) -> tuple[list[str], str]:
    """The sets that a rank judged, and how its run ended."""
    register_tiny()
    judged: list[str] = []
    original = validation.score_images

    def score(model: torch.nn.Module, pairs: validation.ValidationPairs, *others: Any) -> Any:
        judged.append(pairs.name)
        if pairs.name == broken:
            raise OSError("the share is gone")
        return original(model, pairs, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "score_images", score)
        try:
            config = make_config(run_dir, faces, **changes)
            processes = Processes(rank, 2, torch.device("cpu"))
            Trainer(config, processes, resume=False, overwrite=False).run()
        except (ValueError, OSError, TrainingInterrupted) as error:
            return judged, str(error)
    return judged, "done"


@pytest.mark.distributed
def test_ranks_share_the_sets(pool: Pool, tmp_path: Path, faces: Path, bin_set: Path) -> None:
    further = [{"pairs": bin_set, "name": name} for name in ("b", "c")]
    changes: dict[str, Any] = {
        "validation": {"pairs": bin_set, "name": "a", "sets": further},
        "schedule": {"epochs": 1},
    }
    ended = pool.run(_judge_on_rank, tmp_path / "run", faces, changes, "")
    assert ended == [(["a", "c"], "done"), (["b"], "done")]
    first, *others = _rows(tmp_path / "run")
    assert [first["set"], *(row["set"] for row in others)] == ["a", "b", "c"]
    for row in others:  # of the same pairs
        assert {**row, "set": "a"} == first
    for broken, rank in (("a", ""), ("b", "rank 1: ")):
        ended = pool.run(_judge_on_rank, tmp_path / f"broken {broken}", faces, changes, broken)
        messages = {message.replace(rank, "").partition(";")[0] for _, message in ended}
        assert messages == {f"validation after epoch 1: {broken}: the share is gone"}


@pytest.mark.parametrize("change", ["one goes", "one comes", "one breaks", "most go"])
def test_the_pairs_of_held_out_people_stay_with_the_run(tmp_path: Path, change: str) -> None:
    root = write_faces(tmp_path / "faces")
    changes = {"validation": {"identities": 2, "num_pairs": 20}}

    def drawn(epochs: int, resume: bool) -> tuple[Trainer, list[tuple[str, str, bool]]]:
        config = make_config(tmp_path / "run", root, schedule={"epochs": epochs}, **changes)
        alone = Processes(0, 1, torch.device("cpu"))
        trainer = Trainer(config, alone, resume=resume, overwrite=False)
        trainer.run()
        assert trainer.validation is not None
        (pairs,) = trainer.validation.sets
        sides = [map(pairs.source.place, side.tolist()) for side in (pairs.index_a, pairs.index_b)]
        return trainer, list(zip(*sides, pairs.same.tolist(), strict=True))

    _, before = drawn(1, resume=False)
    held_out = sorted({place for pair in before for place in pair[:2]})
    gone: list[str] = []
    if change == "one comes":
        person = held_out[0].partition("/")[0]
        (root / held_out[0]).with_name(f"{person}_0000.png").write_bytes(
            (root / held_out[0]).read_bytes()
        )
    elif change == "one goes":
        gone = held_out[:1]
        (root / gone[0]).unlink()
    elif change == "one breaks":
        gone = held_out[:1]
        (root / gone[0]).write_bytes(b"broken")
    else:
        gone = [place for place in held_out if not place.endswith(("1.png", "2.png"))]
        for place in gone:
            (root / place).unlink()
    second, after = drawn(2, resume=True)
    said = " ".join(second.notes)
    left = [pair for pair in before if not set(pair[:2]) & set(gone)]
    if change == "one comes":
        assert "pairs" not in said
        assert second.best is not None
    else:
        assert (
            f"{len(before) - len(left)} of {len(before)} pairs of the validation held_out" in said
        )
        assert any(repr(place) in said for place in gone)
        assert ("all are drawn again" in said) is (not left)
        assert "best so far is forgotten" in said
    assert after == left or not left


def test_pairs_of_images_whose_names_are_no_unicode_have_a_fingerprint() -> None:
    def of(name: bytes) -> str:
        source: Any = SimpleNamespace(place=lambda index: os.fsdecode(b"%b/%d" % (name, index)))
        zeros = np.zeros(2, dtype=np.int64)
        pairs = validation.ValidationPairs("mine", source, zeros, zeros + 1, zeros == 0, zeros)
        return validation.Validation(
            [pairs], ValidationConfig(identities=2, name="mine")
        ).fingerprint()

    assert of(b"\xff") == of(b"\xff")
    assert of(b"\xff") != of(b"\xfe")
