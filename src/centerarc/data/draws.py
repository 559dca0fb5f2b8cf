"""Random numbers by position: each place in an epoch has its own, whoever asks for it."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

# A Philox counter gives four numbers of 64 bits.
_A_COUNTER = 4


def uniform_draws(
    key: tuple[int, ...], first: int, count: int, width: int
) -> npt.NDArray[np.float64]:
    """Draws `width` numbers for each of `count` positions from `first` on.

    A counter-based generator (Philox; Salmon et al. 2011) gives the numbers of any position
    without those before it, so a batch may be cut into any parts: row p is the same in each.

    Args:
        key: Names the stream, such as (seed, epoch); each number at least 0.
        first: Number of the first position, at least 0.
        count: How many positions.
        width: How many numbers a position, a multiple of 4.

    Returns:
        `(count, width)` float64, evenly in [0, 1).

    Example:
        >>> whole = uniform_draws((7, 0), 0, 5, 8)
        >>> bool((uniform_draws((7, 0), 3, 2, 8) == whole[3:]).all())
        True
    """
    assert width % _A_COUNTER == 0, width
    bits = np.random.Philox(key=_words(key), counter=first * width // _A_COUNTER)
    return np.random.Generator(bits).random((count, width))


@lru_cache(maxsize=8)
def _words(key: tuple[int, ...]) -> npt.NDArray[np.uint64]:
    return np.random.SeedSequence(key).generate_state(2, np.uint64).astype(np.uint64)
