"""What judges a run: pairs of people who are not trained on, and the score that picks weights."""

import hashlib
import itertools
import os
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from centerarc.data.loader import Batch, Request, SoundReader, read_batches
from centerarc.data.source import FaceSource
from centerarc.data.views import Subset, split_identities
from centerarc.distributed.process import Processes
from centerarc.evaluation.accuracy import carrying_folds
from centerarc.evaluation.embedding import make_pairs, pair_scores
from centerarc.evaluation.files.pair_set import open_pair_set
from centerarc.evaluation.files.pairs import check_both_kinds
from centerarc.evaluation.intervals import TooFew
from centerarc.evaluation.scores import BoolArray, FloatArray, IntArray, UnusableEmbedding
from centerarc.evaluation.verification import evaluate_verification
from centerarc.io.parallel import READ_TIMEOUT
from centerarc.io.tables import counted
from centerarc.models.embedder import TorchEmbedder
from centerarc.training.config import MEAN, PairsFields, ValidationConfig
from centerarc.training.step import Diverged

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
        ValueError: If an image cannot be read and `missing` is not "skip", or all pairs are of one
            kind: at the start of a run, not after its first epoch.
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
    damaged: dict[int, str] = {}
    for index in range(len(found)):
        try:
            found.image(index)
        except ValueError as error:
            if listed.missing is None:
                raise
            damaged[index] = str(error)
    gone = np.asarray(np.isin([found.index_a, found.index_b], [*damaged]).any(axis=0))
    pairs = ValidationPairs(
        listed.title,
        found,
        found.index_a[~gone],
        found.index_b[~gone],
        found.same[~gone],
        found.fold[~gone],
    )
    if damaged:
        some = f"{np.count_nonzero(gone):,} of {len(gone):,} pairs"
        notes.append(
            f"validation set {listed.title}: {some} are left out with "
            f"{counted(len(damaged), 'image')}, first: {next(iter(damaged.values()))}"
        )
        check_both_kinds(pairs.same, str(listed.pairs))
    if fold_note := carrying_folds(pairs.folds, pairs.same)[1]:
        notes.append(f"validation set {listed.title}: {listed.pairs}: {fold_note}")
    people = set() if found.people is None else {*np.concatenate(found.people).tolist()}
    if found.people is None:
        notes.append(
            f"people of the validation set {listed.title} may be trained on: {found.people_note}"
        )
    return pairs, people


def chosen_to_hold_out(
    source: FaceSource, validation: ValidationConfig, seed: int, notes: list[str]
) -> list[str]:
    """Chooses whom to hold out, 2 at least, of those with several images; no one if too few are.

    A fraction is what a recipe says before the people are known. Where they are too few for it,
    the run has no validation, and a note says so. A number of people is meant as it is.
    """
    assert validation.identities is not None
    wanted = float(validation.identities)
    counts = np.bincount(source.labels, minlength=len(source.identities))
    several = [name for name, n in zip(source.identities, counts, strict=True) if n > 1]
    people = len(source.identities)
    number = max(round(wanted * people), 2) if wanted < 1 else int(wanted)
    setting = f"validation.identities is {validation.identities:g}"
    if not several or people < 4:
        why = (
            f"it takes 2 people to hold out and 2 to train on, and there are {people}"
            if several
            else f"it takes someone with two images, and none of {people} people has"
        )
        if wanted < 1 and not validation.sets:
            notes.append(f"no validation: {why}; the last weights are those to use")
            return []
        raise ValueError(f"{setting}, but {why}; --validation none trains without")
    if number > people - 2:
        most = people - 2 if wanted >= 1 else 1 - 2 / people
        raise ValueError(
            f"{setting}, but there are {people} people, 2 of whom must be left to train on; it "
            f"must be at most {most:.3g}"
        )
    if number < len(several):
        return split_identities(several, number / len(several), seed)[1]
    single = sorted(set(source.identities).difference(several))
    order = np.random.default_rng(seed).permutation(len(single))
    return sorted([*several, *(single[i] for i in order[: number - len(several)])])


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


# Of training images so many are read to compare them: seconds from most disks.
_COMPARED = 5000


def copies(train: FaceSource, pairs: ValidationPairs) -> list[str]:
    """Says which pairs are of one file twice, and which training images are files of the pairs.

    Only training images of an equal size are read, and of very many some, evenly spread.
    """
    digest_of: dict[int, bytes] = {}
    lengths = set()
    for index in np.unique([pairs.index_a, pairs.index_b]).tolist():
        if (data := pairs.source.encoded(index)) is None:
            return []
        digest_of[index] = hashlib.sha256(data).digest()
        lengths.add(-(-len(data) // 4))
    notes = []
    sides = zip(pairs.index_a.tolist(), pairs.index_b.tolist(), strict=True)
    if twice := sum(digest_of[a] == digest_of[b] for a, b in sides):
        notes.append(
            f"{twice:,} of {len(pairs.same):,} pairs of the validation {pairs.name} have the same "
            "picture on both sides: any model accepts them"
        )
    if (sizes := train.file_sizes()) is None:
        return notes
    alike = np.flatnonzero(np.isin(-(-sizes // 4), list(lengths)))
    some = alike[np.linspace(0, alike.size - 1, min(alike.size, _COMPARED)).astype(np.int64)]
    judged = set(digest_of.values())
    if not (same := [index for index in some.tolist() if _digest(train, index) in judged]):
        return notes
    many = counted(len(same), "training image")
    if some.size < alike.size:
        many += f", of {some.size:,} compared out of {alike.size:,},"
    owner = train.identities[train.labels[same[0]]]
    are = "is a picture" if len(same) == 1 else "are pictures"
    notes.append(
        f"{many} {are} of the validation {pairs.name} too, byte by byte, first "
        f"{train.place(same[0])!r} of {owner!r}: its numbers are too good; leave the images out "
        "with data.leave_out, better their people with data.identities"
    )
    return notes


def _digest(source: FaceSource, index: int) -> bytes:
    try:
        return hashlib.sha256(source.encoded(index) or b"").digest()
    except (OSError, ValueError):  # the training will say so
        return b""


def embed_batches(
    model: nn.Module,
    source: FaceSource,
    device: torch.device,
    batch_size: int,
    workers: int,
    read_timeout: float = READ_TIMEOUT,
) -> Generator[tuple[Batch, npt.NDArray[np.float32]]]:
    """Yields the images of a source that can be read, with their embeddings, batch by batch."""
    embedder = TorchEmbedder(model, device)
    numbers = np.arange(len(source))
    requests = [Request(part) for part in np.split(numbers, numbers[batch_size::batch_size])]
    for batch in read_batches(SoundReader(source, lost=True), requests, workers, read_timeout):
        if len(batch.indices):
            yield batch, embedder.embed(batch.images.numpy())
        else:
            yield batch, np.empty((0, 0), dtype=np.float32)


def score_images(
    model: nn.Module,
    pairs: ValidationPairs,
    device: torch.device,
    batch_size: int,
    workers: int,
    read_timeout: float = READ_TIMEOUT,
) -> FloatArray:
    """Scores the pairs with the model, whose mode is restored.

    Returns:
        (P,) cosine similarities; NaN for pairs of which an image cannot be read any more, of which
        a warning tells.

    Raises:
        ValueError: If an embedding has no direction.
        OSError: If images cannot be read for another reason than that they are damaged or gone.
    """
    source = pairs.source
    embedded = []
    damaged: dict[int, str] = {}
    for batch, values in embed_batches(model, source, device, batch_size, workers, read_timeout):
        damaged |= batch.damaged
        if len(values):
            embedded.append((batch.indices.numpy(), values))
    sound = np.concatenate([part for part, _ in embedded])
    embeddings = np.concatenate([values for _, values in embedded])
    if (bad := np.flatnonzero(~np.isfinite(embeddings).all(axis=1))).size:
        place = source.place(int(sound[bad[0]]))
        raise UnusableEmbedding(f"the embedding of {place!r} is not finite")
    row_of = np.full(len(source), -1)
    row_of[sound] = np.arange(len(sound))
    index_a, index_b = row_of[pairs.index_a], row_of[pairs.index_b]
    there = (index_a >= 0) & (index_b >= 0)
    if not there.all():
        used = np.unique([pairs.index_a, pairs.index_b])
        lost = used[row_of[used] < 0].tolist()
        warnings.warn(
            f"validation {pairs.name}: {np.count_nonzero(~there):,} of {len(there):,} pairs are "
            f"left out with {counted(len(lost), 'image')}, first {source.place(lost[0])!r} "
            f"({damaged[lost[0]]})",
            stacklevel=2,
        )
    scores = np.full(len(there), np.nan)
    scores[there] = pair_scores(embeddings, index_a[there], index_b[there])
    return scores


def measured(pairs: ValidationPairs, scores: FloatArray, far: float) -> Result:
    """Judges the scores of pairs, but for those that are NaN.

    Returns:
        `auc`, `eer`, the accuracy under the name of its protocol (`accuracy` where the threshold
        comes from other folds, `best_accuracy`, which is optimistic, for a single fold), the TAR
        at `far` under `tar_key(far)` where there are enough impostor pairs, `pairs`, and where
        some are NaN how many, `left_out`.

    Raises:
        ValueError: If those left are of one kind.
    """
    there = np.isfinite(scores)
    same = pairs.same[there]
    if not same.any() or same.all():
        raise ValueError(f"{len(same)} of {len(there)} pairs are left, too few to judge by")
    report = evaluate_verification(scores[there], same, pairs.folds[there], fars=[far])
    accuracy = "accuracy" if report.protocol == "k-fold" else report.protocol
    result = {
        "auc": report.auc.value,
        "eer": report.eer.value,
        accuracy: report.accuracy.value,
        tar_key(far): report.tar_at_far[far].value,
        "pairs": len(same),
        "left_out": len(there) - len(same) or None,
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
        names = [pairs.name for pairs in sets] if self.decides == MEAN else [self.decides]
        self._deciding = [pairs for pairs in sets if pairs.name in names]
        # (P,) of each set that decides: of the last judgement, and of the best.
        self.scores: dict[str, Tensor] = {}
        self.best_scores: dict[str, Tensor] = {}
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
        read_timeout: float = READ_TIMEOUT,
    ) -> dict[str, Result]:
        """Judges the model on all sets: rank r of W on the sets r, r + W, ...

        Args:
            model: The backbone.
            processes: The processes of the run.
            batch_size: Images at once.
            workers: Processes that decode them.
            read_timeout: Seconds that a batch of images may take.

        Returns:
            The results by set, in order, on every rank; with their mean if that decides.

        Raises:
            Diverged: If an embedding is not finite or has no direction, on every rank.
            ValueError: If images of a set cannot be read, on every rank.
        """
        own: dict[str, FloatArray] = {}
        judged: dict[str, Result] = {}
        unusable: list[str] = []

        def judge_own() -> None:
            for pairs in self.sets[processes.rank :: processes.world_size]:
                try:
                    own[pairs.name] = score_images(
                        model, pairs, processes.device, batch_size, workers, read_timeout
                    )
                    judged[pairs.name] = measured(pairs, own[pairs.name], self.far)
                except UnusableEmbedding as problem:
                    unusable.append(f"{pairs.name}: {problem}")
                except (ValueError, OSError) as problem:
                    raise ValueError(f"{pairs.name}: {problem}") from problem

        processes.on_all(judge_own)
        for problem in itertools.chain(*processes.gather_objects(unusable)):
            raise Diverged(problem)
        found = {k: v for part in processes.gather_objects(judged) for k, v in part.items()}
        scores = {k: v for part in processes.gather_objects(own) for k, v in part.items()}
        self.scores = {p.name: torch.from_numpy(scores[p.name]) for p in self._deciding}
        results = {pairs.name: found[pairs.name] for pairs in self.sets}
        if self.decides == MEAN:
            results[MEAN] = _mean(list(results.values()))
        return results

    def fingerprint(self) -> str:
        """A digest of the pairs that choose the best weights, which is other for other pairs."""
        digest = hashlib.sha256()
        for pairs in self._deciding:
            digest.update(os.fsencode("\n".join([pairs.name, *pairs.places["images"]])))
            for column in (pairs.places["pairs"].numpy(), pairs.same):
                digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    def is_better(self, results: dict[str, Result], best: dict[str, Result]) -> bool:
        """Whether results beat the best so far, empty for none; of equals, the earlier is better.

        A best that was not judged by what decides now, before the run was resumed, is beaten. Where
        either was judged without some pairs, both are by those that they have in common: with
        fewer pairs the numbers are others.
        """
        deciding = [pairs.name for pairs in self._deciding]
        if best and any("left_out" in one.get(n, {}) for one in (results, best) for n in deciding):
            if self.best_scores.keys() != self.scores.keys():
                return False
            try:
                results = self._in_common(self.scores, self.best_scores)
                best = self._in_common(self.best_scores, self.scores)
            except ValueError:
                return False
        score, before = self.score(results), self.score(best)
        assert score is not None
        return before is None or score > before

    def _in_common(
        self, own: Mapping[str, Tensor], other: Mapping[str, Tensor]
    ) -> dict[str, Result]:
        """What decides, by the pairs that another judgement has, too."""
        return {
            pairs.name: measured(pairs, (own[pairs.name] + 0 * other[pairs.name]).numpy(), self.far)
            for pairs in self._deciding
        }

    def score(self, results: dict[str, Result]) -> float | None:
        """The number that decides; None if the results lack it."""
        return _score(results, [pairs.name for pairs in self._deciding], self.measure)

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
