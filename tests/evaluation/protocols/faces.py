"""Small sets whose embeddings can be worked out by hand: a face is a plain color."""

import pickle
from pathlib import Path

import numpy as np
from PIL import Image

from centerarc.evaluation import Embeddings
from centerarc.evaluation.protocols import EmbeddingsSubject
from tests.models.tiny import tiny

# Directions of the tiny model's embedding: the mean of each channel.
COLORS = {
    "Ann": (250, 10, 10),
    "Bob": (10, 250, 10),
    "Cyd": (10, 10, 250),
    "Dan": (200, 200, 10),
    "Eve": (10, 200, 200),
    "Fay": (200, 10, 200),
}
FOLDS = (["Ann", "Bob", "Cyd"], ["Dan", "Eve", "Fay"])
# How the tiny model takes them: the mean of the left half, as it is.
FLAGS = ["--size", "4", "--mean", "0", "--std", "1"]


def model(path: Path) -> Path:
    """An ONNX model whose embedding is the mean color."""
    return tiny(path, ("n", 3, "h", "w"))


def color_of(person: str, number: int) -> np.ndarray:
    """The color of a person's picture: the person's own, a little off."""
    rng = np.random.default_rng([sum(map(ord, person)), number])
    return np.clip(np.array(COLORS[person]) + rng.integers(-60, 61, size=3), 0, 255)


def picture(path: Path, person: str, number: int) -> None:
    """Write such a picture, without loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.tile(color_of(person, number).astype(np.uint8), (8, 8, 1))
    Image.fromarray(pixels).save(path)


def folder(root: Path, people: str = "Ann Bob Cyd Dan Eve Fay", images: int = 2) -> Path:
    """`<Name>/<Name>_<NNNN>.png` of some people."""
    for person in people.split():
        for number in range(1, images + 1):
            picture(root / person / f"{person}_{number:04d}.png", person, number)
    return root


def lfw_pairs(path: Path) -> Path:
    """Two folds of three people each: each with oneself, and in a circle."""
    lines = ["2\t3"]
    for fold in FOLDS:
        lines += [f"{name}\t1\t2" for name in fold]
        lines += [f"{fold[i]}\t1\t{fold[i - 1]}\t2" for i in range(3)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def cosine(a: tuple[str, int], b: tuple[str, int]) -> float:
    """What the tiny model should score for two pictures."""
    first, second = (color_of(*side).astype(np.float64) for side in (a, b))
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def bin_set(path: Path, faces: Path) -> Path:
    """The pairs of `lfw_pairs` ten times over, as insightface keeps them."""
    images, same = [], []
    for fold in FOLDS:
        for i, name in enumerate(fold):
            for other in (name, fold[i - 1]):
                both = f"{name}/{name}_0001.png", f"{other}/{other}_0002.png"
                images += [(faces / image).read_bytes() for image in both]
                same.append(other == name)
    path.write_bytes(pickle.dumps((images * 10, same * 10)))
    return path


def subject(rows):
    """Embeddings of (place, identity, numbers) as what is judged."""
    places, identities, numbers = zip(*rows, strict=True)
    matrix = np.array(numbers, dtype=np.float32)
    return EmbeddingsSubject(Path("e.npz"), Embeddings(list(places), list(identities), matrix))


def embeddings(path: Path, rows: list[tuple[str, str, list[float]]]) -> Path:
    """A file of embeddings of (place, identity, numbers)."""
    places, identities, numbers = zip(*rows, strict=True)
    matrix = np.array(numbers, dtype=np.float32)
    np.savez(path, place=np.array(places), identity=np.array(identities), embedding=matrix)
    return path
