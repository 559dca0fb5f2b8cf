"""Files of embeddings: Parquet or npz, read and checked, written a part at a time."""

import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# Embeddings, places and identities as one Parquet or npz file, written a part at a time.

# What zip files begin with, those without a member too.
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
# Columns of a Parquet file, arrays of an npz file; `metadata` is JSON in both.
PLACE, IDENTITY, EMBEDDING, METADATA = "place", "identity", "embedding", "centerarc"


@dataclass(frozen=True)
class Part:
    """Some rows of the result.

    Args:
        places: where each image comes from.
        identities: who is on it.
        embedding: (n, D) float32.
    """

    places: list[str]
    identities: list[str]
    embedding: npt.NDArray[np.float32]


# Gives the parts anew each time that it is called; with False without their embeddings.
Parts = Callable[[bool], Iterable[Part]]


def file_format(path: Path) -> str:
    """Returns "parquet" or "npz", by the end of a name.

    Raises:
        ValueError: it is neither.
    """
    suffix = path.suffix.lower()
    if suffix not in (".parquet", ".npz"):
        raise ValueError(f"{str(path)!r} must end in .parquet or .npz")
    return suffix[1:]


def load_npz(path: Path) -> Any:
    """Opens an npz file, of whose arrays none is unpickled.

    Raises:
        ValueError: it is something else, such as an npy file or a pickle.
    """
    with open(path, "rb") as file:
        # Else numpy would return an array, or advise to unpickle whatever it is.
        if file.read(4) not in _ZIP:
            raise ValueError("it is damaged or no npz file, which is what numpy.savez writes")
    return np.load(path, allow_pickle=False)


def require_parquet_extra() -> None:
    """Raises an ``ImportError`` that says how to install pyarrow, if it is not there."""
    from importlib.util import find_spec

    if find_spec("pyarrow") is None:
        raise ImportError("Parquet files need pyarrow: pip install 'centerarc[parquet]'")


def write_parquet(path: Path, parts: Parts, size: int, metadata: Mapping[str, Any]) -> None:
    """Writes columns place, identity and embedding (a list of ``size`` floats).

    Args:
        path: the file.
        parts: the rows.
        size: D.
        metadata: goes under the key "centerarc" as JSON.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            pa.field(PLACE, pa.string(), nullable=False),
            pa.field(IDENTITY, pa.string(), nullable=False),
            pa.field(EMBEDDING, pa.list_(pa.float32(), size), nullable=False),
        ],
        metadata={METADATA: json.dumps(metadata)},
    )
    options = {
        # Floats of embeddings neither repeat nor shrink.
        "use_dictionary": [IDENTITY],
        "compression": {PLACE: "zstd", IDENTITY: "zstd", f"{EMBEDDING}.list.element": "none"},
        "write_statistics": [PLACE, IDENTITY],
    }
    with pq.ParquetWriter(path, schema, **options) as writer:
        for part in parts(True):
            flat = pa.array(part.embedding.reshape(-1))
            columns = [
                pa.array(part.places, pa.string()),
                pa.array(part.identities, pa.string()),
                pa.FixedSizeListArray.from_arrays(flat, size),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def write_npz(path: Path, parts: Parts, size: int, metadata: Mapping[str, Any]) -> None:
    """Writes arrays place, identity (text), embedding (N, D) float32 and centerarc (JSON).

    Args:
        path: the file, to be read by ``numpy.load`` with ``allow_pickle=False``.
        parts: the rows.
        size: D.
        metadata: goes into the array "centerarc" as JSON.
    """
    rows, widest = 0, {PLACE: 1, IDENTITY: 1}
    for part in parts(False):
        rows += len(part.places)
        for name, texts in ((PLACE, part.places), (IDENTITY, part.identities)):
            widest[name] = max(widest[name], *map(len, texts))

    def texts_of(name: str, dtype: np.dtype[Any]) -> Iterator[npt.NDArray[Any]]:
        for part in parts(False):
            yield np.array(part.places if name == PLACE else part.identities, dtype=dtype)

    with zipfile.ZipFile(path, "w") as file:
        for name, width in widest.items():
            dtype = np.dtype(f"<U{width}")
            # Text of fixed width is mostly zeros.
            arrays = texts_of(name, dtype)
            _add_array(file, name, (rows,), dtype, arrays, zipfile.ZIP_DEFLATED)
        embeddings = (part.embedding for part in parts(True))
        dtype = np.dtype("<f4")
        _add_array(file, EMBEDDING, (rows, size), dtype, embeddings, zipfile.ZIP_STORED)
        text = np.array(json.dumps(metadata))
        _add_array(file, METADATA, (), text.dtype, [text], zipfile.ZIP_DEFLATED)


def _add_array(
    file: zipfile.ZipFile,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    parts: Iterable[npt.NDArray[Any]],
    compression: int,
) -> None:
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    entry = zipfile.ZipInfo(f"{name}.npy")
    entry.compress_type = compression
    with file.open(entry, "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        for part in parts:
            member.write(np.ascontiguousarray(part, dtype=dtype).tobytes())


# Files of embeddings, ours and others', read and checked.

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
