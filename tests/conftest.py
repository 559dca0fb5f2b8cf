"""What every test shares: one tolerance a dtype, a fixed number of threads, no network."""

import os
import signal

# Programs started in the background of a script ignore Ctrl-C, and so would all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch

from tests.distributed.pool import pool  # noqa: F401

# How long an example takes says more about what else the machine does.
hypothesis.settings.register_profile("centerarc", deadline=None)
hypothesis.settings.load_profile("centerarc")


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    torch.manual_seed(0)
