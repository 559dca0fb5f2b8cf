"""Images that cannot be read, and a folder that changes while a run trains or is stopped."""

import os
import shutil
import signal
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from benchmarks.faults.runs import (
    LOST,
    NOBODY,
    SAID,
    SURVIVED,
    UNCLEAR,
    Fault,
    Lab,
    Outcome,
    drawn,
)

KIND = "images"
# What is done to an image or to its folder.
Change = Callable[[Path], object]


def _huge(path: Path) -> None:
    """A header that promises 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    end = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + end)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere.png")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _other(path: Path) -> None:
    path.write_bytes((path.parent.parent / "P0/0.png").read_bytes())


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


_CHANGES: dict[str, Change] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"Not a picture, although its name says so."),
    "cut off": _cut,
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "of 50,000 x 50,000 pixels": _huge,
    "a folder": _folder,
    "a link to nothing": _dangling,
    "a pipe": _pipe,
    "deleted": lambda path: path.unlink(),
    "renamed": lambda path: path.rename(path.with_name("a.png")),
    "that of another person": _other,
}
_OF_PEOPLE: dict[str, Change] = {
    "deleted": lambda path: shutil.rmtree(path.parent),
    "renamed": lambda path: path.parent.rename(path.parent.with_name("Q")),
    "emptied": lambda path: [one.unlink() for one in path.parent.iterdir()],
    "all damaged": lambda path: [one.write_bytes(b"no") for one in path.parent.iterdir()],
    "joined by another": lambda path: shutil.copytree(path.parent, path.parent.with_name("Q")),
    "given another image": lambda path: shutil.copyfile(path, path.with_name("9.png")),
}


def faults(seed: int, amount: int | None = None) -> list[Fault]:
    """Each of them, or so many, evenly spread."""
    rng = drawn(seed, KIND)
    before = [_before(rng, name) for name in list(_CHANGES)[:8]]
    during = [
        _during(rng, name, workers)
        for name in ("deleted", "empty", "cut off", "text", "renamed", "a pipe")
        for workers in (0, 2)
    ]
    people = [
        _during_people(rng, name) for name in ("deleted", "renamed", "emptied", "all damaged")
    ]
    whole = [_whole(rng, workers) for workers in (0, 2)]
    between = [
        _between(rng, name, _CHANGES[name], "an image")
        for name in ("deleted", "renamed", "empty", "that of another person")
    ]
    between += [_between(rng, name, change, "a person") for name, change in _OF_PEOPLE.items()]
    barred = [_barred(rng, what, between) for what in _BARRED for between in (False, True)]
    every = [*before, *during, *people, *whole, *between, *barred]
    if amount is None:
        return every
    return [every[number * len(every) // amount] for number in range(amount)]


def _image(rng: Random) -> str:
    # Not of the two first people, from whom other images are taken.
    return f"P{rng.randrange(2, 8)}/{rng.randrange(6)}.png"


def _copied(lab: Lab, variant: str = "plain", **changes: object) -> Path:
    """A fresh run on its own copy of the images."""
    lab.fresh(variant)
    root = lab.place / "faces"
    shutil.copytree(lab.shared.folder / "faces", root)
    lab.write_config(variant, data={"root": str(root)}, **changes)
    return root


def _judged(lab: Lab, words: str, *names: str, refused: Sequence[str] = ()) -> Outcome:
    """A run on images of which one is wrong has named it, or is as the undisturbed one.

    Args:
        lab: Where it runs.
        words: What was done.
        names: Words of which one must be in what it says.
        refused: Further ones that are enough in an error.
    """
    ended = lab.server.wait()
    named = any(name in ended.said for name in names)
    if not ended.codes:
        return Outcome(LOST, "hung")
    if ended.done:
        if named:
            line = next(line for line in ended.said.splitlines() if any(n in line for n in names))
            return Outcome(SAID, line)
        wrong = lab.difference()
        return Outcome(LOST if wrong else SURVIVED, f"{words}: {wrong}" if wrong else "")
    unclear = ended.unclear((*names, *refused))
    return Outcome(UNCLEAR if unclear else SAID, unclear or ended.error)


def _before(rng: Random, name: str) -> Fault:
    image = _image(rng)

    def act(lab: Lab) -> Outcome:
        lab.reference("plain")
        root = _copied(lab)
        _CHANGES[name](root / image)
        lab.start()
        return _judged(lab, name, image, "left out")

    return Fault(KIND, f"an image is {name}", act)


def _during(rng: Random, name: str, workers: int) -> Fault:
    image = _image(rng)

    def act(lab: Lab) -> Outcome:
        lab.reference("plain")
        root = _copied(lab, workers=workers)
        lab.start()
        lab.await_rows(2)
        _CHANGES[name](root / image)
        return _judged(lab, name, image)

    with_workers = " (2 workers)" if workers else ""
    return Fault(KIND, f"an image becomes {name} while it trains{with_workers}", act)


def _during_people(rng: Random, name: str) -> Fault:
    image = _image(rng)

    def act(lab: Lab) -> Outcome:
        lab.reference("plain")
        root = _copied(lab)
        lab.start()
        lab.await_rows(2)
        _OF_PEOPLE[name](root / image)
        return _judged(lab, name, f"{image.partition('/')[0]}/", f"{image.partition('/')[0]}'")

    return Fault(KIND, f"a person's folder is {name} while it trains", act)


def _whole(rng: Random, workers: int) -> Fault:
    def act(lab: Lab) -> Outcome:
        lab.reference("plain")
        root = _copied(lab, workers=workers)
        lab.start()
        lab.await_rows(2)
        root.rename(lab.place / "away")
        return _judged(lab, "away", ".png")

    with_workers = " (2 workers)" if workers else ""
    return Fault(KIND, f"the folder of all images is renamed while it trains{with_workers}", act)


def _between(rng: Random, name: str, change: Change, what: str) -> Fault:
    image = _image(rng)

    def act(lab: Lab) -> Outcome | None:
        lab.reference("plain")
        for rows in (6, 4, 2):
            root = _copied(lab)
            lab.start()
            lab.await_rows(rows)
            lab.server.signal(signal.SIGTERM, 0)
            if not lab.server.wait().done:
                break
        else:
            return None
        change(root / image)
        lab.start("--resume")
        return _judged(lab, name, image, "'Q'", refused=("people", "images"))

    return Fault(KIND, f"{what} is {name} between stop and resume", act)


_BARRED: dict[str, Callable[[Path], Path]] = {
    "an image": lambda image: image,
    "a person's folder": lambda image: image.parent,
}


def _barred(rng: Random, what: str, between: bool) -> Fault:
    """Something that the user who trains may not read any more."""
    image = _image(rng)

    def act(lab: Lab) -> Outcome | None:
        if os.getuid() != 0:
            return None
        lab.reference("plain")
        for rows in (6, 4, 2):
            root = _copied(lab)
            lab.start(user=NOBODY)
            lab.await_rows(rows)
            if not between:
                break
            lab.server.signal(signal.SIGTERM, 0)
            if not lab.server.wait().done:
                break
        else:
            return None
        _BARRED[what](root / image).chmod(0)
        if between:
            lab.start("--resume", user=NOBODY)
        return _judged(lab, what, image, f"{image.partition('/')[0]}/", refused=("people",))

    when = "between stop and resume" if between else "while it trains"
    return Fault(KIND, f"{what} may not be read any more, {when}", act)
