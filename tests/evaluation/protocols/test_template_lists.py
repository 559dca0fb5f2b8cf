"""Lists of templates: what is wrong with them is said with their file, before the work."""

from pathlib import Path

import numpy as np
import pytest

from centerarc.evaluation import Embeddings
from centerarc.evaluation.protocols import EmbeddingsSubject, SearchSettings, evaluate_templates

FACES = {"a1": [3, 1], "a2": [2, 1], "a3": [-3, -1], "b1": [1, 3], "b2": [1, 2]}
LIST = ["A,a1,Ann,gallery", "B,b1,Bob,gallery", "C,a2,Ann,probe", "D,b2,Bob,probe"]
SEARCH = SearchSettings(ranks=(1,), fpirs=(0.5,), resamples=0)


class Counted(EmbeddingsSubject):
    """Embeddings that know whether they were asked for."""

    asked = False

    def rows(self, names):
        self.asked = True
        return super().rows(names)


def subject() -> Counted:
    places = list(FACES)
    matrix = np.array(list(FACES.values()), dtype=np.float32)
    return Counted(Path("e.npz"), Embeddings(places, places, matrix))


def listed(root: Path, rows: list[str]) -> Path:
    path = root / "t.csv"
    path.write_text("\n".join(["template,image,identity,role", *rows]), encoding="utf-8")
    return path


def test_templates_are_found_without_a_note(tmp_path: Path) -> None:
    found = evaluate_templates(subject(), listed(tmp_path, LIST), search=SEARCH)
    assert found.identification is not None
    assert found.identification.report.cmc[1].value == 1.0
    assert found.notes == ()


def test_images_that_cancel_out_are_named_with_the_file(tmp_path: Path) -> None:
    path = listed(tmp_path, [*LIST, "A,a3,Ann,gallery"])
    with pytest.raises(ValueError, match=r"t\.csv: template A: its weighted images add up to noth"):
        evaluate_templates(subject(), path, search=SEARCH)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["A,a1,Ann,gallery", "B,b1,Bob,probe"], "no probe is of a person in the gallery"),
        (["A,a1,Ann,gallery", "B,b1,Bob,gallery"], "every template has the role gallery"),
    ],
)
def test_searches_that_cannot_be_are_refused_before_the_work(
    tmp_path: Path, rows: list[str], message: str
) -> None:
    given = subject()
    with pytest.raises(ValueError, match=rf"t\.csv: {message}"):
        evaluate_templates(given, listed(tmp_path, rows), search=SEARCH)
    assert not given.asked


def test_probes_with_an_image_of_the_gallery_are_noted(tmp_path: Path) -> None:
    # C has two of them and is one probe.
    rows = [*LIST, "A,a2,Ann,gallery", "C,b1,Ann,probe"]
    found = evaluate_templates(subject(), listed(tmp_path, rows), search=SEARCH)
    assert len(found.notes) == 1
    assert found.notes[0].startswith("1 of 2 probes is also in the gallery")
