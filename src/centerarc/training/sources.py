"""The images that a run trains on, and their order."""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from centerarc.data.samplers import (
    Balanced,
    IdentityBatches,
    InBlocks,
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
from centerarc.training.config import TrainConfig
from centerarc.training.data_config import COMMON_FIELDS, MixedFields, OwnFields, Section
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


def make_sources(config: TrainConfig, *, quiet: bool = False) -> RunSources:
    """Opens the training images and the sets of validation pairs.

    People of the validation are never trained on: those held out by number are taken out of the
    training set, and so is everyone in the validation pairs.

    Args:
        config: The run.
        quiet: Write nothing to stderr while an opening takes long.

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
        people = len(train.identities)
        wanted = float(validation.identities)
        fraction = wanted if wanted < 1 else wanted / people
        if fraction >= 1:
            raise ValueError(
                f"validation.identities is {validation.identities:g}, but there are {people} people"
            )
        names, others = split_identities(train.identities, fraction, config.seed)
        if len(others) < 2:
            raise ValueError(
                f"validation.identities is {validation.identities:g}, which holds out "
                f"{len(others)} of {people} people; pairs need at least 2: give "
                "--validation.identities 2, or none to hold out no one"
            )
        train, held_out = subset(train, names), subset(train, others)
        sets.insert(0, drawn_pairs(held_out, validation, config.seed, notes))
    _check_people(train.identities)
    if twice := spelled_twice(train.identities):
        first, other = map(repr, twice[0])
        notes.append(
            f"{counted(len(twice), 'name')} of people differ from another in spelling only, such "
            f"as {other} from {first}: they are learned as different people (centerarc data check)"
        )
    if config.data.cache_gb:
        train = CachedSource(train, limit_bytes=int(config.data.cache_gb * 1e9))
    judges = None if validation is None else Validation(sets, validation)
    return RunSources(train, judges, notes)


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
        notes += _exclusion(people, left_out, excluded)
    if data.identities is not None:
        setting = f"data.identities, {str(data.identities)!r},"
        wanted = chosen_people(read_identities(data.identities), people, setting)
        names = [name for name in names if name in wanted]
    _check_people(names)
    if len(names) < len(source.identities):
        source = subset(source, names)
    source, few = with_enough_images(source, data.min_images)
    if few is not None:
        notes.append(str(few))
    return source


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
    notes = [f"left out {some} of the {len(excluded):,} that the pairs name"]
    exact = {*map(composed, excluded)}
    if others := sorted(n for n in left_out if composed(n) not in exact):
        notes.append(
            f"of these, the pairs write {len(others):,} otherwise, such as {others[0]!r}: they are "
            "taken for the same people"
        )
    if (rest := len(people) - len(left_out)) < len(left_out):
        notes.append(
            f"the pairs name most of the {len(people):,} people of the training images; {rest:,} "
            "are left to train on"
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


def _check_people(names: Sequence[str]) -> None:
    if len(names) < 2:
        people = counted(len(names), "person", "people")
        raise ValueError(f"data has {people} to train on; it must have 2")


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
    if sampler.kind == "identities":
        each = sampler.images_per_identity or 4
        return IdentityBatches(source, batch_size=config.batch_size, images_per_identity=each)
    if sampler.kind == "balanced":
        return Balanced(source)
    if sampler.kind == "blocks":
        return InBlocks(source, block=sampler.block or 1000)
    return Shuffled(source, distinct=config.batch_size if sampler.distinct else None)


def describe(source: FaceSource) -> dict[str, int | str]:
    """What must be the same when a run is resumed: how many people and images, and who."""
    return {
        "identities": len(source.identities),
        "images": len(source),
        "names": describe_names(source.identities),
        "labels": hashlib.sha256(np.ascontiguousarray(source.labels).tobytes()).hexdigest(),
    }


def describe_names(names: Sequence[str]) -> str:
    """Returns a digest of the names of people, in their order."""
    return hashlib.sha256(os.fsencode("\n".join(names))).hexdigest()
