"""Braces mean what they mean to a shell and to WebDataset."""

import braceexpand
import pytest
from hypothesis import given
from hypothesis import strategies as st

from centerarc.data.shards.manifest import expand_braces

pieces = st.one_of(
    st.sampled_from(["faces-", ".tar", "a", "/", "{a}", "{}"]),
    st.tuples(st.integers(0, 12), st.integers(0, 12)).map(lambda p: f"{{{p[0]}..{p[1]}}}"),
    st.tuples(st.integers(0, 12), st.integers(0, 12)).map(lambda p: f"{{{p[0]:03d}..{p[1]:03d}}}"),
    st.sampled_from(["{x,y}", "{p,{1..3}}", "{train,val-{00..02}}", "{,z}"]),
)


@given(st.lists(pieces, min_size=1, max_size=3).map("".join))
def test_braces_expand_as_in_webdataset(pattern: str) -> None:
    assert sorted(expand_braces(pattern)) == sorted(set(braceexpand.braceexpand(pattern)))


@pytest.mark.parametrize("pattern", ["f-{0..99999999}.tar", "{0..999}{0..999}{0..9}"])
def test_a_slip_of_the_keyboard_does_not_fill_the_memory(pattern: str) -> None:
    with pytest.raises(ValueError, match="more than 100000 names"):
        expand_braces(pattern)
