"""Packed texts are the texts that were put in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from centerarc.io.tables import Texts

anything = st.lists(st.text(st.characters(codec=None), max_size=8), max_size=8)


@given(anything, anything)
def test_texts_come_back_whatever_is_in_them(first: list[str], second: list[str]) -> None:
    packed = Texts.joined([Texts.of(first), Texts.of(second)])
    both = first + second
    assert list(packed) == both
    assert [packed[i] for i in range(-len(both), len(both))] == both + both
    assert len(packed) == len(both)
    with pytest.raises(IndexError):
        packed[len(both)]


@pytest.mark.parametrize("ends", [[3], [1, 0, 2], [-1, 2], [5, 2], []])
def test_ends_that_do_not_fit_are_refused(ends: list[int]) -> None:
    with pytest.raises(ValueError, match="ends must rise from 0 to the 2 bytes"):
        Texts(np.zeros(2, dtype=np.uint8), np.array(ends, dtype=np.int64))
