"""The plot of the terminal fits it and falls from left to right."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from centerarc.curate.inspect import tail_plot


@given(
    st.lists(st.integers(1, 10**6), min_size=1, max_size=300),
    st.integers(20, 140),
    st.integers(2, 15),
    st.booleans(),
)
def test_it_never_exceeds_its_width_and_falls(
    counts: list[int], width: int, height: int, unicode: bool
) -> None:
    lines = tail_plot(counts, width=width, height=height, unicode=unicode).split("\n")
    assert len(lines) == height + 2
    assert max(map(len, lines)) <= width
    assert unicode or all(line.isascii() for line in lines)
    bar = "│" if unicode else "|"
    drawn = [len(line.split(bar)[1]) for line in lines[:height]]
    assert drawn == sorted(drawn)
    assert drawn[-1] == width - lines[0].index(bar) - 1  # everybody has an image


def test_the_axes_name_the_most_images_and_the_last_identity() -> None:
    lines = tail_plot(np.geomspace(4000, 1, 500).astype(int), width=60).split("\n")
    assert lines[0].startswith("4,000 ")
    assert lines[-1].split() == ["1", "10", "100", "500"]
    assert [line.split("│")[0].strip() for line in lines[:-2]].count("10") == 1


def test_identities_that_have_equally_many_fill_it() -> None:
    lines = tail_plot([7, 7, 7], width=30, height=4, unicode=False).split("\n")
    assert {line.count("#") for line in lines[:4]} == {30 - 3}


def test_too_narrow_a_terminal_is_refused() -> None:
    with pytest.raises(ValueError, match="width is 5"):
        tail_plot([1], width=5)
