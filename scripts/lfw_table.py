"""The table of docs/results/lfw.md: folds 7 and 8 for the runs of scripts/lfw.sh, in Markdown.

    python scripts/lfw_table.py runs/lfw-softmax-0 runs/lfw-softmax-center-0 ...

Differences are to the first run named, on the same pairs and the same resampled people;
"contrary" is how often a resampled difference is not on the side of most, doubled: small is sure.
"""

import sys
from pathlib import Path

from centerarc.evaluation.comparison import compare_with_first
from centerarc.evaluation.embedding import embed, pair_scores
from centerarc.evaluation.files import PairImages, read_pairs
from centerarc.evaluation.verification import evaluate_verification
from centerarc.models.opened import load_weights

IMAGES, PAIRS, FOLDS = Path("data/lfw112"), Path("data/pairs.txt"), [7, 8]


def main(runs: list[str]) -> None:
    """Score the pairs with each run, then print a row for it."""
    pairs = read_pairs(PAIRS).select_folds(FOLDS)
    people = pairs.people
    scores = {}
    for run in runs:
        model = load_weights(run)
        images = PairImages(pairs, IMAGES, image_size=model.image_size)
        embeddings = embed(model, images, mirror=True)
        scores[run] = pair_scores(embeddings, images.index_a, images.index_b)
        print(f"{run}: scored", file=sys.stderr)
    compared = {}
    if len(scores) > 1:
        compared = compare_with_first(scores, pairs.same, pairs.fold, people)
    print("| run | accuracy | 95% interval | AUC | TAR at FAR 1% | minus the first | contrary |")
    print("|---|---|---|---|---|---|---|")
    for run in scores:
        report = evaluate_verification(scores[run], pairs.same, pairs.fold, people)
        accuracy, auc, tar = report.accuracy, report.auc, report.tar_at_far[1e-2]
        assert accuracy.value is not None
        assert accuracy.interval is not None
        assert auc.value is not None
        shown = "-" if tar.value is None else f"{100 * tar.value:.1f}%"
        difference, contrary = "", ""
        if run in compared:
            gain = compared[run].accuracy
            assert gain.value is not None
            assert gain.interval is not None
            low, high = 100 * gain.interval.low, 100 * gain.interval.high
            difference = f"{100 * gain.value:+.2f} ({low:+.2f} to {high:+.2f})"
            contrary = f"{gain.doubt:.3f}"
        print(
            f"| {Path(run).name} | {100 * accuracy.value:.2f}% "
            f"| {100 * accuracy.interval.low:.2f} to {100 * accuracy.interval.high:.2f} "
            f"| {100 * auc.value:.2f}% | {shown} | {difference} | {contrary} |"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
