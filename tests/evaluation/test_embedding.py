"""Embedding: order, mirror, modes, and what is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from centerarc.evaluation.embedding import embed, pair_scores


class LeftRight(nn.Module):
    """The mean of the left half and of the right half; notices its mode."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2, affine=False)
        self.frozen = nn.Dropout(0.5)
        self.image_size = 4

    def forward(self, x):
        halves = torch.stack([x[..., :2].mean((1, 2, 3)), x[..., 2:].mean((1, 2, 3))], 1)
        return self.frozen(self.norm(halves))


class Source:
    labels = np.zeros(5, dtype=np.int64)
    identities = ("somebody",)

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def image(self, index):
        return self.images[index]


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, size=(5, 4, 4, 3), dtype=np.uint8)


def test_embeddings_come_in_order_whatever_the_batch(images):
    whole = embed(LeftRight(), images, batch_size=5)
    assert whole.dtype == np.float32
    expected = (images[:, :, :2].mean((1, 2, 3)) - 127.5) / 127.5
    np.testing.assert_allclose(whole[:, 0], expected, atol=1e-4)
    np.testing.assert_allclose(embed(LeftRight(), images, batch_size=2), whole, rtol=1e-6)
    np.testing.assert_allclose(embed(LeftRight(), Source(images), batch_size=2), whole, rtol=1e-6)


def test_mirror_sums_the_features_of_both(images):
    plain = embed(LeftRight(), images)
    both = embed(LeftRight(), images, mirror=True)
    np.testing.assert_allclose(both, plain + plain[:, ::-1], rtol=1e-5)


def test_every_module_gets_its_own_mode_back(images):
    model = LeftRight().train()
    model.frozen.eval()
    embed(model, images)
    assert model.training
    assert model.norm.training
    assert not model.frozen.training
    assert model.norm.num_batches_tracked == 0  # the statistics did not move


def test_the_mode_comes_back_after_an_error_too(images):
    model = LeftRight().train()
    with pytest.raises(ValueError, match="4 x 3"):
        embed(model, images[:, :, :3])
    assert model.training


def test_progress_counts_images(images):
    seen = []
    embed(LeftRight(), images, batch_size=2, progress=seen.append)
    assert seen == [2, 2, 1]


def test_bad_images_and_embeddings_are_named(images):
    with pytest.raises(ValueError, match="uint8 of shape"):
        embed(LeftRight(), images.astype(np.float32))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        embed(LeftRight(), images, batch_size=0)
    with pytest.raises(ValueError, match="no image"):
        embed(LeftRight(), images[:0])
    broken = LeftRight()
    broken.norm.running_mean[0] = float("nan")
    with pytest.raises(ValueError, match="not finite for image 0"):
        embed(broken, images)


def test_scores_are_cosines():
    scores = pair_scores(np.array([[3.0, 4.0], [6.0, 8.0], [-4.0, 3.0]]), [0, 0, 1], [1, 2, 0])
    np.testing.assert_allclose(scores, [1, 0, 1], atol=1e-15)
    with pytest.raises(ValueError, match="row 1 has length 0"):
        pair_scores(np.array([[1.0, 0.0], [0.0, 0.0]]), [0], [1])
