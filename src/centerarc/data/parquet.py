"""Faces in Parquet files that hold the images, as Hugging Face's datasets are stored."""

import json
import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.data.folder import natural_key
from centerarc.data.shards.manifest import matching_files
from centerarc.data.source import EncodedSource
from centerarc.io.files import read_file
from centerarc.io.tables import columns_of_images, opened_parquet, parquet_errors

# What the column of the people is usually called, the first that is there.
_IDENTITY = ("identity", "label", "labels", "person", "person_id", "class", "subject", "name")
_SHARD = re.compile(r"[-_]?\d+(-of-\d+)?$")
_SPLITS = {"train", "test", "validation", "valid", "val", "dev"}
_MOST_OPEN = 64
# Row groups are read whole. So many bytes of them are kept, those of more are worth a word, and
# those of most are refused.
_KEPT, _LARGE, _MOST = 1 << 26, 1 << 24, 1 << 32


class ParquetSource(EncodedSource):
    """The images in Parquet files, in the order of files and rows.

    A row has an image, as bytes or as `struct<bytes, path>`, and who is on it, by name or by
    number. Numbers take the names that the file's `ClassLabel` has for them, if any. Where a
    struct has no bytes its path, from the folder of the file, is read.

    Parquet has no access to one row: a row group is read whole, and those read last are kept. Files
    of few images a group, as `datasets` writes them, train at full speed in any order.

    Args:
        path: A file, a folder of them, or a pattern such as `data/train-*.parquet`.
        image_column: The column of the images; None takes the only one that can be.
        identity_column: The column of the people; None takes `identity`, `label` or the like.
        image_size: Side in pixels to which images are resized; None leaves them as they are.

    Attributes:
        labels: `(len,)` int64 label of each image.
        identities: Names of those with an image: by their number, else in natural order.
        paths: The files, in natural order.
        problems: What makes reading slow.

    Raises:
        ValueError: If there is no such file or row, a folder holds several splits, a column is
            missing or of another type, a label is missing, or files differ in their classes.
        ImportError: If pyarrow is missing.
        OSError: If a file cannot be read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        image_column: str | None = None,
        identity_column: str | None = None,
        image_size: int | None = None,
    ) -> None:
        super().__init__(image_size)
        self.location = os.fspath(path)
        self.paths = _files(path)
        # Of each row group with rows: the number of its file, and its own in that.
        self._groups: list[tuple[int, int]] = []
        self._starts, self._firsts, largest = [0], [], 0  # first row of each group, of each file
        names: list[str] | None = None
        parts: list[tuple[npt.NDArray[np.int64], list[Any]]] = []
        for number, file in enumerate(self.paths):
            with parquet_errors(file):
                opened = opened_parquet(file)
                schema = opened.schema_arrow
                self._image_column = _image_column(file, schema, image_column)
                identity = _identity_column(file, schema, identity_column)
                classes = _classes(schema, identity)
                if number and classes != names:
                    raise ValueError(f"{file}: {identity!r} has other classes than {self.paths[0]}")
                names = classes
                parts.append(_people(file, opened, identity, names))
                self._firsts.append(self._starts[-1])
                for group, (rows, size) in enumerate(_row_groups(opened, self._image_column)):
                    if size > _MOST:
                        raise ValueError(
                            f"{file}: row group {group} has {size} bytes of images, which are read "
                            f"at once; at most {_MOST} may be: write smaller groups"
                        )
                    largest = max(largest, size)
                    if rows:
                        self._groups.append((number, group))
                        self._starts.append(self._starts[-1] + rows)
        if not self._groups:
            raise ValueError(f"{self.location!r} holds no row")
        self._keep = max(2, _KEPT // max(largest, 1))
        if largest > _LARGE:
            self.problems = [
                f"row groups of up to {largest >> 20} MB are read whole for one image: train with "
                "data.sampler.kind blocks, or pack the images once (centerarc data pack)"
            ]
        unique = {person for _, people in parts for person in people}
        if len({*map(type, unique)}) > 1:
            raise ValueError(f"{self.location!r} has numbers in some files and names in others")
        if parts[0][1] and isinstance(parts[0][1][0], int):
            order: list[Any] = sorted(unique)
            self.identities = [names[k] if names else str(k) for k in order]
        else:
            order = self.identities = sorted(unique, key=natural_key)
        if len({*self.identities}) < len(order):
            raise ValueError(f"{self.location!r} has two classes of one name")
        label_of = {person: label for label, person in enumerate(order)}
        own = [np.array([label_of[person] for person in people]) for _, people in parts]
        self.labels = np.concatenate(
            [of[codes] for of, (codes, _) in zip(own, parts, strict=True) if len(codes)]
        ).astype(np.int64)
        self._open_files()

    def _open_files(self) -> None:
        self._file = lru_cache(_MOST_OPEN)(opened_parquet)
        self._images = lru_cache(self._keep)(self._read_images)

    def __getstate__(self) -> dict[str, Any]:
        return {k: value for k, value in vars(self).items() if k not in ("_file", "_images")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open_files()

    def __repr__(self) -> str:
        return f"ParquetSource({self.location!r}: {self.summary()})"

    def encoded(self, index: int) -> bytes:
        """Returns the file of image `index`; see `EncodedSource.encoded`."""
        at = range(len(self))[index]
        group = bisect_right(self._starts, at) - 1
        value = self._images(group)[at - self._starts[group]].as_py()
        file = self.paths[self._groups[group][0]]
        if isinstance(value, dict):
            if value.get("bytes") is None and value.get("path"):
                return read_file(file.parent / value["path"])
            value = value.get("bytes")
        if not value:
            raise ValueError("the row has no image")
        return bytes(value)

    def _read_images(self, group: int) -> Any:
        number, within = self._groups[group]
        with parquet_errors(self.paths[number]):
            opened = self._file(self.paths[number])
            table = opened.read_row_group(within, columns=[self._image_column], use_threads=False)
            return table.column(self._image_column).combine_chunks()

    def place(self, index: int) -> str:
        """Returns the file and the row of image `index`: `train-00000-of-00003.parquet[17]`."""
        at = range(len(self))[index]
        number = self._groups[bisect_right(self._starts, at) - 1][0]
        return f"{self.paths[number].name}[{at - self._firsts[number]}]"

    def files(self) -> Iterable[str]:
        """Returns the Parquet files."""
        return map(str, self.paths)


def _files(location: str | os.PathLike[str]) -> list[Path]:
    path = Path(location)
    if path.is_file():
        return [path]
    if not path.is_dir():
        return sorted(matching_files(os.fspath(location)), key=lambda p: natural_key(p.as_posix()))
    names = [p.name for p in path.iterdir() if p.suffix.lower() == ".parquet" and p.name[0] != "."]
    if not names:
        raise ValueError(f"{str(path)!r} holds no Parquet file (*.parquet)")
    splits = {_SHARD.sub("", name[: -len(".parquet")]) for name in names}
    if len(splits) > 1 and splits & _SPLITS:
        first, *others = sorted(splits)
        pattern = path / f"{first}*.parquet"
        raise ValueError(
            f"{str(path)!r} holds several splits, {first} and {', '.join(others)}; name the files "
            f"of one, such as {str(pattern)!r}"
        )
    return [path / name for name in sorted(names, key=natural_key)]


def _image_column(file: Path, schema: Any, wanted: str | None) -> str:
    found = columns_of_images(schema)
    if wanted is not None and wanted not in found:
        raise ValueError(f"{file}: column {wanted!r} holds no images; {_those(found)}")
    if wanted is None and len(found) != 1 and "image" not in found:
        raise ValueError(f"{file}: set image_column to the column of the images; {_those(found)}")
    return wanted or (found[0] if len(found) == 1 else "image")


def _those(found: Sequence[str]) -> str:
    return f"those with bytes are {', '.join(map(repr, found))}" if found else "none holds bytes"


def _identity_column(file: Path, schema: Any, wanted: str | None) -> str:
    name = wanted or next((name for name in _IDENTITY if name in schema.names), None)
    if name is None or name not in schema.names:
        there = ", ".join(map(repr, schema.names))
        raise ValueError(
            f"{file}: there is no column {wanted or ' or '.join(_IDENTITY[:2])!r} of the people; "
            f"set identity_column to one of {there}"
        )
    return name


def _classes(schema: Any, column: str) -> list[str] | None:
    """The names of a `ClassLabel`, which `datasets` notes beside the columns."""
    try:
        notes = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = notes["info"]["features"][column]["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return names if isinstance(names, list) and all(isinstance(n, str) for n in names) else None


def _row_groups(opened: Any, column: str) -> Iterator[tuple[int, int]]:
    """The rows of each row group, and the bytes that a column of it takes in memory."""
    for group in range(opened.metadata.num_row_groups):
        rows = opened.metadata.row_group(group)
        leaves = map(rows.column, range(rows.num_columns))
        sizes = [
            leaf.total_uncompressed_size
            for leaf in leaves
            if leaf.path_in_schema.split(".")[0] == column
        ]
        yield rows.num_rows, sum(sizes)


def _people(
    file: Path, opened: Any, column: str, names: list[str] | None
) -> tuple[npt.NDArray[np.int64], list[Any]]:
    """Who is on each image, as numbers into the names or labels that the file has."""
    from pyarrow import types

    values = opened.read(columns=[column], use_threads=False).column(column)
    kind = values.type.value_type if types.is_dictionary(values.type) else values.type
    texts = types.is_string, types.is_large_string, types.is_string_view
    if not (types.is_integer(kind) or any(is_text(kind) for is_text in texts)):
        raise ValueError(f"{file}: {column!r} must hold text or whole numbers, got {values.type}")
    encoded = values.cast(kind).combine_chunks().dictionary_encode("encode")
    codes, people = encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_pylist()
    end = len(names) if names else 1 << 62
    for code, person in enumerate(people):
        if not person if isinstance(person, str) else person is None or not 0 <= person < end:
            row = int(np.argmax(codes == code))
            wanted = f"one of {len(names)} classes" if names else "a name, or a number from 0"
            raise ValueError(f"{file}, row {row + 1}: {column} must be {wanted}, got {person!r}")
    return codes, people
