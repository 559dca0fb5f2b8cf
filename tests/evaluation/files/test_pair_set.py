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
    report = evaluate_verification(expected, sets["csv"].same, sets["csv"].fold, sets["csv"].people)
    assert report.num_people == (4 if folds is None else 3)


def test_what_images_may_be_is_said(formats):
    with pytest.raises(ValueError, match=r"images must name the folder of the images of .*txt"):
        open_pair_set(formats["txt"][0])
    with pytest.raises(ValueError, match=r"set\.bin' holds its own images: leave it out"):
        open_pair_set(formats["bin"][0], images=formats["txt"][1])
    for name in ("set", "set.bin.1", "set.txt"):
        formats["bin"][0].rename(formats["bin"][0].with_name(name))
        with pytest.raises(ValueError, match=rf"{name}' holds its own images: leave it out"):
            open_pair_set(formats["bin"][0].with_name(name), images=formats["txt"][1])
        assert len(open_pair_set(formats["bin"][0].with_name(name))) > 0
        formats["bin"][0].with_name(name).rename(formats["bin"][0])
    # A CSV list finds its images from its own folder.
    with pytest.raises(ValueError, match=r"pairs\.csv: 12 of 12 names are not images in"):
        open_pair_set(formats["csv"][0])
    for path, images in formats.values():
        with pytest.raises(ValueError, match=r"folds must name some of .*got \[11\]"):
            open_pair_set(path, images=images, folds=[11])


@pytest.mark.parametrize("kind", ["txt", "csv"])
def test_pairs_whose_picture_is_gone_are_left_out_if_asked(formats, kind):
    path, images = formats[kind]
    whole = open_pair_set(path, images=images, missing="skip")
    assert (len(whole.same), whole.notes) == (20, [])
    gone = whole.place(0)
    (images / gone).unlink()
    with pytest.raises(ValueError, match="1 of 12 names are not images in"):
        open_pair_set(path, images=images)
    found = open_pair_set(path, images=images, missing="skip")
    places = [whole.place(i) for i in range(len(whole))]
    kept = [i for i, (a, b) in enumerate(zip(whole.index_a, whole.index_b, strict=True)) if a and b]
    assert 0 < len(kept) < 20
    for side in ("index_a", "index_b"):
        names = [places[i] for i in getattr(whole, side)[kept]]
        assert [found.place(i) for i in getattr(found, side)] == names
    assert found.same.tolist() == whole.same[kept].tolist()
    assert found.fold.tolist() == whole.fold[kept].tolist()
    assert len(found.notes) == 1
    assert found.notes[0].startswith(f"left out {20 - len(kept)} of 20 pairs; ")
    assert "1 of 12 names are not images in" in found.notes[0]
    for file in images.rglob("*.png"):
        file.unlink()
    with pytest.raises(ValueError, match="12 of 12 names are not images"):
        open_pair_set(path, images=images, missing="skip")


def test_missing_images_are_for_lists_alone(formats):
    with pytest.raises(ValueError, match=r"missing is for lists of images, but .* holds its own"):
        open_pair_set(formats["bin"][0], missing="skip")


@pytest.mark.parametrize("kind", ["txt", "csv"])
@pytest.mark.parametrize("behind", ["_0.png", "-0.png", ".jpg", "_0.JPG"])
def test_images_named_by_an_aligner_are_found_with_a_note(formats, kind, behind):
    path, images = formats[kind]
    before = open_pair_set(path, images=images)
    names = [before.place(i) for i in range(len(before))]
    expected = scored(before)
    for name in names:
        (images / name).rename(images / name.replace(".png", behind))
    found = open_pair_set(path, images=images)
    assert [found.place(i) for i in range(len(found))] == [
        name.replace(".png", behind) for name in names
    ]
    np.testing.assert_allclose(scored(found), expected, atol=1e-12)
    if kind == "csv" or behind.startswith(("_", "-")):  # pairs.txt has no endings
        assert found.notes[0].startswith("12 of 12 images have another name than the list says")
    # Of two faces no one knows which is meant.
    first = images / found.place(0)
    stem = names[0].removesuffix(".png")
    for number in (1, 2):
        (images / f"{stem}_{number}.png").write_bytes(first.read_bytes())
    first.unlink()
    with pytest.raises(ValueError, match=r"1 of 12 .*; there is '.*_1\.png', as an aligner names"):
        open_pair_set(path, images=images)


def test_a_name_in_another_case_is_told_with_the_one_that_is_there(tmp_path) -> None:
    for person in ("Ann", "Bob_Ray"):
        (tmp_path / person).mkdir()
        for number in (1, 2):
            PIL.Image.new("RGB", (8, 8)).save(tmp_path / person / f"{person}_000{number}.jpg")
    listed = tmp_path / "pairs.csv"
    rows = "Ann/Ann_0001.jpg,Ann/Ann_0002.jpg,1\nAnn/Ann_0001.jpg,BOB_RAY/BOB_RAY_0001.jpg,0\n"
    listed.write_text("image_a,image_b,same\n" + rows)
    with pytest.raises(ValueError, match=r"BOB_RAY.*'Bob_Ray' is there, which differs in case"):
        open_pair_set(listed)
