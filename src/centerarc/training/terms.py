"""What a run adds to ArcFace: the weights in force, from the configuration and earlier steps."""

from torch import Tensor, nn

from centerarc.losses.term_weight import TermWeight
from centerarc.training.config import LossConfig

# Steps between two measurements of the gradients that a weight of auto is from. One costs the
# center term once more: next to nothing, but a pass over the classes for means with negatives.
MEASURED_EVERY = 4


class AddedTerms(nn.Module):
    """The weights of the terms that are added to ArcFace.

    A part of a run's state: its buffers hold what weights of later steps depend on.

    Args:
        config: The loss.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.config = config
        self.center = _weight(config, config.center_weight)
        self.updates_centers = config.centers == "separate" and config.center_update == "paper"

    @property
    def center_weight(self) -> float | Tensor:
        """The weight of the center term in this step, on the device unless it is always one."""
        return _in_force(self.center)

    def measures_at(self, step: int) -> bool:
        """Whether the gradients at the embedding are needed after `step` steps."""
        return self.center.is_auto and step % MEASURED_EVERY == 0

    def update(self, squares: Tensor | None, cosine: Tensor) -> None:
        """Ends a step.

        Args:
            squares: (2,) squared norms of the gradients of ArcFace and of the center term, before
                its weight, at the embeddings of all ranks; None if they were not measured.
            cosine: () mean target cosine of all ranks; not finite if no label was valid.
        """
        arcface, center = (None, None) if squares is None else squares.sqrt().unbind()
        self.center.update(arcface, center, cosine)


def _weight(config: LossConfig, weight: object) -> TermWeight:
    return TermWeight(
        weight,  # type: ignore[arg-type]
        ratio=config.auto_ratio,
        ramp_steps=config.ramp_steps if weight != 0 else 0,
        from_cosine=config.start_cosine if weight != 0 else None,
    )


def _in_force(weight: TermWeight) -> float | Tensor:
    constant = weight.constant
    return weight.value if constant is None else constant
