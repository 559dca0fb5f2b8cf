"""An evaluation written and read again."""

from pathlib import Path

import numpy as np
import pytest

from centerarc.data import atomic_path
from centerarc.evaluation.embedding_file import Embeddings
from centerarc.evaluation.protocols import (
    EmbeddingsSubject,
    evaluate_galleries,
    evaluate_pairs,
    read_evaluation,
    write_evaluation,
)
from tests.evaluation.protocols.faces import COLOURS, embeddings, lfw_pairs


def subject(seed: int, order: int = 1) -> EmbeddingsSubject:
    rng = np.random.default_rng(seed)
    rows = [
        (f"{name}/{name}_{number:04d}.jpg", name, rng.normal(size=4))
        for name in COLOURS
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


def test_a_failed_write_leaves_no_result_that_lacks_its_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from centerarc.evaluation.protocols import result_files

    found = evaluate_pairs(subject(0), lfw_pairs(tmp_path / "pairs.txt"))
    write_evaluation(tmp_path / "o.json", found)

    def full(path: Path) -> object:
        if Path(path).suffix == ".npz":
            raise OSError("no space left")
        return atomic_path(path)

    monkeypatch.setattr(result_files, "atomic_path", full)
    with pytest.raises(OSError, match="no space left"):
        write_evaluation(tmp_path / "o.json", found)
    assert not (tmp_path / "o.json").exists()
