"""Scored pairs that tests of evaluation share."""

import numpy as np
from hypothesis import strategies as st


def world(seed, num_people=60, num_pairs=600, spread=0.8):
    """Scores with a random effect of each person: some people are hard in all their pairs."""
    rng = np.random.default_rng(seed)
    ease = rng.normal(size=num_people) * spread
    first = rng.integers(num_people, size=num_pairs)
    other = (first + rng.integers(1, num_people, size=num_pairs)) % num_people
    same = np.arange(num_pairs) % 2 == 0
    second = np.where(same, first, other)
    shift = np.where(same, 2 + ease[first], (ease[first] + ease[second]) / -2)
    return shift + rng.normal(size=num_pairs), same, (first, second)


@st.composite
def scored_pairs(draw):
    """Scores on a coarse grid, so that ties are common, with pairs of both kinds."""
    same = draw(
        st.lists(st.booleans(), min_size=2, max_size=40).filter(lambda s: 0 < sum(s) < len(s))
    )
    size = len(same)
    scores = draw(st.lists(st.integers(-8, 8), min_size=size, max_size=size))
    return np.array(scores) / 8.0, np.array(same)
