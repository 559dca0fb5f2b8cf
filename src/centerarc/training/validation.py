"""How good the weights are on people who are not trained on."""

from typing import Any

import torch
from torch import nn

from centerarc.evaluation import embed, evaluate_verification, pair_scores
from centerarc.training.sources import ValidationPairs

# The area under the ROC chooses the best weights. It needs no threshold, which a single fold
# would have to choose on the very pairs it is tried on, and it moves with every pair that changes
# order, where the accuracy of a few hundred pairs moves in steps.
METRIC = "auc"


def validate(
    model: nn.Module, pairs: ValidationPairs, device: torch.device, batch_size: int, workers: int
) -> dict[str, Any]:
    """Scores the pairs with the model.

    Args:
        model: The backbone; its mode is put back.
        pairs: Pairs of people who are not trained on.
        device: Where to compute.
        batch_size: Images at once.
        workers: Decoding processes.

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
