"""What a page says of several models."""

import re

from centerarc.evaluation import Difference, Estimate, Interval
from centerarc.report.comparison_page import verdicts
from centerarc.report.numbers import ComparedRow


def compared(**rates):
    """Rates of a and b, by the value, interval and doubt of their differences."""
    return [
        ComparedRow(
            name.replace("_", " "),
            [Estimate(0.5), Estimate(0.5)],
            {"b": Difference(value, Interval(low, high), doubt)},
        )
        for name, (value, low, high, doubt) in rates.items()
    ]


def test_a_verdict_names_what_is_sure_and_what_is_not():
    unsure = (0.0058, -0.036, 0.05, 0.8)
    found = compared(accuracy=unsure, AUC=(0.036, -0.001, 0.07, 0.06))
    (sentence,) = verdicts(found, ["a", "b"])
    assert sentence.startswith("b and a cannot be told apart by these people")
    assert "Accuracy differs by +0.58 points" in sentence
    assert "the measure closest to a difference is AUC, with +3.60 points" in sentence

    sure = {"AUC": (0.036, 0.001, 0.07, 0.04), "EER": (0.02, 0.01, 0.03, 0.0)}
    (sentence,) = verdicts(compared(accuracy=unsure, **sure), ["a", "b"])
    assert "b is better in AUC (+3.60 points, 95% interval +0.10 to +7.00)" in sentence
    # More errors are worse.
    assert "and worse in EER (+2.00 points" in sentence
    assert sentence.endswith("The other measure cannot be told apart.")


def test_all_measures_in_one_direction_read_as_a_sentence():
    found = compared(accuracy=(0.1, 0.05, 0.15, 0.0), AUC=(0.1, 0.05, 0.15, 0.0))
    (sentence,) = verdicts(found, ["a", "b"])
    assert re.fullmatch(
        r"b is better in accuracy \(\+10\.00 points.*\) and AUC \(.*\) than a\.", sentence
    )
