"""Disks that are full or cannot be written, and folders that go away under a run."""

import os
import shutil
import subprocess
from collections.abc import Callable
from random import Random

from benchmarks.faults.runs import NOBODY, VARIANTS, Fault, Lab, Outcome, drawn

KIND = "disk and permissions"
_BOARD = " (with TensorBoard)"
# An error that says one of these names the thing: the run's folder is in every path of it.
_NAMES = ("/run", "disk", "No space", "Read-only", "Permission", "too large", "quota")


def faults(seed: int, amount: int | None = None) -> list[Fault]:
    """Each of them, or so many, evenly spread."""
    rng = drawn(seed, KIND)
    variants = sorted(VARIANTS)
    every = [
        *(_refused_call(rng, error, always) for error in _ERRORS for always in (True, False)),
        *(_limit(rng.choice(variants), limit) for limit in (1500, 3000, 12_000, 30_000)),
        *(_small_disk(rng.choice(variants), size) for size in (16, 48, 80, 120)),
        *(_filled_disk(rng.choice(variants), rows) for rows in (3, 9)),
        *(_small_disk("plain", size, board=True) for size in (16, 48, 80)),
        *(_filled_disk("plain", rows, board=True) for rows in (3, 6)),
        _read_only_disk("plain"),
        *(_not_allowed(what) for what in ("parent", "run", "state", "metrics.jsonl")),
        _files(rng.choice(variants)),
        *(_gone(rng.choice(variants), what) for what in ("run", "state", "renamed", "a file")),
    ]
    if amount is None:
        return every
    return [every[number * len(every) // amount] for number in range(amount)]


_ERRORS = {
    "ENOSPC": "no space is left",
    "EIO": "the disk fails",
    "EDQUOT": "the quota is used up",
    "EROFS": "the disk is read-only",
    "EACCES": "access is denied",
}


def _refused_call(rng: Random, error: str, always: bool) -> Fault:
    variant, event = rng.choice(sorted(VARIANTS)), rng.randrange(80)

    def act(lab: Lab) -> Outcome | None:
        lab.reference(variant)
        lab.fresh(variant)
        fail = {"below": "/run", "event": event, "error": error, "always": always}
        return lab.ended_or_said(lab.train(fail=fail), _NAMES)

    when = "from some change on" if always else "once"
    return Fault(KIND, f"{_ERRORS[error]}, {when} ({error})", act)


def _limit(variant: str, limit: int) -> Fault:
    def act(lab: Lab) -> Outcome:
        lab.reference(variant)
        lab.fresh(variant)
        ended = lab.train(limits={"RLIMIT_FSIZE": limit})
        return lab.ended_or_said(ended, _NAMES)

    return Fault(KIND, f"no file may grow beyond {limit:,} bytes (RLIMIT_FSIZE)", act)


def _files(variant: str) -> Fault:
    def act(lab: Lab) -> Outcome:
        lab.reference(variant)
        lab.fresh(variant)
        return lab.ended_or_said(lab.train(limits={"RLIMIT_NOFILE": 12}), ("open files", *_NAMES))

    return Fault(KIND, "few files may be open (RLIMIT_NOFILE)", act)


def _mounted(lab: Lab, options: str) -> bool:
    """Puts a small disk where the run's folder is to be; False where that is not allowed."""
    lab.run.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(lab.run)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _remounted(lab: Lab, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(lab.run)], check=True)


def _on_disk(lab: Lab, options: str, act: Callable[[], Outcome]) -> Outcome | None:
    if not _mounted(lab, options):
        return None
    try:
        return act()
    finally:
        lab.server.kill_all()
        subprocess.run(["umount", "--lazy", str(lab.run)], check=True)


def _small_disk(variant: str, kilobytes: int, *, board: bool = False) -> Fault:
    def act(lab: Lab) -> Outcome | None:
        lab.reference(variant)
        lab.fresh(variant, log={"tensorboard": board})

        def tried() -> Outcome:
            ended = lab.train("--overwrite")
            return lab.ended_or_said(ended, _NAMES, lambda: _remounted(lab, "size=4m"))

        return _on_disk(lab, f"size={kilobytes}k", tried)

    return Fault(KIND, f"a disk that becomes full{_BOARD * board}", act)


def _filled_disk(variant: str, rows: int, *, board: bool = False) -> Fault:
    def act(lab: Lab) -> Outcome | None:
        lab.reference(variant)
        lab.fresh(variant, log={"tensorboard": board})

        def tried() -> Outcome:
            lab.start("--overwrite")
            other = lab.run / "other"
            if lab.await_rows(rows):
                subprocess.run(
                    ["dd", "if=/dev/zero", f"of={other}", "bs=4k"], capture_output=True, check=False
                )
            ended = lab.server.wait()
            return lab.ended_or_said(ended, _NAMES, lambda: other.unlink(missing_ok=True))

        return _on_disk(lab, "size=1m", tried)

    return Fault(KIND, f"a disk that something else fills while it trains{_BOARD * board}", act)


def _read_only_disk(variant: str) -> Fault:
    def act(lab: Lab) -> Outcome | None:
        lab.stopped(variant)
        kept = lab.place / "kept"
        lab.run.rename(kept)

        def tried() -> Outcome:
            shutil.copytree(kept, lab.run, dirs_exist_ok=True)
            _remounted(lab, "ro")
            ended = lab.train("--resume")
            return lab.ended_or_said(ended, _NAMES, lambda: _remounted(lab, "rw"))

        return _on_disk(lab, "size=4m", tried)

    return Fault(KIND, "a run that is resumed on a read-only disk", act)


def _not_allowed(what: str) -> Fault:
    def act(lab: Lab) -> Outcome | None:
        if os.getuid() != 0:
            return None
        if what == "parent":
            lab.reference("plain")
            lab.fresh("plain")
            path = lab.place
        else:
            lab.stopped("plain")
            for path in (lab.run, *lab.run.rglob("*")):
                os.chown(path, NOBODY, NOBODY)
            path = {"run": lab.run, "state": lab.run / "state"}.get(what, lab.run / what)
            os.chown(path, 0, 0)
        before = path.stat().st_mode
        path.chmod(0o555 if path.is_dir() else 0o444)
        ended = lab.train(*(() if what == "parent" else ("--resume",)), user=NOBODY)
        return lab.ended_or_said(ended, _NAMES, lambda: path.chmod(before))

    where = {"parent": "the folder above the run", "run": "the run's folder", "state": "state/"}
    return Fault(KIND, f"{where.get(what, what)} may not be written", act)


def _gone(variant: str, what: str) -> Fault:
    def act(lab: Lab) -> Outcome | None:
        lab.reference(variant)
        for rows in (6, 4, 2):
            lab.fresh(variant)
            lab.start()
            lab.await_rows(rows)
            _take_away(lab, what)
            ended = lab.server.wait()
            if not (ended.done and lab.difference() == ""):
                break
        else:
            return None
        return lab.ended_or_said(ended, _NAMES, lambda: _bring_back(lab, what))

    words = {
        "run": "the run's folder is deleted",
        "state": "state/ is deleted",
        "renamed": "the run's folder is renamed",
        "a file": "the run's folder is replaced by a file",
    }
    return Fault(KIND, f"{words[what]} while it trains", act)


def _take_away(lab: Lab, what: str) -> None:
    if what == "state":
        shutil.rmtree(lab.run / "state", ignore_errors=True)
        return
    lab.run.rename(lab.place / "away")
    if what == "run":
        shutil.rmtree(lab.place / "away")
    if what == "a file":
        lab.run.write_text("")


def _bring_back(lab: Lab, what: str) -> None:
    if what in ("renamed", "a file"):
        if lab.run.is_dir():
            shutil.rmtree(lab.run)
        lab.run.unlink(missing_ok=True)
        (lab.place / "away").rename(lab.run)
    elif what == "run":
        shutil.rmtree(lab.run, ignore_errors=True)
