"""Views of sources: some of their people or images, several as one, decoded once."""

import difflib
import mmap
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from centerarc.data.decode import Image, WrongSizeError
from centerarc.data.source import (
    FaceSource,
    OneList,
    as_source,
    composed,
    first_shape,
    one_list,
)
from centerarc.io.files import atomic_path
from centerarc.io.tables import CsvTable, counted, open_text


class View(FaceSource):
    """A source whose images are those of other sources."""

    sources: Sequence[FaceSource]

    def _find(self, index: int) -> tuple[FaceSource, int]:
        """The source that has image `index`, and its number there."""
        return self.sources[0], index

    def image(self, index: int) -> Image:
        """Returns image `index`; see `FaceSource.image`."""
        source, inner = self._find(index)
        return source.image(inner)

    def image_into(self, index: int, out: Image) -> None:
        """Decodes image `index` in place; see `FaceSource.image_into`."""
        source, inner = self._find(index)
        source.image_into(inner, out)

    def encoded(self, index: int) -> bytes | None:
        """Returns the file of image `index`, or None; see `FaceSource.encoded`."""
        source, inner = self._find(index)
        return source.encoded(inner)

    def place(self, index: int) -> str:
        """Returns where image `index` comes from."""
        source, inner = self._find(index)
        return source.place(inner)

    def files(self) -> Iterator[str]:
        """Yields the files of all sources."""
        for source in self.sources:
            yield from source.files()

    def file_sizes(self) -> npt.NDArray[np.int64] | None:
        """Returns the bytes of each image, or None; see `FaceSource.file_sizes`."""
        found = [source.file_sizes() for source in self.sources]
        if all(sizes is None for sizes in found):
            return None
        return np.concatenate(
            [
                np.full(len(source), -1, dtype=np.int64) if sizes is None else sizes
                for source, sizes in zip(self.sources, found, strict=True)
            ]
        )

    def roots(self) -> Iterator[Path]:
        """Yields the folders of all sources."""
        for source in self.sources:
            yield from source.roots()


class Subset(View):
    """Some images of a source, labeled from 0 again.

    Args:
        source: The source to take from.
        identities: Names of the people to keep, each once; they get their labels in this order.
            None keeps everyone who has an image left, in the order of the source.
        images: `(len(source),)` bool, which images to keep; None keeps all.

    Attributes:
        source: The source.
        indices: `(len,)` int64, the number of each image in the source.

    Raises:
        ValueError: If a name is unknown or comes twice, or nothing is left.
    """

    def __init__(
        self,
        source: FaceSource,
        identities: Iterable[str] | None = None,
        *,
        images: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        source = as_source(source)
        kept = np.ones(len(source), dtype=bool) if images is None else np.asarray(images)
        if kept.shape != (len(source),) or kept.dtype != np.bool_:
            raise ValueError(
                f"images must be bool of shape ({len(source)},), one for each image of the source, "
                f"got {kept.dtype} of shape {kept.shape}"
            )
        if identities is None:
            left = np.bincount(source.labels[kept], minlength=len(source.identities))
            self.identities = [source.identities[label] for label in np.flatnonzero(left)]
        else:
            self.identities = list(identities)
        if not self.identities:
            raise ValueError("identities is empty; a subset needs at least one")
        if len(set(self.identities)) != len(self.identities):
            raise ValueError("identities must name each person once, got one twice")
        old = {name: label for label, name in enumerate(source.identities)}
        if unknown := [name for name in self.identities if name not in old]:
            raise ValueError(
                f"identities holds {len(unknown)} names that the source lacks, first {unknown[0]!r}"
            )
        new_label = np.full(len(old), -1, dtype=np.int64)
        new_label[[old[name] for name in self.identities]] = np.arange(len(self.identities))
        labels = np.where(kept, new_label[source.labels], -1)
        self.source = source
        self.sources = (source,)
        self.indices: npt.NDArray[np.int64] = np.flatnonzero(labels >= 0)
        self.labels = labels[self.indices]
        self.weights = None if source.weights is None else source.weights[self.indices]
        self.image_size = source.image_size
        self.skipped = source.skipped

    def _find(self, index: int) -> tuple[FaceSource, int]:
        return self.source, int(self.indices[index])

    def file_sizes(self) -> npt.NDArray[np.int64] | None:
        """Returns the bytes of each image, or None; see `FaceSource.file_sizes`."""
        sizes = self.source.file_sizes()
        return None if sizes is None else sizes[self.indices]


def subset(source: FaceSource, identities: Iterable[str]) -> Subset:
    """Keeps the images of the named identities; see `Subset`."""
    return Subset(source, identities)


@dataclass(frozen=True)
class TooFew:
    """Who was left out for having too few images.

    Args:
        min_images: The floor.
        identities: Names of those left out.
        images: How many images they had together.
    """

    min_images: int
    identities: list[str]
    images: int

    def __str__(self) -> str:
        shown = ", ".join(self.identities[:3]) + (", ..." if len(self.identities) > 3 else "")
        return (
            f"left out {counted(len(self.identities), 'person', 'people')} with fewer than "
            f"{self.min_images} images ({counted(self.images, 'image')}; {shown})"
        )


def with_enough_images(
    source: FaceSource, min_images: int, *, known: Collection[str] = ()
) -> tuple[FaceSource, TooFew | None]:
    """Leaves out people with fewer than `min_images` images, at least 1, unless they are known.

    Returns:
        The source without them and who they are; the source itself and None if there are none.

    Raises:
        ValueError: If `min_images` is below 1, or no one has so many.
    """
    if min_images < 1:
        raise ValueError(f"min_images must be at least 1, got {min_images}")
    counts = np.bincount(source.labels, minlength=len(source.identities))
    few = (counts < min_images) & ~np.isin(source.identities, [*known])
    if not few.any():
        return source, None
    if few.all():
        raise ValueError(
            f"min_images is {min_images}, but the person with the most images has {counts.max()}"
        )
    names = [source.identities[label] for label in np.flatnonzero(few)]
    kept = Subset(source, images=~few[source.labels])
    return kept, TooFew(min_images, names, int(counts[few].sum()))


def split_identities(
    identities: Iterable[str], fraction: float, seed: int
) -> tuple[list[str], list[str]]:
    """Splits people, not images, so that no one held out was seen in training.

    Neither the order of the names nor their Unicode form matters.

    Args:
        identities: Names.
        fraction: Part to hold out, in (0, 1); at least one person goes to each side.
        seed: Chooses who is held out.

    Returns:
        The names for training and the names held out, each sorted.

    Raises:
        ValueError: If there are fewer than two names or the fraction is out of range.

    Example:
        >>> train, held_out = split_identities(["ann", "bob", "cyd", "dan"], 0.25, seed=0)
        >>> len(train), len(held_out)
        (3, 1)
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be between 0 and 1, both excluded, got {fraction}")
    names = sorted(set(identities), key=lambda name: (composed(name), name))
    if len(names) < 2:
        raise ValueError(f"identities must hold at least 2 different names, got {len(names)}")
    count = min(max(round(fraction * len(names)), 1), len(names) - 1)
    order = np.random.default_rng(seed).permutation(len(names))
    return sorted(names[i] for i in order[count:]), sorted(names[i] for i in order[:count])


# Similar names are looked for among so many; comparing with millions would take minutes.
_COMPARED = 20_000


def read_leave_out(path: str | os.PathLike[str]) -> set[str]:
    """Reads which images to leave out.

    Every row of the file counts, whatever its severity: `centerarc data check --problems` writes
    only what should be left out, and rows can be deleted by hand.

    Args:
        path: A CSV file whose first line names a column "place" (between commas, semicolons or
            tabs), or a text file with one place on each line. UTF-8; empty lines do not count.

    Returns:
        The places.

    Raises:
        ValueError: If the file is UTF-16, or a row of the CSV has no place or too few or too many
            fields; the message names the line.
        OSError: If the file cannot be read.
    """
    with open_text(path) as file:
        names = re.split("[,;\t]", file.readline().strip())
        if "place" not in {name.strip().strip('"') for name in names}:
            file.seek(0)
            return {line for line in file.read().replace("\r\n", "\n").split("\n") if line}
    table = CsvTable(path, ("place",))
    places = set()
    for line, (place,) in table.rows(("place",)):
        if not place:
            raise table.error(line, "place is empty")
        places.add(place)
    return places


def leave_out(source: FaceSource, places: Collection[str], *, missing: bool = False) -> FaceSource:
    """Leaves images out of a source; people who have none left go with them.

    Args:
        source: The whole source, before it is split.
        places: The images' places, as `FaceSource.place` gives them, in any Unicode form. What the
            source left out itself when it was opened may be among them.
        missing: Whether some may not be there.

    Returns:
        The source without them; the source itself if that changes nothing.

    Raises:
        ValueError: If the source has no image at a place, or nothing is left.

    Example:
        >>> from centerarc.data import create_source
        >>> faces = create_source("synthetic", num_identities=2, images_per_identity=3)
        >>> len(leave_out(faces, {"image 0", "image 4"}))
        4
    """
    if not places:
        return source
    wanted = {composed(place): place for place in places}
    kept = np.array([composed(source.place(n)) not in wanted for n in range(len(source))])
    found = {composed(source.place(n)) for n in np.flatnonzero(~kept).tolist()}
    found.update(composed(item.place) for item in source.skipped)
    if not missing and (unknown := sorted(wanted[one] for one in wanted.keys() - found)):
        raise ValueError(
            f"{len(unknown)} of {len(places)} places to leave out are not in the source, first "
            f"{unknown[0]!r}; {_hint(source, unknown[0])}"
        )
    if kept.all():
        return source
    if not kept.any():
        raise ValueError(f"all {len(kept)} images of the source are to be left out; none is left")
    rest = Subset(source, images=kept)
    rest.skipped = [item for item in source.skipped if composed(item.place) not in wanted]
    return rest


def _hint(source: FaceSource, unknown: str) -> str:
    every = [source.place(index) for index in range(len(source))]
    folder, _, name = unknown.rpartition("/")
    # The likeliest slips: another name in the same folder, the same name in another folder.
    alike = [p for p in every if p.startswith(f"{folder}/") or p.rpartition("/")[2] == name]
    close = difflib.get_close_matches(unknown, (alike + every)[:_COMPARED], n=1)
    return f"the closest is {close[0]!r}" if close else f"its first is {every[0]!r}"


class CachedSource(View):
    """Keeps every image that was asked for as uint8 pixels, shared with worker processes.

    The memory is one anonymous shared mapping, made before the loader forks its workers: what one
    of them has decoded, all of them have. It is used page by page as images come, so what an
    epoch never asks for takes none.

    Args:
        source: Where images come from; all of one size.
        limit_bytes: The most that the images may take together.

    Raises:
        ValueError: If the images need more than `limit_bytes`, or none can be read.
    """

    def __init__(self, source: FaceSource, *, limit_bytes: int) -> None:
        self.source = source = as_source(source)
        self.sources = (source,)
        self.labels = source.labels
        self.identities = source.identities
        self.weights = source.weights
        self.image_size = source.image_size
        self.skipped = source.skipped
        self._shape = first_shape(source, range(len(source)))
        needed = len(source) * int(np.prod(self._shape))
        if needed > limit_bytes:
            raise ValueError(
                f"the cache needs {_in_units(needed)} for {len(source)} images of "
                f"{self._shape[1]} x {self._shape[0]} pixels, more than the "
                f"{_in_units(limit_bytes)} it may take"
            )
        self._make_room()

    def _make_room(self) -> None:
        count, pixels = len(self.source), int(np.prod(self._shape))
        memory = np.frombuffer(mmap.mmap(-1, count * (pixels + 1)), dtype=np.uint8)
        self._pixels = memory[: count * pixels].reshape(count, *self._shape)
        self._known = memory[count * pixels :]

    def __getstate__(self) -> dict[str, object]:
        # A process that is not forked gets an empty cache of its own: a mapping cannot be sent.
        return {k: v for k, v in self.__dict__.items() if k not in ("_pixels", "_known")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._make_room()

    @property
    def room(self) -> int:
        """Bytes of all images."""
        return self._pixels.nbytes

    @property
    def used(self) -> int:
        """Bytes of the images that it has by now."""
        return int(np.count_nonzero(self._known)) * int(np.prod(self._shape))

    def image(self, index: int) -> Image:
        """Returns image `index`; see `FaceSource.image`. The array must not be written to."""
        if not self._known[index]:
            image = self.source.image(index)
            if image.shape != self._shape:
                raise ValueError(
                    f"image {index} has shape {image.shape} and others have {self._shape}; a "
                    "cache needs one size, so set the source's image_size"
                )
            # The pixels first: another process that sees the mark finds them complete.
            self._pixels[index] = image
            self._known[index] = 1
        kept: Image = self._pixels[index]
        kept.flags.writeable = False
        return kept

    def image_into(self, index: int, out: Image) -> None:
        """Copies image `index`; see `FaceSource.image_into`."""
        FaceSource.image_into(self, index, out)


def _in_units(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


@dataclass(frozen=True)
class Part:
    """A source in a mixture.

    Args:
        source: The source.
        weight: How often each of its images is shown in an epoch, on average: 1 is once, 2 twice,
            0.5 half of them, another half each epoch. Above 0.
        name: What it is called in messages, places and, if people are kept apart, names; without a
            slash.
    """

    source: FaceSource
    weight: float
    name: str


class MixedSource(View):
    """The images of several sources, one source after the other; a `FaceSource`.

    Args:
        parts: The sources, at least one, each with a name of its own.
        merge: True takes people of one name, as `one_list` compares them, for one person: those of
            the first part keep their labels and who is new in a later part comes after them. False
            keeps the parts' people apart; all are called `<part>/<name>`, so a further part renames
            no one.

    Attributes:
        weights: `(len,)` float64, how often each image is shown in an epoch, on average: the weight
            of its part, times its weight in the part where that has weights itself.
        names: The names of the parts.
        sources: The sources.
        by_case: A line about people whose names differ in case only, if there are some.
        skipped: What the parts left out, its places after the name of the part and a slash.
        problems: The same, and what is wrong with the parts.

    Raises:
        ValueError: If there is no part, a name is empty, has a slash or comes twice, or a weight is
            not above 0 and finite.

    Example:
        >>> from centerarc.data import create_source
        >>> faces = create_source("synthetic", num_identities=2, images_per_identity=3)
        >>> mixed = MixedSource([Part(faces, 1.0, "a"), Part(faces, 0.5, "b")], merge=False)
        >>> len(mixed), len(mixed.identities), mixed.place(3), float(mixed.weights.sum())
        (12, 4, 'a/image 3', 9.0)
    """

    weights: npt.NDArray[np.float64]

    def __init__(self, parts: Sequence[Part], *, merge: bool) -> None:
        if not parts:
            raise ValueError("parts must have at least one source, got none")
        self.names: list[str] = []
        for part in parts:
            if not part.name or "/" in part.name:
                raise ValueError(
                    f"name of a part must not be empty and have no slash, got {part.name!r}"
                )
            if part.name in self.names:
                raise ValueError(f"parts must each have a name of its own, got {part.name!r} twice")
            if not 0 < part.weight < float("inf"):
                raise ValueError(
                    f"weight of part {part.name!r} must be above 0 and finite, got {part.weight}"
                )
            self.names.append(part.name)
        parts = [replace(part, source=as_source(part.source)) for part in parts]
        self.sources = [part.source for part in parts]
        self._starts = np.cumsum([0, *(len(source) for source in self.sources)])
        if merge:
            people = one_list(*(source.identities for source in self.sources))
        else:
            names = [f"{part.name}/{who}" for part in parts for who in part.source.identities]
            ends = np.cumsum([len(source.identities) for source in self.sources])
            people = OneList(names, np.split(np.arange(len(names)), ends[:-1]), [])
        numbered = zip(people.numbers, self.sources, strict=True)
        labels = [numbers[source.labels] for numbers, source in numbered]
        weights = []
        for part in parts:
            inner = part.source.weights
            weights.append(part.weight * (np.ones(len(part.source)) if inner is None else inner))
        self.identities = people.names
        self.labels = np.concatenate(labels)
        self.skipped = [
            replace(item, place=f"{part.name}/{item.place}")
            for part in parts
            for item in part.source.skipped
        ]
        self.by_case = [
            f"{note}, such as {other!r} for {first!r}"
            for note, (first, other) in zip(people.notes(), people.by_case, strict=False)
        ]
        self.problems = self.by_case + [
            f"{part.name}: {problem}" for part in parts for problem in part.source.problems
        ]
        self.weights = np.concatenate(weights)
        sizes = (source.image_size for source in self.sources)
        self.image_size = next((size for size in sizes if size is not None), None)

    def image(self, index: int) -> Image:
        """Returns image `index`; see `FaceSource.image`. Errors name the part."""
        with self._named(index):
            return super().image(index)

    def image_into(self, index: int, out: Image) -> None:
        """Decodes image `index` in place; see `FaceSource.image_into`. Errors name the part."""
        with self._named(index):
            super().image_into(index, out)

    def place(self, index: int) -> str:
        """Returns where image `index` comes from, after the name of its part and a slash."""
        return f"{self._name(index)}/{super().place(index)}"

    def _part(self, index: int) -> tuple[int, int]:
        at = range(len(self))[index]
        part = int(self._starts.searchsorted(at, side="right")) - 1
        return part, at - int(self._starts[part])

    def _find(self, index: int) -> tuple[FaceSource, int]:
        part, inner = self._part(index)
        return self.sources[part], inner

    def _name(self, index: int) -> str:
        return self.names[self._part(index)[0]]

    @contextmanager
    def _named(self, index: int) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            kind = WrongSizeError if isinstance(error, WrongSizeError) else ValueError
            raise kind(f"{self._name(index)}: {error}") from error


# Names of people in a file, one a line.

_MARK = "\ufeff".encode()


def write_identities(path: str | os.PathLike[str], names: Iterable[str]) -> None:
    """Writes names of people, one a line, as `read_identities` reads them.

    Args:
        path: The file.
        names: The names.

    Raises:
        ValueError: If a name is empty, has a line break or a NUL character in it, or is not text.
    """
    data = b"".join(map(_line, names))
    with atomic_path(path) as temporary:
        # A reader takes one byte order mark away.
        temporary.write_bytes(_MARK + data if data.startswith(_MARK) else data)


def _line(name: str) -> bytes:
    if name and not {"\n", "\r", "\0"} & {*name}:
        try:
            return f"{name}\n".encode("utf-8", "surrogateescape")  # a folder's need not be UTF-8
        except UnicodeEncodeError:
            pass
    raise ValueError(
        f"identity {name!r} cannot be in a list of one name a line; give it another name"
    )


def read_identities(path: str | os.PathLike[str]) -> list[str]:
    """Reads names of people, one a line; empty lines do not count.

    Args:
        path: The file, UTF-8.

    Returns:
        The names in the order of the file.

    Raises:
        ValueError: If there is none, or one comes twice.
        OSError: If the file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_identities(f"{folder}/held-out.txt", ["Ann Lee", "Bob"])
        ...     read_identities(f"{folder}/held-out.txt")
        ['Ann Lee', 'Bob']
    """
    with open_text(path) as file:
        lines = file.read().split("\n")
    names = [name for line in lines if (name := line.removesuffix("\r"))]
    if not names:
        raise ValueError(f"{os.fspath(path)!r} names no one; it must have one name a line")
    seen: set[str] = set()
    for name in names:
        if name in seen:  # two spellings of a name may be two people of one source
            raise ValueError(f"{os.fspath(path)!r} names {name!r} twice")
        seen.add(name)
    return names
