"""The same picture on both sides is found by what it shows, and what is done with it is told."""

import json
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from centerarc.curate import embed_to_file, pack
from centerarc.data import FolderSource
from centerarc.evaluation.protocols import (
    ModelSubject,
    SearchSettings,
    Settings,
    evaluate_galleries,
    evaluate_pairs,
    evaluate_templates,
    write_evaluation,
)
from centerarc.models import open_model
from centerarc.report import write_evaluation_page
from tests.evaluation.protocols.faces import FLAGS, color_of, folder, model, picture, subject

SEARCH = SearchSettings(ranks=(1,), resamples=0)
KNOWN = "Ann Bob Cyd Dan"


@pytest.fixture
def judge(tmp_path):
    assert FLAGS[:2] == ["--size", "4"]
    given = {"image_size": 4, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return ModelSubject(open_model(model(tmp_path / "m.onnx"), **given))


@pytest.fixture
def known(tmp_path):
    return folder(tmp_path / "known", KNOWN, images=2)


@pytest.fixture
def asked(tmp_path):
    """Other pictures of three of them, and of a stranger."""
    root = tmp_path / "asked"
    for person in ("Ann", "Bob", "Cyd", "Eve"):
        picture(root / person / "other.png", person, 7)
    return root


def same(found):
    return found.to_dict()["data"].get("same_pictures", {})


def test_sides_without_a_common_picture_give_no_note(judge, known, asked):
    found = evaluate_galleries(judge, known, asked, settings=SEARCH)
    assert (found.notes, same(found)) == ((), {})


@pytest.mark.parametrize("kind", ["copies", "bmp", "rec", "shards", "npz"])
def test_a_gallery_against_its_own_copy_is_found(tmp_path, judge, known, kind):
    if kind == "copies":
        other = tmp_path / "again"
        for number, file in enumerate(sorted(known.rglob("*.png"))):
            copy = other / file.parent.name / f"{number}.png"
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
    elif kind == "bmp":  # other bytes, the same pixels
        other = tmp_path / "again"
        for file in known.rglob("*.png"):
            copy = other / file.parent.name / f"x{file.stem}.bmp"
            copy.parent.mkdir(parents=True, exist_ok=True)
            Image.open(file).save(copy)
    elif kind == "npz":
        other = tmp_path / "again.npz"
        embed_to_file(judge.model, FolderSource(known, image_size=4), other, workers=0)
    else:
        other = pack(FolderSource(known), tmp_path / "again", format=kind, workers=0).path
        if kind == "rec":  # which keeps names only where a .lst has folders; there it has
            assert other.suffix == ".rec"
    found = evaluate_galleries(judge, known, other, settings=SEARCH)
    assert found.notes[0].startswith("8 of 8 probes are also in the gallery")
    assert "they are kept, because no other probe" in found.notes[0]
    assert same(found)["probes_in_the_gallery"] == 8
    assert same(found)["probes_left_out"] == 0
    assert len(same(found)["examples"][0]) == 2
    # A picture that is on both sides counts once in the figures of the people.
    assert found.separability.num_images == 8
    write_evaluation(tmp_path / "r.json", found)
    assert json.loads((tmp_path / "r.json").read_text())["data"]["same_pictures"] == same(found)
    write_evaluation_page(tmp_path / "page.html", found)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "also in the gallery" in page
    assert "same_pictures" not in page


def test_probes_that_are_in_the_gallery_are_left_out_of_the_ranks(judge, known, asked):
    clean = evaluate_galleries(judge, known, asked, settings=SEARCH)
    shutil.copy(known / "Ann" / "Ann_0002.png", asked / "Ann" / "copy.png")
    shutil.copy(known / "Dan" / "Dan_0001.png", asked / "Bob" / "of_dan.png")
    found = evaluate_galleries(judge, known, asked, settings=SEARCH)
    (note,) = found.notes
    assert note.startswith("2 of 6 probes are also in the gallery")
    assert "they are left out; 1 of them are there under another name" in note
    (one,), (other,) = clean.identification.searches, found.identification.searches
    np.testing.assert_array_equal(one.rank, other.rank)
    np.testing.assert_array_equal(one.mate_score, other.mate_score)
    np.testing.assert_array_equal(one.other_score, other.other_score)
    assert found.identification.report.mated == [3]
    assert same(found)["examples"] == [
        ["Ann/copy.png", "Ann/Ann_0002.png"],
        ["Bob/of_dan.png", "Dan/Dan_0001.png"],
    ]
    # The page's pictures are still those of the places.
    at = found.images.places.index("Eve/other.png")
    np.testing.assert_array_equal(found.images.picture(at)[0, 0], color_of("Eve", 7))


def test_distractors_that_are_known_or_asked_are_left_out(tmp_path, judge, known, asked):
    others = folder(tmp_path / "others", "Fay", images=3)
    clean = evaluate_galleries(judge, known, asked, distractors=others, settings=SEARCH)
    for person, file in (("s1", known / "Ann" / "Ann_0001.png"), ("s2", asked / "Bob/other.png")):
        (others / person).mkdir()
        shutil.copy(file, others / person / "1.png")
    found = evaluate_galleries(judge, known, asked, distractors=others, settings=SEARCH)
    (note,) = found.notes
    assert note.startswith("2 of 5 distractors are pictures of the gallery or the probes")
    assert same(found)["distractors_left_out"] == 2
    assert same(found)["distractor_examples"] == ["s1/1.png", "s2/1.png"]
    (one,), (other,) = clean.identification.searches, found.identification.searches
    np.testing.assert_array_equal(one.rank, other.rank)
    np.testing.assert_array_equal(one.mate_score, other.mate_score)
    np.testing.assert_array_equal(one.other_score, other.other_score)


def test_pairs_of_one_picture_are_counted_by_kind(tmp_path, judge):
    faces = folder(tmp_path / "faces", "Ann Bob Cyd", images=2)
    shutil.copy(faces / "Ann" / "Ann_0001.png", faces / "Ann" / "copy.png")
    shutil.copy(faces / "Ann" / "Ann_0001.png", faces / "Bob" / "wrong.png")
    rows = [
        "Ann/Ann_0001.png,Ann/copy.png,1",
        "Ann/Ann_0001.png,Bob/wrong.png,0",
        "Ann/Ann_0001.png,Ann/Ann_0002.png,1",
        "Ann/Ann_0002.png,Cyd/Cyd_0001.png,0",
    ]
    listed = faces / "pairs.csv"
    listed.write_text("\n".join(["image_a,image_b,same", *rows]), encoding="utf-8")
    found = evaluate_pairs(judge, listed, settings=Settings(resamples=0))
    assert found.notes[0].startswith("2 of 4 pairs have the same picture on both sides (1 genuine")
    assert {**same(found), "pair_examples": None} == {
        "pairs": 2,
        "genuine": 1,
        "impostor": 1,
        "pair_examples": None,
    }
    assert same(found)["pair_examples"][1] == ["Ann/Ann_0001.png", "Bob/wrong.png"]
    assert found.verification.same.size == 4  # kept, as the list has them
    assert found.separability.num_images == 3  # the list names three different pictures


def test_a_bin_set_whose_pair_is_one_picture_is_told(tmp_path, judge):
    faces = folder(tmp_path / "faces", "Ann Bob", images=2)
    files = [(faces / f"{p}/{p}_000{n}.png").read_bytes() for p in ("Ann", "Bob") for n in (1, 2)]
    images = [files[0], files[0], files[0], files[2], files[2], files[3], files[1], files[3]]
    (tmp_path / "s.bin").write_bytes(pickle.dumps((images, [True, False, True, False])))
    found = evaluate_pairs(judge, tmp_path / "s.bin", settings=Settings(resamples=0))
    assert any(note.startswith("1 of 4 pairs have the same picture") for note in found.notes)
    assert same(found)["pair_examples"] == [["s.bin[0]", "s.bin[0]"]]


def test_templates_with_one_picture_are_told(tmp_path):
    faces = {"a1": [3, 1], "a2": [2, 1], "b1": [1, 3], "b2": [1, 2], "copy": [3, 1]}
    judged = subject([(name, name, vector) for name, vector in faces.items()])
    rows = ["A,a1,Ann,gallery", "B,b1,Bob,gallery", "C,copy,Ann,probe", "C,a2,Ann,probe"]
    listed = tmp_path / "t.csv"
    text = "\n".join(["template,image,identity,role", *rows, "D,b2,Bob,probe"])
    listed.write_text(text, encoding="utf-8")
    pairs = tmp_path / "p.csv"
    pairs.write_text("template_a,template_b,same\nA,C,1\nA,D,0\nB,D,1\n", encoding="utf-8")
    settings = Settings(resamples=0)
    found = evaluate_templates(judged, listed, pairs=pairs, settings=settings, search=SEARCH)
    assert found.notes[0].startswith("1 of 3 pairs of templates have the same picture")
    assert found.notes[1].startswith("1 of 2 probes is also in the gallery")
    assert same(found)["pair_examples"] == [["A", "C"]]
    assert same(found)["examples"] == ["C"]


def test_a_gallery_against_its_own_pack_of_smaller_jpegs_is_told(tmp_path, judge):
    rng = np.random.default_rng(0)
    for person in ("Ann", "Bob", "Cyd"):
        for number in range(2):
            coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
            (tmp_path / "known" / person).mkdir(parents=True, exist_ok=True)
            coarse.resize((48, 48)).save(tmp_path / "known" / person / f"{number}.png")
    source = FolderSource(tmp_path / "known")
    other = pack(source, tmp_path / "again", format="shards", size=32, quality=80, workers=0)
    found = evaluate_galleries(judge, tmp_path / "known", other.path, settings=SEARCH)
    assert found.notes[0].startswith("6 probes are almost the same picture as one in the gallery")
    assert same(found)["probes_almost_in_the_gallery"] == 6
    (place, of), *_ = same(found)["almost_examples"]
    assert place.rpartition("/")[2].partition(".")[0] == of.rpartition("/")[2].partition(".")[0]
