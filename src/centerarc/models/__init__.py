"""Backbones: from aligned face images to embeddings, and the files that hold their weights."""

# Importing a backbone's module registers it; these lines are the list of backbones.
from centerarc.models import iresnet as _iresnet
from centerarc.models import mobilefacenet as _mobilefacenet
from centerarc.models import vit as _vit
from centerarc.models.backbone import Backbone, Recipe, create_model, list_models, register_model
from centerarc.models.embedder import Embedder, Preprocessing, TorchEmbedder
from centerarc.models.hub import HubModel
from centerarc.models.onnx_export import ExportReport, export_onnx
from centerarc.models.onnx_model import OnnxModel, require_export_extra
from centerarc.models.opened import OpenedModel, load_weights, open_model
from centerarc.models.pretrained import PushReport, from_pretrained, push_to_hub, save_pretrained
from centerarc.models.weights import load_pretrained, read_metadata, save_weights

__all__ = [
    "Backbone",
    "Embedder",
    "ExportReport",
    "HubModel",
    "OnnxModel",
    "OpenedModel",
    "Preprocessing",
    "PushReport",
    "Recipe",
    "TorchEmbedder",
    "create_model",
    "export_onnx",
    "from_pretrained",
    "list_models",
    "load_pretrained",
    "load_weights",
    "open_model",
    "push_to_hub",
    "read_metadata",
    "register_model",
    "require_export_extra",
    "save_pretrained",
    "save_weights",
]

del _iresnet, _mobilefacenet, _vit
