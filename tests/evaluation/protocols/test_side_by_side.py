"""Evaluations side by side: what any of them asked for is compared, and no file twice."""

import json
import os
from pathlib import Path

import pytest

from centerarc.evaluation.protocols import (
    SearchSettings,
    Settings,
    compare_files,
    evaluate_galleries,
    evaluate_pairs,
    write_evaluation,
)
from centerarc.report.numbers import compared_rows
from tests.evaluation.protocols.faces import embeddings, lfw_pairs
from tests.evaluation.protocols.test_result_files import made


def pairs_of(root, seed, settings, name=""):
    out = root / (name or f"{seed}.json")
    pairs = lfw_pairs(root / "pairs.txt")
    write_evaluation(out, evaluate_pairs(made(seed), pairs, settings=settings))
    return out


def test_differences_are_given_at_the_rates_that_any_of_them_asked_for(tmp_path):
    near = (0.3333333, 0.33333334)
    first = pairs_of(tmp_path, 0, Settings(fars=(0.25,), resamples=100))
    second = pairs_of(tmp_path, 1, Settings(fars=near, resamples=200))
    found = compare_files([first, second])
    tars = found.differences["1"].tar_at_far
    for far in (0.25, *near):
        rates = [one.report.tar_at_far[far].value for one in found.verified]
        assert None not in rates
        assert tars[far].value == pytest.approx(rates[1] - rates[0])
        assert tars[far].interval is not None
    # Each has a row of its own.
    assert len(compared_rows(found)) == 3 + len(tars)
    written = found.to_dict()["minus_first"]["1"]["verification"]["tar_at_far"]
    assert {"0.25", "0.3333333", "0.33333334"} <= set(written)


def test_searches_are_compared_at_what_any_of_them_asked_for(tmp_path):
    files = []
    for name, ranks, fpir in (("a", (1,), 0.5), ("b", (2, 1), 0.3333333)):
        gallery = embeddings(tmp_path / "g.npz", [("a", "Ann", [1, 0]), ("b", "Bob", [0, 1])])
        strangers = [(str(k), f"s{k}", [1, k]) for k in range(4)]
        probes = embeddings(tmp_path / "p.npz", [("c", "Ann", [3, 1]), *strangers])
        settings = SearchSettings(ranks, (fpir,), resamples=100)
        files.append(tmp_path / f"{name}.json")
        write_evaluation(files[-1], evaluate_galleries(None, gallery, probes, settings=settings))
    found = compare_files(files)
    assert list(found.identified[0].report.cmc) == [1, 2]
    assert list(found.search_differences["b"].tpir_at_fpir) == [0.5, 0.3333333]


@pytest.mark.parametrize("way", ["spelling", "link", "hard link"])
def test_a_file_cannot_be_compared_with_itself(tmp_path, monkeypatch, way):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    first = pairs_of(tmp_path, 0, Settings(resamples=0))
    other = tmp_path / "other.json"
    if way == "spelling":
        other = Path("./a/../0.json")
    elif way == "link":
        os.symlink(first, other)
    else:
        os.link(first, other)
    with pytest.raises(ValueError, match=r"0\.json' and '.*\.json' are the same file$"):
        compare_files([first, other])
    with pytest.raises(ValueError, match="is named twice"):
        compare_files([first, first])


def test_models_are_called_by_their_whole_names(tmp_path):
    names = ["model-1.0", "model-1.1"]
    settings = Settings(resamples=0)
    found = compare_files([pairs_of(tmp_path, k, settings, name) for k, name in enumerate(names)])
    assert found.names == names
    assert found.verified[0].report.auc.value != found.verified[1].report.auc.value


def test_a_mirror_image_for_some_models_only_is_said(tmp_path):
    files = [pairs_of(tmp_path, seed, Settings(resamples=0)) for seed in (0, 1)]
    assert not any("mirror" in note for note in compare_files(files).notes)
    content = json.loads(files[1].read_text())
    content["model"]["mirror"] = True
    files[1].write_text(json.dumps(content))
    assert "With mirror: 1; without: 0." in compare_files(files).notes
