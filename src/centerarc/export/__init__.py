"""Models beyond PyTorch: ONNX files written, checked and read, and any model by its file."""

from centerarc.export.embedder import Embedder, TorchEmbedder
from centerarc.export.exporter import ExportReport, export_onnx
from centerarc.export.extra import require_export_extra
from centerarc.export.onnx_model import OnnxModel
from centerarc.export.opening import OpenedModel, open_model
from centerarc.export.preprocessing import Preprocessing

__all__ = [
    "Embedder",
    "ExportReport",
    "OnnxModel",
    "OpenedModel",
    "Preprocessing",
    "TorchEmbedder",
    "export_onnx",
    "open_model",
    "require_export_extra",
]
