"""Rows of numbers and their words."""

import re

import numpy as np
import pytest

from centerarc.evaluation import measure_separability
from centerarc.report import ReportData
from centerarc.report.numbers import sentence, separability_rows
from tests.report.pages import scored, shown

pytest.importorskip("plotly")


def test_every_row_on_identities_says_what_stands_behind_it():
    rng = np.random.default_rng(0)
    labels = np.array([0, 0, 0, 1, 1, 2, 3, 4, 5])  # four people with one image
    found = measure_separability(rng.normal(size=(9, 4)), labels, bootstrap=100)
    how = {row.name: row.how for row in separability_rows(found)}
    assert how["compactness"].endswith("5 images of 2 people.")
    assert how["margin"].endswith("5 images of 2 people.")
    assert how["nearest center is their own"].endswith("5 images of 2 people.")
    assert how["separation"].endswith(" 6 people.")


def test_no_rate_is_written_as_a_fraction(tmp_path):
    scores, same, report = scored(60, 60)
    page = shown(tmp_path, ReportData("t", report, scores, same, "pairs"))
    assert "FAR 0.1% needs at least 1,000 pairs of two people, there are 60." in page
    assert not re.search(r"FAR 0\.\d+(?!%)\b", page)
    assert not re.search(r"\d %", re.sub(r"<style>.*?</style>|data:\S+", "", page, flags=re.S))


def test_a_note_about_a_file_keeps_its_name():
    assert sentence("left-out pairs: 3") == "Left-out pairs: 3."
    assert sentence("p/lfw.parquet: 3 folds") == "p/lfw.parquet: 3 folds."
    assert sentence("") == ""
