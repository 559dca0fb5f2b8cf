"""What a training step of the head costs a rank in memory, traffic and products, by arithmetic."""

from dataclasses import dataclass
from typing import Literal

import torch

from centerarc.losses.checks import check_choice, check_counts
from centerarc.losses.head.chunked import Chunked
from centerarc.losses.head.class_pass import check_sample_rate
from centerarc.losses.head.prototype_sgd import ROWS_AT_ONCE

# Arrays of a row a sample alive at once at the peak, saved for the backward pass or made in it:
# features, own prototypes, both as directions, their sum and difference, the pull, gradients.
# Counted by measuring; a center term that the target's angle does not give adds its own difference
# and that one's gradient.
SAMPLE_ARRAYS, CENTER_ARRAYS = 10, 2

# Temporaries of torch.optim.AdamW, each as large as the prototypes; counted by measuring.
ADAMW_ARRAYS = 2


@dataclass(frozen=True)
class HeadCosts:
    """The head on the rank with the most classes; all but `flops` in bytes.

    `wire_payload` is what one step hands to collectives, their results' sizes added up;
    `wire_sent` what ring algorithms then send: (W - 1) / W of an all-gather or reduce-scatter,
    twice that of an all-reduce.
    """

    weights: int  # prototypes
    momentum: int  # of SGD, or both moments of AdamW
    gradient: int  # of the prototypes, and kept exponentials before; 0 for a fused step
    centers: int  # separate ones, with their gradient and momentum if they have them
    kept: int  # exponentials in memory of their own; only for a fused step
    workspace: int  # arrays of one block of classes, about at most
    samples: int  # arrays of a row for each sample of all ranks, about
    step: int  # temporaries of the optimizer, and of the draw of sampled classes
    wire_payload: int
    wire_sent: int
    flops: int  # of the products, 2 for each multiplication with its addition

    @property
    def memory(self) -> int:
        """All that the head holds at its peak."""
        parts = (self.weights, self.momentum, self.gradient, self.centers, self.kept)
        return sum(parts) + self.workspace + self.samples + self.step


def head_costs(
    num_classes: int,
    feat_dim: int,
    samples_per_rank: int,
    world_size: int,
    *,
    sample_rate: float = 1.0,
    weight_bytes: int = 4,
    fused: bool = False,
    moments: int = 1,
    centers: Literal["shared", "mean", "paper", "gradient"] = "shared",
    own_center_term: bool = False,
    contrast: bool = False,
    smoothed: bool = False,
    hard_negatives: bool = False,
    reduced: bool = False,
    equal_batches: bool = False,
    device: str = "cpu",
    chunked: Chunked | None = None,
) -> HeadCosts:
    """The costs of a head whose classes are spread over ranks, a step of `PrototypeSGD` included.

    With C' = ceil(C / W) classes a rank, S of them taking part (S = C' unless sampled), M = W N
    samples, b bytes a weight and f = max(4, b) bytes a number of the computation:

    `weights = momentum = C' D b;  gradient = S D b;  flops = 6 M S D`, 8 where
    exponentials are made again; `payload = M (2 D f + 8 + 6 f)`, f M more each for a center term of
    its own and for label smoothing, 6 f M instead for one with negatives, 3 f M more for hard
    negatives, and 8 W for the numbers of samples. Negatives add `4 M S D` to `flops`, means
    `C' (D b + 8)` bytes.

    For `implementation="chunked"` or `"triton"`, one prototype a class and s up to 64.

    Args:
        num_classes: C, of all ranks together.
        feat_dim: D.
        samples_per_rank: N.
        world_size: W.
        sample_rate: share of the classes in a step, in (0, 1].
        weight_bytes: 2, 4 or 8 for a prototype's number.
        fused: step in the backward pass, `PrototypeSGD(fused=True)`.
        moments: arrays that the optimizer keeps for the prototypes: 1 for momentum, 0 without,
            2 for `torch.optim.AdamW`, of which the temporaries are counted too.
        centers: `"shared"`, `"mean"`, or separate ones that move by the `"paper"` or by
            `"gradient"`.
        own_center_term: with a center term that the target's angle does not give: to separate
            centers or means, or in raw space.
        contrast: with means of other classes as negatives: one more pass over the classes, forward
            only, which makes the features' gradient on its way.
        smoothed: with label smoothing.
        hard_negatives: with a `NegativeMargin`, of which the bound of what counts, times s, is at
            most 64.
        reduced: bfloat16 operands, as under autocast.
        equal_batches: as `ClassShards` has it.
        device: `"cpu"` or `"cuda"`: sets the workspace, and whether the features' gradient is
            reduced by a reduce-scatter (for batches of one size) or by an all-reduce.
        chunked: the workspace and what is kept; the defaults if None.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> costs = head_costs(10_000_000, 512, 128, 8, fused=True, device="cuda")
        >>> round(costs.memory / 1e9, 1), round(costs.wire_payload / 1e6, 1)
        (5.5, 4.2)
    """
    check_counts(
        num_classes=num_classes,
        feat_dim=feat_dim,
        samples_per_rank=samples_per_rank,
        world_size=world_size,
    )
    check_sample_rate(sample_rate)
    if weight_bytes not in (2, 4, 8):
        raise ValueError(f"weight_bytes must be 2, 4 or 8, got {weight_bytes!r}")
    if fused and weight_bytes == 2:
        raise ValueError("weight_bytes must be 4 or 8 for a fused step, got 2")
    if moments not in (0, 1, 2) or (moments == 2 and (fused or sample_rate < 1)):
        raise ValueError(
            f"moments must be 0 or 1, or 2 for a head neither fused nor sampled, got {moments!r}"
        )
    check_choice("centers", centers, Literal["shared", "mean", "paper", "gradient"])
    if contrast and (centers != "mean" or not own_center_term):
        raise ValueError("contrast must go with centers='mean' and own_center_term=True")
    check_choice("device", device, Literal["cpu", "cuda"])
    chunked = Chunked() if chunked is None else chunked
    here = -(-num_classes // world_size)
    samples = samples_per_rank * world_size
    taking_part = here
    if sample_rate < 1:
        taking_part = min(here, max(round(sample_rate * here), samples))
    number = max(4, weight_bytes)
    exponential = 2 if reduced else number
    workspace = chunked.bytes_on(torch.device(device))
    row = feat_dim * weight_bytes

    # Exponentials that need not be made again, of samples x taking_part.
    kept = 0
    if chunked.recompute:
        again = samples * taking_part
    elif fused:
        kept = min(samples * taking_part, chunked.kept // exponential)
        again = samples * taking_part - kept
        kept *= exponential
    else:
        again = max(0, samples - row // exponential) * taking_part

    step = 0
    if moments == 2:
        step = ADAMW_ARRAYS * here * row
    elif not fused:
        copies = 1 if sample_rate == 1 else 3  # a sample's rows and momentum are gathered
        step = copies * min(ROWS_AT_ONCE, taking_part) * row
    if sample_rate < 1:
        step += 4 * (here + 1) + 8 * taking_part

    rows_of_numbers = 6 + (6 if contrast else own_center_term) + smoothed
    rows_of_numbers += 3 * hard_negatives
    counts = 0 if equal_batches else 8 * world_size
    gathered = samples * (feat_dim * number + 8) + counts
    reduced_twice = rows_of_numbers * samples * number
    back = samples * feat_dim * number
    sent = gathered + 2 * reduced_twice + (1 if device == "cuda" else 2) * back
    return HeadCosts(
        weights=here * row,
        momentum=moments * here * row,
        gradient=0 if fused else taking_part * row,
        centers={"shared": 0, "mean": 1, "paper": 1, "gradient": 2 + moments}[centers] * here * row
        + 8 * here * (centers == "mean"),
        kept=kept,
        workspace=workspace,
        samples=(SAMPLE_ARRAYS + CENTER_ARRAYS * own_center_term) * samples * feat_dim * number,
        step=step,
        wire_payload=gathered + reduced_twice + back,
        wire_sent=(world_size - 1) * sent // world_size,
        flops=((10 if contrast else 6) * samples * taking_part + 2 * again) * feat_dim,
    )
