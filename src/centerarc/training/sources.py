"""The images that a run trains on, and what has become of them when it resumes."""

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from operator import eq
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.data.source import (
    FaceSource,
    chosen_people,
    composed,
    create_source,
    namesakes,
    spelled_twice,
)
from centerarc.data.views import (
    CachedSource,
    MixedSource,
    Part,
    View,
    leave_out,
    read_identities,
    read_leave_out,
    subset,
    with_enough_images,
)
from centerarc.evaluation.files.pair_set import read_named_pairs
from centerarc.io.files import atomic_path, read_arrays
from centerarc.io.parallel import in_chunks
from centerarc.io.progress import Lines
from centerarc.io.tables import Texts, counted
from centerarc.training.config import TrainConfig
from centerarc.training.data_config import (
    COMMON_FIELDS,
    DataFields,
    MixedFields,
    OwnFields,
    Section,
)
from centerarc.training.validation import (
    Validation,
    ValidationPairs,
    chosen_to_hold_out,
    copies,
    drawn_pairs,
    listed_pairs,
)

# The list of a run's training images, in its folder.
IMAGES = "training-images.npz"
# Images that a message names.
_NAMED = 3
# What is said where the list is lost, by whether images were replaced since.
_REPLACED = {
    False: ", as the images are those of the run",
    True: "; by their sizes, images were replaced, which ones is not known: trained on as now",
    None: "; whether images were replaced is not known, as there are no sizes to compare",
}


@dataclass(frozen=True)
class RunSources:
    """What a run reads.

    Args:
        train: The images to train on.
        validation: What judges it, or None.
        notes: What a user should know about the images, a line each.
        held_out: The people whom the validation holds out.
        kept: The list of the images, if it is in the run's folder.
        differs: Why they are not those of the run that is resumed, or why that list is of no use.
        on_change: What to do where they are not; see `DataFields`.
    """

    train: FaceSource
    validation: Validation | None
    notes: list[str]
    held_out: Sequence[str] = ()
    kept: "KeptImages | None" = None
    differs: str = ""
    on_change: str = "refuse"

    @cached_property
    def sizes(self) -> npt.NDArray[np.int64] | None:
        """The bytes that each image had when the run began; see `FaceSource.file_sizes`."""
        return self.train.file_sizes() if self.kept is None else self.kept.sizes

    @cached_property
    def identity(self) -> dict[str, int | str]:
        """What must be the same when a run is resumed: how many people and images, and who."""
        return _identity(self.train, self.held_out)

    @cached_property
    def identity_with_sizes(self) -> dict[str, int | str]:
        """What a state has: `identity`, and a digest of `sizes` for when the list is lost."""
        return {**self.identity, "sizes": _describe_sizes(self.sizes)}

    def were_replaced(self, before: Mapping[str, Any]) -> bool | None:
        """Whether images have other sizes than in a state; None if its or theirs are not known."""
        known, now = before.get("sizes"), self.identity_with_sizes["sizes"]
        return known != now if known and now else None

    def keep(self, folder: Path) -> None:
        """Writes the list of the images in the run's folder, unless it is there."""
        if self.kept is not None:
            return
        train = self.train
        known = {"weights": train.weights, "sizes": self.sizes}
        with atomic_path(folder / IMAGES) as temporary:
            np.savez_compressed(
                temporary,
                places=_joined(map(train.place, range(len(train)))),
                labels=train.labels,
                identities=_joined(train.identities),
                held_out=_joined(self.held_out),
                **{name: array for name, array in known.items() if array is not None},  # type: ignore[arg-type]
            )


class KeptImages(View):
    """The training images of a run under the numbers that they have there, whatever is found now.

    Those that are gone cannot be read.

    Args:
        path: The list of them.

    Attributes:
        held_out: The people whom the validation holds out.
        sizes: `(len,)` int64, the bytes that each image had, -1 where unknown; None for all.

    Raises:
        ValueError: If the list is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        arrays = read_arrays(path)
        try:
            self.labels, self.weights = arrays["labels"], arrays.get("weights")
            self.sizes = arrays.get("sizes")
            self.identities, self.held_out = map(_split, (arrays["identities"], arrays["held_out"]))
            self._places = Texts.of(_split(arrays["places"]))
        except (KeyError, UnicodeDecodeError) as error:
            state = "damaged" if path.exists() else "missing"
            raise ValueError(f"{str(path)!r} is {state}") from error

    def find_in(self, source: FaceSource) -> npt.NDArray[np.int64]:
        """Takes the images from a source, and returns the number that each has there, or -1."""
        at = {source.place(index): index for index in range(len(source))}
        numbers = np.array([at.get(place, -1) for place in self._places], dtype=np.int64)
        label_of = {name: label for label, name in enumerate(source.identities)}
        labels = np.array([label_of.get(name, -1) for name in self.identities])
        numbers[source.labels[numbers] != labels[self.labels]] = -1  # of another person now
        self.sources, self._numbers = (source,), numbers
        self.image_size, self.skipped = source.image_size, source.skipped
        return numbers

    def _find(self, index: int) -> tuple[FaceSource, int]:
        if (number := int(self._numbers[index])) < 0:
            raise ValueError(f"cannot read {self.place(index)!r}: it was gone when the run resumed")
        return self.sources[0], number

    def place(self, index: int) -> str:
        """Returns the name of image `index`."""
        return self._places[index]

    def file_sizes(self) -> npt.NDArray[np.int64] | None:
        """Returns the bytes of each image, or None; see `FaceSource.file_sizes`."""
        sizes = super().file_sizes()
        return None if sizes is None else np.where(self._numbers < 0, -1, sizes[self._numbers])


def _joined(texts: Iterable[str]) -> npt.NDArray[np.uint8]:
    data = "".join(f"{text}\0" for text in texts).encode("utf-8", "surrogatepass")
    return np.frombuffer(data, dtype=np.uint8)


def _split(data: npt.NDArray[np.uint8]) -> list[str]:
    return data.tobytes().decode("utf-8", "surrogatepass").split("\0")[:-1]


def _kept_images(
    config: TrainConfig, before: Mapping[str, Any] | None
) -> tuple[KeptImages | None, str]:
    """The images of the run that is resumed; None without one, or where a line says why."""
    if before is None:
        return None, ""
    path = config.run_dir / IMAGES
    try:
        kept = KeptImages(path)
    except ValueError as problem:
        return None, str(problem)
    own = {**_identity(kept, kept.held_out), "sizes": _describe_sizes(kept.sizes)}
    if any(before.get(name, value) != value for name, value in own.items()):
        return None, f"{str(path)!r} is of another run"
    return kept, ""


def _as_before(
    found: FaceSource, kept: KeptImages, config: TrainConfig, notes: list[str]
) -> tuple[FaceSource, str]:
    """The images of a resumed run in its own order, and why it cannot be resumed with them."""
    same = kept.identities == found.identities and np.array_equal(kept.labels, found.labels)
    numbers = range(len(found))
    same = same and all(map(eq, map(kept.place, numbers), map(found.place, numbers)))
    numbers_now = np.arange(len(found)) if same else kept.find_in(found)
    there = numbers_now >= 0
    gone, new = np.flatnonzero(~there), np.setdiff1d(numbers, numbers_now)
    other = _other_sizes(found, kept, numbers_now)
    images = found if same else kept
    if not gone.size and not new.size and not other:
        if not same:
            notes.append("the images come in another order now; the run keeps its own")
        return images, ""
    skipped = {item.place: f" ({item})" for item in found.skipped}
    lost, more = _said_images(kept, gone, skipped), _said_images(found, new, {})
    changed = _said_images(kept, np.array([*other], dtype=np.int64), other)
    if config.data.on_change == "continue":
        if lost:
            notes.append(f"gone: {lost}; other images of the same people take their place")
        if more:
            notes.append(f"new: {more}; left out, until a new run")
        if changed:
            notes.append(f"changed: {changed}; trained on as now")
    empty = np.setdiff1d(np.arange(len(kept.identities)), kept.labels[there]).tolist()
    titles = (("gone", lost), ("new", more), ("changed", changed))
    said = [f"{title}: {some}" for title, some in titles if some]
    how = ["without them"] * bool(lost or more) + ["with the changes"] * bool(changed)
    advice = f"--data.on_change continue resumes {' and '.join(how)}; or restore what was there"
    if empty:
        whom = counted(len(empty), "person has", "people have")
        said.append(f"{whom} no image left, such as {kept.identities[empty[0]]!r}")
        advice = "restore an image of each"
    elif config.data.on_change == "continue":
        return images, ""
    return found, (
        f"of the {len(kept):,} images of {len(kept.identities):,} people that the run was trained "
        f"on, as data and validation now leave them, {'; '.join(said)}; {advice}"
    )


def _other_sizes(
    found: FaceSource, kept: KeptImages, numbers_now: npt.NDArray[np.int64]
) -> dict[int, str]:
    """What to say of each image of a run that has another size than it had, by its number."""
    sizes = found.file_sizes()
    if kept.sizes is None or sizes is None:
        return {}
    now = np.where(numbers_now < 0, -1, sizes[numbers_now])
    other = np.flatnonzero((now >= 0) & (kept.sizes >= 0) & (now != kept.sizes)).tolist()
    return {
        index: f": its size was {counted(int(kept.sizes[index]), 'byte')}, is {now[index]:,}"
        for index in other
    }


def _said_images(source: FaceSource, some: npt.NDArray[np.int64], said: Mapping[Any, str]) -> str:
    """How many images of how many people these are, the first by name; empty for none.

    Args:
        source: Where they are from.
        some: Their numbers.
        said: More about one, by its number or its place.
    """
    people = counted(len(np.unique(source.labels[some])), "person", "people")
    first = [(number, source.place(number)) for number in some[:_NAMED].tolist()]
    named = ", ".join(f"{at!r}{said.get(number, said.get(at, ''))}" for number, at in first)
    named += ", ..." if some.size > _NAMED else ""
    return f"{counted(some.size, 'image')} of {people} ({named})" if some.size else ""


def make_sources(
    config: TrainConfig,
    *,
    quiet: bool = False,
    before: Mapping[str, Any] | None = None,
    drawn_before: Mapping[str, Any] | None = None,
) -> RunSources:
    """Opens the training images and the sets of validation pairs.

    People of the validation are never trained on: those held out by number are taken out of the
    training set, and so is everyone in the validation pairs.

    Args:
        config: The run.
        quiet: Write nothing to stderr while an opening takes long.
        before: `RunSources.identity` of the run that is resumed.
        drawn_before: Of the pairs of held-out people, where the run is resumed; see `drawn_pairs`.

    Raises:
        ValueError: If a folder or file is missing or wrong, or fewer than 2 people are left.
    """
    validation = config.validation
    sets: list[ValidationPairs] = []
    excluded: set[str] = set()
    notes: list[str] = []
    listings = {} if validation is None else validation.settings_of_sets
    for where, listed in listings.items():
        if listed.pairs is not None:
            with _naming_settings(where, ("images", "folds")):
                pairs, everyone = listed_pairs(listed, config.model.image_size, notes)
            sets.append(pairs)
            excluded |= everyone
    kept, problem = _kept_images(config, before)
    train = _open(config, excluded, notes, quiet, kept)
    others: list[str] = []
    if validation is not None and validation.identities is not None:
        if kept is not None:
            others = [name for name in train.identities if name in {*kept.held_out}]
            if kept.held_out and not others:
                raise ValueError(
                    "cannot resume: no image is left of the people whom the validation holds out, "
                    f"such as {kept.held_out[0]!r}; restore them, or start a new run"
                )
        else:
            chosen = chosen_to_hold_out(train, validation, config.seed, notes)
            others = namesakes(train.identities, chosen)  # in every spelling, if enough stay
            others = others if len(train.identities) - len(others) >= 2 else chosen
        if others:
            names = sorted(set(train.identities).difference(others))
            train, held_out = subset(train, names), subset(train, others)
            sets.insert(0, drawn_pairs(held_out, validation, config.seed, notes, drawn_before))
    if kept is not None:
        train, problem = _as_before(train, kept, config, notes)
        others = kept.held_out
    if twice := spelled_twice(train.identities):
        first, other = map(repr, twice[0])
        notes.append(
            f"{counted(len(twice), 'person is', 'people are')} named as another but for the "
            f"spelling, such as {other} and {first}: they are learned as different people "
            "(centerarc data check)"
        )
    if not quiet:
        notes += [note for pairs in sets for note in copies(train, pairs)]
    if config.data.cache_gb:
        train = CachedSource(train, limit_bytes=int(config.data.cache_gb * 1e9))
    judges = Validation(sets, validation) if validation is not None and sets else None
    sources = RunSources(train, judges, notes, others, kept, problem, config.data.on_change)
    if before is not None and kept is None:
        notes.append(f"{problem}: written again{_REPLACED[sources.were_replaced(before)]}")
    return sources


def _open(
    config: TrainConfig,
    excluded: set[str],
    notes: list[str],
    quiet: bool,
    kept: KeptImages | None,
) -> FaceSource:
    """Opens the configured source without the people and images that are to be left out.

    Where a run is resumed, its people stay however few images they have now, and lists may name
    people and images that are not there: what that means for the run is told of its own images.
    """
    known = () if kept is None else (*kept.identities, *kept.held_out)
    data = config.data
    size = config.model.image_size
    if isinstance(data, MixedFields):
        parts = []
        for number, fields in enumerate(data.parts, 1):
            name = fields.name or f"{fields.source}-{number}"
            with _naming_settings(f"data.parts.{number - 1}", _PLACES):
                part = _create(fields, size, quiet, notes, known)
            part = _without(part, fields.leave_out, notes, known)
            of = counted(len(part.identities), "person", "people")
            notes.append(
                f"part {name}: {of}, {counted(len(part), 'image')}, weight {fields.weight:g}"
            )
            parts.append(Part(part, fields.weight, name))
        mixed = MixedSource(parts, merge=data.merge)
        notes += mixed.by_case
        source: FaceSource = mixed
    else:
        with _naming_settings("data", _PLACES):
            source = _create(data, size, quiet, notes, known)
    source = _without(source, data.leave_out, notes, known)
    people = source.identities
    if data.exclude_pairs is not None:
        named = read_named_pairs(data.exclude_pairs, data.exclude_folds).everyone()
        if not namesakes(people, named):
            raise ValueError(
                f"data.exclude_pairs, {str(data.exclude_pairs)!r}, would leave out no one: none of "
                f"the {len(named):,} people that it names, such as {min(named)!r}, is among the "
                f"{len(people):,} of the training images, such as {people[0]!r}. Both must write "
                "names alike; leave data.exclude_pairs out if these are different people"
            )
        excluded = excluded | named
    left_out = set(namesakes(people, excluded))
    names = [name for name in people if name not in left_out]
    if excluded:
        few = len(names) < len(left_out)
        advice = _fewer_folds(data, people) if few else ""
        _check_people(
            names,
            f"the pairs name {len(left_out):,} of {len(people):,}"
            + (advice or "; list pairs of fewer people, or add images of people who are in none"),
        )
        notes += _exclusion(people, left_out, excluded)
        if few:
            notes.append(
                f"the pairs name most of the {len(people):,} people of the training images; "
                f"{len(names):,} are left to train on{advice}"
            )
    if data.identities is not None:
        setting = f"data.identities, {str(data.identities)!r},"
        listed = read_identities(data.identities)
        wanted = chosen_people(listed, people, setting, missing=bool(known))
        names = [name for name in names if name in wanted]
        _check_people(names, f"{setting} names {len(wanted):,} people; name more of them")
    _check_people(names, "add people to data, a folder, or an entry of the list, for each")
    if len(names) < len(source.identities):
        source = subset(source, names)
    enough = np.sort(np.bincount(source.labels))[-2]
    if data.min_images > enough and not known:
        raise ValueError(
            f"data.min_images is {data.min_images}, which leaves fewer than 2 of "
            f"{counted(len(names), 'person', 'people')} to train on; it must be at most {enough}"
        )
    source, too_few = with_enough_images(source, data.min_images, known=known)
    if too_few is not None:
        notes.append(str(too_few))
    return source


def _fewer_folds(data: DataFields, people: Sequence[str]) -> str:
    """Which fold of the pairs alone leaves most people to train on, if that is of use."""
    if data.exclude_pairs is None:
        return ""
    pairs = read_named_pairs(data.exclude_pairs)
    folds = np.unique(pairs.fold).tolist()
    if len(folds) < 2 or (data.exclude_folds is not None and len(data.exclude_folds) < 2):
        return ""
    named = {fold: set(namesakes(people, pairs.select_folds([fold]).everyone())) for fold in folds}
    fold = min(folds, key=lambda one: (len(named[one]), one))
    left = len(people) - len(named[fold])
    if left < 2:
        return ""
    return (
        f"; --data.exclude_folds {fold} leaves {left:,} to train on, for an evaluation with "
        f"--folds {fold}"
    )


def _exclusion(people: Sequence[str], left_out: set[str], excluded: set[str]) -> list[str]:
    """Says whom pairs keep out of the training, and what is odd about that."""
    if not left_out:
        # Not an error: people who validate may well be others than those who are trained on.
        return [
            f"left out no one: none of the {len(excluded):,} people whom the pairs name, such as "
            f"{min(excluded)!r}, has the name of somebody trained on, such as {people[0]!r}; if "
            "the names are of another kind, the same people may be trained on and judged"
        ]
    some = counted(len(left_out), "person", "people")
    notes = [f"left out {some}; the pairs name {len(excluded):,}"]
    exact = {*map(composed, excluded)}
    if others := sorted(n for n in left_out if composed(n) not in exact):
        notes.append(
            f"of these, the pairs write {len(others):,} otherwise, such as {others[0]!r}: they are "
            "taken for the same people"
        )
    return notes


# The settings that say where a source is.
_PLACES = ("root", "path")


@contextmanager
def _naming_settings(section: str, names: Sequence[str]) -> Iterator[None]:
    """Makes errors about an argument name the setting that it comes from."""
    try:
        yield
    except ValueError as error:
        named = rf"(^|[;:] )({'|'.join(names)})(?= (?:must|is) )"
        said = re.sub(named, rf"\1{section}.\2", str(error))
        if said == str(error):
            raise
        raise ValueError(said) from error


def _without(
    source: FaceSource, path: Path | None, notes: list[str], known: Collection[str]
) -> FaceSource:
    if path is None:
        return source
    try:
        rest = leave_out(source, read_leave_out(path), missing=bool(known))
    except ValueError as error:
        raise ValueError(f"data.leave_out, {str(path)!r}: {error}") from error
    left = counted(len(source) - len(rest), "image")
    notes.append(f"left out {left} named in {path}")
    return rest


def _check_people(names: Sequence[str], why: str) -> None:
    if len(names) < 2:
        people = counted(len(names), "person", "people")
        raise ValueError(f"data has {people} to train on, and must have 2: {why}")


def _create(
    fields: Section, image_size: int, quiet: bool, notes: list[str], known: Collection[str]
) -> FaceSource:
    """Opens one source from the fields that are its own."""
    if isinstance(fields, OwnFields):
        options = dict(fields.options)
    else:
        options = {name: value for name, value in fields if name not in COMMON_FIELDS}
    kind = fields.source  # type: ignore[attr-defined]
    if kind in ("recordio", "shards") and not quiet:
        # Without an index, or the first time, that may take a pass over all that is there.
        options["progress"] = Lines(f"opening {options['path']}")
    if kind == "list" and known:
        options["missing"] = "skip"
    source = create_source(kind, **options, image_size=image_size)
    if source.skipped or source.problems:
        place = options.get("root") or options.get("path", kind)
        notes.append(f"{place}: {source.summary()}")
    return source


def check_same(before: Mapping[str, Any], sources: RunSources) -> None:
    """Refuses to resume a run on other people or images; where they are may be another place.

    Args:
        before: `RunSources.identity` of the run.
        sources: What it would read now.

    Raises:
        ValueError: If they differ in what was saved of them; what `on_change` allows does not.
    """
    other = "or start a new run with another run_dir"
    if sources.kept is not None and sources.differs:
        raise ValueError(f"cannot resume: {sources.differs}, {other}")
    now = sources.identity
    differs = [name for name, value in before.items() if now.get(name, value) != value]
    if differs:
        why = {
            "names": "; the names of people differ",
            "labels": "; some images are of other people, or in another order",
            "places": "; the names of some images differ, or their order",
        }
        raise ValueError(
            f"cannot resume: the run was trained on {before['images']} images of "
            f"{before['identities']} people, data and validation now leave others "
            f"({now['images']} of {now['identities']}{why.get(differs[0], '')}); which ones is not "
            f"known, and nothing can be left out, as {sources.differs}; restore them, {other}"
        )
    if sources.kept is None and sources.on_change == "refuse" and sources.were_replaced(before):
        raise ValueError(
            f"cannot resume: by their sizes, some of the {before['images']} images were replaced "
            f"since the last state; which ones is not known, as {sources.differs}; restore them or "
            f"the list, --data.on_change continue resumes with the images as they are, {other}"
        )


def _identity(source: FaceSource, held_out: Sequence[str]) -> dict[str, int | str]:
    labels = np.ascontiguousarray(source.labels)
    return {
        "identities": len(source.identities),
        "images": len(source),
        "names": describe_names(source.identities),
        "labels": hashlib.sha256(labels.tobytes()).hexdigest(),
        "places": _describe_places(source),
        "held_out": describe_names(held_out),
    }


def _describe_places(source: FaceSource) -> str:
    """Returns a digest of the names of all images, which do not say where the source is."""
    digest = hashlib.sha256()
    for part in in_chunks(len(source), 10_000):
        digest.update(os.fsencode("\0".join(map(source.place, part)) + "\0"))
    return digest.hexdigest()


def _describe_sizes(sizes: npt.NDArray[np.int64] | None) -> str:
    """Returns a digest of the bytes of all images; empty where they are not known."""
    return "" if sizes is None else hashlib.sha256(sizes.astype("<i8").tobytes()).hexdigest()


def describe_names(names: Sequence[str]) -> str:
    """Returns a digest of the names of people, in their order."""
    return hashlib.sha256(os.fsencode("\n".join(names))).hexdigest()
