"""What judges a run: pairs of people who are not trained on, and the score that picks weights."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from centerarc.data.source import FaceSource
from centerarc.data.views import Subset
from centerarc.distributed.process import Processes
from centerarc.evaluation.accuracy import carrying_folds
from centerarc.evaluation.embedding import embed, make_pairs, pair_scores
from centerarc.evaluation.files.pair_set import open_pair_set
from centerarc.evaluation.files.pairs import check_both_kinds
from centerarc.evaluation.intervals import TooFew
from centerarc.evaluation.scores import BoolArray, IntArray, UnusableEmbedding
from centerarc.evaluation.verification import evaluate_verification
from centerarc.io.parallel import explain_dead_workers
from centerarc.io.tables import counted
from centerarc.training.config import MEAN, PairsFields, ValidationConfig

_NUM_PAIRS = 2000
# Numbers of one set by name.
Result = dict[str, Any]


@dataclass(frozen=True)
class ValidationPairs:
    """Pairs of images of people who are not trained on.

    Args:
        name: What the set is called.
        source: The images.
        index_a: (P,) number of each pair's first image in the source.
        index_b: (P,) number of the second.
        same: (P,) whether both show one person.
        folds: (P,) each pair's fold.
    """

    name: str
    source: FaceSource
    index_a: IntArray
    index_b: IntArray
    same: BoolArray
    folds: IntArray

    @cached_property
    def places(self) -> dict[str, Any]:
        """The images, each once, and the pairs' (2, P) numbers in them: what a run keeps of pairs.

        Unlike `index_a` and `index_b`, it stays the same where other images come or go.
        """
        used, pairs = np.unique([self.index_a, self.index_b], return_inverse=True)
        images = [self.source.place(index) for index in used.tolist()]
        return {"images": images, "pairs": torch.from_numpy(pairs.reshape(2, -1))}


def listed_pairs(
    listed: PairsFields, image_size: int, notes: list[str]
) -> tuple[ValidationPairs, set[str]]:
    """Opens the pairs that a file lists, and names everyone in them.

    Raises:
        ValueError: If an image cannot be read, or all pairs are of one kind: at the start of a
            run, not after its first epoch.
    """
    assert listed.pairs is not None
    found = open_pair_set(
        listed.pairs,
        images=listed.images,
        folds=listed.folds,
        image_size=image_size,
        missing=listed.missing or "error",
    )
    notes += [f"validation set {listed.title}: {note}" for note in found.notes]
    check_both_kinds(found.same, str(listed.pairs))
    for index in range(len(found)):
        found.image(index)
    if fold_note := carrying_folds(found.fold, found.same)[1]:
        notes.append(f"validation set {listed.title}: {listed.pairs}: {fold_note}")
    people = set() if found.people is None else {*np.concatenate(found.people).tolist()}
    if found.people is None:
        notes.append(
            f"people of the validation set {listed.title} may be trained on: {found.people_note}"
        )
    pairs = ValidationPairs(
        listed.title, found, found.index_a, found.index_b, found.same, found.fold
    )
    return pairs, people


def drawn_pairs(
    held_out: Subset,
    validation: ValidationConfig,
    seed: int,
    notes: list[str],
    before: Mapping[str, Any] | None = None,
) -> ValidationPairs:
    """Draws pairs of held-out people from images that can be read.

    Args:
        held_out: Their images.
        validation: How many pairs, and what they are called.
        seed: Of the drawing.
        notes: What a user should know is added, a line each.
        before: `places` of the pairs that the run had before it is resumed. They stay, but for
            those whose images are gone.
    """
    if before is not None and (pairs := _pairs_again(held_out, validation, before, notes)):
        return pairs
    while True:
        made = make_pairs(held_out.labels, validation.num_pairs or _NUM_PAIRS, seed=seed, folds=1)
        kept = np.ones(len(held_out), dtype=bool)
        for index in np.unique([made.index_a, made.index_b]).tolist():
            if reason := _damage(held_out, index):
                kept[index] = False
                notes.append(f"left out of the validation: {reason}")
        if kept.all():
            return ValidationPairs(
                validation.title, held_out, made.index_a, made.index_b, made.same, made.fold
            )
        held_out = Subset(held_out, images=kept)


def _pairs_again(
    held_out: Subset, validation: ValidationConfig, before: Mapping[str, Any], notes: list[str]
) -> ValidationPairs | None:
    """The pairs of a run again, of images that can still be read; None if too few are left."""
    at = {held_out.place(index): index for index in range(len(held_out))}
    index = np.array([at.get(place, -1) for place in before["images"]])
    reasons = [_damage(held_out, i) if i >= 0 else "it is not there" for i in index.tolist()]
    index[[bool(reason) for reason in reasons]] = -1
    pairs = index[before["pairs"].numpy()]
    left = (pairs >= 0).all(axis=0)
    index_a, index_b = pairs[:, left]
    same = held_out.labels[index_a] == held_out.labels[index_b]
    enough = same.any() and not same.all()
    if not left.all():
        place, reason = next(
            (place, why) for place, why in zip(before["images"], reasons, strict=True) if why
        )
        notes.append(
            f"{np.count_nonzero(~left):,} of {len(left):,} pairs of the validation "
            f"{validation.title} are gone with {counted(sum(map(bool, reasons)), 'image')}, first "
            f"{place!r} ({reason}); "
            + ("the others stay" if enough else "all are drawn again from what is left")
        )
    if not enough:
        return None
    folds = np.ones(len(same), dtype=np.int64)
    return ValidationPairs(validation.title, held_out, index_a, index_b, same, folds)


def _damage(source: Subset, index: int) -> str:
    """Why an image cannot be read; empty if it can, or is drawn, which takes longer."""
    try:
        if source.encoded(index) is not None:
            source.image(index)
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def validate(
    model: nn.Module,
    pairs: ValidationPairs,
    device: torch.device,
    batch_size: int,
    workers: int,
    far: float,
) -> Result:
    """Scores the pairs with the model, whose mode is restored.

    Returns:
        `auc`, `eer`, the accuracy under the name of its protocol (`accuracy` where the threshold
        comes from other folds, `best_accuracy`, which is optimistic, for a single fold), the TAR
        at `far` under `tar_key(far)` where there are enough impostor pairs, and `pairs`.
    """
    embeddings = embed(model, pairs.source, batch_size=batch_size, device=device, workers=workers)
    scores = pair_scores(embeddings, pairs.index_a, pairs.index_b)
    report = evaluate_verification(scores, pairs.same, pairs.folds, fars=[far])
    accuracy = "accuracy" if report.protocol == "k-fold" else report.protocol
    result = {
        "auc": report.auc.value,
        "eer": report.eer.value,
        accuracy: report.accuracy.value,
        tar_key(far): report.tar_at_far[far].value,
        "pairs": len(pairs.same),
    }
    return {name: value for name, value in result.items() if value is not None}


def tar_key(far: float) -> str:
    """What the TAR at a FAR is called in a result."""
    return f"tar_at_far_{far:g}"


class Validation:
    """The sets that judge a run, and which of their numbers chooses the best weights.

    The default is the AUC of the first set. The area under the ROC needs no threshold, which a
    single fold would have to choose on the very pairs it is tried on, and it moves with every
    pair that changes order, where the accuracy of a few hundred pairs moves in steps. And one set
    decides, not the mean of all, so that a further set that is only watched changes no weights.

    Args:
        sets: The sets, at least one.
        config: What decides.

    Raises:
        ValueError: If the TAR is to decide and a set has too few impostor pairs for it.
    """

    def __init__(self, sets: Sequence[ValidationPairs], config: ValidationConfig) -> None:
        self.sets = sets
        # What a resumed run needs of the pairs of held-out people; None without them.
        self.drawn = next((p.places for p in sets if isinstance(p.source, Subset)), None)
        self.decides = config.deciding_set
        self.every_epochs = config.every_epochs
        self.far = config.far
        self.measure = _measure(config)
        for pairs in sets:
            if config.measure == "tar" and self.decides in (pairs.name, MEAN):
                impostors = int(np.count_nonzero(~pairs.same))
                if too_few := TooFew.for_rate("FAR", self.far, "impostor", impostors):
                    raise ValueError(
                        f"validation.measure is tar, but the set {pairs.name} has too few pairs: "
                        f"{too_few}; raise validation.far or choose another measure"
                    )

    def judge(
        self,
        model: nn.Module,
        processes: Processes,
        batch_size: int,
        workers: int,
        advice: str = "",
    ) -> dict[str, Result]:
        """Judges the model on all sets: rank r of W on the sets r, r + W, ...

        Args:
            model: The backbone.
            processes: The processes of the run.
            batch_size: Images at once.
            workers: Processes that decode them.
            advice: What to add to the error where an embedding has no direction.

        Returns:
            The results by set, in order, on every rank; with their mean if that decides.

        Raises:
            ValueError: If images of a set cannot be read, on every rank.
        """
        own: dict[str, Result] = {}

        def judge_own() -> None:
            for pairs in self.sets[processes.rank :: processes.world_size]:
                try:
                    with explain_dead_workers(workers):
                        own[pairs.name] = validate(
                            model, pairs, processes.device, batch_size, workers, self.far
                        )
                except (ValueError, OSError) as problem:
                    more = advice if isinstance(problem, UnusableEmbedding) else ""
                    raise ValueError(f"{pairs.name}: {problem}{more}") from problem

        processes.on_all(judge_own)
        found = {k: v for part in processes.gather_objects(own) for k, v in part.items()}
        results = {pairs.name: found[pairs.name] for pairs in self.sets}
        if self.decides == MEAN:
            results[MEAN] = _mean(list(results.values()))
        return results

    def fingerprint(self) -> str:
        """A digest of the pairs that choose the best weights, which is other for other pairs."""
        digest = hashlib.sha256()
        for pairs in self.sets:
            if self.decides in (pairs.name, MEAN):
                digest.update(os.fsencode("\n".join([pairs.name, *pairs.places["images"]])))
                for column in (pairs.places["pairs"].numpy(), pairs.same):
                    digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    def is_better(self, results: dict[str, Result], best: dict[str, Result]) -> bool:
        """Whether results beat the best so far, empty for none; of equals, the earlier is better.

        A best that was not judged by what decides now, before the run was resumed, is beaten.
        """
        score, before = self.score(results), self.score(best)
        assert score is not None
        return before is None or score > before

    def score(self, results: dict[str, Result]) -> float | None:
        """The number that decides; None if the results lack it."""
        names = [p.name for p in self.sets] if self.decides == MEAN else [self.decides]
        return _score(results, names, self.measure)

    def said(self, results: dict[str, Result]) -> str:
        """What decides, in words with its number."""
        score = self.score(results)
        shown = "not known" if score is None else f"{score:.4f}"
        mean = self.decides == MEAN
        return (
            f"mean {self.measure} {shown}" if mean else f"{self.measure} of {self.decides} {shown}"
        )


def deciding_number(config: ValidationConfig, results: dict[str, Result]) -> float | None:
    """The number of results, by set, that chose a run's best weights; None if they lack it."""
    names = [one.title for one in config.all_sets]
    names = names if config.deciding_set == MEAN else [config.deciding_set]
    return _score(results, names, _measure(config))


def _measure(config: ValidationConfig) -> str:
    return tar_key(config.far) if config.measure == "tar" else config.measure


def _score(results: dict[str, Result], names: Sequence[str], measure: str) -> float | None:
    """The mean of a number over sets; None if one lacks it."""
    other = "best_accuracy" if measure == "accuracy" else measure
    found = [results.get(name, {}) for name in names]
    known = [result.get(measure, result.get(other)) for result in found]
    numbers = [number for number in known if number is not None]
    return float(np.mean(numbers)) if len(numbers) == len(names) else None


def _mean(results: Sequence[Result]) -> Result:
    """The means of what all sets have."""
    first, *others = results
    return {
        name: float(np.mean([result[name] for result in results]))
        for name, value in first.items()
        if isinstance(value, float) and all(name in other for other in others)
    }
