"""Pairs of every format are scored by the same few lines, and give the same numbers."""

import pickle

import numpy as np
import PIL.Image
import pytest

from centerarc.data import EncodedSource
from centerarc.evaluation import evaluate_verification, pair_scores
from centerarc.evaluation.files import open_pair_set

PEOPLE = ("Ann", "Bob", "Cyd", "Dan")


@pytest.fixture
def formats(tmp_path):
    """One set of pairs as pairs.txt, CSV and .bin, over the same pictures."""
    rng = np.random.default_rng(0)
    root = tmp_path / "faces"
    for person in PEOPLE:
        for number in (1, 2, 3):
            path = root / person / f"{person}_{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(path)
    text, rows, images, same = ["10\t1"], ["image_a,image_b,same,fold"], [], []
    for fold in range(10):
        a, b = PEOPLE[fold % 4], PEOPLE[(fold + 1 + fold // 4) % 4]
        first, second = ((1, 2), (1, 3), (2, 3))[fold // 4]
        for other, answer in ((a, 1), (b, 0)):
            pair = [f"{a}/{a}_{first:04d}.png", f"{other}/{other}_{second:04d}.png"]
            text.append(f"{a}\t{first}\t{second}" if answer else f"{a}\t{first}\t{b}\t{second}")
            rows.append(f"{pair[0]},{pair[1]},{answer},{fold + 1}")
            images += [(root / name).read_bytes() for name in pair]
            same.append(bool(answer))
    (tmp_path / "pairs.txt").write_text("\n".join(text))
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    (tmp_path / "set.bin").write_bytes(pickle.dumps((images, same)))
    return {
        "txt": (tmp_path / "pairs.txt", root),
        "csv": (tmp_path / "pairs.csv", root),
        "bin": (tmp_path / "set.bin", None),
    }


def scored(source):
    pixels = np.stack([source.image(i).ravel() for i in range(len(source))]) - 127.0
    return pair_scores(pixels, source.index_a, source.index_b)


@pytest.mark.parametrize("folds", [None, [2, 7]])
def test_all_formats_give_the_same_scores(formats, folds):
    sets = {
        kind: open_pair_set(path, images=images, folds=folds)
        for kind, (path, images) in formats.items()
    }
    expected = scored(sets["txt"])
    assert np.unique(expected).size == expected.size == (20 if folds is None else 4)
    for kind, source in sets.items():
        np.testing.assert_allclose(scored(source), expected, atol=1e-12)
        assert source.same.tolist() == sets["txt"].same.tolist()
        assert source.fold.tolist() == sets["txt"].fold.tolist()
        assert len(source) == len(sets["txt"])
        assert source.labels.shape == (len(source),)
        assert len({source.place(i) for i in range(len(source))}) == len(source)
        genuine = source.same
        linked = source.labels[source.index_a[genuine]] == source.labels[source.index_b[genuine]]
        assert linked.all()
        assert source.columns == {}
        assert kind == "txt" or isinstance(source, EncodedSource)
    for side in (0, 1):
        assert sets["csv"].people[side].tolist() == sets["txt"].people[side].tolist()
    assert sets["bin"].people is None
    report = evaluate_verification(
        expected, sets["csv"].same, sets["csv"].fold, sets["csv"].people, bootstrap=100
    )
    assert report.num_people == (4 if folds is None else 3)


def test_what_images_may_be_is_said(formats):
    with pytest.raises(ValueError, match=r"images must name the folder of the images of .*txt"):
        open_pair_set(formats["txt"][0])
    with pytest.raises(ValueError, match=r"set\.bin' holds its own images: leave it out"):
        open_pair_set(formats["bin"][0], images=formats["txt"][1])
    # A CSV list finds its images from its own folder.
    with pytest.raises(ValueError, match=r"pairs\.csv: 12 of 12 names are not images in"):
        open_pair_set(formats["csv"][0])
    for path, images in formats.values():
        with pytest.raises(ValueError, match=r"folds must name some of .*got \[11\]"):
            open_pair_set(path, images=images, folds=[11])
