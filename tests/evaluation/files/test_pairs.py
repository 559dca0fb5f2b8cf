"""Pairs of LFW's format and of lists: what they say is kept, and mistakes are found by line."""

import csv
import gzip
import pickle

import numpy as np
import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from centerarc.evaluation import PairImages, make_pairs, read_pairs
from centerarc.evaluation.files import ListedImages, read_pair_list, read_template_list
from centerarc.evaluation.files.pair_set import read_named_pairs
from centerarc.evaluation.files.pairs import check_both_kinds

TWO_FOLDS = (
    "2\t1\n"
    "Ann_Lee\t1\t2\n"
    "Ann_Lee\t1\tBo\t3\n"
    "Cy\t2\t10\n"
    "Cy\t2\tDee Dee\t1\n"
)  # fmt: skip


def put(tmp_path, text, name="pairs.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def pictures(root, names):
    for value, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (4, 4), (value, value, value)).save(path)


# LFW's format.


def lfw(tmp_path, text):
    return read_pairs(put(tmp_path, text, "pairs.txt"))


def test_the_lfw_format(tmp_path):
    pairs = lfw(tmp_path, TWO_FOLDS + "\n\n")
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
    pairs = lfw(tmp_path, "1\nAnn 1 2\nAnn 1 Bo 3")
    assert pairs.fold.tolist() == [1, 1]
    assert len(pairs) == 2


def test_selected_folds_keep_their_numbers_and_lines(tmp_path):
    pairs = lfw(tmp_path, TWO_FOLDS).select_folds([2])
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
        ("2\nAnn 1 2\nAnn 2 1\nAnn 1 Bo 2\nAnn 2 Bo 2\n", "line 3: the pair of line 2 again"),
        (
            "2 1\nAnn 1 2\nAnn 1 Bo 2\nCy 1 2\nBo 2 Ann 1\n",
            "line 5: the pair of line 3 again",
        ),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=f"pairs.txt.*{message}"):
        lfw(tmp_path, text)


def test_a_file_that_is_not_utf8_is_named_with_its_line(tmp_path):
    text = "1 1\nAnn 1 2\nAnn 1 Jos\u00e9 2\n".encode("latin-1")
    with pytest.raises(ValueError, match=r"pairs\.txt, line 3: the file must be UTF-8.* 0xe9"):
        lfw(tmp_path, text)


LFW_NAMES = [f"Ann_Lee/Ann_Lee_000{n}" for n in (1, 2)] + [
    "Bo/Bo_0003",
    "Cy/Cy_0002",
    "Cy/Cy_0010",
    "Dee Dee/Dee Dee_0001",
]


def test_every_image_is_listed_once(tmp_path):
    pairs = lfw(tmp_path, TWO_FOLDS)
    # The last one is not in any pair.
    pictures(tmp_path, [f"{name}.png" for name in (*LFW_NAMES, "Ann_Lee/Ann_Lee_0009")])
    source = PairImages(pairs, tmp_path)
    assert len(source) == len(LFW_NAMES)
    both = (source.index_a, pairs.index_a), (source.index_b, pairs.index_b)
    for people, (index, listed) in zip(pairs.people, both, strict=True):
        assert [source.identities[source.labels[i]] for i in index] == people.tolist()
        found = [LFW_NAMES[source.image(int(i))[0, 0, 0]] for i in index]
        assert found == [pairs.names[i] for i in listed]


def test_missing_images_are_counted_and_found_in_the_pairs_file(tmp_path):
    pairs = lfw(tmp_path, TWO_FOLDS)
    root = tmp_path / "faces"
    pictures(root, [f"{name}.png" for name in LFW_NAMES if name != "Bo/Bo_0003"])
    with pytest.raises(ValueError, match=r"pairs\.txt: 1 of 6 names .*'Bo/Bo_0003' \(line 3\)$"):
        PairImages(pairs, root)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"pairs\.txt: 6 of 6 names .*\(line 2\).* and 3 more$"):
        PairImages(pairs, empty)
    with pytest.raises(ValueError, match="images must be a folder"):
        PairImages(pairs, tmp_path / "nowhere")


def test_a_damaged_image_is_named(tmp_path):
    pairs = lfw(tmp_path, "1\nAnn 1 2\nAnn 1 Bo 1")
    pictures(tmp_path, ["Ann/Ann_0001.png", "Ann/Ann_0002.png", "Bo/Bo_0001.png"])
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


@pytest.mark.parametrize("read", [read_pairs, read_pair_list, read_template_list])
def test_a_missing_file_is_named(tmp_path, read):
    with pytest.raises(OSError, match=r"^cannot read '.*gone': No such file or directory$"):
        read(tmp_path / "gone")


# CSV lists of pairs.

PAIRS = """image_a,image_b,same,fold,age,pose
ann/1.png,ann/2.png,1,1,young,front
ann/1.png,bob/1.png,FALSE,1,old,side
cyd/1.png,cyd/9.png,true,2,old,front
bob/1.png,cyd/9.png,0,2,young,front
"""


def test_all_columns_of_a_list(tmp_path):
    pairs = read_pair_list(put(tmp_path, PAIRS))
    assert pairs.names == ["ann/1.png", "ann/2.png", "bob/1.png", "cyd/1.png", "cyd/9.png"]
    assert pairs.index_a.tolist() == [0, 0, 3, 2]
    assert pairs.index_b.tolist() == [1, 2, 4, 4]
    assert pairs.same.tolist() == [True, False, True, False]
    assert pairs.fold.tolist() == [1, 1, 2, 2]
    assert pairs.line.tolist() == [2, 3, 4, 5]
    assert {name: column.tolist() for name, column in pairs.columns.items()} == {
        "age": ["young", "old", "old", "young"],
        "pose": ["front", "side", "front", "front"],
    }
    assert [side.tolist() for side in pairs.people] == [
        ["ann", "ann", "cyd", "bob"],
        ["ann", "bob", "cyd", "cyd"],
    ]
    assert "folders" in pairs.people_note


def test_people_by_name_and_no_people(tmp_path):
    text = "image_a;image_b;person_a;same;person_b\n1.png;2.png;Ann;1;Ann\n3.png;1.png;Bob;0;Ann\n"
    pairs = read_pair_list(put(tmp_path, text))
    assert [side.tolist() for side in pairs.people] == [["Ann", "Bob"], ["Ann", "Ann"]]
    assert pairs.columns == {}
    assert pairs.fold.tolist() == [1, 1]
    flat = read_pair_list(put(tmp_path, "same,image_a,image_b\n1,1.png,2.png\n"))
    assert flat.people is None
    assert "without a folder" in flat.people_note
    # Folders that are not people must not become people.
    mixed = read_pair_list(put(tmp_path, "same,image_a,image_b\n1,x/1.png,y/2.png\n"))
    assert mixed.people is None
    assert "do not part the people" in mixed.people_note


def test_chosen_folds_keep_only_what_they_use(tmp_path):
    pairs = read_pair_list(put(tmp_path, PAIRS)).select_folds([2])
    assert pairs.names == ["cyd/1.png", "cyd/9.png", "bob/1.png"]
    assert [pairs.names[i] for i in pairs.index_a] == ["cyd/1.png", "bob/1.png"]
    assert [pairs.names[i] for i in pairs.index_b] == ["cyd/9.png", "cyd/9.png"]
    assert pairs.line.tolist() == [4, 5]
    assert pairs.columns["age"].tolist() == ["old", "young"]
    assert pairs.people[0].tolist() == ["cyd", "bob"]
    with pytest.raises(ValueError, match=r"pairs\.csv: folds must name some of \[2\], got \[1\]"):
        pairs.select_folds([1])


def test_pairs_of_embeddings_that_are_there(tmp_path):
    pairs = read_pair_list(put(tmp_path, PAIRS))
    a, b = pairs.among(["cyd/9.png", "cyd/1.png", "bob/1.png", "else", "ann/2.png", "ann/1.png"])
    assert (a.tolist(), b.tolist()) == ([5, 5, 1, 2], [4, 2, 0, 0])
    message = r"csv: 2 of 5 names are unknown: 'bob/1\.png' \(line 3\), 'cyd/9\.png' \(line 4\)$"
    with pytest.raises(ValueError, match=message):
        pairs.among(["ann/1.png", "ann/2.png", "cyd/1.png"])


def test_pairs_of_templates(tmp_path):
    text = "template_a,template_b,same,image_a\n7,9,1,x\n9,8,0,y\n"
    pairs = read_pair_list(put(tmp_path, text), of="template")
    assert pairs.names == ["7", "9", "8"]
    assert pairs.columns["image_a"].tolist() == ["x", "y"]
    with pytest.raises(ValueError, match="of must be image or template"):
        read_pair_list(put(tmp_path, text), of="templates")


HEAD = "image_a,image_b,same,fold,person_a,person_b\n"
ROW = "a.png,b.png,1,1,Ann,Ann\n"
BROKEN = [
    ("", r"line 1: there are no columns 'image_a', 'image_b' and 'same'; there are none$"),
    (
        "Image_A,path2,label,same\n",
        "line 1: there are no columns 'image_a' and 'image_b'; there are 'Image_A', 'path2', "
        "'label', 'same'; the closest to 'image_a' is 'Image_A'",
    ),
    ("image_1,image_b,same\n", "line 1: there is no column 'image_a'; .* closest is 'image_b'"),
    ("image_a,image_b,smae\n", "line 1: there is no column 'same'; .* closest is 'smae'"),
    ("image_a,image_b,same,person_a\n", "line 1: there is no column 'person_b'"),
    ("image_a,image_b,same,same\n", "line 1: there are 2 columns 'same'"),
    (HEAD, "there is no pair"),
    (HEAD + ROW + "c.png,d.png,1,1,Ann\n", "line 3: 5 fields and 6 columns"),
    (HEAD + ROW + "c.png,,1,1,Ann,Ann\n", "line 3: image_b is empty"),
    (HEAD + ROW + "c.png,d.png,maybe,1,Ann,Ann\n", "line 3: same must be 0, 1, .* got 'maybe'"),
    (HEAD + ROW + "c.png,d.png,1,x,Ann,Ann\n", "line 3: fold must be a whole number, got 'x'"),
    (HEAD + ROW + f"c.png,d.png,1,{'9' * 5000},A,A\n", "line 3: fold must be a whole number"),
    (HEAD + ROW + "c.png,d.png,1,1,,Ann\n", "line 3: person_a is empty"),
    (HEAD + ROW + "c.png,c.png,1,1,Ann,Ann\n", "line 3: 'c.png' is paired with itself"),
    (HEAD + ROW + ROW, "line 3: the pair of line 2 again"),
    (HEAD + ROW + "b.png,a.png,1,2,Ann,Ann\n", "line 3: the pair of line 2 again"),
    (HEAD + ROW + "c.png,d.png,1,1,Ann,Bob\n", "line 3: same is 1, but the people are 'Ann' and"),
    (HEAD + ROW + "c.png,d.png,0,1,Ann,Ann\n", "line 3: same is 0, but the people are 'Ann' and"),
    (HEAD + ROW + "a.png,d.png,1,1,Bob,Bob\n", "line 3: the person is 'Bob', but 'Ann' on line 2"),
    (HEAD + '"a\nb",b.png,1,1,A,A\n' + "c,d,5,1,A,A\n", "line 4: same must be"),
    (HEAD + ROW + 'c.png,"d.png,1,1,Ann,Ann\n', "line 3: this is not CSV"),
    ((HEAD + ROW).encode("utf-16"), "the file is UTF-16"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_a_broken_list_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=f"pairs.csv(, |: ){message}"):
        read_pair_list(put(tmp_path, text))


FLAT = "Ann_Lee_0001.jpg", "Ann_Lee_0002.jpg", "Bo_0001.jpg"
FORMS = [
    ("pairs.txt", "{0} {1} 1\n{0} {2} 0\n"),
    ("pairs.txt", "{0}\t{1}\tTrue\n{0}\t{2}\tFalse\n"),
    ("pairs.csv", "{0},{1},1\n\n{0},{2},-1\n"),
    ("pairs.lst", "1 {0} {1}\n0 {0} {2}\n"),
    ("pairs_CPLFW.txt", "{0} 1\n{1} 1\n{0} 0\n{2} 0\n"),
    ("pairs_CALFW.txt", "{0} 7\n{1} 7\n{0} 0\n{2} 0\n"),
    ("pairs.csv", "img1,img2,is_same\n{0},{1},1\n{0},{2},0\n"),
    ("pairs.tsv", "Image_1\tImage_2\tLabel\n{0}\t{1}\t1\n{0}\t{2}\t0\n"),
    ("pairs.csv", "id,path_0,path_1,issame\n5,{0},{1},yes\n6,{0},{2},no\n"),
    ("pairs.csv", "img1,img2,label\n{0},{1},1.0\n{0},{2},0.0\n"),
    ("pairs.txt", "file_a\tfile_b\tsame\n{0}\t{1}\t1\n{0}\t{2}\t0\n"),
]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("name", "text"), FORMS)
def test_lists_that_others_write(tmp_path, name, text, compressed):
    path = tmp_path / (f"{name}.gz" if compressed else name)
    data = text.format(*FLAT).encode()
    path.write_bytes(gzip.compress(data) if compressed else data)
    pairs = read_named_pairs(path)
    assert pairs.names == list(FLAT)
    assert (pairs.index_a.tolist(), pairs.index_b.tolist()) == ([0, 0], [1, 2])
    assert pairs.same.tolist() == [True, False]
    assert [side.tolist() for side in pairs.people] == [["Ann_Lee"] * 2, ["Ann_Lee", "Bo"]]
    assert not pairs.lfw


@pytest.mark.parametrize("answers", [[1, 0], [True, False], ["1", "0"]])
def test_a_list_in_a_parquet_file(tmp_path, answers):
    columns = {"img1": [FLAT[0]] * 2, "img2": FLAT[1:], "is_same": answers, "age": [3, 4]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "pairs.parquet")
    pairs = read_named_pairs(tmp_path / "pairs.parquet")
    assert pairs.same.tolist() == [True, False]
    assert pairs.columns["age"].tolist() == ["3", "4"]


def test_a_list_in_no_known_form_says_which_would_be_read(tmp_path):
    for text, message in (
        ("x/1.jpg y/2.jpg\n", r"has two images and 0 or 1 a line: x/1\.jpg y/2\.jpg 1$"),
        ("hello\n", r"0 or 1 a line: a\.jpg b\.jpg 1$"),
        ("a.jpg 1\nb.jpg 0\n", "line 1: both images of a pair must have one number, got '1' and"),
        ("a.jpg 1\n", "line 1: both images .* got '1' and ''"),
        (
            "a.jpg b.jpg 1\na b.jpg c.jpg 1\n",
            "line 2: 4 fields, and each line must have 3: .* tabs",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            read_named_pairs(put(tmp_path, text, "pairs.txt"))


def test_a_list_of_one_kind_is_refused(tmp_path):
    text = "image_a,image_b,same,fold\na,b,1,1\nc,d,true,1\ne,f,0,2\ng,h,FALSE,2\n"
    pairs = read_pair_list(put(tmp_path, text))
    check_both_kinds(pairs.same, pairs.source)
    for fold, there, missing in ((1, "genuine", "impostor"), (2, "impostor", "genuine")):
        same = pairs.select_folds([fold]).same
        message = rf"pairs\.csv: all 2 pairs are {there} .*{missing} ones"
        with pytest.raises(ValueError, match=message):
            check_both_kinds(same, pairs.source)


def test_images_that_are_all_elsewhere_are_asked_for(tmp_path):
    listed = read_pair_list(put(tmp_path, PAIRS))
    with pytest.raises(ValueError, match="images must name the folder that they start from"):
        PairImages(listed)
    for root, there in ((tmp_path / "x", []), (None, ["ann/1.png"])):
        pictures(tmp_path, there)
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match=r"are not images in .*\(line 5\)|more$"):
            PairImages(listed, root)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda text: text == text.strip() and "\0" not in text
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(texts, texts, st.booleans(), texts), min_size=1, max_size=8))
def test_names_of_any_letters_come_back_as_they_were(tmp_path_factory, rows):
    seen, kept = set(), []
    for row in rows:
        if row[0] != row[1] and frozenset(row[:2]) not in seen:
            seen.add(frozenset(row[:2]))
            kept.append(row)
    if not kept:
        return
    path = tmp_path_factory.mktemp("list") / "pairs.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["image_a", "image_b", "same", "what"])
        writer.writerows([a, b, int(same), what] for a, b, same, what in kept)
    pairs = read_pair_list(path)
    found = zip(
        [pairs.names[i] for i in pairs.index_a],
        [pairs.names[i] for i in pairs.index_b],
        pairs.same.tolist(),
        pairs.columns["what"].tolist(),
        strict=True,
    )
    assert list(found) == kept


def test_the_images_of_a_list(tmp_path):
    names = ["ann/1.png", "ann/2.png", "bob/1.png", "cyd/1.png", "cyd/9.png"]
    pictures(tmp_path, names)
    pairs = read_pair_list(put(tmp_path, PAIRS))
    source = PairImages(pairs, image_size=2)
    assert [source.place(i) for i in range(len(source))] == names
    assert [int(source.image(i)[0, 0, 0]) for i in range(5)] == [0, 1, 2, 3, 4]
    assert source.image(0).shape == (2, 2, 3)
    assert [source.identities[label] for label in source.labels] == [
        "ann",
        "ann",
        "bob",
        "cyd",
        "cyd",
    ]
    assert source.same is pairs.same
    assert source.columns is pairs.columns
    assert pickle.loads(pickle.dumps(source)).encoded(3) == source.encoded(3)
    (tmp_path / "bob" / "1.png").unlink()
    (tmp_path / "cyd" / "1.png").unlink()
    message = (
        r"pairs\.csv: 2 of 5 names are not images in .*: 'bob/1\.png' \(line 3\), 'cyd/1.* \(line 4"
    )
    with pytest.raises(ValueError, match=message):
        PairImages(pairs)
    with pytest.raises(ValueError, match=r"images must be a folder, got '.*gone'"):
        PairImages(pairs, tmp_path / "gone")


def test_names_that_are_no_utf_8_find_their_file(tmp_path):
    name = b"caf\xe9.png"
    pictures(tmp_path, [name.decode("utf-8", "surrogateescape"), "b.png"])
    pairs = read_pair_list(put(tmp_path, b"image_a,image_b,same\n" + name + b",b.png,0\n"))
    assert int(PairImages(pairs).image(1)[0, 0, 0]) == 1


# CSV lists of templates.

TEMPLATES = """template,image,media,identity,role,weight,note
t9,a.png,v1,Ann,gallery,0.5,x
t9,b.png,v1,Ann,gallery,1,x
t9,c.png,,Ann,gallery,1,x
t2,a.png,,Bob,probe,0,x
t2,d.png,,Bob,probe,1e-1,x
"""


def test_all_columns_of_a_list_of_templates(tmp_path):
    found = read_template_list(put(tmp_path, TEMPLATES))
    assert found.names == ["a.png", "b.png", "c.png", "d.png"]
    assert found.image.tolist() == [0, 1, 2, 0, 3]
    assert found.template.tolist() == ["t9", "t9", "t9", "t2", "t2"]
    # Only the first two rows share a medium.
    assert found.media[0] == found.media[1]
    assert len(set(found.media.tolist())) == 4
    assert found.weight.tolist() == [0.5, 1, 1, 0, 0.1]
    assert found.ids.tolist() == ["t9", "t2"]
    assert found.identity.tolist() == ["Ann", "Bob"]
    assert found.gallery.tolist() == [True, False]
    bare = read_template_list(put(tmp_path, "image\ttemplate\na.png\t1\n"))
    assert (bare.identity, bare.gallery, bare.weight) == (None, None, None)
    assert bare.ids.tolist() == ["1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("template,img\n", "line 1: there is no column 'image'; .* closest is 'img'"),
        ("template,image\n", "there is no template"),
        (TEMPLATES + "t2,d.png,,Bob,probe,1,x\n", "line 7: the image of line 6 again"),
        (TEMPLATES + "t2,e.png,,Ann,probe,1,x\n", "line 7: identity is 'Ann', but 'Bob' on line 5"),
        (TEMPLATES + "t2,e.png,,Bob,gallery,1,x\n", "line 7: role is 'gallery', but 'probe' on"),
        (TEMPLATES + "t3,e.png,,Bob,both,1,x\n", "line 7: role must be gallery or probe, got 'bo"),
        (TEMPLATES + "t3,e.png,,,probe,1,x\n", "line 7: identity is empty"),
        (TEMPLATES + "t3,e.png,,Bob,probe,-1,x\n", "line 7: weight must be .* got '-1'"),
        (TEMPLATES + "t3,e.png,,Bob,probe,nan,x\n", "line 7: weight must be .* got 'nan'"),
        (TEMPLATES + "t3,e.png,,Bob,probe,,x\n", "line 7: weight must be .* got ''"),
        (TEMPLATES + ",e.png,,Bob,probe,1,x\n", "line 7: template is empty"),
    ],
)
def test_a_broken_list_of_templates_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=f"pairs.csv(, |: ){message}"):
        read_template_list(put(tmp_path, text))


def test_the_images_of_a_list_of_templates(tmp_path):
    pictures(tmp_path, ["a.png", "b.png", "c.png", "d.png"])
    listed = read_template_list(put(tmp_path, TEMPLATES))
    source = ListedImages(listed)
    assert [int(source.image(i)[0, 0, 0]) for i in range(len(source))] == [0, 1, 2, 3]
    assert [source.identities[label] for label in source.labels] == ["Ann", "Ann", "Ann", "Bob"]
    assert np.unique(source.labels).tolist() == [0, 1]
    (tmp_path / "d.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 4 names are not images .*'d\.png' \(line 6\)"):
        ListedImages(listed)
    with pytest.raises(ValueError, match="images must be a folder"):
        ListedImages(listed, tmp_path / "gone")


def test_lfw_pairs_without_numbers_of_folds(tmp_path):
    wanted = lfw(tmp_path, TWO_FOLDS)
    bare = TWO_FOLDS.partition("\n")[2]
    commas = bare.replace("\t", ",")
    kaggle = "name,imagenum1,imagenum2,\n" + commas.replace("1,2\n", "1,2,\n")
    for name, text, line in (
        ("African_pairs.txt", bare, 1),  # RFW's
        ("pairs.csv", kaggle, 2),
        ("pairs.txt.gz", gzip.compress(bare.encode()), 1),
        ("pairs.txt.gz", gzip.compress(TWO_FOLDS.encode()), 2),
    ):
        pairs = read_named_pairs(put(tmp_path, text, name))
        assert pairs.lfw
        assert pairs.names == wanted.names
        for what in ("index_a", "index_b", "same", "fold"):
            assert getattr(pairs, what).tolist() == getattr(wanted, what).tolist()
        assert pairs.line.tolist() == [*range(line, line + 4)]
    with pytest.raises(ValueError, match="line 3: expected an impostor pair"):
        read_named_pairs(put(tmp_path, bare.replace("Cy\t2\t10", "Cy\t2"), "pairs.txt"))
    with pytest.raises(ValueError, match="there is no pair"):
        read_named_pairs(put(tmp_path, "name,imagenum1,imagenum2,\n", "pairs.csv"))
