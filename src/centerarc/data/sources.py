"""Sources by the name of their kind, for configurations, and by a path, for the command line."""

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from centerarc.data.source import FaceSource

# Imported when asked for: a run on a folder does not pay for the synthetic faces.
_SOURCES = {
    "folder": ("centerarc.data.folder", "FolderSource"),
    "list": ("centerarc.data.image_list", "ListSource"),
    "recordio": ("centerarc.data.recordio", "RecordIOSource"),
    "shards": ("centerarc.data.shards", "ShardSource"),
    "synthetic": ("centerarc.data.synthetic", "SyntheticFaces"),
}
_LISTS = (".csv", ".tsv", ".parquet")
_SUFFIXES = ", ".join(_LISTS)


def list_sources() -> list[str]:
    """Returns the kinds that `create_source` accepts, sorted."""
    return sorted(_SOURCES)


def create_source(kind: str, **options: Any) -> FaceSource:
    """Opens a source of labelled faces by the name of its kind.

    Args:
        kind: "folder" (`FolderSource`), "list" (`ListSource`), "recordio" (`RecordIOSource`),
            "shards" (`ShardSource`) or "synthetic" (`SyntheticFaces`).
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


def source_kind(path: str | os.PathLike[str]) -> str:
    """Tells from a path what kind of source lies there.

    Args:
        path: A folder of identity folders; a .csv, .tsv or .parquet list; a .rec file or a folder
            that holds one; a .tar shard, a folder that holds some, or a pattern such as
            `faces-{000000..000009}.tar` or `faces-*.tar`.

    Returns:
        A kind for `create_source`.

    Raises:
        ValueError: If there is nothing, or nothing known; the message says what is.
    """
    text = os.fspath(path)
    place = Path(text)
    suffix = place.suffix.lower()
    if place.is_dir():
        with os.scandir(place) as entries:  # a person's folder may be named p.rec
            suffixes = {Path(entry.name).suffix.lower() for entry in entries if entry.is_file()}
        if ".rec" in suffixes:
            return "recordio"
        return "shards" if ".tar" in suffixes else "folder"
    if suffix == ".tar":  # also where the name is a pattern
        return "shards"
    if not place.exists():
        raise ValueError(f"there is no {text!r}; a source is {_KNOWN}")
    if suffix == ".rec":
        return "recordio"
    if suffix in _LISTS:
        return "list"
    raise ValueError(f"{text!r} is no known kind of source; it must be {_KNOWN}")


_KNOWN = "a folder of identity folders, a .rec file, .tar shards, or a .csv or .parquet list"


def open_source(
    path: str | os.PathLike[str],
    *,
    image_size: int | None = None,
    progress: Callable[[int, int], Any] | None = None,
    root: str | os.PathLike[str] | None = None,
    path_column: str | None = None,
    identity_column: str | None = None,
) -> FaceSource:
    """Opens whatever lies at a path; see `source_kind`.

    Args:
        path: Where it is.
        image_size: Side in pixels to which images are resized; None leaves them as they are.
        progress: Called with what is done and what there is where opening takes a pass over the
            data (records or shards without an index).
        root: Of a list: where its relative paths start; None is its own folder.
        path_column: Of a list: the column with the path of each image; None is `path`.
        identity_column: Of a list: the column with the name of who is on it; None is `identity`.

    Returns:
        The source.

    Raises:
        ValueError: If there is nothing known, it cannot be opened, or an option of lists is given
            for another kind.
    """
    kind = source_kind(path)
    options: dict[str, Any] = {"image_size": image_size}
    of_list = {"root": root, "path_column": path_column, "identity_column": identity_column}
    given = {name: value for name, value in of_list.items() if value is not None}
    if given and kind != "list":
        flag = next(iter(given)).replace("_", "-")
        raise ValueError(
            f"{flag} is {str(next(iter(given.values())))!r}, which is for lists ({_SUFFIXES}); "
            f"{os.fspath(path)!r} is of the kind {kind!r}"
        )
    options |= given
    if kind in ("recordio", "shards"):
        options["progress"] = progress
    module, name = _SOURCES[kind]
    source: FaceSource = getattr(import_module(module), name)(path, **options)
    return source
