"""What the head costs at sizes that this machine has not: computed, not measured.

``python -m benchmarks.scaling.capacity``; ``--write`` puts the table into docs/scaling.md.
"""

import argparse
from typing import Any

from benchmarks.common.page import markdown_table, write_regions
from benchmarks.common.runner import ROOT

from centerarc.distributed import HeadCosts, head_costs

WAYS: dict[str, dict[str, Any]] = {
    "full": {},
    "fused": {"fused": True},
    "sampled 0.1": {"sample_rate": 0.1},
}
HEAD = [
    "classes",
    "GPUs",
    "way",
    "weights",
    "momentum",
    "gradient",
    "else",
    "GB a GPU",
    "MB sent a step",
    "TFLOP a step",
]


def line(classes: int, gpus: int, way: str, costs: HeadCosts) -> list[str]:
    """One line of the table."""
    rest = costs.memory - costs.weights - costs.momentum - costs.gradient
    parts = (costs.weights, costs.momentum, costs.gradient, rest, costs.memory)
    return [
        f"{classes // 10**6} M",
        str(gpus),
        way,
        *(f"{part / 1e9:.2f}" for part in parts),
        f"{costs.wire_sent / 1e6:.1f}",
        f"{costs.flops / 1e12:.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling.capacity")
    parser.add_argument("--classes", type=int, nargs="+", default=[10_000_000, 100_000_000])
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--samples", type=int, default=128, help="a GPU")
    parser.add_argument("--write", action="store_true", help="into docs/scaling.md")
    chosen = parser.parse_args()
    rows = [
        line(
            classes,
            gpus,
            way,
            head_costs(
                classes,
                chosen.dim,
                chosen.samples,
                gpus,
                reduced=True,
                equal_batches=True,
                device="cuda",
                **options,
            ),
        )
        for classes in chosen.classes
        for gpus in chosen.gpus
        for way, options in WAYS.items()
    ]
    body = (
        f"{markdown_table(HEAD, rows)}\n\n`python -m benchmarks.scaling.capacity --write`: "
        f"{chosen.dim} dimensions, {chosen.samples} samples a GPU, float32 weights and momentum, "
        "bfloat16 autocast, joint loss. GB are 10^9 bytes, of the head alone."
    )
    print(body)
    if chosen.write:
        write_regions({"capacity": body}, ROOT / "docs" / "scaling.md")


if __name__ == "__main__":
    main()
