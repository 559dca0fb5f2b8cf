"""Curves of models and of training."""

import numpy as np
import pytest

from centerarc.evaluation import evaluate_verification, roc
from centerarc.report.curves import Curve, curve_charts, training_charts
from tests.report.pages import scored

pytest.importorskip("plotly")


def test_curves_of_many_pairs_are_thinned_to_points_that_are_reached():
    rng = np.random.default_rng(0)
    same = np.arange(200_000) % 50 == 0
    scores = rng.normal(size=same.size) + 2 * same
    curve = Curve.of(scores, same, evaluate_verification(scores, same))
    assert curve.far.size < 1500
    assert (curve.far[0], curve.far[-1]) == (0, 1)
    full = roc(scores, same)
    best = dict(zip(full.far.tolist(), full.tar.tolist(), strict=True))  # the last at each FAR
    assert all(best[far] == tar for far, tar in zip(curve.far, curve.tar, strict=True))
    # A decade of the axis has points all over.
    inside = np.log10(curve.far[(curve.far > 1e-3) & (curve.far < 1e-2)])
    assert np.diff(inside).max() < 0.05


def test_the_edge_that_stands_for_none_is_named_so():
    scores, same, report = scored(5, 5)
    _, det = curve_charts({"": Curve.of(scores, same, report)})
    axis = det.layout["yaxis"]
    assert axis["tickvals"][0] == pytest.approx(10)  # half a pair of 5
    assert axis["ticktext"][0] == "0%"
    # A curve that runs along 100% is not cut.
    assert axis["range"][1] > 2


def test_a_loss_that_was_not_finite_leaves_the_other_points():
    losses = [float("nan"), *np.linspace(3, 1, 20), float("inf")]
    history = [{"step": step, "arcface_loss": loss} for step, loss in enumerate(losses)]
    (chart,) = training_charts(history, [])
    raw, smooth = chart.data
    assert raw["x"] == list(range(1, 21))
    assert np.isfinite(smooth["y"]).all()


def test_smoothed_curves_begin_and_end_with_the_measured_ones():
    losses = np.linspace(9, 1, 200)
    history = [{"step": step, "arcface_loss": loss} for step, loss in enumerate(losses)]
    (chart,) = training_charts(history, [])
    raw, smooth = chart.data
    assert smooth["x"] == raw["x"]
    assert smooth["y"][0] == raw["y"][0] == 9
    # 200 values: means of 25, so at a straight line's end the middle of its last 25.
    assert smooth["y"][-1] == pytest.approx(losses[-13], rel=1e-4)
    assert smooth["y"][2] == pytest.approx(losses[1], rel=1e-4)


def test_a_single_step_is_a_point():
    (chart,) = training_charts([{"step": 10, "arcface_loss": 4.0}], [])
    assert [line["mode"] for line in chart.data] == ["markers", "markers"]
    history = [{"step": step, "arcface_loss": 4.0} for step in (10, 20)]
    (chart,) = training_charts(history, [])
    assert [line["mode"] for line in chart.data] == ["lines", "lines"]


def test_several_validation_sets_are_a_line_each():
    rows = [
        {"step": step, "set": name, "auc": 0.5 + step / 10, "accuracy": 0.5}
        for step in (1, 2)
        for name in ("lfw", "a<b")
    ]
    (chart,) = training_charts([], rows)
    assert [line["name"] for line in chart.data] == ["AUC, lfw", "AUC, a&lt;b"]
    assert [line["x"] for line in chart.data] == [[1, 2], [1, 2]]
    (chart,) = training_charts([], rows[::2])
    assert [line["name"] for line in chart.data] == ["AUC", "accuracy"]
