"""A small IJB set, worked by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from centerarc.data.alignment import arcface_template
from centerarc.evaluation import Embeddings
from centerarc.evaluation.protocols import (
    EmbeddingsSubject,
    SearchSettings,
    Settings,
    evaluate_ijb,
    write_evaluation,
)

# Image, template, medium, detector score, embedding.
IMAGES = [
    ("1.jpg", 1, 10, 0.9, [3, 0]),
    ("2.jpg", 1, 11, 0.5, [0, 1]),
    ("3.jpg", 1, 11, 1.0, [0, 3]),
    ("4.jpg", 2, 12, 0.8, [2, 2]),
    ("5.jpg", 3, 13, 0.8, [1, 0]),
    ("6.jpg", 4, 14, 0.8, [1, 3]),
]
SUBJECTS = {1: 7, 2: 7, 3: 8, 4: 9}
PAIRS = [(1, 2, 1), (1, 3, 0), (2, 4, 0)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    points = " ".join(f"{value:.2f}" for value in arcface_template(112).ravel())
    lines = [f"{name} {template} {medium}" for name, template, medium, _, _ in IMAGES]
    (tmp_path / "ijbx_face_tid_mid.txt").write_text("\n".join(lines))
    lines = [f"{name} {points} {score}" for name, _, _, score, _ in IMAGES]
    (tmp_path / "ijbx_name_5pts_score.txt").write_text("\n".join(lines))
    lines = [f"{a} {b} {same}" for a, b, same in PAIRS]
    (tmp_path / "ijbx_template_pair_label.txt").write_text("\n".join(lines))
    for name, templates in (("gallery_G1", [1]), ("gallery_G2", [3]), ("probe_mixed", [2, 4])):
        rows = [f"{template},{SUBJECTS[template]}" for template in templates]
        text = "\n".join(["TEMPLATE_ID,SUBJECT_ID", *rows])
        (tmp_path / f"ijbx_1N_{name}.csv").write_text(text)
    return tmp_path


def subject() -> EmbeddingsSubject:
    names = [image[0] for image in IMAGES]
    matrix = np.array([image[4] for image in IMAGES], dtype=np.float32)
    return EmbeddingsSubject(Path("e.npz"), Embeddings(names, names, matrix))


SEARCH = SearchSettings(ranks=(1,), fpirs=(0.5,), resamples=0)


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
def test_templates_are_pooled_as_the_convention_says(
    folder: Path, weighting: str, first: list[float]
) -> None:
    (folder / "ijbx_1N_gallery_G2.csv").unlink()
    found = evaluate_ijb(
        subject(), folder, weighting=weighting, settings=Settings(resamples=100), search=SEARCH
    )
    templates = {1: np.array(first), 2: np.array([1, 1]), 3: np.array([1, 0]), 4: np.array([1, 3])}
    units = {number: value / np.linalg.norm(value) for number, value in templates.items()}
    expected = [units[a] @ units[b] for a, b, _ in PAIRS]
    assert found.verification is not None
    np.testing.assert_allclose(found.verification.scores, expected, rtol=1e-6)
    assert found.templates["weighting"] == weighting
    assert found.dataset == "IJBX"
    assert found.identification is not None
    assert found.identification.report.cmc[1].value == 1.0
    # Subjects of template 3 are in no gallery any more, so no one knows all people.
    assert "people are unknown" in found.verification.people_note


def test_people_come_from_the_galleries_and_probes(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"G2\.csv: no probe is of a person in the gallery"):
        evaluate_ijb(subject(), folder, settings=Settings(resamples=0), search=SEARCH)
    text = (folder / "ijbx_1N_probe_mixed.csv").read_text()
    (folder / "ijbx_1N_probe_mixed.csv").write_text(f"{text}\n3,8")
    found = evaluate_ijb(subject(), folder, settings=Settings(resamples=100), search=SEARCH)
    assert found.verification is not None
    assert found.verification.report.num_people == 3
    assert found.verification.report.auc.interval is not None


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("ijbx_template_pair_label.txt", "1 2 1\n1 9 0", "line 2: template 9 has no image"),
        (
            "ijbx_1N_gallery_G1.csv",
            "TEMPLATE_ID,SUBJECT_ID\n5,1",
            "G1.csv: template 5 has no image",
        ),
        ("ijbx_1N_probe_mixed.csv", "TEMPLATE_ID\n5", "line 1: there is no column 'SUBJECT_ID'"),
        ("ijbx_face_tid_mid.txt", "1.jpg 1 x", "line 1: the medium must be a whole number"),
    ],
)
def test_a_broken_file_is_named_with_its_line(
    folder: Path, file: str, text: str, message: str
) -> None:
    (folder / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        evaluate_ijb(subject(), folder, search=SEARCH)


def put(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines))


@pytest.mark.parametrize("weighting", ["plain", "norm+detector"])
def test_landmarks_of_other_images_are_refused(folder: Path, weighting: str) -> None:
    """Else the scores of a detector would weigh the wrong images."""
    path = folder / "ijbx_name_5pts_score.txt"
    lines = path.read_text().splitlines()
    put(path, lines[::-1])
    message = r"score\.txt, line 1: templates have image '1\.jpg', landmarks have image '6\.jpg'$"
    with pytest.raises(ValueError, match=message):
        evaluate_ijb(subject(), folder, weighting=weighting, search=SEARCH)
    put(path, lines[:-1])
    message = r"line 6: templates have image '6\.jpg', landmarks have none$"
    with pytest.raises(ValueError, match=message):
        evaluate_ijb(subject(), folder, weighting=weighting, search=SEARCH)
    put(path, [*lines, lines[0]])
    message = r"line 7: templates have none, landmarks have image '1\.jpg'$"
    with pytest.raises(ValueError, match=message):
        evaluate_ijb(subject(), folder, weighting=weighting, search=SEARCH)


def test_what_templates_cannot_be_made_of_is_named_with_its_file(folder: Path) -> None:
    (folder / "ijbx_1N_gallery_G2.csv").unlink()
    path = folder / "ijbx_name_5pts_score.txt"
    lines = path.read_text().splitlines()
    put(path, [f"{lines[0].rsplit(' ', 1)[0]} -0.5", *lines[1:]])
    with pytest.raises(ValueError, match=r"score\.txt, line 1: .* at least 0, got -0\.5"):
        evaluate_ijb(subject(), folder, weighting="detector", search=SEARCH)
    evaluate_ijb(subject(), folder, weighting="norm", settings=Settings(resamples=0), search=SEARCH)
    put(path, [*lines[:3], f"{lines[3].rsplit(' ', 1)[0]} 0", *lines[4:]])
    with pytest.raises(ValueError, match=r"mid\.txt: template 2: its weighted images add up to no"):
        evaluate_ijb(subject(), folder, weighting="detector", search=SEARCH)


def test_a_model_embeds_the_aligned_crops(folder: Path, tmp_path: Path) -> None:
    from centerarc.evaluation.protocols import ModelSubject
    from centerarc.models import open_model
    from tests.evaluation.protocols.faces import model

    crops = tmp_path / "crops"
    crops.mkdir()
    for number, (name, *_) in enumerate(IMAGES):
        Image.new("RGB", (112, 112), (200, 40 * number, 90)).save(crops / name)
    opened = open_model(model(tmp_path / "m.onnx"), image_size=4, mean=0, std=1)
    (folder / "ijbx_1N_gallery_G2.csv").unlink()
    judge = ModelSubject(opened)
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
