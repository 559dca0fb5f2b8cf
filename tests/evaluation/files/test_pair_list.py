"""CSV lists of pairs and templates: what they say is kept, and mistakes are found by their line."""

import csv
import pickle

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from centerarc.evaluation.files import (
    ListedImages,
    PairImages,
    read_pair_list,
    read_template_list,
)
from centerarc.evaluation.files.pairs import check_both_kinds

PAIRS = """image_a,image_b,same,fold,age,pose
ann/1.png,ann/2.png,1,1,young,front
ann/1.png,bob/1.png,FALSE,1,old,side
cyd/1.png,cyd/9.png,true,2,old,front
bob/1.png,cyd/9.png,0,2,young,front
"""


def put(tmp_path, text, name="pairs.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def pictures(root, names):
    for value, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (4, 4), (value, value, value)).save(path)


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
    # Folders that are no people must not become people.
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
    message = (
        r"pairs\.csv: 2 of 5 names are unknown: 'bob/1\.png' \(line 3\), 'cyd/9\.png' \(line 4\)$"
    )
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
    ("Image_A,image_b,same\n", "line 1: there is no column 'image_a'; .* closest is 'Image_A'"),
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
    (HEAD + ROW + ROW, "line 3: the pair of line 2 once more"),
    (HEAD + ROW + "b.png,a.png,1,2,Ann,Ann\n", "line 3: the pair of line 2 once more"),
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


def test_a_list_of_one_kind_is_refused(tmp_path):
    text = "image_a,image_b,same,fold\na,b,1,1\nc,d,true,1\ne,f,0,2\n"
    for folds, there, missing in ((None, "", ""), ([1], "genuine", "impostor")):
        pairs = read_pair_list(put(tmp_path, text)).select_folds(folds)
        if folds is None:
            check_both_kinds(pairs.same, pairs.source)
            continue
        with pytest.raises(
            ValueError, match=rf"pairs\.csv: all 2 pairs are {there} .*{missing} on"
        ):
            check_both_kinds(pairs.same, pairs.source)
    pairs = read_pair_list(put(tmp_path, "image_a,image_b,same\na,b,0\nc,d,FALSE\n"))
    with pytest.raises(ValueError, match=r"pairs\.csv: all 2 pairs are impostor .*genuine ones"):
        check_both_kinds(pairs.same, pairs.source)


def test_images_that_are_all_elsewhere_are_asked_for(tmp_path):
    listed = read_pair_list(put(tmp_path, PAIRS))
    with pytest.raises(ValueError, match="images must name the folder that they start from"):
        PairImages(listed)
    for root, there in ((tmp_path / "x", []), (None, ["ann/1.png"])):
        pictures(tmp_path, there)
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match=r"are no images in .*\(line 5\)|more$"):
            PairImages(listed, root)


def test_a_missing_list_is_named(tmp_path):
    for read in (read_pair_list, read_template_list):
        with pytest.raises(OSError, match=r"cannot read '.*gone\.csv': No such file"):
            read(tmp_path / "gone.csv")


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
        r"pairs\.csv: 2 of 5 names are no images in .*: 'bob/1\.png' \(line 3\), 'cyd/1.* \(line 4"
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
        (TEMPLATES + "t2,d.png,,Bob,probe,1,x\n", "line 7: the image of line 6 once more"),
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
    with pytest.raises(ValueError, match=r"1 of 4 names are no images .*'d\.png' \(line 6\)"):
        ListedImages(listed)
    with pytest.raises(ValueError, match="images must be a folder"):
        ListedImages(listed, tmp_path / "gone")
