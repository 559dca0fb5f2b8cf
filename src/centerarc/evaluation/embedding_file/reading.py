"""Files of embeddings, ours and others', read and checked."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.embedding_file.formats import (
    EMBEDDING,
    IDENTITY,
    METADATA,
    PLACE,
    file_format,
    load_npz,
    require_parquet_extra,
)

_SHOWN = 3
# What metadata says of the model, which results repeat.
_TEXTS = ("model", "weights_sha256", "model_file", "version")


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of images, with where each comes from and who is on it.

    Args:
        places: (N,) place of each image in its source.
        identities: (N,) name of the person on it.
        embedding: (N, D) float32, finite, not normalised, of a length above 0.
        metadata: what ``embed_to_file`` recorded: ``model`` (SHA-256), ``weights_sha256`` (the same
            for weights and an ONNX file made of them), ``model_file``, ``preprocessing``,
            ``mirror``, ``left_out``, ``version``; empty in files of others.
    """

    places: list[str]
    identities: list[str]
    embedding: npt.NDArray[np.float32]
    metadata: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.places)


def read_embeddings(path: str | os.PathLike[str]) -> Embeddings:
    """Read a file of embeddings, from ``centerarc embed`` or from anybody.

    Args:
        path: Parquet with columns ``place``, ``identity`` (text or whole numbers) and
            ``embedding`` (lists of D floats), or npz with arrays of these names.

    Returns:
        All of it.

    Raises:
        ImportError: it is a Parquet file and pyarrow is not installed.
        ValueError: the file is absent or damaged, lacks a column or has it twice, holds something
            else in it, or an embedding that is not finite, or too long for float32 or of length 0
            in it; the message names the row and its place.
    """
    file = Path(path)
    kind = file_format(file)
    if not file.is_file():
        raise ValueError(f"there is no file of embeddings {str(file)!r}")
    found = _read_parquet(file) if kind == "parquet" else _read_npz(file)
    embedding = found.embedding
    if embedding.ndim != 2 or embedding.shape[1] < 1 or embedding.dtype.kind != "f":
        raise ValueError(
            f"embedding of {str(file)!r} is {embedding.dtype} of shape {embedding.shape}; it must "
            "be float of shape (N, D)"
        )
    lengths = {PLACE: len(found.places), IDENTITY: len(found.identities), EMBEDDING: len(embedding)}
    if len(set(lengths.values())) != 1:
        counts = ", ".join(f"{count} of {name}" for name, count in lengths.items())
        raise ValueError(f"{str(file)!r} has columns of different lengths: {counts}")
    if not len(embedding):
        raise ValueError(f"{str(file)!r} holds no embedding")
    _refuse(file, found, ~np.isfinite(embedding).all(axis=1), "are not finite")
    with np.errstate(over="ignore", under="ignore"):
        single = embedding.astype(np.float32, copy=False)
        squared = np.einsum("nd,nd->n", single, single)
    _refuse(file, found, ~np.isfinite(squared), "are too long for float32")
    _refuse(file, found, squared == 0, "have length 0 in float32")
    return Embeddings(found.places, found.identities, single, found.metadata)


def _refuse(path: Path, found: Embeddings, bad: npt.NDArray[Any] | np.bool_, what: str) -> None:
    rows = np.flatnonzero(bad)
    if rows.size:
        shown = ", ".join(f"{row} ({found.places[row]!r})" for row in rows[:_SHOWN].tolist())
        more = ", ..." if len(rows) > _SHOWN else ""
        raise ValueError(
            f"{str(path)!r} has {len(rows)} embeddings that {what}, in row {shown}{more}, "
            "counted from 0"
        )


def _read_npz(path: Path) -> Embeddings:
    try:
        with load_npz(path) as file:
            # Other arrays, whatever they are, are nobody's business here.
            arrays = {name: file[name] for name in (PLACE, IDENTITY, EMBEDDING) if name in file}
            text = str(file[METADATA]) if METADATA in file else "{}"
            names = list(file.files)
    except Exception as error:  # a damaged zip file can fail in any way
        # Numpy's words would tell how to unpickle it.
        reason = "an array of Python objects" if "allow_pickle" in str(error) else error
        raise ValueError(f"cannot read {str(path)!r}: {reason}") from error
    _check_columns(path, names)
    for name in (PLACE, IDENTITY):
        if arrays[name].ndim != 1 or arrays[name].dtype.kind not in "Uiu":
            raise ValueError(
                f"{name} of {str(path)!r} is {arrays[name].dtype} of shape {arrays[name].shape}; "
                "it must be text of shape (N,)"
            )
    return Embeddings(
        arrays[PLACE].astype(str).tolist(),
        arrays[IDENTITY].astype(str).tolist(),
        arrays[EMBEDDING],
        _metadata(path, text),
    )


def _read_parquet(path: Path) -> Embeddings:
    require_parquet_extra()
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import types

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            _check_columns(path, schema.names)
            table = file.read(columns=[PLACE, IDENTITY, EMBEDDING])
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"cannot read {str(path)!r}: {reason}") from error
    for name in (PLACE, IDENTITY, EMBEDDING):
        column = table.column(name)
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise ValueError(f"{name} of {str(path)!r} has no value in row {row}, counted from 0")
    texts = []
    for name in (PLACE, IDENTITY):
        column = table.column(name)
        if types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if not (types.is_string(column.type) or types.is_large_string(column.type)):
            if not types.is_integer(column.type):
                raise ValueError(f"{name} of {str(path)!r} is {column.type}; it must be text")
            column = column.cast(pa.string())
        texts.append(column.to_pylist())
    metadata = (schema.metadata or {}).get(METADATA.encode(), b"{}").decode("utf-8", "replace")
    embedding = _matrix(path, table.column(EMBEDDING).combine_chunks())
    return Embeddings(texts[0], texts[1], embedding, _metadata(path, metadata))


def _matrix(path: Path, column: Any) -> npt.NDArray[Any]:
    """A column of lists as (N, D), whatever kind of list it is."""
    from pyarrow import types

    kind = column.type
    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if not lists or not types.is_floating(kind.value_type):
        raise ValueError(f"embedding of {str(path)!r} is {kind}; it must be lists of floats")
    lengths = np.unique(column.value_lengths().to_numpy(zero_copy_only=False))
    if len(lengths) > 1:
        raise ValueError(
            f"embedding of {str(path)!r} has lists of {lengths[0]} and of {lengths[-1]} numbers; "
            "all must have one length"
        )
    values = column.flatten().to_numpy(zero_copy_only=False)
    size = int(lengths[0]) if len(lengths) else 1
    result: npt.NDArray[Any] = values.reshape(len(column), size)
    return result


def _check_columns(path: Path, names: list[str]) -> None:
    for name in (PLACE, IDENTITY, EMBEDDING):
        if name not in names:
            raise ValueError(f"{str(path)!r} has no {name!r}; it has {', '.join(names)}")
        if names.count(name) > 1:
            raise ValueError(f"{str(path)!r} has {names.count(name)} columns {name!r}")


def _metadata(path: Path, text: str) -> dict[str, Any]:
    """What a file says of itself, which results repeat as JSON."""
    try:
        found = json.loads(text)
        json.dumps(found, allow_nan=False)  # NaN and 1e999 are read, but are no JSON
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{str(path)!r} holds metadata of ours that is no JSON object")
    for name in _TEXTS:
        if not isinstance(found.get(name, ""), str):
            raise ValueError(
                f"{str(path)!r} holds metadata of ours with {name} {found[name]!r:.50}; it must be "
                "text"
            )
    return found
