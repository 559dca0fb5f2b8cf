"""Opening a .rec of millions of records: seconds, and memory above what is there.

``python -m benchmarks.data.opening FILE.rec`` opens one and prints what it took. Imports no torch.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from benchmarks.common.runner import ROOT

EACH = 50
MAGIC = 0xCED7230A
_IMAGE = np.dtype(
    [("magic", "<u4"), ("length", "<u4"), ("flag", "<u4"), ("label", "<f4"), ("id", "<u8", 2)]
)
_PAIR = np.dtype([*_IMAGE.descr, ("pair", "<f4", 2)])


def write_sparse(path: Path, people: int) -> None:
    """Writes a .rec in insightface's layout that is mostly holes, and its .idx.

    Every person has 50 images of 4 to 16 kB. Of these only the first, the middle and the last have
    a header: with all of them the file would take a block of the disk for each.
    """
    count = people * EACH
    sizes = np.random.default_rng(0).integers(1024, 4096, count) * 4
    starts = _PAIR.itemsize + np.cumsum(sizes + 32) - (sizes + 32)
    end = _PAIR.itemsize + int((sizes + 32).sum())
    told = (np.arange(people)[:, None] * EACH + [0, EACH // 2, EACH - 1]).reshape(-1)
    heads = np.zeros(len(told), dtype=_IMAGE)
    heads["magic"], heads["length"] = MAGIC, sizes[told] + 24
    heads["label"], heads["id"][:, 0] = told // EACH, told + 1
    first = np.arange(people) * EACH + 1
    with open(path, "wb") as file:
        file.write(_pairs(np.array([0]), np.array([[count + 1, count + people + 1]])))
        for head, start in zip(heads, starts[told].tolist(), strict=True):
            os.pwrite(file.fileno(), head.tobytes(), start)
        file.seek(end)
        keys = np.arange(people) + count + 1
        file.write(_pairs(keys, np.stack([first, first + EACH], axis=1)))
    identities = end + _PAIR.itemsize * np.arange(people)
    offsets = np.concatenate([[0], starts, identities])
    with open(path.with_suffix(".idx"), "w", encoding="ascii", newline="\n") as file:
        for key in range(0, len(offsets), 1 << 16):
            part = enumerate(offsets[key : key + (1 << 16)].tolist(), key)
            file.writelines(f"{number}\t{offset}\n" for number, offset in part)


def _pairs(keys: npt.NDArray[np.int64], pairs: npt.NDArray[np.int64]) -> bytes:
    records = np.zeros(len(keys), dtype=_PAIR)
    records["magic"], records["length"], records["flag"] = MAGIC, 24 + 8, 2
    records["id"][:, 0], records["pair"] = keys, pairs
    return records.tobytes()


def openings(room: Path, people: int, rounds: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Writes a .rec and opens it, each time in a new process.

    Args:
        room: a folder for it, which has room for 2 GB.
        people: how many there are in it.
        rounds: how often it is opened in each state.

    Yields:
        "cached", "cold" or "again", and what an opening took: the first one with all of the file
        in the page cache, the first one after the system was asked to forget the file, and one
        with what an earlier one left beside it.
    """
    path = room / "large.rec"
    write_sparse(path, people)
    for _ in range(rounds):
        path.with_name("large.labels.npz").unlink(missing_ok=True)
        _forget(path)
        _forget(path.with_suffix(".idx"))
        yield "cold", _in_a_process(path, people)
        path.with_name("large.labels.npz").unlink(missing_ok=True)
        yield "cached", _in_a_process(path, people)
        yield "again", _in_a_process(path, people)


def _forget(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _in_a_process(path: Path, people: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.data.opening", str(path)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    if (found.pop("images"), found.pop("people")) != (people * EACH, people):
        raise AssertionError("not the images and people that were written")
    return found


def _open(path: str) -> dict[str, Any]:
    """Opens a .rec in this process and checks its labels afterwards."""
    from centerarc.data import RecordIOSource

    # 5 sets the process's high-water mark to its present size.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before, start = _kilobytes("VmRSS"), time.perf_counter()
    source = RecordIOSource(path)
    seconds, peak = time.perf_counter() - start, _kilobytes("VmHWM")
    assert np.array_equal(source.labels, np.arange(len(source)) // EACH), "wrong labels"
    return {
        "seconds": seconds,
        "megabytes": (peak - before) * 1024 / 1e6,
        "images": len(source),
        "people": len(source.identities),
    }


def _kilobytes(name: str) -> int:
    # Not getrusage: its largest size is also that of the process which started this one.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise OSError(f"the system does not tell {name}")


if __name__ == "__main__":
    print(json.dumps(_open(sys.argv[1])))
