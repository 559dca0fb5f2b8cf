"""Random changes of training images, on batches of bytes."""

from centerarc.data.augmentation.batch import Augmentation
from centerarc.data.augmentation.config import AugmentationConfig

__all__ = ["Augmentation", "AugmentationConfig"]
