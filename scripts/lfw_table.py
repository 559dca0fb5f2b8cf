"""The table of docs/results/lfw.md: folds 7 and 8 for the runs of scripts/lfw.sh, in Markdown.

    python scripts/lfw_table.py runs/lfw-softmax-0 runs/lfw-softmax-center-0 ...

Differences are to the first run named, on the same pairs and the same resampled people.
"""

import sys
from pathlib import Path

import numpy as np

from centerarc.evaluation import (
    PairImages,
    embed,
    evaluate_verification,
    kfold_accuracy,
    pair_scores,
    read_pairs,
)
from centerarc.evaluation.bootstrap import person_numbers, resampled_weights
from centerarc.models import load_weights

IMAGES, PAIRS, FOLDS = Path("data/lfw112"), Path("data/pairs.txt"), [7, 8]
RESAMPLES = 1000


def main(runs: list[str]) -> None:
    """Evaluate each run and print a row for it."""
    pairs = read_pairs(PAIRS).select_folds(FOLDS)
    people = (pairs.name_a, pairs.name_b)
    first, second, count = person_numbers(people, pairs.same)
    weights = np.concatenate(list(resampled_weights(first, second, count, RESAMPLES, seed=0)))
    print("| run | accuracy | 95 % interval | AUC | TAR at FAR 1 % | minus the first |")
    print("|---|---|---|---|---|---|")
    reference = None
    for run in runs:
        model = load_weights(run)
        images = PairImages(pairs, IMAGES, image_size=model.image_size)
        scores = pair_scores(embed(model, images, mirror=True), images.index_a, images.index_b)
        report = evaluate_verification(scores, pairs.same, pairs.fold, people)
        correct = kfold_accuracy(scores, pairs.same, pairs.fold).correct.astype(float)
        reference = correct if reference is None else reference
        # As the accuracy's own interval: the shares of both kinds of pairs stay as they are.
        gain = correct - reference
        resampled = sum(
            (weights[:, kind] @ gain[kind]) / weights[:, kind].sum(axis=1) * kind.mean()
            for kind in (pairs.same, ~pairs.same)
        )
        low, high = 100 * np.quantile(resampled, [0.025, 0.975])
        accuracy, auc, tar = report.accuracy, report.auc, report.tar_at_far[1e-2]
        assert accuracy.value is not None
        assert accuracy.interval is not None
        assert auc.value is not None
        shown = "-" if tar.value is None else f"{100 * tar.value:.1f} %"
        print(
            f"| {Path(run).name} | {100 * accuracy.value:.2f} % "
            f"| {100 * accuracy.interval.low:.2f} to {100 * accuracy.interval.high:.2f} "
            f"| {100 * auc.value:.2f} % | {shown} "
            f"| {100 * gain.mean():+.2f} ({low:+.2f} to {high:+.2f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
