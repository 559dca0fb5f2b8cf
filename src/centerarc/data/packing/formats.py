"""The formats that a pack can have."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.data.extensions import EXTENSIONS
from centerarc.data.packing.checksums import write_checksums
from centerarc.data.packing.parts import Contents, Folders, PackFormat, Plan, Sample, ends_by
from centerarc.data.recordio import check_identity, finish, image_keys, write_part
from centerarc.data.shards import ShardInfo, ShardSample, write_manifest, write_shard

FORMATS = ("rec", "shards")
IMAGES_PER_SHARD = 10_000
_PART_BYTES = 64_000_000
_OWN = re.compile(
    r"train\.(rec|idx|lst|sha256|labels\.npz)|property|left-out\.csv|dataset\.json|"
    r"faces-[0-9]{6}\.(tar|index\.npz)"
)


def create_format(name: str, *, images_per_shard: int | None, shard_mb: float | None) -> PackFormat:
    """Returns a format by its name.

    Raises:
        ValueError: If the name or a size is none that can be, or sizes are given for "rec".
    """
    if name not in FORMATS:
        raise ValueError(f"format is {name!r}; it must be one of {', '.join(FORMATS)}")
    if images_per_shard is not None and images_per_shard < 1:
        raise ValueError(f"images_per_shard is {images_per_shard}; it must be at least 1")
    if shard_mb is not None and not 0 < shard_mb < float("inf"):
        raise ValueError(f"shard_mb is {shard_mb}; it must be above 0")
    if images_per_shard is not None and shard_mb is not None:
        raise ValueError("images_per_shard and shard_mb are both given; a shard ends by one")
    if name == "shards":
        return Shards(images_per_shard, shard_mb)
    if images_per_shard is not None or shard_mb is not None:
        raise ValueError("images_per_shard and shard_mb are for shards; format is 'rec'")
    return Records()


def is_own_file(name: str) -> bool:
    """Returns whether a pack of some format writes a file of this name."""
    return _OWN.fullmatch(name) is not None


class Shards:
    """WebDataset shards `faces-000000.tar` with `dataset.json`.

    Args:
        images: Images in a shard; None is 10,000 unless `megabytes` is given.
        megabytes: Megabytes of images after which a shard ends.
    """

    name = "shards"
    # What training opens: the folder itself.
    main_file = ""

    def __init__(self, images: int | None, megabytes: float | None) -> None:
        self.images = images if images or megabytes else IMAGES_PER_SHARD
        self.megabytes = megabytes

    @property
    def part_size(self) -> str:
        """Returns what ends a shard, in words."""
        return f"{self.images} images" if self.images else f"{self.megabytes:g} MB"

    def check(self, identities: Sequence[str]) -> None:
        """See `PackFormat.check`; names are made safe for tar files, so all can be held."""

    def plan(self, labels: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> Plan:
        """See `PackFormat.plan`."""
        size = None if self.megabytes is None else int(self.megabytes * 1e6)
        return Plan(ends_by(lengths, images=self.images, size=size), 0)

    def write_part(
        self, folders: Folders, number: int, first: int, samples: Iterable[Sample]
    ) -> dict[str, Any]:
        """See `PackFormat.write_part`."""
        named = (ShardSample(_key(sample), sample.data, sample.label) for sample in samples)
        return asdict(write_shard(folders.final / f"faces-{number:06d}.tar", named))

    def finish(self, folders: Folders, parts: Sequence[dict[str, Any]], contents: Contents) -> None:
        """See `PackFormat.finish`."""
        infos = [ShardInfo(**part) for part in parts]
        write_manifest(folders.final, infos, contents.identities)


class Records:
    """insightface's RecordIO: `train.rec` with what belongs to it, and checksums."""

    name = "rec"
    main_file = "train.rec"
    part_size = f"{_PART_BYTES} bytes"

    def check(self, identities: Sequence[str]) -> None:
        """See `PackFormat.check`."""
        try:
            for name in identities:
                check_identity(name)
        except ValueError as error:
            raise ValueError(f"{error}; format shards takes any") from error

    def plan(self, labels: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> Plan:
        """See `PackFormat.plan`; images are counted from the key of the first."""
        return Plan(ends_by(lengths, size=_PART_BYTES), image_keys(labels)[0])

    def write_part(
        self, folders: Folders, number: int, first: int, samples: Iterable[Sample]
    ) -> dict[str, Any]:
        """See `PackFormat.write_part`."""
        path = folders.parts / f"{number:06d}.rec"
        labelled = ((sample.label, sample.data) for sample in samples)
        offsets = write_part(path, labelled, first_key=first)
        return {"name": path.name, "offsets": offsets.tolist()}

    def finish(self, folders: Folders, parts: Sequence[dict[str, Any]], contents: Contents) -> None:
        """See `PackFormat.finish`."""
        written = [
            (folders.parts / part["name"], np.array(part["offsets"], dtype=np.int64))
            for part in parts
        ]
        width, height = contents.size
        finish(
            folders.final / self.main_file,
            written,
            contents.labels,
            identities=contents.identities,
            image_size=(height, width),
            places=contents.places,
        )
        names = (self.main_file, "train.idx", "train.lst", "property")
        write_checksums(folders.final / "train.sha256", names)


def _key(sample: Sample) -> str:
    base = sample.place.rpartition("/")[2]
    stem, suffix = os.path.splitext(base)
    return f"{sample.identity}/{stem if suffix.lower() in EXTENSIONS else base}"
