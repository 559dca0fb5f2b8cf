"""The histogram of scores."""

import numpy as np
import pytest

from centerarc.report.scores import score_chart


@pytest.mark.parametrize("threshold", [-0.9, 0.0, 0.7, 0.95])
def test_the_threshold_is_named_inside_the_histogram(threshold):
    """The axis ends with the scores, so the name must stand on the side with more room."""
    chart = score_chart(np.linspace(-1, 1, 50), np.arange(50) > 20, threshold)
    low, high = chart.layout["xaxis"]["range"]
    assert (low, high) == pytest.approx((-1, 1))
    to_the_left = chart.layout["annotations"][0]["xanchor"] == "right"
    assert (threshold - low if to_the_left else high - threshold) >= (high - low) / 2 - 1e-6
