"""Sources by name, for configuration files."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from centerarc.data.source import FaceSource

# Imported when asked for: a run on a folder does not pay for the synthetic faces.
_SOURCES = {
    "folder": ("centerarc.data.folder", "FolderSource"),
    "synthetic": ("centerarc.data.synthetic", "SyntheticFaces"),
}


def list_sources() -> list[str]:
    """Returns the kinds that `create_source` accepts, sorted."""
    return sorted(_SOURCES)


def create_source(kind: str, **options: Any) -> FaceSource:
    """Opens a source of labelled faces by the name of its kind.

    Args:
        kind: "folder" (`FolderSource`) or "synthetic" (`SyntheticFaces`).
        **options: The arguments of that class.

    Returns:
        The source.

    Raises:
        ValueError: If the kind is unknown or its options are not right.

    Example:
        >>> len(create_source("synthetic", num_identities=2, images_per_identity=3))
        6
    """
    if kind not in _SOURCES:
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(list_sources())}")
    module, name = _SOURCES[kind]
    source: Callable[..., FaceSource] = getattr(import_module(module), name)
    try:
        return source(**options)
    except TypeError as error:
        raise ValueError(f"wrong options for source {kind!r}: {error}") from error
