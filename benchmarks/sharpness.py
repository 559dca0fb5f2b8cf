"""How many faces the limit of sharpness refuses: sharp ones, blurred ones and small ones.

    python -m benchmarks.sharpness FACES [--faces 2000] [--limit 0.5]

FACES is a folder of sharp aligned faces. Each is blurred, moved, shrunk and so on, and `sharpness`
is taken of the result. Blurs are in pixels of a face of 112.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from centerarc.data.decode import Image, read_image
from centerarc.gallery.faces import MIN_SHARPNESS, sharpness

Change = Callable[[Image], Image]


def blurred(sigma: float) -> Change:
    return lambda face: cv2.GaussianBlur(face, (0, 0), sigma * len(face) / 112)


def moved(pixels: int) -> Change:
    kernel = np.full((1, pixels), 1 / pixels, np.float32)
    return lambda face: cv2.filter2D(face, -1, kernel)


def shrunk(side: int) -> Change:
    def change(face: Image) -> Image:
        small = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
        return cv2.resize(small, face.shape[:2], interpolation=cv2.INTER_LINEAR)

    return change


def faint(part: float) -> Change:
    return lambda face: (128 + (face.astype(np.float32) - 128) * part).round().astype(np.uint8)


def noisy(sigma: float) -> Change:
    rng = np.random.default_rng(0)

    def change(face: Image) -> Image:
        return np.clip(face + rng.normal(0, sigma, face.shape), 0, 255).round().astype(np.uint8)

    return change


def after(first: Change, second: Change) -> Change:
    return lambda face: second(first(face))


CHANGES: dict[str, Change] = {
    "as they are": lambda face: face,
    "contrast x 0.3": faint(0.3),
    "noise of 10": noisy(10),
    **{f"Gaussian blur of {sigma} px": blurred(sigma) for sigma in (1, 2, 3, 4, 5)},
    "blur of 3 px, contrast x 0.3": after(blurred(3), faint(0.3)),
    "blur of 3 px, then noise of 5": after(blurred(3), noisy(5)),
    **{f"motion of {pixels} px": moved(pixels) for pixels in (9, 15, 21)},
    **{f"shrunk to {side} px": shrunk(side) for side in (80, 56, 40, 28, 20)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--faces", type=int, default=2000, help="as many are drawn at random")
    parser.add_argument("--limit", type=float, default=MIN_SHARPNESS)
    wanted = parser.parse_args()
    files = sorted(p for p in wanted.folder.rglob("*") if p.suffix.lower() in (".jpg", ".png"))
    chosen = np.random.default_rng(0).permutation(len(files))[: wanted.faces]
    faces = [read_image(files[number]) for number in chosen]
    print(f"{len(faces):,} of {len(files):,} faces, limit {wanted.limit:g}\n")
    print("| faces | sharpness: 1% | median | 99% | refused |\n|---|---|---|---|---|")
    for name, change in CHANGES.items():
        found = np.array([sharpness(change(face)) for face in faces])
        low, middle, high = np.quantile(found, (0.01, 0.5, 0.99))
        share = (found < wanted.limit).mean()
        print(f"| {name} | {low:.2f} | {middle:.2f} | {high:.2f} | {share:.1%} |", flush=True)
    begun = time.perf_counter()
    for face in faces:
        sharpness(face)
    print(f"\n{1e3 * (time.perf_counter() - begun) / len(faces):.2f} ms a face")


if __name__ == "__main__":
    main()
