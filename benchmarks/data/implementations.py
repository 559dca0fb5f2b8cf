"""What is measured, each as a call that reads the images of an order."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from benchmarks.data.images import Images
from benchmarks.data.peer import PlainFolder
from torch.utils.data import DataLoader

from centerarc.data import (
    Augmentation,
    AugmentationConfig,
    EncodedSource,
    FolderSource,
    TrainLoader,
    to_input,
)

BATCH = 128
Indices = npt.NDArray[np.int64]
# Takes image numbers and the number of the round.
Work = Callable[[Indices, int], None]

NOTHING = AugmentationConfig.none()
FLIP = NOTHING.model_copy(update={"flip": 0.5})
MIRRORED = NOTHING.model_copy(update={"flip": 1.0})
DEFAULT = AugmentationConfig()
ALWAYS = DEFAULT.model_copy(
    update=dict.fromkeys(("flip", "move", "light", "grey", "low_resolution", "occlusion"), 1.0)
)
# The way an image goes -> its changes, and whether floats are made.
WAYS = {
    "flip": (FLIP, False),
    "flip, to_input": (FLIP, True),
    "everything": (DEFAULT, False),
    "always": (ALWAYS, False),
}


class GivenOrder:
    """A sampler that shows what it is told to.

    Attributes:
        indices: the image numbers of an epoch.
    """

    note = ""
    batch_size = None

    def __init__(self, indices: Indices) -> None:
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def order(self, seed: int, epoch: int) -> Indices:
        """Returns them."""
        return self.indices


def bare(images: Images) -> Work:
    """Decodes and does nothing else."""
    data = images.data

    def work(order: Indices, turn: int) -> None:
        for index in order.tolist():
            simplejpeg.decode_jpeg(data[index], "RGB")

    return work


def peer(images: Images) -> Work:
    """The usual way, in batches."""
    folder = images.sources["folder"]
    assert isinstance(folder, FolderSource)
    dataset = PlainFolder(folder.paths, folder.labels.tolist())

    def work(order: Indices, turn: int) -> None:
        torch.manual_seed(turn)
        for _ in DataLoader(dataset, batch_size=BATCH, sampler=order.tolist()):
            pass

    return work


def ours(source: EncodedSource, config: AugmentationConfig, *, floats: bool) -> Work:
    """A loader that reads in this process."""
    sampler = GivenOrder(np.zeros(BATCH, dtype=np.int64))
    loader = TrainLoader(
        source,
        batch_size=BATCH,
        augmentation=Augmentation(config),
        seed=0,
        sampler=sampler,
    )

    def work(order: Indices, turn: int) -> None:
        sampler.indices = order
        loader.set_epoch(turn)
        for batch, _ in loader:
            if floats:
                to_input(batch)

    return work


def implementations(images: Images) -> dict[str, Work]:
    """All that take turns: the bound, the peer, and ours as `<kind of source>: <way>`."""
    works = {"bare": bare(images), "peer": peer(images)}
    for kind, source in images.sources.items():
        for way, (config, floats) in WAYS.items():
            works[f"{kind}: {way}"] = ours(source, config, floats=floats)
    return works


def verify(images: Images) -> None:
    """Checks that the peer and ours make the same input of an image, or its mirror image.

    Raises:
        AssertionError: if they do not.
    """
    folder = images.sources["folder"]
    assert isinstance(folder, FolderSource)
    some = range(min(64, len(folder)))
    dataset = PlainFolder(folder.paths, folder.labels.tolist(), flip=0.0)
    theirs = torch.stack([dataset[index][0] for index in some])
    for kind, source in images.sources.items():
        for config, wanted in ((NOTHING, theirs), (MIRRORED, theirs.flip(3))):
            loader = TrainLoader(
                source,
                batch_size=len(some),
                augmentation=Augmentation(config),
                seed=0,
                sampler=GivenOrder(np.arange(len(some))),
            )
            ((batch, labels),) = loader
            # Two builds of libjpeg may round a value apart.
            apart = (to_input(batch) - wanted).abs().max().item()
            if apart > 1.5 / 127.5 or labels.tolist() != folder.labels[: len(some)].tolist():
                raise AssertionError(f"{kind}: not the input that the peer makes")
