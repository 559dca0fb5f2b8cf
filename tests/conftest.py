"""What every test shares: one tolerance a dtype, a fixed number of threads, no network."""

import gc
import os
import signal
import sys
from collections.abc import Iterator

# Programs started in the background of a script ignore Ctrl-C, and so would all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch

from centerarc.data import source
from centerarc.io import plugins
from centerarc.losses import margins
from centerarc.models import backbone
from centerarc.training import callbacks
from tests.distributed.pool import pool  # noqa: F401
from tests.postgres import postgres  # noqa: F401

# Only a power cut could tell, and hundreds of runs save their states.
os.fsync = lambda descriptor: os.fstat(descriptor) and None  # type: ignore[assignment]

# How long an example takes says more about what else the machine does.
hypothesis.settings.register_profile("centerarc", deadline=None)
hypothesis.settings.load_profile("centerarc")


def pytest_collection_finish() -> None:
    # What was imported stays: the collector looks at what tests leave behind alone.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    torch.manual_seed(0)


@pytest.fixture
def plugins_undone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers and imports is forgotten after it."""
    registries = (margins.MARGINS, source._OWN, backbone._BUILDERS, callbacks._REGISTRY)
    before = [dict(registry) for registry in registries]
    modules = set(sys.modules)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(plugins, "_installed", None)
    yield
    for registry, names in zip(registries, before, strict=True):
        registry.clear()
        registry.update(names)
    for name in set(sys.modules) - modules:
        if name.startswith("plugin_"):  # those of tests; others cannot be loaded twice
            del sys.modules[name]
