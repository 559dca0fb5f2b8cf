"""Scores that tell nothing, and what every page must hold to."""

import json
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


def own_markup(page):
    """The page without plotly's library."""
    return re.sub(r"<script>.*?</script>", "", page, flags=re.S)


def embedded(page, key):
    text = re.search(rf'<script type="application/json" id="{key}">(.*?)</script>', page, re.S)
    return json.loads(text.group(1))


def style(page):
    return re.search(r"<style>(.*?)</style>", page, re.S).group(1)


def check_loads_nothing(page):
    assert "default-src 'none'" in page
    for address in re.findall(r'(?:src|href)="([^"]*)"', own_markup(page)):
        assert address.startswith(("data:image/jpeg;base64,", "#"))
    assert "url(" not in style(page)


def check_colors(page, used):
    """Each color is defined for light and dark."""
    light, dark = style(page).split("@media (prefers-color-scheme: dark)")[:2]
    assert used
    for name in used:
        assert f"{name}:" in light
        assert f"{name}:" in dark.split("}")[0]


def check_charts(figures):
    """Plotly refuses unknown properties and values."""
    import plotly.graph_objects as go

    for figure in figures.values():
        text = re.sub(r'"--[a-z0-9-]+"', '"#123456"', json.dumps(figure))
        go.Figure(json.loads(text))
