"""Files of a run that are damaged between its stop and its resumption."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

from benchmarks.faults.runs import (
    LOST,
    SAID,
    SURVIVED,
    UNCLEAR,
    VARIANTS,
    Fault,
    Lab,
    Outcome,
    drawn,
    newest_states,
)

FLIPS, CORRUPTIONS = "flips", "corruptions"


def flips(seed: int, amount: int) -> list[Fault]:
    """So many flips of a random bit of a random file of the last state."""
    rng = drawn(seed, FLIPS)
    return [_flip(rng, 2 if number % 20 == 7 else 1) for number in range(amount)]


def _flip(rng: Random, ranks: int) -> Fault:
    variant, which, where, bit = (
        rng.choice(sorted(VARIANTS)),
        rng.random(),
        rng.random(),
        rng.randrange(8),
    )

    def act(lab: Lab) -> Outcome:
        lab.stopped(variant, ranks)
        files = newest_states(lab.run)[0]
        path = files[int(which * len(files))]
        content = bytearray(path.read_bytes())
        content[int(where * len(content))] ^= 1 << bit
        path.write_bytes(content)
        return _resumed(lab, path)

    return Fault(FLIPS, f"one bit of the saved state of {ranks} process{'es' * (ranks > 1)}", act)


def _resumed(lab: Lab, *damaged: Path) -> Outcome:
    """Resumes a run whose files are damaged: it must name one, and be right or refuse."""
    names = [path.name for path in damaged]
    names += [path.parent.name for path in damaged if path.parent != lab.run]
    ended = lab.train("--resume")
    named = any(name in ended.said for name in names)
    if ended.done or not ended.codes:
        outcome = lab.judge(ended)
        return Outcome(outcome.verdict, outcome.words or ended.said[-300:], named)
    unclear = ended.unclear(names)
    return Outcome(UNCLEAR if unclear else SAID, unclear or ended.error, named)


# What happens to a file. Each gets the file, another one of the same state, and the file of that
# name in the state before, if there is one.
Damage = Callable[[Path, Path, Path, Random], object]


def _truncated(path: Path, other: Path, before: Path, rng: Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(1, max(2, len(content)))])


def _zeros(path: Path, other: Path, before: Path, rng: Random) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _zero_tail(path: Path, other: Path, before: Path, rng: Random) -> None:
    content = path.read_bytes()
    kept = rng.randrange(len(content) // 4, len(content) * 3 // 4)
    path.write_bytes(content[:kept] + bytes(len(content) - kept))


def _emptied(path: Path, other: Path, before: Path, rng: Random) -> None:
    path.write_bytes(b"")


def _missing(path: Path, other: Path, before: Path, rng: Random) -> None:
    path.unlink()


def _swapped(path: Path, other: Path, before: Path, rng: Random) -> None:
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


def _older(path: Path, other: Path, before: Path, rng: Random) -> None:
    if before.exists():
        shutil.copyfile(before, path)
    else:
        _truncated(path, other, before, rng)


def _longer(path: Path, other: Path, before: Path, rng: Random) -> None:
    path.write_bytes(path.read_bytes() + rng.randbytes(64))


def _folder(path: Path, other: Path, before: Path, rng: Random) -> None:
    path.unlink()
    path.mkdir()


_DAMAGES: dict[str, Damage] = {
    "truncated": _truncated,
    "filled with zeros": _zeros,
    "filled with zeros at the end": _zero_tail,
    "emptied": _emptied,
    "missing": _missing,
    "swapped with another": _swapped,
    "from the state before": _older,
    "longer": _longer,
    "a folder": _folder,
}


def corruptions(seed: int, amount: int | None = None) -> list[Fault]:
    """Each damage of each file; or so many, evenly spread."""
    rng = drawn(seed, CORRUPTIONS)
    # A state has at most four files, whatever they are called.
    every = [_of_state(name, number, rng.random()) for number in range(4) for name in _DAMAGES]
    every += [_of_manifest(edit) for edit in ("size", "checksum", "entry", "more")]
    every += [_of_all_states(name, rng.random()) for name in ("truncated", "missing", "emptied")]
    every += [
        _of_run_file(file, name, rng.random())
        for file in ("config.yaml", "metrics.jsonl", "best.safetensors")
        for name in ("truncated", "filled with zeros", "emptied", "missing")
    ]
    every += [
        _of_weights(name, rng.random())
        for name in ("truncated", "filled with zeros", "filled with zeros at the end", "emptied")
    ]
    every += [_of_finished(name, rng.random()) for name in ("truncated", "zeros")]
    if amount is None:
        return every
    return [every[number * len(every) // amount] for number in range(amount)]


def _variant(share: float) -> str:
    return sorted(VARIANTS)[int(share * len(VARIANTS))]


def _of_state(name: str, number: int, share: float) -> Fault:
    def act(lab: Lab) -> Outcome | None:
        lab.stopped(_variant(share))
        states = newest_states(lab.run)
        files = states[0]
        if number >= len(files):
            return None
        path, other = files[number], files[number - 1]
        before = states[1][number] if len(states) > 1 else Path("none")
        _DAMAGES[name](path, other, before, Random(share))
        return _resumed(lab, path, *([other] if "swapped" in name else []))

    return Fault(CORRUPTIONS, f"a file of the last state is {name}", act)


def _of_manifest(edit: str) -> Fault:
    def act(lab: Lab) -> Outcome | None:
        lab.stopped("plain")
        path = newest_states(lab.run)[0][0].with_name("manifest")
        if not path.exists():
            return None
        digest, _, body = path.read_bytes().partition(b"\n")
        entries = json.loads(body)
        name = sorted(entries)[-1]
        if edit == "size":
            entries[name][0] += 1
        elif edit == "checksum":
            entries[name][1] = entries[name][1][:-1] + "0"
        elif edit == "entry":
            del entries[name]
        else:
            entries["more"] = entries[name]
        path.write_bytes(digest + b"\n" + json.dumps(entries, indent=0, sort_keys=True).encode())
        return _resumed(lab, path)

    return Fault(CORRUPTIONS, "the manifest of the last state is edited", act)


def _of_all_states(name: str, share: float) -> Fault:
    def act(lab: Lab) -> Outcome:
        lab.stopped(_variant(share))
        paths = [files[-1] for files in newest_states(lab.run)]
        for path in paths:
            _DAMAGES[name](path, path, Path("none"), Random(share))
        return _resumed(lab, *paths)

    return Fault(CORRUPTIONS, f"a file of every state is {name}", act)


def _of_run_file(file: str, name: str, share: float) -> Fault:
    def act(lab: Lab) -> Outcome:
        lab.stopped("validated")
        path = lab.run / file
        _DAMAGES[name](path, path, Path("none"), Random(share))
        if file != "config.yaml":
            outcome = _resumed(lab, path)
            # What is lost of these is lost, and must be said; all else must be right.
            alone = outcome.verdict == LOST and outcome.words.startswith(file)
            return Outcome(SAID, f"{file} was named") if alone and outcome.named else outcome
        ended = lab.train("--resume", config=path)
        if not ended.codes or ended.done:
            # What is left may be a whole file of fewer settings: that must be said.
            outcome = lab.judge(ended)
            changed = "changed from now on" in ended.said
            return Outcome(SAID, "changed from now on") if changed else outcome
        return lab.ended_or_said(ended, [file, "setting"])

    return Fault(CORRUPTIONS, f"{file} of a run is {name}", act)


def _of_weights(name: str, share: float) -> Fault:
    """Weights of another run, to start from."""

    def act(lab: Lab) -> Outcome:
        reference, _ = lab.reference("plain")
        lab.fresh("plain")
        start = lab.place / "before"
        shutil.copytree(reference, start)
        path = start / "last.safetensors"
        _DAMAGES[name](path, path, Path("none"), Random(share))
        lab.write_config("plain", model={"weights": str(start)})
        ended = lab.train()
        if not ended.codes or ended.done:
            return Outcome(LOST, "trained from them" if ended.codes else "hung")
        unclear = ended.unclear([path.name])
        return Outcome(UNCLEAR if unclear else SAID, unclear or ended.error)

    return Fault(CORRUPTIONS, f"the weights to start from are {name}", act)


def _of_finished(name: str, share: float) -> Fault:
    """The result of a finished run, which is resumed: it must be written again."""

    def act(lab: Lab) -> Outcome:
        reference, _ = lab.reference("plain")
        lab.fresh("plain")
        shutil.copytree(reference, lab.run)
        path = lab.run / "last.safetensors"
        (_truncated if name == "truncated" else _zero_tail)(path, path, path, Random(share))
        ended = lab.train("--resume")
        outcome = lab.judge(ended)
        return Outcome(SURVIVED if outcome.verdict == SURVIVED else outcome.verdict, outcome.words)

    return Fault(CORRUPTIONS, "the result of a finished run is damaged", act)
