"""The same images in memory, as a folder, as a .rec and as shards."""

import io
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import simplejpeg

from centerarc.curate import pack
from centerarc.data import EncodedSource, FolderSource, RecordIOSource, ShardSource, create_source

# Several, so that reading goes from one to the next.
SHARDS = 4
DRAWN_EACH = 8


@dataclass(frozen=True)
class Images:
    """What is read.

    Attributes:
        data: each image's file, by number.
        sources: the same images in the same order, by the kind of source.
        words: what they are.
    """

    data: list[bytes]
    sources: dict[str, EncodedSource]
    words: str


def prepare(given: Path | None, most: int, room: Path) -> Images:
    """Copies or draws images into a folder and packs them.

    Args:
        given: identity folders with JPEGs; None draws faces.
        most: how many are taken of them, or drawn.
        room: an empty folder for all files.

    Raises:
        ValueError: if there is no JPEG, or they differ in size.
    """
    faces = room / "folder"
    if given is None:
        draw(faces, most)
    else:
        _copy(given, faces, most)
    folder = FolderSource(faces)
    each = -(-len(folder) // SHARDS)
    pack(folder, room / "rec", format="rec", workers=0)
    pack(folder, room / "shards", format="shards", images_per_shard=each, workers=0)
    sources: dict[str, EncodedSource] = {
        "folder": folder,
        ".rec": RecordIOSource(room / "rec"),
        "shards": ShardSource(room / "shards"),
    }
    # This also brings all of them into the page cache.
    data = [folder.encoded(index) for index in range(len(folder))]
    for kind, source in sources.items():
        same = np.array_equal(source.labels, folder.labels)
        if not same or [source.encoded(index) for index in range(len(source))] != data:
            raise AssertionError(f"{kind} does not hold the images of the folder")
    height, width = simplejpeg.decode_jpeg_header(data[0])[:2]
    size = sum(map(len, data)) / len(data)
    words = (
        f"{len(data):,} {'drawn faces' if given is None else 'faces'} of "
        f"{len(folder.identities):,} people, JPEGs of {width} x {height} pixels and "
        f"{size / 1000:.1f} kB on average"
    )
    return Images(data, sources, words)


def _copy(given: Path, faces: Path, most: int) -> None:
    files = [
        file
        for person in sorted(given.iterdir())
        if person.is_dir()
        for file in sorted(person.iterdir())
        if file.suffix.lower() in (".jpg", ".jpeg")
    ]
    if not files:
        raise ValueError(f"{str(given)!r} holds no JPEG in a folder of an identity")
    first = None
    for file in files[:most]:
        try:
            size = simplejpeg.decode_jpeg_header(file.read_bytes())[:2]
        except ValueError as error:
            raise ValueError(f"{str(file)!r} is no JPEG: {error}") from error
        first = first or size
        if size != first:
            raise ValueError(
                f"{str(file)!r} has {size[1]} x {size[0]} pixels and others have "
                f"{first[1]} x {first[0]}; all must have one size"
            )
        target = faces / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def draw(faces: Path, count: int) -> None:
    """Draws so many faces into a folder of identities, as JPEGs."""
    people = -(-count // DRAWN_EACH)
    drawn = create_source("synthetic", num_identities=people, images_per_identity=DRAWN_EACH)
    for index in range(count):
        target = faces / drawn.identities[drawn.labels[index]] / f"{index}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        picture = io.BytesIO()
        PIL.Image.fromarray(drawn.image(index)).save(picture, "jpeg", quality=95)
        target.write_bytes(picture.getvalue())
