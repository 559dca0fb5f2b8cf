"""A gallery of people of LFW, the rest of their photos, and strangers: what is named, and whom.

    python scripts/lfw_gallery.py RUN data/lfw112 data/pairs.txt

RUN was trained as configs/lfw.yaml or configs/lfw_small.yaml has it, without the people of folds 6
to 8. Of these, 60 with at least 4 photos are enrolled with 3 each, and their other photos, up to 3,
and 400 other people are identified. Works in a temporary folder through the command line.
"""

import csv
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from centerarc.evaluation.files import read_pairs

FOLDS, PEOPLE, ENROLLED, PROBES, STRANGERS = (6, 7, 8), 60, 3, 3, 400


def split(root: Path, pairs: Path, work: Path) -> None:
    """Copies photos to album/, rest/ and strangers/, by person."""
    found = read_pairs(pairs)
    held_out = {
        Path(found.names[image]).parent.name
        for row in np.flatnonzero(np.isin(found.fold, FOLDS)).tolist()
        for image in (found.index_a[row], found.index_b[row])
    }
    photos = {name: sorted((root / name).glob("*.jpg")) for name in sorted(held_out)}
    rng = random.Random(0)
    many = [name for name, files in photos.items() if len(files) > ENROLLED]
    rng.shuffle(many)
    for name in many[:PEOPLE]:
        files = photos.pop(name)
        rng.shuffle(files)
        for number, file in enumerate(files[: ENROLLED + PROBES]):
            kind = "album" if number < ENROLLED else "rest"
            target = work / kind / name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    for name, files in list(photos.items())[:STRANGERS]:
        (work / "strangers" / name).mkdir(parents=True)
        shutil.copy(files[0], work / "strangers" / name / files[0].name)


def gallery(work: Path, command: str, *words: str) -> None:
    line = [sys.executable, "-m", "centerarc", "gallery", command, "people.db", *words]
    quiet = subprocess.DEVNULL if command == "identify" else None
    if subprocess.run(line, cwd=work, stdout=quiet).returncode not in (0, 1):
        raise SystemExit(f"gallery {command} failed")


def counted(path: Path) -> Counter[str]:
    with open(path, encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["rank"] in ("1", "")]
    kinds: Counter[str] = Counter()
    for row in rows:
        right = row["person"] == Path(row["place"]).parent.name
        named = "right name" if right else "another's name"
        kinds[named if row["verdict"] == "accepted" else row["verdict"]] += 1
    return kinds


def main(run: str, root: str, pairs: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        split(Path(root), Path(pairs), work)
        gallery(work, "create", "--model", str(Path(run).resolve()), "--aligned", "--mirror")
        gallery(work, "add", "album")
        gallery(work, "calibrate", "--fpir", "0.05")
        print("| photos | right name | another's name | unknown | of |\n|---|---|---|---|---|")
        for kind in ("rest", "strangers"):
            gallery(work, "identify", kind, "--out", f"{kind}.csv")
            kinds = counted(work / f"{kind}.csv")
            cells = [str(kinds[name]) for name in ("right name", "another's name", "unknown")]
            print(f"| {kind} | {' | '.join(cells)} | {kinds.total()} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
