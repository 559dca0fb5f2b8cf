"""The images that a run trains on, and their order."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from centerarc.data.samplers import (
    Balanced,
    IdentityBatches,
    InBlocks,
    Repeated,
    Sampler,
    Shuffled,
    image_weights,
)
from centerarc.data.source import (
    FaceSource,
    chosen_people,
    composed,
    create_source,
    namesakes,
    spelled_twice,
)
from centerarc.data.views import (
    CachedSource,
    MixedSource,
    Part,
    leave_out,
    read_identities,
    read_leave_out,
    split_identities,
    subset,
    with_enough_images,
)
from centerarc.evaluation.files.pair_set import read_named_pairs
from centerarc.io.progress import Lines
from centerarc.io.tables import counted
from centerarc.training.config import TrainConfig, ValidationConfig
from centerarc.training.data_config import (
    COMMON_FIELDS,
    DataFields,
    MixedFields,
    OwnFields,
    Section,
)
from centerarc.training.validation import Validation, ValidationPairs, drawn_pairs, listed_pairs


@dataclass(frozen=True)
class RunSources:
    """What a run reads.

    Args:
        train: The images to train on.
        validation: What judges it, or None.
        notes: What a user should know about the images, a line each.
    """

    train: FaceSource
    validation: Validation | None
    notes: list[str]

    @property
    def identity(self) -> dict[str, int | str]:
        """What must be the same when a run is resumed: how many people and images, and who."""
        labels = np.ascontiguousarray(self.train.labels)
        return {
            "identities": len(self.train.identities),
            "images": len(self.train),
            "names": describe_names(self.train.identities),
            "labels": hashlib.sha256(labels.tobytes()).hexdigest(),
        }


def make_sources(
    config: TrainConfig, *, quiet: bool = False, drawn_before: Mapping[str, Any] | None = None
) -> RunSources:
    """Opens the training images and the sets of validation pairs.

    People of the validation are never trained on: those held out by number are taken out of the
    training set, and so is everyone in the validation pairs.

    Args:
        config: The run.
        quiet: Write nothing to stderr while an opening takes long.
        drawn_before: Of the pairs of held-out people, where the run is resumed; see `drawn_pairs`.

    Raises:
        ValueError: If a folder or file is missing or wrong, or fewer than 2 people are left.
    """
    validation = config.validation
    sets: list[ValidationPairs] = []
    excluded: set[str] = set()
    notes: list[str] = []
    listings = {} if validation is None else validation.settings_of_sets
    for where, listed in listings.items():
        if listed.pairs is not None:
            with _naming_settings(where, ("images", "folds")):
                pairs, everyone = listed_pairs(listed, config.model.image_size, notes)
            sets.append(pairs)
            excluded |= everyone
    train = _open(config, excluded, notes, quiet)
    if validation is not None and validation.identities is not None:
        chosen = _held_out(train, validation, config.seed, notes)
        others = namesakes(train.identities, chosen)  # in every spelling, if enough stay
        others = others if len(train.identities) - len(others) >= 2 else chosen
        if others:
            names = sorted(set(train.identities).difference(others))
            train, held_out = subset(train, names), subset(train, others)
            sets.insert(0, drawn_pairs(held_out, validation, config.seed, notes, drawn_before))
    if twice := spelled_twice(train.identities):
        first, other = map(repr, twice[0])
        notes.append(
            f"{counted(len(twice), 'person is', 'people are')} named as another but for the "
            f"spelling, such as {other} and {first}: they are learned as different people "
            "(centerarc data check)"
        )
    if not quiet:
        notes += [note for pairs in sets for note in _copies(train, pairs)]
    if config.data.cache_gb:
        train = CachedSource(train, limit_bytes=int(config.data.cache_gb * 1e9))
    judges = Validation(sets, validation) if validation is not None and sets else None
    return RunSources(train, judges, notes)


# Of training images so many are read to compare them: seconds from most disks.
_COMPARED = 5000


def _copies(train: FaceSource, pairs: ValidationPairs) -> list[str]:
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


def _held_out(
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


def _open(config: TrainConfig, excluded: set[str], notes: list[str], quiet: bool) -> FaceSource:
    """Opens the configured source without the people and images that are to be left out."""
    data = config.data
    size = config.model.image_size
    if isinstance(data, MixedFields):
        parts = []
        for number, fields in enumerate(data.parts, 1):
            name = fields.name or f"{fields.source}-{number}"
            with _naming_settings(f"data.parts.{number - 1}", _PLACES):
                part = _create(fields, size, quiet, notes)
            part = _without(part, fields.leave_out, notes)
            of = counted(len(part.identities), "person", "people")
            notes.append(
                f"part {name}: {of}, {counted(len(part), 'image')}, weight {fields.weight:g}"
            )
            parts.append(Part(part, fields.weight, name))
        mixed = MixedSource(parts, merge=data.merge)
        notes += mixed.by_case
        source: FaceSource = mixed
    else:
        with _naming_settings("data", _PLACES):
            source = _create(data, size, quiet, notes)
    source = _without(source, data.leave_out, notes)
    people = source.identities
    if data.exclude_pairs is not None:
        named = read_named_pairs(data.exclude_pairs, data.exclude_folds).everyone()
        if not namesakes(people, named):
            raise ValueError(
                f"data.exclude_pairs, {str(data.exclude_pairs)!r}, would leave out no one: none of "
                f"the {len(named):,} people that it names, such as {min(named)!r}, is among the "
                f"{len(people):,} of the training images, such as {people[0]!r}. Both must write "
                "names alike; leave data.exclude_pairs out if these are different people"
            )
        excluded = excluded | named
    left_out = set(namesakes(people, excluded))
    names = [name for name in people if name not in left_out]
    if excluded:
        few = len(names) < len(left_out)
        advice = _fewer_folds(data, people) if few else ""
        _check_people(
            names,
            f"the pairs name {len(left_out):,} of {len(people):,}"
            + (advice or "; list pairs of fewer people, or add images of people who are in none"),
        )
        notes += _exclusion(people, left_out, excluded)
        if few:
            notes.append(
                f"the pairs name most of the {len(people):,} people of the training images; "
                f"{len(names):,} are left to train on{advice}"
            )
    if data.identities is not None:
        setting = f"data.identities, {str(data.identities)!r},"
        wanted = chosen_people(read_identities(data.identities), people, setting)
        names = [name for name in names if name in wanted]
        _check_people(names, f"{setting} names {len(wanted):,} people; name more of them")
    _check_people(names, "add people to data, a folder, or an entry of the list, for each")
    if len(names) < len(source.identities):
        source = subset(source, names)
    enough = np.sort(np.bincount(source.labels))[-2]
    if data.min_images > enough:
        raise ValueError(
            f"data.min_images is {data.min_images}, which leaves fewer than 2 of "
            f"{counted(len(names), 'person', 'people')} to train on; it must be at most {enough}"
        )
    source, too_few = with_enough_images(source, data.min_images)
    if too_few is not None:
        notes.append(str(too_few))
    return source


def _fewer_folds(data: DataFields, people: Sequence[str]) -> str:
    """Which fold of the pairs alone leaves most people to train on, if that is of use."""
    if data.exclude_pairs is None:
        return ""
    pairs = read_named_pairs(data.exclude_pairs)
    folds = np.unique(pairs.fold).tolist()
    if len(folds) < 2 or (data.exclude_folds is not None and len(data.exclude_folds) < 2):
        return ""
    named = {fold: set(namesakes(people, pairs.select_folds([fold]).everyone())) for fold in folds}
    fold = min(folds, key=lambda one: (len(named[one]), one))
    left = len(people) - len(named[fold])
    if left < 2:
        return ""
    return (
        f"; --data.exclude_folds {fold} leaves {left:,} to train on, for an evaluation with "
        f"--folds {fold}"
    )


def _exclusion(people: Sequence[str], left_out: set[str], excluded: set[str]) -> list[str]:
    """Says whom pairs keep out of the training, and what is odd about that."""
    if not left_out:
        # Not an error: people who validate may well be others than those who are trained on.
        return [
            f"left out no one: none of the {len(excluded):,} people whom the pairs name, such as "
            f"{min(excluded)!r}, has the name of somebody trained on, such as {people[0]!r}; if "
            "the names are of another kind, the same people may be trained on and judged"
        ]
    some = counted(len(left_out), "person", "people")
    notes = [f"left out {some}; the pairs name {len(excluded):,}"]
    exact = {*map(composed, excluded)}
    if others := sorted(n for n in left_out if composed(n) not in exact):
        notes.append(
            f"of these, the pairs write {len(others):,} otherwise, such as {others[0]!r}: they are "
            "taken for the same people"
        )
    return notes


# The settings that say where a source is.
_PLACES = ("root", "path")


@contextmanager
def _naming_settings(section: str, names: Sequence[str]) -> Iterator[None]:
    """Makes errors about an argument name the setting that it comes from."""
    try:
        yield
    except ValueError as error:
        named = rf"(^|[;:] )({'|'.join(names)})(?= (?:must|is) )"
        said = re.sub(named, rf"\1{section}.\2", str(error))
        if said == str(error):
            raise
        raise ValueError(said) from error


def _without(source: FaceSource, path: Path | None, notes: list[str]) -> FaceSource:
    if path is None:
        return source
    rest = leave_out(source, read_leave_out(path))
    left = counted(len(source) - len(rest), "image")
    notes.append(f"left out {left} named in {path}")
    return rest


def _check_people(names: Sequence[str], why: str) -> None:
    if len(names) < 2:
        people = counted(len(names), "person", "people")
        raise ValueError(f"data has {people} to train on, and must have 2: {why}")


def _create(fields: Section, image_size: int, quiet: bool, notes: list[str]) -> FaceSource:
    """Opens one source from the fields that are its own."""
    if isinstance(fields, OwnFields):
        options = dict(fields.options)
    else:
        options = {name: value for name, value in fields if name not in COMMON_FIELDS}
    kind = fields.source  # type: ignore[attr-defined]
    if kind in ("recordio", "shards") and not quiet:
        # Without an index, or the first time, that may take a pass over all that is there.
        options["progress"] = Lines(f"opening {options['path']}")
    source = create_source(kind, **options, image_size=image_size)
    if source.skipped or source.problems:
        place = options.get("root") or options.get("path", kind)
        notes.append(f"{place}: {source.summary()}")
    return source


def make_sampler(config: TrainConfig, source: FaceSource) -> Sampler:
    """Makes the configured order of the images.

    Raises:
        ValueError: If it does not fit the batch size and the source.
    """
    sampler = config.data.sampler
    if sampler.kind != "shuffled" and (image_weights(source) != 1).any():
        raise ValueError(
            f"data.sampler.kind is {sampler.kind}, but data.parts have weights, which only "
            "shuffled heeds; leave out one of them"
        )
    made: Sampler
    if sampler.kind == "identities":
        each = sampler.images_per_identity or 4
        made = IdentityBatches(source, batch_size=config.batch_size, images_per_identity=each)
    elif sampler.kind == "balanced":
        made = Balanced(source)
    elif sampler.kind == "blocks":
        made = InBlocks(source, block=sampler.block or 1000)
    else:
        made = Shuffled(source, distinct=config.batch_size if sampler.distinct else None)
    return made if len(made) >= config.batch_size else Repeated(made, config.batch_size)


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


def check_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses to resume a run on other people or images.

    Raises:
        ValueError: If `RunSources.identity` differs.
    """
    if before != now:
        raise ValueError(
            f"cannot resume: the run was trained on {before['images']} images of "
            f"{before['identities']} people, data and validation now leave others "
            f"({now['images']} of {now['identities']})"
        )


def describe_names(names: Sequence[str]) -> str:
    """Returns a digest of the names of people, in their order."""
    return hashlib.sha256(os.fsencode("\n".join(names))).hexdigest()
