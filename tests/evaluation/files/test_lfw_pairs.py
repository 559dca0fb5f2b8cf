"""Pairs files, the images they name, and pairs that are drawn."""

import io

import numpy as np
import pytest
from PIL import Image

from centerarc.evaluation.embedding import make_pairs
from centerarc.evaluation.files import PairImages, read_pairs

TWO_FOLDS = (
    "2\t1\n"
    "Ann_Lee\t1\t2\n"
    "Ann_Lee\t1\tBo\t3\n"
    "Cy\t2\t10\n"
    "Cy\t2\tDee Dee\t1\n"
)  # fmt: skip


def write(tmp_path, text):
    path = tmp_path / "pairs.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_lfw_format(tmp_path):
    pairs = read_pairs(write(tmp_path, TWO_FOLDS + "\n\n"))
    assert pairs.people[0].tolist() == ["Ann_Lee", "Ann_Lee", "Cy", "Cy"]
    assert pairs.people[1].tolist() == ["Ann_Lee", "Bo", "Cy", "Dee Dee"]
    first, second = "Ann_Lee/Ann_Lee_0001", "Cy/Cy_0002"
    assert [pairs.names[i] for i in pairs.index_a] == [first, first, second, second]
    others = ["Ann_Lee/Ann_Lee_0002", "Bo/Bo_0003", "Cy/Cy_0010", "Dee Dee/Dee Dee_0001"]
    assert [pairs.names[i] for i in pairs.index_b] == others
    assert pairs.same.tolist() == [True, False, True, False]
    assert pairs.fold.tolist() == [1, 1, 2, 2]
    assert pairs.line.tolist() == [2, 3, 4, 5]
    assert pairs.select_folds([2]).everyone() == {"Cy", "Dee Dee"}
    assert pairs.everyone() == {"Ann_Lee", "Bo", "Cy", "Dee Dee"}


def test_a_file_of_one_fold_and_blanks_between(tmp_path):
    pairs = read_pairs(write(tmp_path, "1\nAnn 1 2\nAnn 1 Bo 3"))
    assert pairs.fold.tolist() == [1, 1]
    assert len(pairs) == 2


def test_selected_folds_keep_their_numbers_and_lines(tmp_path):
    pairs = read_pairs(write(tmp_path, TWO_FOLDS)).select_folds([2])
    assert pairs.fold.tolist() == [2, 2]
    assert pairs.line.tolist() == [4, 5]
    # First images are numbered before second ones.
    assert pairs.names == ["Cy/Cy_0002", "Cy/Cy_0010", "Dee Dee/Dee Dee_0001"]
    with pytest.raises(ValueError, match=r"some of \[2\], got \[7\]"):
        pairs.select_folds([2, 7])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected the number of folds"),
        ("ten 300\n", "line 1: expected"),
        ("0 5\n", "line 1: both numbers must be at least 1"),
        ("1 1\nAnn 1 2\n", "need 3 lines, the file has 2"),
        ("1 1\nAnn 1 Bo 2\nAnn 1 Bo 2\n", "line 2: expected a genuine pair"),
        ("1 1\nAnn 1 2\nAnn 1 2\n", "line 3: expected an impostor pair"),
        ("1 1\nAnn 1 x\nAnn 1 Bo 2\n", "line 2: image numbers .* got 'x'"),
        ("1 1\nAnn 1 0\nAnn 1 Bo 2\n", "line 2: image numbers .* got '0'"),
        ("1 1\nAnn 1 2\nAnn 1 Ann 2\n", "line 3: an impostor pair of 'Ann' with itself"),
        (f"1 1\nAnn 1 {'9' * 23}\nAnn 1 Bo 2\n", "line 2: image numbers .* got '9{23}'"),
        (f"1 1\nAnn 1 {2**63}\nAnn 1 Bo 2\n", "line 2: image numbers"),
        (f"1 1\nAnn 1 {'9' * 5000}\nAnn 1 Bo 2\n", "line 2: image numbers"),
        (f"{'9' * 5000} 1\nAnn 1 2\nAnn 1 Bo 2\n", "line 1: expected the number of folds"),
        ("1 1\nAnn 2 2\nAnn 1 Bo 2\n", "line 2: image 2 of 'Ann' paired with itself"),
        ("2\nAnn 1 2\nAnn 2 1\nAnn 1 Bo 2\nAnn 2 Bo 2\n", "line 3: the pair of line 2 once more"),
        (
            "2 1\nAnn 1 2\nAnn 1 Bo 2\nCy 1 2\nBo 2 Ann 1\n",
            "line 5: the pair of line 3 once more",
        ),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=f"pairs.txt.*{message}"):
        read_pairs(write(tmp_path, text))


def test_a_file_that_is_not_utf8_is_named_with_its_line(tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_bytes("1 1\nAnn 1 2\nAnn 1 Jos\u00e9 2\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"pairs\.txt, line 3: the file must be UTF-8.* 0xe9"):
        read_pairs(path)


def picture(root, name, number, suffix="png", value=0):
    (root / name).mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(buffer, "PNG")
    (root / name / f"{name}_{number:04d}.{suffix}").write_bytes(buffer.getvalue())


def test_every_image_is_listed_once(tmp_path):
    pairs = read_pairs(write(tmp_path, TWO_FOLDS))
    root = tmp_path / "faces"
    wanted = [("Ann_Lee", 1), ("Ann_Lee", 2), ("Bo", 3), ("Cy", 2), ("Cy", 10), ("Dee Dee", 1)]
    for value, (name, number) in enumerate(wanted):
        picture(root, name, number, value=value)
    picture(root, "Ann_Lee", 9)  # not in any pair
    source = PairImages(pairs, root)
    assert len(source) == len(wanted)
    for side, (index, listed) in enumerate(
        ((source.index_a, pairs.index_a), (source.index_b, pairs.index_b))
    ):
        names = [source.identities[source.labels[i]] for i in index]
        assert names == pairs.people[side].tolist()
        values = [int(source.image(int(i))[0, 0, 0]) for i in index]
        found = [f"{wanted[v][0]}/{wanted[v][0]}_{wanted[v][1]:04d}" for v in values]
        assert found == [pairs.names[i] for i in listed]


def test_missing_images_are_counted_and_found_in_the_pairs_file(tmp_path):
    pairs = read_pairs(write(tmp_path, TWO_FOLDS))
    root = tmp_path / "faces"
    for name, number in (("Ann_Lee", 1), ("Ann_Lee", 2), ("Cy", 2), ("Cy", 10), ("Dee Dee", 1)):
        picture(root, name, number)
    with pytest.raises(ValueError, match=r"pairs\.txt: 1 of 6 names .*'Bo/Bo_0003' \(line 3\)$"):
        PairImages(pairs, root)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"pairs\.txt: 6 of 6 names .*\(line 2\).* and 3 more$"):
        PairImages(pairs, empty)
    with pytest.raises(ValueError, match="images must be a folder"):
        PairImages(pairs, tmp_path / "nowhere")


def test_a_damaged_image_is_named(tmp_path):
    pairs = read_pairs(write(tmp_path, "1\nAnn 1 2\nAnn 1 Bo 1"))
    for name, number in (("Ann", 1), ("Ann", 2), ("Bo", 1)):
        picture(tmp_path, name, number)
    (tmp_path / "Bo" / "Bo_0001.png").write_bytes(b"no picture")
    source = PairImages(pairs, tmp_path)
    with pytest.raises(ValueError, match=r"Bo_0001\.png"):
        source.image(int(source.index_b[1]))


@pytest.mark.parametrize(("num_people", "images"), [(30, 6), (12, 40)])
def test_drawn_pairs_are_balanced_distinct_and_disjoint_between_folds(num_people, images):
    labels = np.repeat(np.arange(num_people), images)
    pairs = make_pairs(labels, 120, seed=1, folds=3)
    assert len(pairs) == 120
    a, b = labels[pairs.index_a], labels[pairs.index_b]
    np.testing.assert_array_equal(a == b, pairs.same)
    assert (pairs.index_a != pairs.index_b).all()
    folds = [set(a[pairs.fold == f]) | set(b[pairs.fold == f]) for f in (1, 2, 3)]
    assert sum(map(len, folds)) == len(set().union(*folds))
    assert [int(pairs.same[pairs.fold == f].sum()) for f in (1, 2, 3)] == [20, 20, 20]
    as_sets = {
        frozenset(p) for p in zip(pairs.index_a.tolist(), pairs.index_b.tolist(), strict=True)
    }
    assert len(as_sets) == 120


def test_drawing_repeats_with_its_seed_only():
    labels = np.repeat(np.arange(20), 5)
    first, again, other = (make_pairs(labels, 80, seed=s, folds=2) for s in (0, 0, 1))
    np.testing.assert_array_equal(first.index_a, again.index_a)
    assert not np.array_equal(first.index_a, other.index_a)


def test_too_few_pairs_stay_balanced():
    pairs = make_pairs(np.repeat(np.arange(4), 2), 100, folds=2)
    assert pairs.same.sum() == 4  # one for each person
    assert (~pairs.same).sum() == 4


@pytest.mark.parametrize(
    ("labels", "num_pairs", "folds", "message"),
    [
        ([0, 0, 1, 1], 3, 1, "multiple of 2"),
        ([0, 0, 1, 1], 4, 0, "folds must be at least 1"),
        ([0, 1, 2], 2, 1, "3 people, 0 of them"),
        ([0, 0, 1, 1], 4, 2, "2 people"),
        ([0.5, 1.5], 2, 1, "labels must be integers"),
    ],
)
def test_impossible_drawings_are_refused(labels, num_pairs, folds, message):
    with pytest.raises(ValueError, match=message):
        make_pairs(labels, num_pairs, folds=folds)


def test_a_missing_file_is_named_as_everywhere(tmp_path):
    with pytest.raises(OSError, match=r"^cannot read '.*gone\.txt': No such file or directory$"):
        read_pairs(tmp_path / "gone.txt")
