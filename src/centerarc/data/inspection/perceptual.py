"""Images that look almost alike, found among millions without comparing each with each."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import numpy.typing as npt

SIDE = 16  # of a thumbnail in pixels
BITS = 63
SURE_BITS = 6  # pairs that differ in so many bits or fewer are all found
_MOST_BITS = 10  # pairs that differ in more are not looked at
_BLOCKS = 9
_EQUAL_BLOCKS = _BLOCKS - SURE_BITS
# With fewer images the medians would be those of the pairs that are looked for.
_ENOUGH_FOR_MEDIANS = 1000
_LONGEST_RUN = 256
_EQUAL_HASHES = 8
_LEAST_CORRELATION = 0.9
_AT_ONCE = 1 << 16

Thumbnails = npt.NDArray[np.uint8]
Pairs = npt.NDArray[np.int64]


def perceptual_hashes(thumbnails: Thumbnails) -> npt.NDArray[np.uint64]:
    """Hashes images so that those that look alike differ in few bits.

    The bits are the signs of the 63 lowest frequencies of the cosine transform, of which the
    mean is left out and the length taken to be 1, so that brightness and contrast do not count.
    With 1,000 images and more each frequency is compared with its median over the images: aligned
    faces have the eyes in one place, and without that most of them would agree in most bits.

    Args:
        thumbnails: `(N, 16, 16)` uint8 luma.

    Returns:
        `(N,)` uint64, the lower 63 bits used.
    """
    if not len(thumbnails):
        return np.zeros(0, dtype=np.uint64)
    parts = [
        _frequencies(thumbnails[start : start + _AT_ONCE])
        for start in range(0, len(thumbnails), _AT_ONCE)
    ]
    values = np.concatenate(parts)
    middle = np.zeros(BITS, dtype=np.float32)
    if len(values) >= _ENOUGH_FOR_MEDIANS:
        middle = np.median(values, axis=0)
    hashes = np.zeros(len(values), dtype=np.uint64)
    for bit in range(BITS):
        hashes |= (values[:, bit] > middle[bit]).astype(np.uint64) << np.uint64(bit)
    return hashes


def _frequencies(thumbnails: Thumbnails) -> npt.NDArray[np.float16]:
    k, x = np.mgrid[:SIDE, :SIDE]
    cosines = np.cos(np.pi * (x + 0.5) * k / SIDE).astype(np.float32)
    cosines[0] /= np.sqrt(2)
    order = np.lexsort(((k - x).ravel(), (k**2 + x**2).ravel()))[1 : BITS + 1]
    every = cosines @ thumbnails.astype(np.float32) @ cosines.T
    values = every.reshape(len(thumbnails), -1)[:, order]
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.maximum(length, 1e-3), dtype=np.float16)


def close_pairs(hashes: npt.NDArray[np.uint64]) -> Pairs:
    """Finds the pairs of hashes that differ in few bits, by multi-index hashing.

    The 63 bits are cut into 9 blocks of 7. Two hashes that differ in at most 6 bits agree in at
    least 3 blocks, so they meet in one of the 84 tables that are each sorted by 3 of the blocks.
    Most pairs that differ in 7 to 10 bits meet as well and are returned too. In a crowd each is
    compared with the next 256 that share 3 blocks, and with the next 8 of the same hash.

    Args:
        hashes: `(N,)` uint64, 63 bits each.

    Returns:
        `(P, 2)` int64 with the smaller number first, sorted, each pair once.
    """
    by_hash = np.argsort(hashes, kind="stable")
    ordered = hashes[by_hash]
    width = BITS // _BLOCKS
    mask = np.uint64((1 << width) - 1)
    blocks = [((ordered >> np.uint64(i * width)) & mask).astype(np.uint32) for i in range(_BLOCKS)]
    found = [np.zeros((0, 2), dtype=np.int64)]
    for chosen in combinations(range(_BLOCKS), _EQUAL_BLOCKS):
        keys = np.zeros(len(hashes), dtype=np.uint32)
        for number in chosen:
            keys = keys << np.uint32(width) | blocks[number]
        # A pair that agrees in more blocks meets in several tables; the first one has it.
        before = [blocks[i] for i in range(chosen[-1]) if i not in chosen]
        for step, first, second in _with_equal_keys(keys):
            apart = np.bitwise_count(ordered[first] ^ ordered[second])
            near = (apart <= _MOST_BITS) & ((apart > 0) | (step <= _EQUAL_HASHES))
            first, second = first[near], second[near]
            new = np.ones(len(first), dtype=bool)
            for block in before:
                new &= block[first] != block[second]
            found.append(np.stack([by_hash[first[new]], by_hash[second[new]]], axis=1))
    pairs = np.sort(np.concatenate(found), axis=1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _with_equal_keys(keys: npt.NDArray[np.uint32]) -> Iterator[tuple[int, Pairs, Pairs]]:
    """Yields how far apart in their order, and the positions with equal keys."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    at = np.arange(len(keys))
    for step in range(1, _LONGEST_RUN + 1):
        at = at[at < len(keys) - step]
        at = at[ordered[at] == ordered[at + step]]
        if not len(at):
            return
        yield step, order[at], order[at + step]


def differences(thumbnails: Thumbnails, pairs: Pairs) -> npt.NDArray[np.float64]:
    """Measures how much of two images cannot be explained by a change of light or framing.

    One thumbnail is predicted from the other by least squares, allowing a change of brightness,
    of contrast, a small shift and a small zoom (to first order, from its gradients). The
    difference is the part of the variance that is left, the better of the two directions.

    Args:
        thumbnails: `(N, 16, 16)` uint8 luma.
        pairs: `(P, 2)` numbers of thumbnails.

    Returns:
        `(P,)` from 0, the same but for light and framing, to 1; 1 for pairs whose correlation is
        below 0.9, which are not looked at more closely.
    """
    result = np.ones(len(pairs))
    for start in range(0, len(pairs), _AT_ONCE):
        rows = pairs[start : start + _AT_ONCE]
        a, b = (thumbnails[rows[:, side]].astype(np.float32) for side in (0, 1))
        worth = np.flatnonzero(_correlation(a, b) >= _LEAST_CORRELATION)
        for some in np.array_split(worth, len(worth) // 1024 + 1):
            left = np.minimum(_unexplained(a[some], b[some]), _unexplained(b[some], a[some]))
            result[start + some] = left
    return result


def _correlation(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    flat = [values.reshape(len(values), SIDE * SIDE) for values in (a, b)]
    flat = [values - values.mean(axis=1, keepdims=True) for values in flat]
    lengths = np.linalg.norm(flat[0], axis=1) * np.linalg.norm(flat[1], axis=1)
    product = np.einsum("np,np->n", *flat)
    return np.asarray(product / np.maximum(lengths, 1e-3), dtype=np.float32)


def _unexplained(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    down, right = np.gradient(a.astype(np.float64), axis=(1, 2))
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    # Brightness, contrast, shift in x and y, zoom in x and y.
    terms = np.stack([np.ones_like(right), a, right, down, right * x, down * y], axis=-1)
    inner = slice(2, -2)  # a crop leaves nothing to compare with at the rim
    design = terms[:, inner, inner].reshape(len(a), -1, 6)
    wanted = b[:, inner, inner].reshape(len(b), -1).astype(np.float64)
    squares = np.einsum("npi,npj->nij", design, design) + 1e-3 * np.eye(6)
    weights = np.linalg.solve(squares, np.einsum("npi,np->ni", design, wanted)[..., None])
    rest = wanted - np.einsum("npi,ni->np", design, weights[..., 0])
    spread = wanted - wanted.mean(axis=1, keepdims=True)
    left = (rest**2).sum(axis=1) / np.maximum((spread**2).sum(axis=1), 1e-3)
    return np.asarray(left, dtype=np.float64)
