"""Pictures for these tests: smooth random ones, unlike each other, as faces are."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image


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
