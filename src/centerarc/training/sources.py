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
from centerarc.data.source import FaceSource, create_source
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
from centerarc.evaluation.files.pairs import read_pairs
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
            people = counted(len(part.identities), "person", "people")
            notes.append(
                f"part {name}: {people}, {counted(len(part), 'image')}, weight {fields.weight:g}"
            )
            parts.append(Part(part, fields.weight, name))
        source: FaceSource = MixedSource(parts, merge=data.merge)
    else:
        with _naming_settings("data", _PLACES):
            source = _create(data, size, quiet, notes)
    source = _without(source, data.leave_out, notes)
    if data.exclude_pairs is not None:
        named = read_pairs(data.exclude_pairs).select_folds(data.exclude_folds)
        excluded = excluded | named.everyone()
    names = [name for name in source.identities if name not in excluded]
    if excluded:
        # None of them in the source may mean that the names are written in another way.
        left = counted(len(source.identities) - len(names), "person", "people")
        notes.append(f"left out {left} of the {len(excluded):,} that the pairs name")
    if data.identities is not None:
        wanted = read_identities(data.identities)
        if unknown := sorted(set(wanted) - set(source.identities)):
            raise ValueError(
                f"data.identities, {str(data.identities)!r}, names {len(unknown)} people that the "
                f"source lacks, first {unknown[0]!r}"
            )
        names = [name for name in names if name in set(wanted)]
    _check_people(names)
    if len(names) < len(source.identities):
        source = subset(source, names)
    source, few = with_enough_images(source, data.min_images)
    if few is not None:
        notes.append(str(few))
    return source


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
    if source.skipped:
        place = options.get("root") or options.get("path", kind)
        notes.append(f"{place}: {source.summary()}")
    notes += source.problems
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
    names = "\n".join(source.identities)
    return {
        "identities": len(source.identities),
        "images": len(source),
        "names": hashlib.sha256(os.fsencode(names)).hexdigest(),
        "labels": hashlib.sha256(np.ascontiguousarray(source.labels).tobytes()).hexdigest(),
    }
