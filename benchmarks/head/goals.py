"""What the head was built to reach, and what was measured. Imports no torch."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.head.cases import EAGER_PEERS, SHAPES
from benchmarks.head.results import Results

COLUMNS = ("10k", "100k", "1m")


# A ratio, and the peer that it is to, if it is to one.
Ratio = tuple[float, str | None]


@dataclass(frozen=True)
class Goal:
    """A ratio that must not be exceeded, for each shape.

    Attributes:
        words: what is divided by what.
        bounds: one for each of ``COLUMNS``; None where there is no goal, only something to know.
        ratio: finds it among the results; None where something is missing.
    """

    words: str
    bounds: tuple[float, float, float] | None
    ratio: Callable[[Results, str], Ratio | None]


def _over_products(results: Results, shape: str) -> Ratio | None:
    return _ratio(
        results.milliseconds("ours", shape, "loss", "float32"),
        results.milliseconds("products", shape, "loss", "float32"),
    )


def _over_peer(
    name: str, task: str, mode: str, peers: tuple[str, ...] = EAGER_PEERS
) -> Callable[[Results, str], Ratio | None]:
    def ratio(results: Results, shape: str) -> Ratio | None:
        peer = results.fastest(peers, shape, task, mode)
        if peer is None:
            return None
        above = results.milliseconds(name, shape, task, mode)
        return _ratio(above, results.milliseconds(peer, shape, task, mode), peer)

    return ratio


def _memory_over_gradient(results: Results, shape: str) -> Ratio | None:
    _, c, d = SHAPES[shape]
    return _ratio(results.bytes("ours", shape, "loss", "float32"), 4.0 * c * d)


def _memory_over_peer(results: Results, shape: str) -> Ratio | None:
    peer = results.fastest(EAGER_PEERS, shape, "step", "float32")
    if peer is None:
        return None
    above = results.bytes("ours_fused", shape, "step", "float32")
    return _ratio(above, results.bytes(peer, shape, "step", "float32"), peer)


def _ratio(above: float | None, below: float | None, peer: str | None = None) -> Ratio | None:
    return None if above is None or not below else (above / below, peer)


GOALS = (
    Goal(
        "float32, loss and backward: time over the three bare products",
        (1.40, 1.35, 1.50),
        _over_products,
    ),
    Goal(
        "float32, loss and backward: time over the fastest peer's",
        (0.33, 0.30, 0.20),
        _over_peer("ours", "loss", "float32"),
    ),
    Goal(
        "bfloat16 autocast, loss and backward: time over the fastest peer's",
        (0.22, 0.20, 0.12),
        _over_peer("ours", "loss", "reduced"),
    ),
    Goal(
        "float32: memory above the inputs, the gradient included, over the C x D gradient",
        (1.60, 1.25, 1.15),
        _memory_over_gradient,
    ),
    Goal(
        "float32, whole step, fused, no gradient kept: time over the fastest peer's step",
        (0.40, 0.33, 0.20),
        _over_peer("ours_fused", "step", "float32"),
    ),
    Goal(
        "the same: memory above inputs, weights and momentum, over that peer's",
        (0.15, 0.08, 0.03),
        _memory_over_peer,
    ),
    Goal(
        "mean centers with negatives, float32: time over one pass over the centers",
        (1.15, 1.15, 1.15),
        _over_peer("means", "means", "float32", ("pass",)),
    ),
    Goal(
        "mean centers with negatives, bfloat16 autocast: time over one pass over the centers",
        (1.15, 1.15, 1.15),
        _over_peer("means", "means", "reduced", ("pass",)),
    ),
    Goal(
        "beside the goals: float32, loss and backward, time over `torch.compile`",
        None,
        _over_peer("ours", "loss", "float32", ("compiled",)),
    ),
    Goal(
        "bfloat16 autocast, loss and backward, time over `torch.compile`",
        None,
        _over_peer("ours", "loss", "reduced", ("compiled",)),
    ),
    Goal(
        "float32, whole step, fused, time over `torch.compile` and SGD",
        None,
        _over_peer("ours_fused", "step", "float32", ("compiled",)),
    ),
)
