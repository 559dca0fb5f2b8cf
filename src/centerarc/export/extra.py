"""What reading and writing ONNX files needs beyond the base install."""

from importlib.util import find_spec

_MODULES = ("onnx", "onnxruntime", "onnxscript")


def require_export_extra() -> None:
    """Says how to install what ONNX files need, if it is not there; cheap enough to call first.

    Raises:
        ImportError: If onnx, onnxruntime or onnxscript is missing.

    Example:
        >>> require_export_extra()
    """
    missing = [name for name in _MODULES if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"ONNX models need {' and '.join(missing)}: pip install 'centerarc[export]'"
        )
