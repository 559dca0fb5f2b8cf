"""What a run adds to ArcFace: the weights in force, and the term with one threshold for all."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from centerarc.data.source import FaceSource
from centerarc.losses.center_arcface import CenterArcFaceLoss
from centerarc.losses.head.class_pass import Implementation
from centerarc.losses.head.shards import ClassShards
from centerarc.losses.mean_centers import MeanCenterLoss
from centerarc.losses.term_weight import TermWeight
from centerarc.losses.unified_threshold import UnifiedThresholdLoss
from centerarc.training.config import TrainConfig
from centerarc.training.loss_config import LossConfig

# Steps between two measurements of the gradients that a weight of auto is from. One costs O(N D)
# for the center term, O(N^2 D) for pairs of the batch, and with shards one exchange more of each.
MEASURED_EVERY = 4


@dataclass(frozen=True)
class StepWeights:
    """What a step adds to ArcFace, still on the device.

    Args:
        center: Weight of the center term; on the device unless it is the same in all steps.
        threshold: Weight of the unified-threshold term, likewise; None without the term.
        cosine: () the learned threshold; None without it.
        margin: () the threshold that the margin learns, as a cosine; None where it learns none.
    """

    center: float | Tensor
    threshold: float | Tensor | None = None
    cosine: Tensor | None = None
    margin: Tensor | None = None

    def read(self) -> dict[str, float]:
        """Waits for the device and returns the values by the names that the log has for them."""
        named = {
            "center_weight": self.center,
            "threshold_weight": self.threshold,
            "threshold": self.cosine,
            "margin_threshold": self.margin,
        }
        return {name: float(value) for name, value in named.items() if value is not None}


class AddedTerms(nn.Module):
    """The weights of the terms that are added to ArcFace, and the unified-threshold term.

    A part of a run's state: its buffers hold what weights of later steps depend on. With shards,
    all of it is the same on every rank.

    Args:
        config: The loss.
        feat_dim: Length of the embeddings.
        implementation: How the centers are passed over.
        shards: The processes that the classes are spread over.

    Attributes:
        threshold: The unified-threshold term; None if its weight is 0.
    """

    def __init__(
        self,
        config: LossConfig,
        feat_dim: int,
        *,
        implementation: Implementation = "auto",
        shards: ClassShards | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.center_weight = _weight(config, config.center_weight)
        self.threshold_weight = _weight(config, config.threshold_weight)
        self.threshold: UnifiedThresholdLoss | None = None
        if config.threshold_weight != 0:
            self.threshold = UnifiedThresholdLoss(
                config.threshold_scale,
                over=config.threshold_over,
                memory=config.threshold_memory,
                feat_dim=feat_dim,
                reduction="sum",
                implementation=implementation,
                shards=shards,
            )
        paper = config.centers == "separate" and config.center_update == "paper"
        self.updates_centers = paper or config.centers == "mean"

    def in_force(self) -> StepWeights:
        """What the present step adds."""
        center = _in_force(self.center_weight)
        if self.threshold is None:
            return StepWeights(center)
        cosine = self.threshold.bias.detach() / self.threshold.s
        return StepWeights(center, _in_force(self.threshold_weight), cosine)

    def threshold_loss(
        self, embedding: Tensor, labels: Tensor, criterion: CenterArcFaceLoss
    ) -> Tensor:
        """() sum of the unified-threshold term over (N, D) embeddings; 0 without the term."""
        if self.threshold is None:
            return torch.zeros((), device=embedding.device)
        loss: Tensor
        if self.threshold.over == "pairs":
            loss = self.threshold(embedding, labels)
            return loss
        means = criterion.center if isinstance(criterion.center, MeanCenterLoss) else None
        seen = None if means is None else means.seen
        loss = self.threshold(embedding, labels, criterion.centers, seen)
        return loss

    def measures_at(self, step: int) -> bool:
        """Whether the gradients at the embedding are needed after `step` steps."""
        auto = self.center_weight.is_auto or self.threshold_weight.is_auto
        return auto and step % MEASURED_EVERY == 0

    def update(self, measured: Tensor | None, cosine: Tensor) -> None:
        """Ends a step.

        Args:
            measured: (6,) squared norms of the gradients of ArcFace, of the center term and of the
                unified-threshold term, before their weights, at the embeddings of all ranks, then
                how many samples have each; None if they were not measured.
            cosine: () mean target cosine of all ranks; not finite if no label was valid.
        """
        arcface = center = threshold = None
        if measured is not None:
            arcface, center, threshold = (measured[:3] / measured[3:]).sqrt().unbind()
        self.center_weight.update(arcface, center, cosine)
        self.threshold_weight.update(arcface, threshold, cosine)


def _weight(config: LossConfig, weight: object) -> TermWeight:
    options: dict[str, Any] = {} if weight != "auto" else {"ratio": config.auto_ratio}
    if weight != 0:
        options |= {"ramp_steps": config.ramp_steps, "from_cosine": config.start_cosine}
    return TermWeight(weight, **options)  # type: ignore[arg-type]


def _in_force(weight: TermWeight) -> float | Tensor:
    constant = weight.constant
    return weight.value if constant is None else constant


def pairs_note(config: TrainConfig, source: FaceSource) -> str:
    """Says where the unified-threshold term finds few pairs of a person in a batch; else empty.

    An image has a partner unless all other images of its person are left out: with a share p of all
    images in a batch and n of the person, 1 - (1 - p)^(n - 1), a little less than exactly.
    """
    loss, sampler = config.loss, config.data.sampler
    if loss.threshold_weight == 0 or loss.threshold_over == "centers" or loss.threshold_memory:
        return ""
    if sampler.kind == "identities":
        return ""
    share = min(1.0, config.batch_size / config.accumulate / max(len(source), 1))
    counts = np.bincount(source.labels, minlength=len(source.identities))
    partners = float((counts * (1 - (1 - share) ** np.maximum(counts - 1, 0))).sum() / counts.sum())
    if partners > 0.5:
        return ""
    return (
        f"loss.threshold_over is {loss.threshold_over}, but only {100 * partners:.2g}% of the "
        "images of a batch have another of their person beside them; more with "
        "data.sampler.kind: identities"
    )
