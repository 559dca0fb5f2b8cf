"""What judges a run: pairs of people who are not trained on, and the score that picks weights."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from centerarc.data.source import FaceSource
from centerarc.data.views import Subset
from centerarc.evaluation.embedding import embed, make_pairs, pair_scores
from centerarc.evaluation.files.pair_set import PairImages
from centerarc.evaluation.files.pairs import read_pairs
from centerarc.evaluation.scores import BoolArray, IntArray
from centerarc.evaluation.verification import evaluate_verification
from centerarc.training.config import ValidationConfig

# The area under the ROC chooses the best weights. It needs no threshold, which a single fold
# would have to choose on the very pairs it is tried on, and it moves with every pair that changes
# order, where the accuracy of a few hundred pairs moves in steps.
METRIC = "auc"
_NUM_PAIRS = 2000


@dataclass(frozen=True)
class ValidationPairs:
    """Pairs of images of people who are not trained on.

    Args:
        source: The images.
        index_a: (P,) number of each pair's first image in the source.
        index_b: (P,) number of the second.
        same: (P,) whether both show one person.
        folds: (P,) each pair's fold.
    """

    source: FaceSource
    index_a: IntArray
    index_b: IntArray
    same: BoolArray
    folds: IntArray


def listed_pairs(validation: ValidationConfig, image_size: int) -> tuple[ValidationPairs, set[str]]:
    """Opens the pairs that a file lists, and names everyone in them.

    Raises:
        ValueError: If an image cannot be read: at the start of a run, not after its first epoch.
    """
    assert validation.pairs is not None
    assert validation.images is not None
    named = read_pairs(validation.pairs).select_folds(validation.folds)
    images = PairImages(named, validation.images, image_size=image_size)
    for index in range(len(images)):
        images.image(index)
    pairs = ValidationPairs(images, images.index_a, images.index_b, named.same, named.fold)
    return pairs, named.everyone()


def drawn_pairs(
    held_out: Subset, validation: ValidationConfig, seed: int, notes: list[str]
) -> ValidationPairs:
    """Draws pairs of held-out people from images that can be read."""
    while True:
        made = make_pairs(held_out.labels, validation.num_pairs or _NUM_PAIRS, seed=seed, folds=1)
        kept = np.ones(len(held_out), dtype=bool)
        for index in np.unique([made.index_a, made.index_b]).tolist():
            if reason := _damage(held_out, index):
                kept[index] = False
                notes.append(f"left out of the validation: {reason}")
        if kept.all():
            return ValidationPairs(held_out, made.index_a, made.index_b, made.same, made.fold)
        held_out = Subset(held_out, images=kept)


def _damage(source: Subset, index: int) -> str:
    """Why an image cannot be read; empty if it can, or is drawn, which takes longer."""
    try:
        if source.encoded(index) is not None:
            source.image(index)
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def validate(
    model: nn.Module, pairs: ValidationPairs, device: torch.device, batch_size: int, workers: int
) -> dict[str, Any]:
    """Scores the pairs with the model, whose mode is restored.

    Returns:
        `auc`, `eer` and the accuracy under the name of its protocol: `accuracy` where the
        threshold comes from other folds, `best_accuracy` (optimistic) for a single fold.
    """
    embeddings = embed(model, pairs.source, batch_size=batch_size, device=device, workers=workers)
    scores = pair_scores(embeddings, pairs.index_a, pairs.index_b)
    report = evaluate_verification(scores, pairs.same, pairs.folds)
    accuracy = "accuracy" if report.protocol == "k-fold" else report.protocol
    return {
        METRIC: report.auc.value,
        "eer": report.eer.value,
        accuracy: report.accuracy.value,
        "pairs": len(pairs.same),
    }
