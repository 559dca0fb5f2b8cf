"""Backbones: from aligned face images to embeddings, and the files that hold their weights."""

# Importing a backbone's module registers it; these two lines are the list of backbones.
from centerarc.models import iresnet as _iresnet
from centerarc.models import mobilefacenet as _mobilefacenet
from centerarc.models.backbone import Backbone, Recipe
from centerarc.models.registry import create_model, list_models, register_model
from centerarc.models.weights import (
    load_pretrained,
    load_weights,
    read_metadata,
    save_weights,
)

__all__ = [
    "Backbone",
    "Recipe",
    "create_model",
    "list_models",
    "load_pretrained",
    "load_weights",
    "read_metadata",
    "register_model",
    "save_weights",
]

del _iresnet, _mobilefacenet
