"""Embeddings, places and identities as one Parquet or npz file, written a part at a time."""

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

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
