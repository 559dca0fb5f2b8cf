"""An evaluation written and read again."""

import functools
import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from centerarc.data import atomic_path
from centerarc.evaluation.protocols import (
    Settings,
    evaluate_galleries,
    evaluate_pairs,
    read_evaluation,
    result_files,
    write_evaluation,
)
from tests.evaluation.protocols.faces import COLORS, embeddings, lfw_pairs, subject


def made(seed, order=1):
    """Embeddings of everyone that a seed makes."""
    rng = np.random.default_rng(seed)
    places = [(f"{name}/{name}_{number:04d}.jpg", name) for name in COLORS for number in (1, 2)]
    return subject([(*place, rng.normal(size=4)) for place in places][::order])


def test_pairs_come_back_as_they_were(tmp_path):
    found = evaluate_pairs(made(0), lfw_pairs(tmp_path / "pairs.txt"))
    write_evaluation(tmp_path / "o.json", found)
    again = read_evaluation(tmp_path / "o.json")
    np.testing.assert_array_equal(again.pairs.scores, found.verification.scores)
    np.testing.assert_array_equal(again.pairs.same, found.verification.same)
    same_person = again.pairs.people[0] == again.pairs.people[1]
    np.testing.assert_array_equal(same_person, found.verification.same)


def test_the_same_pairs_are_known_again_whatever_the_order_of_the_embeddings(tmp_path):
    pairs = lfw_pairs(tmp_path / "pairs.txt")
    digests = []
    for given, folds in ((made(0), None), (made(1, order=-1), None), (made(0), [1])):
        write_evaluation(tmp_path / "o.json", evaluate_pairs(given, pairs, folds=folds))
        digests.append(read_evaluation(tmp_path / "o.json").pairs.digest)
    assert digests[0] == digests[1] != digests[2]


def test_searches_come_back_as_they_were(tmp_path):
    probes = [("c", "Ann", [3, 1]), ("d", "Bob", [2, 1]), ("e", "Eve", [1, 1])]
    found = searched(tmp_path, probes)
    write_evaluation(tmp_path / "o.json", found)
    (search,) = read_evaluation(tmp_path / "o.json").searches
    (before,) = found.identification.searches
    for name in ("people", "probe_labels", "mated", "rank", "mate_score", "other_score"):
        np.testing.assert_array_equal(getattr(search, name), getattr(before, name))
    assert (search.gallery_images, search.person_score) == (2, "max")
    assert search.rank.tolist() == [1, 2, 0]


def judged(root, seed):
    """Pairs of a model; models of different seeds have different scores."""
    pairs = lfw_pairs(root / "pairs.txt")
    return evaluate_pairs(made(seed), pairs, settings=Settings(resamples=0))


def searched(root, probes):
    gallery = embeddings(root / "g.npz", [("a", "Ann", [1, 0]), ("b", "Bob", [0, 1])])
    return evaluate_galleries(None, gallery, embeddings(root / "p.npz", probes))


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def scores_of(path):
    return read_evaluation(path).pairs.scores.tolist()


def scores_in(found):
    return found.verification.scores.tolist()


def test_no_two_names_share_their_scores(tmp_path):
    names = ["model-1.0", "model-1.1", "model-1", "model-1.json", "model-1.json.json", ".json"]
    every = {name: judged(tmp_path, seed) for seed, name in enumerate(names)}
    for name, found in every.items():
        write_evaluation(tmp_path / name, found)
    for name, found in every.items():
        assert scores_of(tmp_path / name) == scores_in(found)
    assert (tmp_path / "model-1.scores.npz").exists()


@pytest.mark.parametrize("change", ["of another", "reversed", "no fold", "texts"])
def test_scores_that_are_not_those_of_the_file_are_refused(tmp_path, change):
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


def test_a_name_given_to_both_files_keeps_them_together(tmp_path):
    found = judged(tmp_path, 0)
    write_evaluation(tmp_path / "o.json", found)
    (tmp_path / "away").mkdir()
    shutil.copy(tmp_path / "o.json", tmp_path / "away" / "mine.json")
    shutil.copy(tmp_path / "o.scores.npz", tmp_path / "away" / "o.scores.npz")
    assert scores_of(tmp_path / "away" / "mine.json") == scores_in(found)


@contextmanager
def file_limit(size):
    """No file may grow beyond so many bytes, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_evaluation_that_was_there(tmp_path):
    first, second = judged(tmp_path, 0), judged(tmp_path, 1)
    out = tmp_path / "o.json"
    write_evaluation(out, first)
    before = files_in(tmp_path)
    size = len(before["o.scores.npz"])
    assert size + 100 < len(before["o.json"])
    for limit, name in ((100, r"o\.scores\.npz"), (size + 100, r"o\.json")):
        with file_limit(limit), pytest.raises(OSError, match=f"^cannot write '.*{name}': File too"):
            write_evaluation(out, second)
        assert files_in(tmp_path) == before
    assert scores_of(out) == scores_in(first)


class Killed(BaseException):
    """What nothing catches."""


@pytest.mark.parametrize("after", ["scores", "json"])
def test_a_kill_at_any_point_leaves_one_evaluation_whole(tmp_path, monkeypatch, after):
    first, second = judged(tmp_path, 0), judged(tmp_path, 1)
    out = tmp_path / "o.json"
    write_evaluation(out, first)

    @contextmanager
    def killed(path):
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
        assert sorted(files_in(tmp_path)) == ["o.json", "o.scores.npz", "pairs.txt"]


def test_an_interrupt_after_the_last_file_loses_nothing(tmp_path, monkeypatch):
    @contextmanager
    def interrupted(path):
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


def test_what_json_cannot_hold_is_refused_before_anything_is_touched(tmp_path):
    out = tmp_path / "o.json"
    write_evaluation(out, judged(tmp_path, 0))
    before = files_in(tmp_path)
    with pytest.raises(ValueError, match=r"cannot be written to '.*o\.json': .*nan"):
        write_evaluation(out, replace(judged(tmp_path, 1), model={"threshold": float("nan")}))
    assert files_in(tmp_path) == before


def test_a_folder_where_the_scores_belong_is_named(tmp_path):
    (tmp_path / "o.scores.npz").mkdir()
    with pytest.raises(
        ValueError, match=r"o\.scores\.npz' is not a file; the scores of '.*o\.json'"
    ):
        write_evaluation(tmp_path / "o.json", judged(tmp_path, 0))
    assert not (tmp_path / "o.json").exists()


def test_a_link_to_the_scores_stays_one(tmp_path):
    (tmp_path / "store").mkdir()
    os.symlink(tmp_path / "store" / "big.npz", tmp_path / "o.scores.npz")
    found = judged(tmp_path, 0)
    write_evaluation(tmp_path / "o.json", found)
    assert (tmp_path / "o.scores.npz").is_symlink()
    assert scores_of(tmp_path / "o.json") == scores_in(found)
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["big.npz"]


# A field, named with dots, its new value, or None to leave it out, and what is said.
PAIRS = [
    ("verification.settings", None, "has no verification.settings"),
    ("verification", None, "disagree on whether there is a part verification"),
    ("verification", [], "has no verification.settings"),
    ("verification.settings.convention", 5, "settings.convention must be a text, got 5"),
    ("verification.settings.convention", "x", "one of exact, grid, insightface, got 'x'"),
    ("verification.settings.far", 0.1, "settings.far must be a list, got 0.1"),
    ("verification.settings.far", ["a"], r"settings.far must be rates in .* got \['a'\]"),
    ("verification.settings.far", [float("nan")], "settings.far must be rates"),
    ("verification.settings.resamples", 7, "resamples must be 0 or at least 100, got 7"),
    ("verification.settings.resamples", True, "resamples must be a whole number, got True"),
    ("verification.settings.seed", -1, "settings.seed must be at least 0, got -1"),
    ("verification.settings.seed", 1.5, "settings.seed must be a whole number"),
    ("data", None, "has no data"),
    ("data", "x" * 999, "has no data.name"),
    ("data.name", 3, "data.name must be a text, got 3"),
    ("model", "x", "model must be an object, got 'x'"),
    ("pairs_sha256", None, "has no pairs_sha256"),
    ("scores", None, "has no scores"),
    ("scores_sha256", None, "has no scores_sha256"),
    ("scores_sha256", "/x", "scores_sha256 must be a SHA-256, got '/x'"),
]
SEARCHES = [
    ("identification", None, "disagree on whether there is a part identification"),
    ("identification.cmc", {"a": 1}, "identification.cmc must be shares by rank"),
    ("identification.cmc", {}, "identification.cmc must be shares by rank"),
    ("identification.tpir_at_fpir", {"2": 1}, "must be shares by rates in"),
    ("identification.settings.convention", "grid", "one of exact, insightface, got 'grid'"),
    ("identification.person_score", "sum", "must be one of max, mean, got 'sum'"),
    ("identification.settings.seed", None, "has no identification.settings.seed"),
    ("probes_sha256", None, "has no probes_sha256"),
]


@pytest.mark.parametrize(
    ("field", "value", "message", "searches"),
    [(*one, False) for one in PAIRS] + [(*one, True) for one in SEARCHES],
)
def test_an_edited_field_is_one_line_with_the_file(tmp_path, field, value, message, searches):
    out = tmp_path / "o.json"
    probes = [("c", "Ann", [3, 1])]
    write_evaluation(out, searched(tmp_path, probes) if searches else judged(tmp_path, 0))
    content = json.loads(out.read_text(encoding="utf-8"))
    *names, last = field.split(".")
    part = functools.reduce(dict.__getitem__, names, content)
    if value is None:
        del part[last]
    else:
        part[last] = value
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
def test_scores_that_are_none_are_refused_with_their_file(tmp_path, name, value, message):
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
