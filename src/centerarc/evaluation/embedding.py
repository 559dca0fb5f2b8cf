"""Embeddings: of images, in files, and the scores and pairs that are made of them."""

import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.scores import (
    BoolArray,
    Float32Array,
    FloatArray,
    IntArray,
    UnusableEmbedding,
    check_embeddings,
    check_labels,
    row_blocks,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

    from centerarc.data.source import FaceSource
    from centerarc.models.embedder import Embedder

    # A source, or uint8 images (N, H, W, 3).
    Images: TypeAlias = FaceSource | npt.NDArray[np.uint8]

# What zip files begin with, those without a member too.
_PARQUET = b"PAR1"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
# Columns of a Parquet file, arrays of an npz file; `metadata` is JSON in both.
PLACE, IDENTITY, EMBEDDING, METADATA = "place", "identity", "embedding", "centerarc"
_DIVERGED = "take weights from before training diverged, or in float32 if they are of 16 bits"
_SHOWN = 3
# What metadata says of the model, which results repeat.
_TEXTS = ("model", "weights_sha256", "origin_sha256", "features", "model_file", "version")


def embed(
    model: "nn.Module | Embedder",
    images: "Images",
    *,
    batch_size: int = 64,
    mirror: bool = False,
    device: "str | torch.device | None" = None,
    workers: int = 0,
    progress: Callable[[int], Any] | None = None,
) -> Float32Array:
    """The model's embeddings of all images, in order, not normalized.

    A PyTorch model is moved to `device` and put into eval mode; each module's mode is put back
    afterwards, the model stays on `device`.

    Args:
        model: maps float32 (N, 3, H, W), (x - 127.5) / 127.5, to (N, D); or any
            `centerarc.models.Embedder`, such as an `OnnxModel`.
        images: a face source, or uint8 (N, H, W, 3) RGB; sizes as the model takes them.
        batch_size: images at once, at least 1.
        mirror: sum the features of each image and of its mirror image (what most published
            numbers on LFW do), at twice the cost.
        device: where a PyTorch model computes, the CPU by default; an embedder has its own.
        workers: decoding processes of a source; 0 decodes in this one.
        progress: called with the number of images after each batch.

    Returns:
        (N, D) float32.

    Raises:
        ValueError: `batch_size` or `workers` out of range, no images, images that are not
            uint8 (N, H, W, 3) or not of `model.image_size`, an embedding that is not finite, or
            one that depends on the batch (see `centerarc.models.embedder.check_alone`).

    Example:
        >>> import numpy as np
        >>> from centerarc.models import create_model
        >>> model = create_model("mobilefacenet", embedding_size=64)
        >>> embed(model, np.zeros((2, 112, 112, 3), np.uint8)).shape
        (2, 64)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if len(images) == 0:
        raise ValueError("images must hold at least one image")
    from torch import nn

    from centerarc.models.embedder import Embedder, TorchEmbedder, check_alone

    if isinstance(model, nn.Module):
        embedder: Embedder = TorchEmbedder(model, "cpu" if device is None else device)
    elif not isinstance(model, Embedder):
        raise ValueError(
            f"model must be a PyTorch module or an embedder, got a {type(model).__name__}"
        )
    elif device is not None:
        raise ValueError(f"device is {device}, but a {type(model).__name__} has a device already")
    else:
        embedder = model
        image = images.__getitem__ if isinstance(images, np.ndarray) else images.image
        name = str(getattr(model, "path", "the model"))
        check_alone(model, image, len(images), name, mirror=mirror)
    size = embedder.image_size
    parts: list[Float32Array] = []
    for batch in _batches(images, batch_size, workers):
        if size is not None and batch.shape[1:3] != (size, size):
            raise ValueError(
                f"images must be {size} x {size} pixels as the model takes them, got "
                f"{batch.shape[1]} x {batch.shape[2]}"
            )
        parts.append(embedder.embed(batch, mirror=mirror))
        if progress is not None:
            progress(len(batch))
    embeddings = np.concatenate(parts)
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if bad.size:
        row = int(bad[0])
        place = f"image {row}" if isinstance(images, np.ndarray) else repr(images.place(row))
        raise UnusableEmbedding(f"the embedding of {place} is not finite")
    return embeddings


def check_usable(embedding: Float32Array, place: Callable[[int], str], model: str) -> None:
    """Raises a ValueError with the place of the first row that is not finite or of length 0."""
    finite = np.asarray(np.isfinite(embedding).all(axis=1))
    bad = np.flatnonzero(~(finite & embedding.any(axis=1)))
    if bad.size:
        what = "has length 0" if finite[bad[0]] else f"is not finite: {_DIVERGED}"
        raise ValueError(f"{model}: the embedding of {place(int(bad[0]))!r} {what}")


def _batches(images: "Images", batch_size: int, workers: int) -> Iterator[npt.NDArray[np.uint8]]:
    from centerarc.data.loader import iterate_images

    if not isinstance(images, np.ndarray):
        for batch in iterate_images(images, np.arange(len(images)), batch_size, workers):
            yield batch.numpy()
        return
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(
            f"images must be uint8 of shape (N, H, W, 3), got {images.dtype} {images.shape}"
        )
    for part in row_blocks(len(images), batch_size):
        yield images[part]


def pair_scores(
    embeddings: npt.ArrayLike, index_a: npt.ArrayLike, index_b: npt.ArrayLike
) -> FloatArray:
    """Cosine similarity of each pair of embeddings: <a, b> / (|a| |b|).

    Args:
        embeddings: (N, D), finite and of any length but 0.
        index_a, index_b: (P,) rows of each pair's embeddings.

    Returns:
        (P,) float64 in [-1, 1], higher is more alike.

    Example:
        >>> pair_scores([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]], [0, 0], [1, 2]).tolist()
        [1.0, 0.0]
    """
    values, length = check_embeddings(embeddings, "embeddings")
    unit = values.astype(np.float64) / length[:, None]
    scores = np.einsum("pd,pd->p", unit[np.asarray(index_a)], unit[np.asarray(index_b)])
    return np.asarray(np.clip(scores, -1.0, 1.0), dtype=np.float64)


@dataclass(frozen=True)
class ImagePairs:
    """Pairs of image numbers."""

    index_a: IntArray  # (P,)
    index_b: IntArray  # (P,)
    same: BoolArray  # (P,) whether both show one person
    fold: IntArray  # (P,) fold of the pair, from 1; people are disjoint between folds

    def __len__(self) -> int:
        return int(self.same.size)


def make_pairs(
    labels: npt.ArrayLike, num_pairs: int, *, seed: int = 0, folds: int = 10
) -> ImagePairs:
    """Draw balanced genuine and impostor pairs, with people disjoint between folds.

    People are dealt to the folds at random, those with several images and those with one
    separately, so that every fold has genuine pairs. A genuine pair is a random person and two of
    the person's images; an impostor pair is two random people and an image of each. No pair
    appears twice. A fold with fewer distinct pairs of a kind than asked for gives all it has, and
    as many of the other kind, so there may be fewer than `num_pairs`.

    Args:
        labels: (N,) identity of each image, any integers.
        num_pairs: pairs in total, a multiple of `2 * folds`.
        seed: of the drawing; equal seeds give equal pairs.
        folds: number of folds, at least 1.

    Returns:
        The pairs, fold by fold, genuine before impostor.

    Raises:
        ValueError: an argument out of range, or too few people: each fold needs two, one of them
            with two images.

    Example:
        >>> pairs = make_pairs([0, 0, 1, 1, 2, 2, 3, 3], num_pairs=4, folds=2)
        >>> pairs.same.tolist(), pairs.fold.tolist()
        ([True, False, True, False], [1, 1, 2, 2])
    """
    identity = check_labels(labels, "labels")
    if folds < 1:
        raise ValueError(f"folds must be at least 1, got {folds}")
    if num_pairs < 2 * folds or num_pairs % (2 * folds):
        raise ValueError(
            f"num_pairs must be a positive multiple of 2 * folds = {2 * folds}, got {num_pairs}"
        )
    order = np.argsort(identity, kind="stable").astype(np.int64)
    starts = np.flatnonzero(np.diff(identity[order])) + 1
    people = [part for part in np.split(order, starts) if part.size]
    several = [images for images in people if images.size > 1]
    if len(several) < folds or len(people) < 2 * folds:
        raise ValueError(
            f"labels hold {len(people)} people, {len(several)} of them with two images or more; "
            f"{folds} folds need {2 * folds} people, {folds} of them with two images"
        )
    generator = np.random.default_rng(seed)
    # One dealing: those with several images first, so that each fold gets its share of both.
    single = [images for images in people if images.size == 1]
    dealt = [kind[i] for kind in (several, single) for i in generator.permutation(len(kind))]
    chosen: list[tuple[int, int]] = []
    fold_of, same = [], []
    for fold in range(folds):
        members = dealt[fold::folds]
        genuine = _draw_genuine(members, num_pairs // (2 * folds), generator)
        impostor = _draw_impostor(members, len(genuine), generator)
        count = len(impostor)
        chosen += genuine[:count] + impostor
        same += [True] * count + [False] * count
        fold_of += [fold + 1] * (2 * count)
    index = np.array(chosen, dtype=np.int64)
    return ImagePairs(index[:, 0], index[:, 1], np.array(same), np.array(fold_of, dtype=np.int64))


def _draw_genuine(
    members: list[IntArray], count: int, generator: np.random.Generator
) -> list[tuple[int, int]]:
    rich = [images for images in members if images.size > 1]
    available = sum(images.size * (images.size - 1) // 2 for images in rich)
    # A few left over are listed and shuffled; drawing and rejecting would take for ever.
    if available <= 4 * count:
        everything = [pair for images in rich for pair in combinations(images.tolist(), 2)]
        return [everything[i] for i in generator.permutation(len(everything))[:count]]
    drawn: dict[tuple[int, int], None] = {}
    # Few people with many images each hold enough pairs for rejection to end soon.
    while len(drawn) < count:
        images = rich[generator.integers(len(rich))]
        i, j = sorted(generator.choice(images.size, size=2, replace=False).tolist())
        drawn[int(images[i]), int(images[j])] = None
    return list(drawn)


def _draw_impostor(
    members: list[IntArray], count: int, generator: np.random.Generator
) -> list[tuple[int, int]]:
    sizes = np.array([images.size for images in members])
    wanted = min(count, int((sizes.sum() ** 2 - (sizes**2).sum()) // 2))
    drawn: dict[tuple[int, int], None] = {}
    while len(drawn) < wanted:
        a, b = sorted(generator.choice(len(members), size=2, replace=False).tolist())
        first = int(generator.choice(members[a]))
        second = int(generator.choice(members[b]))
        drawn[first, second] = None
    return list(drawn)


# Files of embeddings: Parquet or npz, read and checked, written a part at a time.


@dataclass(frozen=True)
class Part:
    """Some rows of a file: places and identities of images, and embeddings (n, D) float32."""

    places: list[str]
    identities: list[str]
    embedding: Float32Array


# Gives the parts again each time that it is called; with False without their embeddings.
Parts = Callable[[bool], Iterable[Part]]


def file_format(path: Path) -> str:
    """Return "parquet" or "npz", by the end of a name; any other is a `ValueError`."""
    suffix = path.suffix.lower()
    if suffix not in (".parquet", ".npz"):
        raise ValueError(f"{str(path)!r} must end in .parquet or .npz")
    return suffix[1:]


def is_embedding_file(path: Path) -> bool:
    """Tells whether a file is one of embeddings, by its arrays or columns."""
    suffix = path.suffix.lower()
    if suffix == ".npz" or not path.is_file():
        return suffix == ".npz"
    kind = _content_format(path)
    if kind == "npz":
        with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as file:
            return f"{EMBEDDING}.npy" in file.namelist()
    if "parquet" not in (kind, suffix[1:]):
        return False
    require_parquet_extra()
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return EMBEDDING in pq.read_schema(path).names
    except (pa.ArrowException, OSError):
        return True  # whoever reads it says what is wrong


def _content_format(path: Path) -> str:
    """Returns "parquet" or "npz" by how a file begins, whatever its name; "" for others."""
    with open(path, "rb") as file:
        head = file.read(4)
    return "parquet" if head == _PARQUET else "npz" if head in _ZIP else ""


def load_npz(path: Path) -> Any:
    """Open an npz file, of whose arrays none is unpickled; another file is a `ValueError`."""
    with open(path, "rb") as file:
        # Else numpy would return an array, or advise to unpickle whatever it is.
        if file.read(4) not in _ZIP:
            raise ValueError("it is damaged or not an npz file, which is what numpy.savez writes")
    return np.load(path, allow_pickle=False)


def require_parquet_extra() -> None:
    """Raise an `ImportError` that says how to install pyarrow, if it is not there."""
    from importlib.util import find_spec

    if find_spec("pyarrow") is None:
        raise ImportError("Parquet files need pyarrow: pip install 'centerarc[parquet]'")


def write_parquet(path: Path, parts: Parts, size: int, metadata: Mapping[str, Any]) -> None:
    """Write columns place, identity and embedding (a list of `size` floats), a part at a time.

    `metadata` goes under the key "centerarc" as JSON.
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
    """Write arrays place, identity (text), embedding (N, D) float32 and centerarc (JSON) alike."""
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
    descr = np.lib.format.dtype_to_descr(dtype)
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    entry = zipfile.ZipInfo(f"{name}.npy")
    entry.compress_type = compression
    with file.open(entry, "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        for part in parts:
            member.write(np.ascontiguousarray(part, dtype=dtype).tobytes())


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of images, with where each comes from and who is on it."""

    places: list[str]  # (N,) place of each image in its source
    identities: list[str]  # (N,) name of the person on it
    embedding: Float32Array  # (N, D) float32, finite, not normalized, of a length above 0
    # What `centerarc embed` recorded: `model` (SHA-256), `weights_sha256` (the same for weights and
    # an ONNX file made of them), `origin_sha256` (of the weights that were quantized or changed
    # since), `model_file`, `preprocessing`, `mirror`, `left_out`, `version`; empty in files of
    # others.
    metadata: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.places)


def read_embeddings(path: str | os.PathLike[str]) -> Embeddings:
    """Read a file of embeddings, from `centerarc embed` or from anybody.

    Args:
        path: Parquet with columns `place`, `identity` (text or whole numbers) and
            `embedding` (lists of D floats), or npz with arrays of these names.

    Raises:
        ImportError: it is a Parquet file and pyarrow is not installed.
        ValueError: the file is absent or damaged, lacks a column or has it twice, holds something
            else in it, or an embedding that is not finite, too long for float32 or of length 0; the
            message names the row and its place.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"there is no file of embeddings {str(file)!r}")
    kind = _content_format(file) or file_format(file)
    found = _read_parquet(file) if kind == "parquet" else _read_npz(file)
    embedding = found.embedding
    if embedding.ndim != 2 or embedding.shape[1] < 1 or embedding.dtype.kind != "f":
        raise ValueError(
            f"embedding of {str(file)!r} must be floats of shape (N, D), got {embedding.dtype} of "
            f"shape {embedding.shape}"
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
    return replace(found, embedding=single)


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
            # Other arrays, whatever they are, do not matter here.
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
                f"{name} of {str(path)!r} must be text or whole numbers of shape (N,), got "
                f"{arrays[name].dtype} of shape {arrays[name].shape}"
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
                raise ValueError(
                    f"{name} of {str(path)!r} must be text or whole numbers, got {column.type}"
                )
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
        raise ValueError(f"embedding of {str(path)!r} must be lists of floats, got {kind}")
    lengths = np.unique(column.value_lengths().to_numpy(zero_copy_only=False))
    if len(lengths) > 1:
        raise ValueError(
            f"embedding of {str(path)!r} must be lists of one length, got {lengths[0]} and "
            f"{lengths[-1]}"
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
        raise ValueError(f"metadata of {str(path)!r} must be a JSON object")
    for name in _TEXTS:
        if not isinstance(found.get(name, ""), str):
            raise ValueError(
                f"{name} in the metadata of {str(path)!r} must be text, got {found[name]!r:.50}"
            )
    return found
