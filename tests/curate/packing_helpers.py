"""Small folders of faces, and what a pack holds byte by byte."""

import hashlib
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image

from centerarc.data import FaceSource


def picture(seed: int, size: int = 32, suffix: str = ".jpg") -> bytes:
    """An image file of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = BytesIO()
    kind = PIL.Image.registered_extensions()[suffix.lower()]
    PIL.Image.fromarray(pixels).save(file, format=kind)
    return file.getvalue()


def faces(root: Path, people: dict[str, list[str]], size: int = 32) -> Path:
    """Writes a folder of people with the named files."""
    seed = 0
    for person, names in people.items():
        for name in names:
            path = root / person / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(seed, size, path.suffix))
            seed += 1
    return root


def many(root: Path, people: int = 12, images: int = 7) -> Path:
    """A folder of people p0, p1, ... with as many JPEGs each."""
    return faces(root, {f"p{p}": [f"{i}.jpg" for i in range(images)] for p in range(people)})


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def people_of(source: FaceSource) -> list[str]:
    """Who is on each image."""
    return [source.identities[label] for label in source.labels]
