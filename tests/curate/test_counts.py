"""The numbers of the long tail are those of their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from centerarc.curate.inspect import count_statistics

counts = st.lists(st.integers(1, 30_000), min_size=1, max_size=60)


@given(counts)
def test_the_gini_coefficient_is_half_the_relative_mean_difference(values: list[int]) -> None:
    array = np.array(values, dtype=float)
    expected = np.abs(array[:, None] - array).mean() / (2 * array.mean())
    assert count_statistics(values).gini == pytest.approx(expected, abs=1e-9)


@given(counts)
def test_every_identity_is_in_the_group_that_names_its_count(values: list[int]) -> None:
    found = count_statistics(values)
    assert sum(identities for _, identities, _ in found.groups) == len(values)
    assert sum(images for _, _, images in found.groups) == sum(values)
    for name, identities, images in found.groups:
        ends = name.replace(",", "").rstrip("+").split("-")
        low, high = int(ends[0]), int(ends[-1]) if not name.endswith("+") else 10**9
        inside = [value for value in values if low <= value <= high]
        assert (len(inside), sum(inside)) == (identities, images)


def test_the_head_is_the_identities_with_most_images() -> None:
    found = count_statistics([1] * 90 + [91] * 10)
    assert found.heads[0.1] == pytest.approx(910 / 1000)
    assert found.heads[0.01] == pytest.approx(91 / 1000)
    assert (found.minimum, found.median, found.mean, found.maximum) == (1, 1, 10, 91)


@pytest.mark.parametrize("bad", [[], [3, 0], [[1, 2]]])
def test_nothing_to_count_is_refused(bad: list[int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        count_statistics(bad)
