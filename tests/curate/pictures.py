"""Pictures, folders of them, their landmarks, and what a folder holds byte by byte."""

import csv
import hashlib
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image

from centerarc.data import FaceSource

XY = [f"{axis}{number}" for number in range(1, 6) for axis in "xy"]


def scene(seed: int, size: int = 112) -> npt.NDArray[np.uint8]:
    """A colorful blurred random picture, `(size, size, 3)`."""
    rng = np.random.default_rng(seed)
    rough = PIL.Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8))
    fine = PIL.Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8))
    large = [p.resize((size, size), PIL.Image.Resampling.BICUBIC) for p in (rough, fine)]
    return np.asarray(PIL.Image.blend(*large, 0.3))


def save(path: Path, image: npt.NDArray[np.uint8], **options: object) -> Path:
    """Writes a picture, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(image).save(path, **options)
    return path


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


def write_landmarks(
    path: Path, rows: list[tuple[str, np.ndarray]], *more: tuple[str, list[str]]
) -> Path:
    """Writes landmarks as CSV, with more columns by name."""
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *XY, *(name for name, _ in more)])
        for number, (name, points) in enumerate(rows):
            extra = [values[number] for _, values in more]
            writer.writerow([name, *map(float, points.flat), *extra])
    return path
