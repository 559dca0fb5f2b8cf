"""The threshold that each identity would need for one false accept rate."""

import numpy as np

from centerarc.evaluation.scores import FloatArray
from centerarc.evaluation.separability.unit_embeddings import Identities
from centerarc.evaluation.verification.roc_curve import allowed_accepts

# Cosines at once: 32 MB of float32.
_BLOCK_VALUES = 8_000_000


def identity_thresholds(
    people: Identities, far: float, impostor_images: int, seed: int
) -> tuple[FloatArray | None, str | None]:
    """The lowest threshold of each identity with FAR <= ``far`` among its impostor pairs.

    The impostor pairs of an identity are all of its images with all images of others, of which at
    most ``impostor_images`` are drawn. The threshold is given as the highest score that must be
    rejected.

    Args:
        people: the images.
        far: false accept rate, in (0, 1].
        impostor_images: how many images to draw as impostors at most.
        seed: of the drawing.

    Returns:
        (C,) thresholds and None; or None and the reason, where an identity has fewer than
        ``1 / far`` impostor pairs.
    """
    drawn = np.arange(len(people.unit))
    if drawn.size > impostor_images:
        generator = np.random.default_rng(seed)
        drawn = np.sort(generator.choice(drawn.size, impostor_images, replace=False))
    others, owner = people.unit[drawn], people.labels[drawn]
    own = np.bincount(owner, minlength=people.count)
    pairs = people.sizes * (drawn.size - own)
    fewest = int(pairs.min())
    if fewest < (1 / far) * (1 - 1e-12):
        return None, (
            f"FAR {far:g} needs at least {round(1 / far):,} impostor pairs of every identity, one "
            f"has {fewest:,}"
        )
    ends = np.cumsum(people.sizes)
    starts = ends - people.sizes
    first_own = np.searchsorted(owner, np.arange(people.count))
    result = np.empty(people.count)
    rows = max(1, _BLOCK_VALUES // drawn.size)
    first = 0
    while first < people.count:
        # Whole identities, as many as fit; one with more images than fit is a block of its own.
        last = max(first + 1, int(np.searchsorted(ends, starts[first] + rows, side="right")))
        block = people.unit[starts[first] : ends[last - 1]] @ others.T
        for identity in range(first, last):
            at = starts[identity] - starts[first]
            mine = block[at : at + people.sizes[identity]]
            mine[:, first_own[identity] : first_own[identity] + own[identity]] = -np.inf
            scores = mine.reshape(-1)
            count = min(allowed_accepts(far, int(pairs[identity])), int(pairs[identity]) - 1)
            kth = scores.size - 1 - count
            result[identity] = np.partition(scores, kth)[kth]
        first = last
    return result, None
