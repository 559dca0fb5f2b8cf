"""Scores that tell nothing, and the text of a page."""

import re

import numpy as np

from centerarc.evaluation import evaluate_verification
from centerarc.report import write_report


def scored(genuine, impostor, folds=None):
    """Scores that tell nothing, as many as wanted of each kind."""
    rng = np.random.default_rng(0)
    same = np.arange(genuine + impostor) < genuine
    scores = rng.normal(size=same.size)
    fold = None if folds is None else np.arange(same.size) % folds
    return scores, same, evaluate_verification(scores, same, fold)


def shown(tmp_path, data):
    path = tmp_path / "page.html"
    write_report(path, data)
    page = path.read_text(encoding="utf-8")
    page = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    page = re.sub('<span class="tied">(.*?)</span>', r"\1", page)
    return page.replace("&nbsp;", " ").replace("\xa0", " ")
