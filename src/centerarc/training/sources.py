"""The faces that a run trains on and the pairs that judge it, from the configuration."""

import hashlib
import os
from dataclasses import dataclass

import numpy as np

from centerarc.data import CachedSource, FaceSource, create_source, split_identities, subset
from centerarc.evaluation import PairImages, make_pairs, read_pairs
from centerarc.evaluation.scores import BoolArray, IntArray
from centerarc.training.config import FolderData, TrainConfig

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


def make_sources(config: TrainConfig) -> tuple[FaceSource, ValidationPairs | None]:
    """Opens the training images and the validation pairs.

    People of the validation are never trained on: those held out by number are taken out of the
    training set, and so is everybody whom the validation pairs name.

    Args:
        config: The run.

    Returns:
        The source of the training images, and the pairs, or None without validation.

    Raises:
        ValueError: If a folder or file is missing or wrong, or fewer than 2 people are left.
    """
    validation = config.validation
    pairs = None
    excluded: set[str] = set()
    if validation is not None and validation.pairs is not None:
        assert validation.images is not None
        named = read_pairs(validation.pairs)
        if validation.folds is not None:
            named = named.select_folds(validation.folds)
        excluded |= named.people()
        images = PairImages(named, validation.images, image_size=config.model.image_size)
        pairs = ValidationPairs(images, images.index_a, images.index_b, named.same, named.fold)
    train = _open(config, excluded)
    if validation is not None and validation.identities is not None:
        people = len(train.identities)
        wanted = float(validation.identities)
        fraction = wanted if wanted < 1 else wanted / people
        if fraction >= 1:
            raise ValueError(
                f"validation.identities is {validation.identities:g}, but there are {people} people"
            )
        names, others = split_identities(train.identities, fraction, config.seed)
        train, held_out = subset(train, names), subset(train, others)
        made = make_pairs(
            held_out.labels, validation.num_pairs or _NUM_PAIRS, seed=config.seed, folds=1
        )
        pairs = ValidationPairs(held_out, made.index_a, made.index_b, made.same, made.fold)
    if len(train.identities) < 2:
        raise ValueError(f"data has {len(train.identities)} people to train on; it must have 2")
    if config.data.cache_gb:
        train = CachedSource(train, limit_bytes=int(config.data.cache_gb * 1e9))
    if len(train) < config.batch_size:
        raise ValueError(
            f"batch_size is {config.batch_size}, more than the {len(train)} training images"
        )
    return train, pairs


def _open(config: TrainConfig, excluded: set[str]) -> FaceSource:
    data = config.data
    if not isinstance(data, FolderData):
        return create_source(
            "synthetic",
            num_identities=data.num_identities,
            images_per_identity=data.images_per_identity,
            seed=data.seed,
            image_size=config.model.image_size,
        )
    if data.exclude_pairs is not None:
        named = read_pairs(data.exclude_pairs)
        if data.exclude_folds is not None:
            named = named.select_folds(data.exclude_folds)
        excluded = excluded | named.people()
    return create_source(
        "folder",
        root=data.root,
        min_images=data.min_images,
        exclude=excluded or None,
        image_size=config.model.image_size,
    )


def describe(source: FaceSource) -> dict[str, int | str]:
    """What must be the same when a run goes on: how many people and images, and who."""
    names = "\n".join(source.identities)
    return {
        "identities": len(source.identities),
        "images": len(source),
        "names": hashlib.sha256(os.fsencode(names)).hexdigest(),
        "labels": hashlib.sha256(np.ascontiguousarray(source.labels).tobytes()).hexdigest(),
    }
