"""A process keeps the memory of large arrays if it is asked to; those that it forks do not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")

# Prints the megabytes that are still there of an array that was freed: first, then in a fork.
PROGRAM = """
import os
from pathlib import Path
import numpy as np
from centerarc.io.memory import keep_memory

def held():
    words = Path("/proc/self/status").read_text().split()
    return int(words[words.index("VmRSS:") + 1]) // 1024

def kept(count):
    before = held()
    one = np.ones(count << 17)
    assert held() - before > count / 2
    del one
    return held() - before

keep_memory()
print(kept(64), flush=True)
if os.fork() == 0:
    print(kept(256), flush=True)
    os._exit(0)
os.wait()
"""

# Prints the kilobytes in huge pages of a tensor of 64 MB, after all that training imports.
TRAINING = """
from pathlib import Path
import torch
import centerarc.training.loop
from centerarc.io.memory import use_huge_pages

use_huge_pages()
one = torch.ones(64 << 18)
words = Path("/proc/self/smaps_rollup").read_text().split()
print(words[words.index("AnonHugePages:") + 1])
"""


def megabytes(**variables: str) -> list[int]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=plain | variables,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return [int(word) for word in done.stdout.split()]


def _has_glibc() -> bool:
    return sys.platform == "linux" and "glibc" in os.confstr("CS_GNU_LIBC_VERSION")


pytestmark = pytest.mark.skipif(not _has_glibc(), reason="glibc's allocator alone is set")


def test_a_process_keeps_what_it_frees_and_a_worker_does_not() -> None:
    own, of_worker = megabytes()
    assert own > 50
    assert of_worker < 100


@pytest.mark.skipif(
    not HUGE.is_file() or "[never]" in HUGE.read_text(), reason="the system has no huge pages"
)
@pytest.mark.parametrize(("given", "huge"), [({}, True), ({"THP_MEM_ALLOC_ENABLE": "0"}, False)])
def test_training_takes_huge_pages_unless_a_user_says_otherwise(
    given: dict[str, str], huge: bool
) -> None:
    if "[always]" in HUGE.read_text() and not huge:
        pytest.skip("the system gives huge pages to all")
    done = subprocess.run(
        [sys.executable, "-c", TRAINING],
        env={k: v for k, v in os.environ.items() if not k.startswith("THP_")} | given,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert (int(done.stdout) > 50_000) == huge


def test_what_a_user_sets_stays() -> None:
    own, of_worker = megabytes(MALLOC_MMAP_THRESHOLD_="131072")
    assert own < 20
    assert of_worker < 20
