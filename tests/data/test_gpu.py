"""On a GPU: batches arrive pinned and become the same floats there as on the CPU."""

import pytest
import torch

from centerarc.data import Augmentation, AugmentationConfig, TrainLoader, create_source, to_input

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_pinned_and_normalized_on_the_device(workers: int) -> None:
    source = create_source("synthetic", num_identities=4, images_per_identity=4, image_size=32)
    augment = Augmentation(AugmentationConfig())
    with TrainLoader(source, batch_size=8, augmentation=augment, seed=0, workers=workers) as loader:
        for images, _ in loader:
            assert images.is_pinned()
            on_device = to_input(images.to("cuda", non_blocking=True))
            assert torch.equal(on_device.cpu(), to_input(images))
