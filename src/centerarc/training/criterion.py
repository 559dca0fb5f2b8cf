"""The loss of a run, from its configuration."""

import torch

from centerarc.losses import CenterArcFaceLoss, create_margin
from centerarc.training.config import LossConfig


def make_criterion(
    config: LossConfig, num_classes: int, embedding_size: int, generator: torch.Generator
) -> CenterArcFaceLoss:
    """Builds the joint loss with `reduction="sum"` and no center update of its own.

    The trainer divides by the number of valid labels over all micro-batches and processes, and
    updates the centers once an optimiser step on the features of them all; both would be wrong
    per forward.

    Args:
        config: Margin, scale and centers.
        num_classes: C, people in the training set.
        embedding_size: D, length of the embedding.
        generator: Source of the first prototypes.

    Returns:
        The criterion.

    Raises:
        ValueError: If the margin or one of its parameters is unknown.
    """
    options = dict(config.margin_options)
    # Margins of several parameters have no single m; their options say it all.
    margin = create_margin(config.margin, **(options or {"m": config.m}))
    return CenterArcFaceLoss(
        num_classes,
        embedding_size,
        s=config.s,
        margin=margin,
        centers=config.centers,
        center_space=config.center_space,
        center_update=config.center_update,
        alpha=config.alpha,
        sub_centers=config.sub_centers,
        label_smoothing=config.label_smoothing,
        reduction="sum",
        update_on_forward=False,
        generator=generator,
    )
