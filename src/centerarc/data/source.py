"""What a set of labeled face images is to the rest of the library, and how each kind is opened."""

import os
import unicodedata
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt

from centerarc.data.decode import Image, WrongSizeError, copy_into, decode_image, decode_into
from centerarc.io.plugins import Registry, parameters_of
from centerarc.io.tables import counted, image_columns

# Of the names of image files.
EXTENSIONS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff"})
# Pictures as well: what a camera, a phone or a browser saves and this library does not read.
PICTURES = EXTENSIONS | frozenset(
    {".heic", ".heif", ".avif", ".gif", ".jp2", ".jxl", ".dng", ".cr2", ".nef", ".arw"}
)
# Why an image is left out; sources say it in the same words.
UNREAD = "a format that is not read"
TOO_DEEP = "a folder of images inside an identity's folder"
OUTSIDE = "an image outside an identity's folder"
UNNAMED = "no image by its extension"
DOTTED = "an image with further dots in its name"


@dataclass(frozen=True)
class Skipped:
    """Something that is left out of a set of images, and why.

    Args:
        place: Where it is, as the source names its images.
        reason: What kind of thing is wrong with it, in a few words, the same for all such.
        detail: What is particular to this one; empty if nothing.
        images: How many images it is or holds, as far as is known.
        identity: Whose it is; empty if it belongs to no one.
    """

    place: str
    reason: str
    detail: str = ""
    images: int = 0
    identity: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class FaceSource(Protocol):
    """Labeled face images, addressed by number; the base class of all sources.

    A source has `labels`, `identities` and `image`. Everything else has a default, which a source
    that knows more overrides.

    Attributes:
        labels: `(len,)` int64, each image's label in `[0, len(identities))`.
        identities: The name that belongs to each label.
        weights: `(len,)` float64, how often an epoch shows each image on average; None is once.
        image_size: Side in pixels to which images are resized; None leaves them as they are.
        skipped: What was left out when the source was opened.
        problems: What is wrong with the source as a whole, a line each.
    """

    labels: npt.NDArray[np.int64]
    identities: list[str]
    weights: npt.NDArray[np.float64] | None = None
    image_size: int | None = None
    skipped: Sequence[Skipped] = ()
    problems: Sequence[str] = ()

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.labels)

    @abstractmethod
    def image(self, index: int) -> Image:
        """Returns image `index` as `(H, W, 3)` uint8 RGB.

        Raises:
            ValueError: If it cannot be read or decoded; the message names its place.
        """

    def image_into(self, index: int, out: Image) -> None:
        """Puts image `index` into an array, such as a row of a batch.

        Args:
            index: Number of the image.
            out: `(H, W, 3)` uint8, contiguous; its size must be that of the image.

        Raises:
            ValueError: As `image`.
            WrongSizeError: If the image has another size.
        """
        try:
            copy_into(self.image(index), out)
        except WrongSizeError as error:
            raise WrongSizeError(f"{self.place(index)!r}: {error}") from error

    def encoded(self, index: int) -> bytes | None:
        """Returns the whole image file of image `index`; None where there are only pixels.

        Raises:
            OSError: If it cannot be read; the message gives the reason without the place.
            ValueError: If it is damaged; likewise.
        """
        return None

    def place(self, index: int) -> str:
        """Returns where image `index` comes from, such as a file's path; unique in the source."""
        return f"image {index}"

    def files(self) -> Iterable[str]:
        """Returns the files that the source reads, if it is made of files."""
        return ()

    def file_sizes(self) -> npt.NDArray[np.int64] | None:
        """Returns `(len,)`, the bytes of each image file; None where that takes reading them.

        They may be rounded up to a multiple of 4; -1 where one cannot be told.
        """
        return None

    def roots(self) -> Iterable[Path]:
        """Returns the folders that the source takes whole."""
        return ()

    def summary(self) -> str:
        """Returns one line: how much there is, what was left out and what is wrong."""
        line = f"{len(self)} images of {len(self.identities)} identities"
        if self.skipped:
            reasons = Counter(item.reason for item in self.skipped).most_common()
            counts = ", ".join(f"{count} {reason}" for reason, count in reasons)
            line += f"; left out {len(self.skipped)} ({counts})"
        return "; ".join([line, *self.problems])


class _Adopted(FaceSource):
    """A source of a class that does not derive from `FaceSource`: what it lacks has a default."""

    labels: npt.NDArray[np.int64]
    identities: list[str]

    def __init__(self, source: Any) -> None:
        self._source = source
        for name in vars(FaceSource).keys() | FaceSource.__annotations__.keys():
            if not name.startswith("_") and name != "image" and hasattr(source, name):
                setattr(self, name, getattr(source, name))

    def __len__(self) -> int:
        return len(self._source)

    def image(self, index: int) -> Image:
        image: Image = self._source.image(index)
        return image


def as_source(source: Any) -> FaceSource:
    """Returns a source; one that only has `labels`, `identities`, `image` and `len` is completed.

    Raises:
        ValueError: If it lacks one of these.
    """
    if FaceSource in type(source).__mro__:
        return cast(FaceSource, source)
    for name in ("labels", "identities", "image", "__len__"):
        if not hasattr(source, name):
            raise ValueError(f"source must have {name}, got {type(source).__name__} without")
    return _Adopted(source)


class EncodedSource(FaceSource):
    """A source of encoded image files.

    A new kind of source says where its bytes are: `labels`, `identities`, `encoded` and `place`.
    Decoding, resizing and the words of its errors are here, once.

    Args:
        image_size: Side in pixels to which images are resized; None leaves them as they are.

    Raises:
        ValueError: If `image_size` is below 1.
    """

    def __init__(self, image_size: int | None = None) -> None:
        if image_size is not None and image_size < 1:
            raise ValueError(f"image_size must be at least 1 or None, got {image_size}")
        self.image_size = image_size

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """Returns the whole image file of image `index`; see `FaceSource.encoded`."""

    @abstractmethod
    def place(self, index: int) -> str:
        """Returns where image `index` comes from; see `FaceSource.place`."""

    def image(self, index: int) -> Image:
        """Returns image `index`; see `FaceSource.image`."""
        try:
            return decode_image(self.encoded(index), self.image_size)
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read {self.place(index)!r}: {error}") from error

    def image_into(self, index: int, out: Image) -> None:
        """Decodes image `index` in place; see `FaceSource.image_into`."""
        try:
            decode_into(self.encoded(index), out, resize=self.image_size is not None)
        except WrongSizeError as error:
            raise WrongSizeError(f"{self.place(index)!r}: {error}") from error
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read {self.place(index)!r}: {error}") from error


def sizes_of(paths: Iterable[str]) -> npt.NDArray[np.int64]:
    """Returns the bytes of each file; -1 for one that cannot be looked up."""

    def size(path: str) -> int:
        try:
            return os.stat(path).st_size
        except OSError:
            return -1

    return np.fromiter(map(size, paths), dtype=np.int64)


def first_shape(source: FaceSource, indices: Iterable[int]) -> tuple[int, ...]:
    """Returns the shape of the first image that can be read; raises `ValueError` if none can."""
    first: ValueError | None = None
    for index in indices:
        try:
            return source.image(index).shape
        except ValueError as error:
            first = first or error
    raise first or ValueError("there is no image to read")


# Names of people: which of two places are one person's. Names are shown as they are written.


def composed(name: str) -> str:
    """Returns a name in Unicode's composed form (NFC) without blanks at its ends.

    Equal names become equal texts.
    """
    return (name if name.isascii() else unicodedata.normalize("NFC", name)).strip()


def folded(name: str) -> str:
    """Returns what is equal for names that differ in case or in Unicode form only."""
    # Folding case may take a letter's composed form apart, so it is composed again.
    return composed(composed(name).casefold())


def spelled_twice(names: Iterable[str]) -> list[tuple[str, str]]:
    """Returns (first, other) of names of one place that differ in case or Unicode form only."""
    first: dict[str, str] = {}
    pairs = [(first.setdefault(folded(name), name), name) for name in names]
    return [pair for pair in pairs if pair[0] != pair[1]]


def namesakes(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """Returns which names may belong to somebody among others, in the order of the names.

    This keeps people apart, such as those of a test from those of a training, where taking two
    people for one does little harm: case and Unicode form do not count, and neither does what
    stands before the last slash (the part of a mixture, a folder above) if one side lacks it.

    Example:
        >>> namesakes(["ann lee", "web/Bob", "Cyd"], ["Ann Lee", "Bob"])
        ['ann lee', 'web/Bob']
    """
    whole = set(map(folded, others))
    last = {name.rpartition("/")[2] for name in whole}

    def known(name: str) -> bool:
        return name in whole or name in last or name.rpartition("/")[2] in whole

    return [name for name in names if known(folded(name))]


def chosen_people(
    wanted: Iterable[str], there: Collection[str], what: str, *, missing: bool = False
) -> set[str]:
    """Returns those of the names `there` that a list names, whatever their Unicode form.

    Raises:
        ValueError: If a name is not there, unless some may be `missing`, with one that differs in
            case only; starts with `what`.
    """
    keys = {composed(name): name for name in wanted}
    chosen = {name for name in there if composed(name) in keys}
    if not missing and (unknown := sorted(keys.keys() - map(composed, chosen))):
        name = keys[unknown[0]]
        alike = next((other for other in there if folded(other) == folded(name)), None)
        hint = "" if alike is None else f"; {alike!r} differs in case only: write it alike"
        raise ValueError(
            f"{what} names {counted(len(unknown), 'person', 'people')} whom the source lacks, "
            f"first {name!r}{hint}"
        )
    return chosen


class OneList(NamedTuple):
    """The people of several places in one list.

    Args:
        names: Name of each person, as the first place writes it.
        numbers: For each place, `(n,)` the person of each of its names, a number into `names`.
        by_case: Names of two places that differ in case only and are taken for one person.
    """

    names: list[str]
    numbers: list[npt.NDArray[np.int64]]
    by_case: list[tuple[str, str]]

    def notes(self) -> list[str]:
        """Returns a line about names that differ in case only, if there are some."""
        if not self.by_case:
            return []
        many = counted(len(self.by_case), "name is", "names are")
        return [f"{many} taken for that of another place although the case differs"]


def one_list(*places: Sequence[str]) -> OneList:
    """Numbers the people of several places, each person once.

    Names that differ in Unicode form are one person's. So are those that differ in case, unless
    one of the places has both: there case tells people apart.

    Args:
        places: The names of each place, any name any number of times.

    Example:
        >>> one_list(["Ann", "Bob"], ["bob", "Cyd"]).names
        ['Ann', 'Bob', 'Cyd']
        >>> one_list(["Ann", "Bob"], ["bob", "BOB"]).names
        ['Ann', 'Bob', 'bob', 'BOB']
    """
    distinct = [list(dict.fromkeys(names)) for names in places]
    forms = [dict.fromkeys(map(composed, names)) for names in distinct]
    apart = {folded(name) for names in forms for pair in spelled_twice(names) for name in pair}
    number_of: dict[str, int] = {}
    found = OneList([], [], [])
    for names, each in zip(distinct, places, strict=True):
        own = {}
        for name in names:
            key = folded(name)
            key = composed(name) if key in apart else key
            own[name] = number = number_of.setdefault(key, len(number_of))
            if number == len(found.names):
                found.names.append(name)
            elif composed(first := found.names[number]) != composed(name):
                found.by_case.append((first, name))
        found.numbers.append(np.array([own[name] for name in each], dtype=np.int64))
    return found


# The kinds of sources. They are imported when asked for: a run on a folder does not pay for the
# synthetic faces.
_SOURCES = {
    "folder": ("centerarc.data.folder", "FolderSource"),
    "list": ("centerarc.data.image_list", "ListSource"),
    "parquet": ("centerarc.data.parquet", "ParquetSource"),
    "recordio": ("centerarc.data.recordio", "RecordIOSource"),
    "shards": ("centerarc.data.shards", "ShardSource"),
    "synthetic": ("centerarc.data.synthetic", "SyntheticFaces"),
}
BUILT_IN_SOURCES = tuple(_SOURCES)
# Those that users register, and the name of a mixture in a configuration, which is not a kind.
_OWN = Registry("source", ("image_size",))
_MIXED = "mixed"
_Opener = TypeVar("_Opener", bound=Callable[..., Any])
_TARS = ".tar.gz .tgz .tar.bz2 .tbz2 .tar.xz .txz .tar.zst .tar.lz4"
COMPRESSED_TARS = tuple(_TARS.split())
_LISTS = (".csv", ".tsv", ".parquet", ".txt", ".lst")
_KNOWN = (
    "a folder of identity folders, a .rec file, .tar shards, a list (.csv, .parquet, .txt), or "
    "Parquet files with the images"
)


def register_source(name: str) -> Callable[[_Opener], _Opener]:
    """Registers a kind of source under `name`, as a decorator of its class or a function.

    It is called with the keyword `image_size`, the side in pixels that its images must have (or
    None), and with the options that users give, which are its further arguments.

    Raises:
        ValueError: If the name belongs to another kind, or `image_size` is not an argument.

    Example:
        >>> @register_source("gray")
        ... class Gray(FaceSource):
        ...     def __init__(self, *, people: int, image_size: int | None = None):
        ...         self.identities = [f"P{number}" for number in range(people)]
        ...         self.labels = np.arange(people)
        ...         self.side = image_size or 112
        ...     def image(self, index):
        ...         return np.full((self.side, self.side, 3), 127, np.uint8)
        >>> create_source("gray", people=2, image_size=16).image(0).shape
        (16, 16, 3)
        >>> del _OWN["gray"]
    """

    def registered(opener: _Opener) -> _Opener:
        if name in (*_SOURCES, _MIXED):
            raise ValueError(f"{name!r} is a kind of source that centerarc has; take another name")
        parameters = parameters_of(opener)
        if not any(p.name == "image_size" or p.kind is p.VAR_KEYWORD for p in parameters.values()):
            raise ValueError(f"source {name!r} must take image_size, the side of its images")
        return _OWN.register(name)(opener)

    return registered


def is_own_source(kind: str) -> bool:
    """Whether a kind of source was registered from outside."""
    return kind not in (*_SOURCES, _MIXED) and _OWN.knows(kind)


def list_sources() -> list[str]:
    """Returns the kinds that `create_source` accepts, sorted."""
    return sorted([*_SOURCES, *_OWN.names()])


def check_source(kind: str, options: Mapping[str, Any]) -> None:
    """Raises a `ValueError` unless the options are those of a source that a user registered."""
    _OWN.check(kind, options)


def create_source(kind: str, **options: Any) -> FaceSource:
    """Opens a source of labeled faces by the name of its kind.

    Args:
        kind: "folder" (`FolderSource`), "list" (`ListSource`), "parquet" (`ParquetSource`, of
            files that hold the images), "recordio" (`RecordIOSource`), "shards" (`ShardSource`),
            "synthetic" (`SyntheticFaces`), or a registered one.
        **options: The arguments of that class.

    Returns:
        The source.

    Raises:
        ValueError: If the kind is unknown or its options are not right.

    Example:
        >>> len(create_source("synthetic", num_identities=2, images_per_identity=3))
        6
    """
    if is_own_source(kind):
        given = {"image_size": options.pop("image_size", None)}
        return as_source(_OWN.build(kind, options, **given))
    if kind not in _SOURCES:
        raise ValueError(f"kind must be one of {', '.join(list_sources())}, got {kind!r}")
    try:
        return _class(kind)(**options)
    except TypeError as error:
        raise ValueError(f"wrong options for source {kind!r}: {error}") from error


def _class(kind: str) -> Callable[..., FaceSource]:
    module, name = _SOURCES[kind]
    found: Callable[..., FaceSource] = getattr(import_module(module), name)
    return found


def source_kind(path: str | os.PathLike[str]) -> str:
    """Finds the kind of source at a path.

    Args:
        path: A folder of identity folders; a .csv, .tsv, .txt or .parquet list; .parquet files that
            hold the images, a folder of them or a pattern; a .rec file or a folder that holds one;
            a .tar shard, a folder that holds some, or a pattern such as
            `faces-{000000..000009}.tar` or `faces-*.tar`.

    Returns:
        A kind for `create_source`.

    Raises:
        ValueError: If there is nothing at the path, or nothing of a known kind; says what is there.
    """
    place = Path(path)
    suffix = place.suffix.lower()
    if place.is_dir():
        with os.scandir(place) as entries:  # a person's folder may be named p.rec
            files = {entry.name.lower(): entry.is_file() for entry in entries}
        names = [name for name, is_file in files.items() if is_file]
        suffixes = {Path(name).suffix for name in names}
        if ".rec" in suffixes:
            return "recordio"
        # Beside folders such a file is an archive that someone left there.
        packed = all(files.values()) and any(name.endswith(COMPRESSED_TARS) for name in names)
        if packed or ".tar" in suffixes:
            return "shards"
        return "parquet" if all(files.values()) and ".parquet" in suffixes else "folder"
    if suffix == ".parquet" and (not place.exists() or _holds_images(place)):
        return "parquet"
    # Also where the name is a pattern; compressed ones are refused with the reason.
    if suffix == ".tar" or place.name.lower().endswith(COMPRESSED_TARS):
        return "shards"
    if not place.exists():
        raise ValueError(f"there is no {os.fspath(path)!r}; a source is {_KNOWN}")
    if suffix == ".rec":
        return "recordio"
    if suffix in _LISTS or (suffix == ".gz" and Path(place.stem).suffix.lower() in _LISTS):
        return "list"
    raise ValueError(f"a source must be {_KNOWN}, got {os.fspath(path)!r}")


def _holds_images(path: Path) -> bool:
    try:
        return bool(image_columns(path))
    except (ImportError, ValueError, OSError):  # opening it as a list says what is wrong
        return False


def open_source(
    path: str | os.PathLike[str],
    *,
    image_size: int | None = None,
    progress: Callable[[int, int], Any] | None = None,
    root: str | os.PathLike[str] | None = None,
    path_column: str | None = None,
    identity_column: str | None = None,
    missing: Literal["error", "skip"] | None = None,
) -> FaceSource:
    """Opens the source at a path; see `source_kind`.

    Args:
        path: Where it is.
        image_size: Side in pixels to which images are resized; None leaves them as they are.
        progress: Called with what is done and what there is where opening takes a pass over the
            data (records or shards without an index).
        root: Of a list: where its relative paths start; None is its own folder.
        path_column: Of a list or Parquet files: the column with the path of each image, or with
            the image itself; None is `path`, or the one with images.
        identity_column: Likewise: the column with the name of who is on it; None is `identity`, or
            also `label` and the like where the file holds the images.
        missing: Of a list: "skip" leaves out images that are not there; None is "error".

    Returns:
        The source.

    Raises:
        ValueError: If there is nothing known, it cannot be opened, or an option of lists is given
            for another kind.
    """
    kind = source_kind(path)
    of_list: dict[str, Any] = {"root": root, "missing": missing}
    of_list |= {"path_column": path_column, "identity_column": identity_column}
    options: dict[str, Any] = {k: v for k, v in of_list.items() if v is not None}
    if kind == "parquet" and not {*options} - {"path_column", "identity_column"}:
        names = {"path_column": "image_column"}
        options = {names.get(name, name): value for name, value in options.items()}
    elif options and kind != "list":
        name, value = next(iter(options.items()))
        raise ValueError(
            f"{name.replace('_', '-')} is {str(value)!r}, which is for lists "
            f"({', '.join(_LISTS)}); {os.fspath(path)!r} is of the kind {kind!r}"
        )
    if kind in ("recordio", "shards"):
        options["progress"] = progress
    return _class(kind)(path, image_size=image_size, **options)
