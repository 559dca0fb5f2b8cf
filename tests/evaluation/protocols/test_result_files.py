"""An evaluation written and read again."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from centerarc.data import atomic_path
from centerarc.evaluation import Embeddings
from centerarc.evaluation.protocols import (
    EmbeddingsSubject,
    Evaluation,
    Settings,
    evaluate_galleries,
    evaluate_pairs,
    read_evaluation,
    write_evaluation,
)
from centerarc.evaluation.protocols import result_files as result_files
from tests.evaluation.protocols.faces import COLORS, embeddings, lfw_pairs


def subject(seed: int, order: int = 1) -> EmbeddingsSubject:
    rng = np.random.default_rng(seed)
    rows = [
        (f"{name}/{name}_{number:04d}.jpg", name, rng.normal(size=4))
        for name in COLORS
        for number in (1, 2)
    ][::order]
    places, names, vectors = zip(*rows, strict=True)
    matrix = np.array(vectors, dtype=np.float32)
    return EmbeddingsSubject(Path("e.npz"), Embeddings(list(places), list(names), matrix))


def test_pairs_come_back_as_they_were(tmp_path: Path) -> None:
    found = evaluate_pairs(subject(0), lfw_pairs(tmp_path / "pairs.txt"))
    write_evaluation(tmp_path / "o.json", found)
    again = read_evaluation(tmp_path / "o.json")
    assert found.verification is not None
    assert again.pairs is not None
    np.testing.assert_array_equal(again.pairs.scores, found.verification.scores)
    np.testing.assert_array_equal(again.pairs.same, found.verification.same)
    assert again.pairs.people is not None
    same_person = again.pairs.people[0] == again.pairs.people[1]
    np.testing.assert_array_equal(same_person, found.verification.same)


def test_the_same_pairs_are_known_again_whatever_the_order_of_the_embeddings(
    tmp_path: Path,
) -> None:
    pairs = lfw_pairs(tmp_path / "pairs.txt")
    digests = []
    for number, given in enumerate((subject(0), subject(1, order=-1))):
        write_evaluation(tmp_path / f"{number}.json", evaluate_pairs(given, pairs))
        stored = read_evaluation(tmp_path / f"{number}.json").pairs
        assert stored is not None
        digests.append(stored.digest)
    write_evaluation(tmp_path / "f.json", evaluate_pairs(subject(0), pairs, folds=[1]))
    stored = read_evaluation(tmp_path / "f.json").pairs
    assert stored is not None
    assert digests[0] == digests[1] != stored.digest


def test_searches_come_back_as_they_were(tmp_path: Path) -> None:
    gallery = embeddings(tmp_path / "g.npz", [("a", "Ann", [1, 0]), ("b", "Bob", [0, 1])])
    rows = [("c", "Ann", [3, 1]), ("d", "Bob", [2, 1]), ("e", "Eve", [1, 1])]
    probes = embeddings(tmp_path / "p.npz", rows)
    found = evaluate_galleries(None, gallery, probes)
    write_evaluation(tmp_path / "o.json", found)
    (search,) = read_evaluation(tmp_path / "o.json").searches
    assert found.identification is not None
    (before,) = found.identification.searches
    for name in ("people", "probe_labels", "mated", "rank", "mate_score", "other_score"):
        np.testing.assert_array_equal(getattr(search, name), getattr(before, name))
    assert (search.gallery_images, search.person_score) == (2, "max")
    assert search.rank.tolist() == [1, 2, 0]


def judged(root: Path, seed: int) -> Evaluation:
    """Pairs of a model; models of different seeds have different scores."""
    pairs = root / "pairs.txt"
    return evaluate_pairs(
        subject(seed), pairs if pairs.exists() else lfw_pairs(pairs), settings=Settings(resamples=0)
    )


def scores_of(path: Path) -> list[float]:
    stored = read_evaluation(path).pairs
    assert stored is not None
    return [float(score) for score in stored.scores]


def scores_in(found: Evaluation) -> list[float]:
    assert found.verification is not None
    return [float(score) for score in found.verification.scores]


def test_no_two_names_share_their_scores(tmp_path: Path) -> None:
    names = ["model-1.0", "model-1.1", "model-1", "model-1.json", "model-1.json.json", ".json"]
    every = {name: judged(tmp_path, seed) for seed, name in enumerate(names)}
    for name, found in every.items():
        write_evaluation(tmp_path / name, found)
    for name, found in every.items():
        assert scores_of(tmp_path / name) == scores_in(found)
    assert (tmp_path / "model-1.scores.npz").exists()


@pytest.mark.parametrize("change", ["of another", "reversed", "no fold", "texts"])
def test_scores_that_are_not_those_of_the_file_are_refused(tmp_path: Path, change: str) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        write_evaluation(tmp_path / name / "o.json", judged(tmp_path, ord(name)))
    with np.load(tmp_path / "a" / "o.scores.npz") as stored:
        arrays = dict(stored)
    if change == "of another":
        shutil.copy(tmp_path / "b" / "o.json", tmp_path / "a" / "mine.json")
    elif change == "reversed":
        arrays["scores"] = arrays["scores"][::-1]
    elif change == "no fold":
        del arrays["fold"]
    else:
        arrays["scores"] = arrays["scores"].astype(np.str_)
    if change != "of another":
        np.savez(tmp_path / "a" / "o.scores.npz", **arrays)
        (tmp_path / "a" / "o.json").rename(tmp_path / "a" / "mine.json")
    with pytest.raises(ValueError, match=r"o\.scores\.npz' as the scores of '.*mine\.json': it is"):
        read_evaluation(tmp_path / "a" / "mine.json")


def test_a_name_given_to_both_files_keeps_them_together(tmp_path: Path) -> None:
    found = judged(tmp_path, 0)
    write_evaluation(tmp_path / "o.json", found)
    (tmp_path / "away").mkdir()
    shutil.copy(tmp_path / "o.json", tmp_path / "away" / "mine.json")
    shutil.copy(tmp_path / "o.scores.npz", tmp_path / "away" / "o.scores.npz")
    assert scores_of(tmp_path / "away" / "mine.json") == scores_in(found)


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_evaluation_that_was_there(tmp_path: Path) -> None:
    first = judged(tmp_path, 0)
    out = tmp_path / "o.json"
    write_evaluation(out, first)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    size = len(before["o.scores.npz"])
    assert size + 100 < len(before["o.json"])
    for limit, name in ((100, r"o\.scores\.npz"), (size + 100, r"o\.json")):
        with file_limit(limit), pytest.raises(OSError, match=f"^cannot write '.*{name}': File too"):
            write_evaluation(out, judged(tmp_path, 1))
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert scores_of(out) == scores_in(first)


class Killed(BaseException):
    """What nothing catches."""


@pytest.mark.parametrize("after", ["scores", "json"])
def test_a_kill_at_any_point_leaves_one_evaluation_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    first, second = judged(tmp_path, 0), judged(tmp_path, 1)
    out = tmp_path / "o.json"
    write_evaluation(out, first)

    @contextmanager
    def killed(path: Path) -> Iterator[Path]:
        if Path(path).suffix == ".json" and after == "scores":
            raise Killed
        with atomic_path(path) as temporary:
            yield temporary
        if Path(path).suffix == ".json":
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(result_files, "atomic_path", killed)
        patch.setattr(result_files, "_settle", lambda *_: None)  # the dead do not clear up
        with pytest.raises(Killed):
            write_evaluation(out, second)
    assert scores_of(out) == scores_in(first if after == "scores" else second)
    third = judged(tmp_path, 2)
    write_evaluation(out, third)
    assert scores_of(out) == scores_in(third)
    if after == "json":
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "o.json",
            "o.scores.npz",
            "pairs.txt",
        ]


def test_an_interrupt_after_the_last_file_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def interrupted(path: Path) -> Iterator[Path]:
        with atomic_path(path) as temporary:
            yield temporary
        if Path(path).suffix == ".json":
            raise KeyboardInterrupt

    found = judged(tmp_path, 1)
    write_evaluation(tmp_path / "o.json", judged(tmp_path, 0))
    monkeypatch.setattr(result_files, "atomic_path", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_evaluation(tmp_path / "o.json", found)
    assert scores_of(tmp_path / "o.json") == scores_in(found)
    assert len(list(tmp_path.iterdir())) == 3


def test_what_json_cannot_hold_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    found = judged(tmp_path, 0)
    out = tmp_path / "o.json"
    write_evaluation(out, found)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"cannot be written to '.*o\.json': .*nan"):
        write_evaluation(out, replace(judged(tmp_path, 1), model={"threshold": float("nan")}))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_where_the_scores_belong_is_named(tmp_path: Path) -> None:
    found = judged(tmp_path, 0)
    (tmp_path / "o.scores.npz").mkdir()
    with pytest.raises(ValueError, match=r"o\.scores\.npz' is no file; the scores of '.*o\.json'"):
        write_evaluation(tmp_path / "o.json", found)
    assert not (tmp_path / "o.json").exists()


def test_a_link_to_the_scores_stays_one(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    os.symlink(tmp_path / "store" / "big.npz", tmp_path / "o.scores.npz")
    found = judged(tmp_path, 0)
    write_evaluation(tmp_path / "o.json", found)
    assert (tmp_path / "o.scores.npz").is_symlink()
    assert scores_of(tmp_path / "o.json") == scores_in(found)
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["big.npz"]


def edited(key: str, value: Any = None) -> Callable[[dict[str, Any]], None]:
    """Sets a field, named with dots; deletes it for None."""

    def edit(content: dict[str, Any]) -> None:
        *names, last = key.split(".")
        for name in names:
            content = content[name]
        if value is None:
            del content[last]
        else:
            content[last] = value

    return edit


PAIRS = [
    (edited("verification.settings"), "has no verification.settings"),
    (edited("verification"), "disagree on whether there is a part verification"),
    (edited("verification", []), "has no verification.settings"),
    (edited("verification.settings.convention", 5), "settings.convention must be a text, got 5"),
    (edited("verification.settings.convention", "x"), "must be one of exact, grid, got 'x'"),
    (edited("verification.settings.far", 0.1), "settings.far must be a list, got 0.1"),
    (edited("verification.settings.far", ["a"]), r"settings.far must be rates in .* got \['a'\]"),
    (edited("verification.settings.far", [float("nan")]), "settings.far must be rates"),
    (edited("verification.settings.resamples", 7), "resamples must be 0 or at least 100, got 7"),
    (edited("verification.settings.resamples", True), "resamples must be a whole number, got True"),
    (edited("verification.settings.seed", -1), "settings.seed must be at least 0, got -1"),
    (edited("verification.settings.seed", 1.5), "settings.seed must be a whole number"),
    (edited("data"), "has no data"),
    (edited("data", "x" * 999), "has no data.name"),
    (edited("data.name", 3), "data.name must be a text, got 3"),
    (edited("model", "x"), "model must be an object, got 'x'"),
    (edited("pairs_sha256"), "has no pairs_sha256"),
    (edited("scores"), "has no scores"),
    (edited("scores_sha256"), "has no scores_sha256"),
    (edited("scores_sha256", "/x"), "scores_sha256 must be a SHA-256, got '/x'"),
]
SEARCHES = [
    (edited("identification"), "disagree on whether there is a part identification"),
    (edited("identification.cmc", {"a": 1}), "identification.cmc must be shares by rank"),
    (edited("identification.cmc", {}), "identification.cmc must be shares by rank"),
    (edited("identification.tpir_at_fpir", {"2": 1}), "must be shares by rates in"),
    (edited("identification.person_score", "sum"), "must be one of max, mean, got 'sum'"),
    (edited("identification.settings.seed"), "has no identification.settings.seed"),
    (edited("probes_sha256"), "has no probes_sha256"),
]


@pytest.mark.parametrize(
    ("edit", "message", "searches"),
    [(*one, False) for one in PAIRS] + [(*one, True) for one in SEARCHES],
)
def test_an_edited_field_is_one_line_with_the_file(
    tmp_path: Path, edit: Callable[[dict[str, Any]], None], message: str, searches: bool
) -> None:
    found = judged(tmp_path, 0)
    if searches:
        gallery = embeddings(tmp_path / "g.npz", [("a", "Ann", [1, 0]), ("b", "Bob", [0, 1])])
        probes = embeddings(tmp_path / "p.npz", [("c", "Ann", [3, 1])])
        found = evaluate_galleries(None, gallery, probes)
    out = tmp_path / "o.json"
    write_evaluation(out, found)
    content = json.loads(out.read_text(encoding="utf-8"))
    edit(content)
    out.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        read_evaluation(out)
    assert "o.json'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250 + 2 * len(str(out))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scores", ["a"] * 12, "could not convert"),
        ("scores", [float("nan")] * 12, "scores must be finite, got nan in row 0"),
        ("same", [True] * 5, "same must have the shape of scores"),
        ("fold", [0.5] * 12, "folds must be integers"),
        ("person_b", [0] * 3, "people must have shape"),
    ],
)
def test_scores_that_are_none_are_refused_with_their_file(
    tmp_path: Path, name: str, value: list[Any], message: str
) -> None:
    """Even where somebody wrote their SHA-256 into the JSON file."""
    out, scores = tmp_path / "o.json", tmp_path / "o.scores.npz"
    write_evaluation(out, judged(tmp_path, 0))
    with np.load(scores) as stored:
        arrays = {**stored, name: np.array(value)}
    np.savez(scores, **arrays)
    content = json.loads(out.read_text(encoding="utf-8"))
    content["scores_sha256"] = hashlib.sha256(scores.read_bytes()).hexdigest()
    out.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"^cannot read '.*o\.scores\.npz': .*{message}"):
        read_evaluation(out)
