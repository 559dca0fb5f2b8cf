"""Makes what the harder conditions of docs/results/joint.md need from LFW, seeded.

    python scripts/lfw_conditions.py data/lfw112 data/pairs.txt data/conditions

- `low/`: the people of folds 7 and 8 as a poor camera has them: each image 16 to 24 pixels wide,
  blurred by up to 1.5 pixels (of 112), enlarged again, and compressed by JPEG of quality 20 to 50;
- `wrong10.csv`: the training images with 10% of the labels drawn from the other people;
- `images2.csv`, `images3.csv`, `images5.csv`: people with that many images, the same number of
  images in all, so that only how they are spread over people differs.
"""

import csv
import hashlib
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from centerarc.data.folder import FolderSource
from centerarc.evaluation.files import read_pairs

HELD_OUT, TEST = [6, 7, 8], [7, 8]
SEED, WRONG, IMAGES = 0, 0.1, 990


def degraded(image: Image.Image, rng: np.random.Generator) -> bytes:
    """A JPEG of the same size with the detail of a poor camera."""
    size = image.size
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 1.5)))
    side = int(rng.integers(16, 25))
    small = image.resize((side, side), Image.Resampling.BOX)
    out = io.BytesIO()
    quality = int(rng.integers(20, 51))
    small.resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=quality)
    return out.getvalue()


def write_list(path: Path, rows: list[tuple[str, str]]) -> None:
    """A list of images and people, as the source `list` reads it."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "identity"])
        writer.writerows(rows)


def main(faces: Path, pairs: Path, out: Path) -> None:
    """Write the folder and the lists."""
    listed = read_pairs(pairs)
    test = listed.select_folds(TEST).everyone()
    held_out = listed.select_folds(HELD_OUT).everyone()
    source = FolderSource(faces)
    names = [source.identities[label] for label in source.labels]
    paths = source.paths
    for name, path in zip(names, paths, strict=True):
        if name in test:
            # Each image has a generator of its own: one more in the folder changes no other.
            digest = hashlib.sha256(f"{SEED}/{name}/{path.name}".encode()).digest()
            rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
            target = out / "low" / name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(degraded(Image.open(path).convert("RGB"), rng))
    images: dict[str, list[str]] = {}
    for name, path in zip(names, paths, strict=True):
        if name not in held_out:
            images.setdefault(name, []).append(f"{name}/{path.name}")
    images = {name: kept for name, kept in images.items() if len(kept) >= 2}
    rng = np.random.default_rng(SEED)
    people = sorted(images)
    rows = [(path, name) for name in people for path in images[name]]
    wrong = rng.choice(len(rows), round(WRONG * len(rows)), replace=False)
    for place in wrong:
        path, name = rows[place]
        others = [other for other in people if other != name]
        rows[place] = path, others[rng.integers(len(others))]
    write_list(out / "wrong10.csv", rows)
    shuffled = [people[place] for place in rng.permutation(len(people))]
    for each in (2, 3, 5):
        chosen = [name for name in shuffled if len(images[name]) >= each][: IMAGES // each]
        if len(chosen) < IMAGES // each:
            raise SystemExit(f"only {len(chosen)} people have {each} images")
        kept = [
            (path, name)
            for name in chosen
            for path in rng.choice(sorted(images[name]), each, replace=False).tolist()
        ]
        write_list(out / f"images{each}.csv", kept)


if __name__ == "__main__":
    main(*(Path(word) for word in sys.argv[1:4]))
