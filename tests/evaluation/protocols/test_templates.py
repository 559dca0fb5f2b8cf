"""Templates of a CSV list and of a small IJB set, worked by hand; what is wrong has its file."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from centerarc.data.alignment import arcface_template
from centerarc.evaluation.protocols import (
    EmbeddingsSubject,
    ModelSubject,
    SearchSettings,
    Settings,
    compare_files,
    evaluate_ijb,
    evaluate_templates,
    write_evaluation,
)
from centerarc.models import open_model
from tests.evaluation.protocols.faces import model, subject

SEARCH = SearchSettings(ranks=(1,), fpirs=(0.5,), resamples=0)

# CSV lists.

FACES = {"a1": [3, 1], "a2": [2, 1], "a3": [-3, -1], "b1": [1, 3], "b2": [1, 2]}
LIST = ["A,a1,Ann,gallery", "B,b1,Bob,gallery", "C,a2,Ann,probe", "D,b2,Bob,probe"]


class Counted(EmbeddingsSubject):
    """Embeddings that know whether they were asked for."""

    asked = False

    def rows(self, names):
        self.asked = True
        return super().rows(names)


LISTED = subject([(name, name, vector) for name, vector in FACES.items()])


def listed(root, rows):
    path = root / "t.csv"
    path.write_text("\n".join(["template,image,identity,role", *rows]), encoding="utf-8")
    return path


def test_templates_are_found_without_a_note(tmp_path):
    found = evaluate_templates(LISTED, listed(tmp_path, LIST), search=SEARCH)
    assert found.identification.report.cmc[1].value == 1.0
    assert found.notes == ()


def test_images_that_cancel_out_are_named_with_the_file(tmp_path):
    path = listed(tmp_path, [*LIST, "A,a3,Ann,gallery"])
    with pytest.raises(ValueError, match=r"t\.csv: template A: its weighted images add up to noth"):
        evaluate_templates(LISTED, path, search=SEARCH)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["A,a1,Ann,gallery", "B,b1,Bob,probe"], "no probe is of a person in the gallery"),
        (["A,a1,Ann,gallery", "B,b1,Bob,gallery"], "every template has the role gallery"),
    ],
)
def test_searches_that_cannot_be_are_refused_before_the_work(tmp_path, rows, message):
    given = Counted(LISTED.path, LISTED.found)
    with pytest.raises(ValueError, match=rf"t\.csv: {message}"):
        evaluate_templates(given, listed(tmp_path, rows), search=SEARCH)
    assert not given.asked


def test_images_that_are_gone_take_their_templates_and_pairs_along(tmp_path):
    path = listed(tmp_path, [*LIST, "A,gone,Ann,gallery", "E,gone,Cyd,probe"])
    pairs = tmp_path / "p.csv"
    pairs.write_text("template_a,template_b,same\nA,C,1\nA,B,0\nE,B,0\n", encoding="utf-8")
    with pytest.raises(ValueError, match="lacks 1 of 5 images: 'gone'"):
        evaluate_templates(LISTED, path, pairs=pairs, search=SEARCH)
    found = evaluate_templates(LISTED, path, pairs=pairs, missing="skip", search=SEARCH)
    assert found.identification.report.cmc[1].value == 1.0
    counts = ("left_out_images", "left_out_templates", "left_out_pairs")
    assert [found.to_dict()["data"][name] for name in counts] == [1, 1, 1]
    assert found.notes[0].startswith("left out 1 images and 1 of 5 templates; ")
    assert "left out 1 of 3 pairs" in found.notes[1]
    assert len(found.verification.scores) == 2


def test_people_of_templates_are_found_whatever_the_form_or_case_of_their_names(tmp_path):
    rows = ["A,a1,Zo\u00eb,gallery", "B,b1,Bob,gallery", "C,a2,Zoe\u0308,probe", "D,b2,bob,probe"]
    found = evaluate_templates(LISTED, listed(tmp_path, rows), search=SEARCH)
    assert found.identification.report.mated == [2]
    assert found.notes == ("1 name is taken for that of another place although the case differs",)


def test_probes_with_an_image_of_the_gallery_are_noted(tmp_path):
    # C has two of them and is one probe.
    rows = [*LIST, "A,a2,Ann,gallery", "C,b1,Ann,probe"]
    (note,) = evaluate_templates(LISTED, listed(tmp_path, rows), search=SEARCH).notes
    assert note.startswith("1 of 2 probes is also in the gallery")


# IJB.

# Image, template, medium, detector score, embedding.
IMAGES = [
    ("1.jpg", 1, 10, 0.9, [3, 0]),
    ("2.jpg", 1, 11, 0.5, [0, 1]),
    ("3.jpg", 1, 11, 1.0, [0, 3]),
    ("4.jpg", 2, 12, 0.8, [2, 2]),
    ("5.jpg", 3, 13, 0.8, [1, 0]),
    ("6.jpg", 4, 14, 0.8, [1, 3]),
]
IJB = subject([(image[0], image[0], image[4]) for image in IMAGES])
SUBJECTS = {1: 7, 2: 7, 3: 8, 4: 9}
PAIRS = [(1, 2, 1), (1, 3, 0), (2, 4, 0)]


def put(path, lines):
    path.write_text("\n".join(lines))


@pytest.fixture
def folder(tmp_path):
    points = " ".join(f"{value:.2f}" for value in arcface_template(112).ravel())
    put(
        tmp_path / "ijbx_face_tid_mid.txt",
        [f"{image[0]} {image[1]} {image[2]}" for image in IMAGES],
    )
    put(tmp_path / "ijbx_name_5pts_score.txt", [f"{i[0]} {points} {i[3]}" for i in IMAGES])
    put(tmp_path / "ijbx_template_pair_label.txt", [f"{a} {b} {same}" for a, b, same in PAIRS])
    for name, templates in (("gallery_G1", [1]), ("gallery_G2", [3]), ("probe_mixed", [2, 4])):
        rows = [f"{template},{SUBJECTS[template]}" for template in templates]
        put(tmp_path / f"ijbx_1N_{name}.csv", ["TEMPLATE_ID,SUBJECT_ID", *rows])
    return tmp_path


@pytest.mark.parametrize(
    ("weighting", "first"),
    [
        # Medium 10 is an image, medium 11 the mean of two.
        ("plain", [1, (1 + 1) / 2]),
        ("norm", [3, (1 + 3) / 2]),
        ("detector", [0.9, (0.5 + 1.0) / 2]),
        ("norm+detector", [0.9 * 3, (0.5 * 1 + 1.0 * 3) / 2]),
    ],
)
def test_templates_are_pooled_as_the_convention_says(folder, weighting, first):
    (folder / "ijbx_1N_gallery_G2.csv").unlink()
    found = evaluate_ijb(
        IJB, folder, weighting=weighting, settings=Settings(resamples=100), search=SEARCH
    )
    templates = {1: np.array(first), 2: np.array([1, 1]), 3: np.array([1, 0]), 4: np.array([1, 3])}
    units = {number: value / np.linalg.norm(value) for number, value in templates.items()}
    expected = [units[a] @ units[b] for a, b, _ in PAIRS]
    np.testing.assert_allclose(found.verification.scores, expected, rtol=1e-6)
    assert found.templates["weighting"] == weighting
    assert found.dataset == "IJBX"
    assert found.identification.report.cmc[1].value == 1.0
    # Subjects of template 3 are in no gallery any more, so no one knows all people.
    assert "people are unknown" in found.verification.people_note


def test_people_come_from_the_galleries_and_probes(folder):
    with pytest.raises(ValueError, match=r"G2\.csv: no probe is of a person in the gallery"):
        evaluate_ijb(IJB, folder, settings=Settings(resamples=0), search=SEARCH)
    with open(folder / "ijbx_1N_probe_mixed.csv", "a") as file:
        file.write("\n3,8")
    found = evaluate_ijb(IJB, folder, settings=Settings(resamples=100), search=SEARCH)
    assert found.verification.report.num_people == 3
    assert found.verification.report.auc.interval is not None


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("template_pair_label.txt", "1 2 1\n1 9 0", "line 2: template 9 has no image"),
        ("1N_gallery_G1.csv", "TEMPLATE_ID,SUBJECT_ID\n5,1", "G1.csv: template 5 has no image"),
        ("1N_probe_mixed.csv", "TEMPLATE_ID\n5", "line 1: there is no column 'SUBJECT_ID'"),
        ("face_tid_mid.txt", "1.jpg 1 x", "line 1: the medium must be a whole number"),
    ],
)
def test_a_broken_file_is_named_with_its_line(folder, file, text, message):
    (folder / f"ijbx_{file}").write_text(text)
    with pytest.raises(ValueError, match=message):
        evaluate_ijb(IJB, folder, search=SEARCH)


@pytest.mark.parametrize("weighting", ["plain", "norm+detector"])
def test_landmarks_of_other_images_are_refused(folder, weighting):
    """Else the scores of a detector would weigh the wrong images."""
    path = folder / "ijbx_name_5pts_score.txt"
    lines = path.read_text().splitlines()
    for changed, message in (
        (
            lines[::-1],
            r"score\.txt, line 1: templates have image '1\.jpg', landmarks have image '6\.jpg'$",
        ),
        (lines[:-1], r"line 6: templates have image '6\.jpg', landmarks have none$"),
        ([*lines, lines[0]], r"line 7: templates have none, landmarks have image '1\.jpg'$"),
    ):
        put(path, changed)
        with pytest.raises(ValueError, match=message):
            evaluate_ijb(IJB, folder, weighting=weighting, search=SEARCH)


def test_what_templates_cannot_be_made_of_is_named_with_its_file(folder):
    (folder / "ijbx_1N_gallery_G2.csv").unlink()
    path = folder / "ijbx_name_5pts_score.txt"
    lines = path.read_text().splitlines()
    put(path, [f"{lines[0].rsplit(' ', 1)[0]} -0.5", *lines[1:]])
    with pytest.raises(ValueError, match=r"score\.txt, line 1: .* at least 0, got -0\.5"):
        evaluate_ijb(IJB, folder, weighting="detector", search=SEARCH)
    evaluate_ijb(IJB, folder, weighting="norm", settings=Settings(resamples=0), search=SEARCH)
    put(path, [*lines[:3], f"{lines[3].rsplit(' ', 1)[0]} 0", *lines[4:]])
    with pytest.raises(ValueError, match=r"mid\.txt: template 2: its weighted images add up to no"):
        evaluate_ijb(IJB, folder, weighting="detector", search=SEARCH)


def test_a_model_embeds_the_aligned_crops(folder, tmp_path):
    crops = tmp_path / "crops"
    crops.mkdir()
    for number, (name, *_) in enumerate(IMAGES):
        Image.new("RGB", (112, 112), (200, 40 * number, 90)).save(crops / name)
    (folder / "ijbx_1N_gallery_G2.csv").unlink()
    judge = ModelSubject(open_model(model(tmp_path / "m.onnx"), image_size=4, mean=0, std=1))
    found = evaluate_ijb(judge, folder, images=crops, search=SEARCH)
    assert found.images.embedding.shape == (6, 3)
    # Darker where the small picture reaches beyond the crop, and a little off by JPEG.
    shown = found.images.embedding[1] / np.linalg.norm(found.images.embedding[1])
    np.testing.assert_allclose(shown, np.array([200, 40, 90]) / np.hypot(200, 98.49), atol=0.02)
    write_evaluation(tmp_path / "o.json", found)
    assert json.loads((tmp_path / "o.json").read_text())["data"]["distinct_images"] == 6
    (crops / "3.jpg").unlink()
    with pytest.raises(ValueError, match=r"3\.jpg"):
        evaluate_ijb(judge, folder, images=crops, search=SEARCH)
    with pytest.raises(ValueError, match="images must name the folder of the loose crops"):
        evaluate_ijb(judge, folder, search=SEARCH)


# insightface's convention.

BY_INSIGHTFACE = {
    "settings": Settings("insightface", resamples=100),
    "search": SearchSettings((1,), (0.5,), resamples=100, convention="insightface"),
}


def test_ijb_by_insightface_joins_the_galleries_and_is_stored(folder, tmp_path):
    with open(folder / "ijbx_1N_gallery_G2.csv", "a") as file:
        file.write("\n4,9")
    found = evaluate_ijb(IJB, folder, **BY_INSIGHTFACE)
    report = found.identification.report
    assert (report.num_galleries, report.gallery_people, report.mated) == (1, [3], [2])
    # Probes 2 of person 7 and 4 of person 9; templates 1, 3 and 4 are enrolled.
    unit = {1: [1, 1], 2: [1, 1], 3: [1, 0], 4: [1, 3]}
    unit = {name: np.array(v) / np.linalg.norm(v) for name, v in unit.items()}
    others = sorted(unit[a] @ unit[b] for a, b in ((2, 3), (2, 4), (4, 1), (4, 3)))
    mates = [unit[2] @ unit[1], unit[4] @ unit[4]]
    expected = np.mean([mate > others[-1] for mate in mates])
    assert report.tpir_at_fpir[0.5].value == expected == 1.0
    assert found.verification.report.convention == "insightface"
    paths = [tmp_path / name for name in ("a.json", "b.json", "c.json")]
    for path in paths[:2]:
        write_evaluation(path, found)
    written = json.loads(paths[0].read_text())
    assert written["identification"]["settings"]["convention"] == "insightface"
    assert written["verification"]["settings"]["convention"] == "insightface"
    compared = compare_files(paths[:2])
    rates = [one.report.tpir_at_fpir[0.5].value for one in compared.identified]
    assert rates == [expected, expected]
    assert sum("convention insightface" in note for note in compared.notes) == 2
    plain = {name: replace(of, convention="exact") for name, of in BY_INSIGHTFACE.items()}
    write_evaluation(paths[2], evaluate_ijb(IJB, folder, **plain))
    with pytest.raises(ValueError, match="differ in convention: insightface and exact"):
        compare_files(paths[1:])


def test_what_insightfaces_convention_needs_is_said_before_the_work(folder, tmp_path):
    judge = Counted(IJB.path, IJB.found)
    (folder / "ijbx_1N_gallery_G2.csv").unlink()
    with pytest.raises(ValueError, match=r"mixed\.csv: convention 'insightface' .* 4 is not$"):
        evaluate_ijb(judge, folder, **BY_INSIGHTFACE)
    rows = [*LIST, "E,b2,Eve,probe"]
    with pytest.raises(ValueError, match=r"t\.csv: convention 'insightface' .* E is not$"):
        evaluate_templates(judge, listed(tmp_path, rows), **BY_INSIGHTFACE)
    rows = [LIST[0], LIST[2]]
    with pytest.raises(ValueError, match="at least 2 people; it has one person"):
        evaluate_templates(judge, listed(tmp_path, rows), **BY_INSIGHTFACE)
    assert not judge.asked
    found = evaluate_templates(LISTED, listed(tmp_path, LIST), **BY_INSIGHTFACE)
    assert found.identification.report.tpir_at_fpir[0.5].value == 1.0
