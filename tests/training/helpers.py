"""A model that trains in milliseconds, and a folder of pictures for it."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import FileSystemReader

from centerarc.io.files import seal
from centerarc.models import Backbone
from centerarc.models import backbone as registry
from centerarc.training import TrainConfig, check_config
from centerarc.training.checkpoint import load_state, write_manifest

SIZE = 16
# Makes `Tiny` slow in a process that is to be stopped before it is done.
SLOW_STEPS = {"TINY_SECONDS": "0.05"}
# Registers the model in processes that are not the tests'.
TINY_PLUGIN = str(Path(__file__).with_name("plugin_tiny.py"))


class Tiny(Backbone):
    """Convolution, PReLU, linear; batch norm and dropout if asked for."""

    def __init__(
        self, *, embedding_size: int, image_size: int, norm: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__(embedding_size, image_size)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=4, padding=1),
            nn.BatchNorm2d(8) if norm else nn.Identity(),
            nn.PReLU(8),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(8 * (image_size // 4) ** 2, embedding_size),
        )

    def forward(self, images: Tensor) -> Tensor:
        if self.training and (seconds := os.environ.get("TINY_SECONDS")):
            time.sleep(float(seconds))
        output: Tensor = self.layers(images)
        return output


def register_tiny() -> None:
    """Makes the model known for this process; the registry's own tests never see it."""
    registry._BUILDERS["tiny"] = Tiny


def write_faces(root: Path, people: int = 6, images: int = 6) -> Path:
    """Writes a folder of blobs, each person with a color of their own."""
    rng = np.random.default_rng(0)
    for person in range(people):
        folder = root / f"P{person:02d}"
        folder.mkdir(parents=True)
        color = rng.integers(40, 215, 3)
        for number in range(images):
            noise = rng.integers(-40, 41, (SIZE, SIZE, 3))
            image = PIL.Image.fromarray(np.clip(color + noise, 0, 255).astype(np.uint8))
            image.save(folder / f"P{person:02d}_{number + 1:04d}.png")
    return root


def make_config(run_dir: Path, root: Path, **changes: Any) -> TrainConfig:
    """A run of 3 epochs with 4 steps each; `changes` are merged into its sections."""
    content: dict[str, Any] = {
        "run_dir": run_dir,
        "model": {
            "name": "tiny",
            "embedding_size": 8,
            "image_size": SIZE,
            "options": {"norm": True, "dropout": 0.2},
        },
        "data": {"source": "folder", "root": root},
        "schedule": {"epochs": 3},
        "batch_size": 8,
        "workers": 0,
        "device": "cpu",
        "log": {"every": 1},
    }
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(content.get(name), dict):
            content[name] = {**content[name], **value}
        else:
            content[name] = value
    return check_config(content)


def whole_criterion(run_dir: Path) -> dict[str, Tensor]:
    """The tensors of all classes in a run's state, and their momentum, in one process."""
    folder = load_state(run_dir).folder
    metadata = FileSystemReader(folder).read_metadata().state_dict_metadata
    state = {
        name: torch.empty(item.size, dtype=item.properties.dtype) for name, item in metadata.items()
    }
    dcp.load(state, checkpoint_id=folder, no_dist=True)
    return state


def reseal(folder: Path) -> None:
    """Makes a manifest for the files of a state as they are now."""
    write_manifest(folder, seal(*(path for path in folder.iterdir() if path.name != "manifest")))


def edit_state(run_dir: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Changes what the last state of a run holds, as if it had been saved so."""
    saved = load_state(run_dir)
    edit(saved.content)
    torch.save(saved.content, saved.folder / "state.pt")
    reseal(saved.folder)


def same_bits(first: Path, second: Path) -> bool:
    """Whether two weights files hold the same tensors to the last bit."""
    from safetensors.torch import load_file

    a, b = load_file(first), load_file(second)
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Within the block no file may grow beyond `limit` bytes."""
    resource = pytest.importorskip("resource")  # Windows has no such limits
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
