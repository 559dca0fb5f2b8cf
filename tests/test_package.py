"""What a release and its repository consist of, beside the code."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import centerarc
from centerarc import losses

ROOT = Path(__file__).parents[1]
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_one_version_everywhere() -> None:
    version = centerarc.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert read(ROOT / "CITATION.cff")["version"] == version
    assert re.findall(r"^## (\S+)", changelog, re.M)[0] == version


def test_every_reference_is_of_something_here() -> None:
    words = {*losses.__all__, "sub_centers", "sample_rate"}
    for reference in read(ROOT / "CITATION.cff")["references"]:
        assert reference["notes"] in words
        assert reference["title"]
        assert reference["authors"]
        assert reference["year"]


@pytest.mark.skipif(not FORMS, reason="an sdist has no .github")
def test_forms_of_issues_are_what_github_takes() -> None:
    forms = [read(form) for form in FORMS if form.name != "config.yml"]
    assert len(forms) == 3
    for form in forms:
        assert form["name"]
        assert form["description"]
        ids = [field["id"] for field in form["body"]]
        assert len(set(ids)) == len(ids)
        for field in form["body"]:
            assert field["type"] in {"textarea", "input", "dropdown", "checkboxes"}
            assert field["attributes"]["label"]
