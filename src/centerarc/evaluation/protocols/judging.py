"""Results of an evaluation, and how scored pairs and searches are judged."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc import __version__
from centerarc.data.decode import Image
from centerarc.data.source import FaceSource
from centerarc.evaluation.accuracy import Convention
from centerarc.evaluation.all_pairs_report import AllPaired
from centerarc.evaluation.gallery import PERSON_SCORES, GallerySearch
from centerarc.evaluation.groups import Breakdown, breakdown
from centerarc.evaluation.identification import (
    FPIR_LEVELS,
    RANKS,
    SEARCH_CONVENTIONS,
    IdentificationReport,
    SearchConvention,
    cmc,
    evaluate_identification,
)
from centerarc.evaluation.intervals import MOST_RESAMPLES, rate_key
from centerarc.evaluation.same_pictures import SHOWN, first_of_each
from centerarc.evaluation.scores import BoolArray, FloatArray, IntArray, ScoreArray, StrArray
from centerarc.evaluation.separability import Separability, measure_separability
from centerarc.evaluation.verification import (
    HeldOutFar,
    VerificationReport,
    evaluate_verification,
    held_out_fars,
)
from centerarc.io.tables import Table, open_table

# Gives image `index` of what was evaluated.
Picture = Callable[[int], Image]


def pictures_of(reopen: Callable[[], FaceSource]) -> Picture:
    """Returns a function for the images of a source that `reopen` opens without resizing them."""
    source = cache(reopen)
    return lambda index: source().image(index)


# What an evaluation found, whatever the protocol, and what its numbers rest on.

FORMAT = "centerarc evaluation 2"
RESAMPLES = 1000
Sides = tuple[npt.NDArray[Any], npt.NDArray[Any]]


@dataclass(frozen=True)
class Settings:
    """How verification is judged.

    Attributes:
        convention: How thresholds are chosen, one of `accuracy.CONVENTIONS`.
        by: Columns of the list of pairs to break down by, as `chosen_groups` takes them.
        fars: False accept rates beyond those that are always reported.
        resamples: Of the people, behind the intervals of how tight identities are, at least 100;
            0 for no intervals at all; None for 1000.
        seed: Of the resampling.
    """

    convention: Convention = "exact"
    by: tuple[str, ...] = ()
    fars: tuple[float, ...] = ()
    resamples: int | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Verified:
    """A verification result and the pairs behind it.

    Attributes:
        report: The numbers.
        scores: `(P,)` cosine of each pair.
        same: `(P,)` whether it is genuine.
        fold: `(P,)` its fold; None where there are none.
        people: First and second person of each pair, each `(P,)`; None where unknown.
        people_note: Where the people come from, or why there are none or no intervals.
        index: Number of each pair's first and second image, each `(P,)`; of a template, one of
            its images. Empty in what comes from files.
        breakdowns: By column.
        held_out: What calibrated thresholds are worth on other folds, by FAR.
        settings: How it was judged.
    """

    report: VerificationReport
    scores: ScoreArray
    same: BoolArray
    fold: IntArray | None
    people: Sides | None
    people_note: str
    index: tuple[npt.NDArray[Any], ...]
    breakdowns: dict[str, Breakdown]
    held_out: dict[float, HeldOutFar]
    settings: Settings

    def notes(self, path: str | os.PathLike[str]) -> tuple[str, ...]:
        """Returns what must be known of the pairs of a file."""
        note = self.report.fold_note
        return (f"in {os.fspath(path)}, {note}",) if note else ()

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return {
            **self.report.to_dict(),
            "people": self.people_note,
            "held_out_fars": {
                rate_key(far): found.to_dict() for far, found in self.held_out.items()
            },
            "breakdowns": {column: found.to_dict() for column, found in self.breakdowns.items()},
            "settings": {
                "convention": self.settings.convention,
                "far": list(self.settings.fars),
                "resamples": RESAMPLES
                if self.settings.resamples is None
                else self.settings.resamples,
                "seed": self.settings.seed,
            },
        }


@dataclass(frozen=True, eq=False)
class Identified:
    """An identification result and the searches behind it.

    Attributes:
        report: The numbers.
        searches: One for each gallery.
        curve: `(K,)` CMC at rank 1, 2, ..., the mean over the galleries.
        seed: Of the resampling.
        probes: Number of each probe's image; None where they are not known.
        known: Number of each image of the gallery, without distractors.
    """

    report: IdentificationReport
    searches: list[GallerySearch]
    curve: FloatArray
    seed: int = 0
    probes: IntArray | None = None
    known: IntArray | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        settings = {
            "convention": self.report.open_set,
            "resamples": self.report.resamples,
            "seed": self.seed,
        }
        return {**self.report.to_dict(), "settings": settings}


@dataclass(frozen=True, eq=False)
class JudgedImages:
    """The images that were judged, for what is measured on embeddings and for the page.

    Attributes:
        embedding: `(N, D)` float32.
        labels: `(N,)` int64, person of each; None where unknown.
        identities: Name of each label.
        places: Name of each image.
        picture: Gives an image; None where there are embeddings only.
        number: `(N,)` int64, equal for images that are the same picture.
    """

    embedding: npt.NDArray[np.float32]
    labels: IntArray | None
    identities: list[str]
    places: list[str]
    picture: Picture | None
    number: IntArray | None = None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All that one `centerarc evaluate` found.

    Attributes:
        model: What was judged, as a `Subject` says.
        data: What it was judged on, plain data for JSON.
        dataset: The same in a few words: "pairs.txt, folds 7 and 8".
        images: The images, which `Verified.index` numbers.
        verification: 1:1.
        identification: 1:N.
        separability: How tight and how far apart people are.
        all_pairs: All pairs of some people's images.
        templates: How images became templates; empty where they are judged one by one.
        notes: What should be known, in sentences.
        command: What repeats it.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    dataset: str
    images: JudgedImages
    verification: Verified | None = None
    identification: Identified | None = None
    separability: Separability | None = None
    all_pairs: AllPaired | None = None
    templates: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    command: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        parts = ("verification", "identification", "separability", "all_pairs")
        found = {name: getattr(self, name) for name in parts}
        return {
            "format": FORMAT,
            "version": __version__,
            "command": self.command,
            "model": self.model,
            "data": {"name": self.dataset, **self.data},
            **({"templates": self.templates} if self.templates else {}),
            **{name: part.to_dict() for name, part in found.items() if part is not None},
            **({"notes": list(self.notes)} if self.notes else {}),
        }


def dataset_words(path: str | os.PathLike[str], folds: list[int] | None) -> str:
    """Returns a file of pairs and its folds in a few words: "pairs.txt, folds 7 and 8"."""
    name = Path(path).name
    if not folds:
        return name
    if len(folds) == 1:
        return f"{name}, fold {folds[0]}"
    return f"{name}, folds {', '.join(map(str, folds[:-1]))} and {folds[-1]}"


# A column of numbers cut into bands: under 20, 20 to 40, 40 and over.


@dataclass(frozen=True, eq=False)
class NumberBands:
    """Pairs grouped by the band that a number of theirs lies in: 20 <= x < 40 is in "20 to 40".

    Attributes:
        group: `(P,)` the band of each pair; "a | b" where its images lie in the bands a and b.
        order: The groups that occur, lowest first.
    """

    group: StrArray
    order: list[str]


def is_number(text: str) -> bool:
    """Tells whether a text is a finite number."""
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


# Scored pairs to every number of a verification result.


Groups = npt.NDArray[Any] | tuple[npt.NDArray[Any], npt.NDArray[Any]] | NumberBands


def judge_pairs(
    scores: ScoreArray,
    same: BoolArray,
    fold: IntArray | None,
    people: Sides | None,
    people_note: str,
    index: tuple[npt.NDArray[Any], ...],
    groups: dict[str, Groups],
    settings: Settings,
) -> Verified:
    """Measures everything that scored pairs can say.

    Args:
        scores: `(P,)` cosine of each pair.
        same: `(P,)` whether it is genuine.
        fold: `(P,)` its fold, or None; a single one is as good as none.
        people: The first and the second person of each pair; None where unknown.
        people_note: Where they come from.
        index: What the pairs are of.
        groups: Columns to break down by, from `chosen_groups`.
        settings: How to judge.

    Raises:
        ValueError: If settings are out of range, or the pairs cannot carry them.
    """
    intervals = settings.resamples != 0
    counted = people if intervals else None
    report = evaluate_verification(
        scores,
        same,
        fold,
        people,
        convention=settings.convention,
        fars=settings.fars,
        intervals=intervals,
    )
    breakdowns = {}
    for column, group in groups.items():
        values = group.group if isinstance(group, NumberBands) else group
        found = breakdown(scores, same, values, counted, threshold=report.threshold)
        if isinstance(group, NumberBands):
            found = replace(found, groups={name: found.groups[name] for name in group.order})
        breakdowns[column] = found
    held_out = {}
    if fold is not None:
        supported = [far for far, tar in report.tar_at_far.items() if tar.value is not None]
        held_out = held_out_fars(scores, same, fold, supported, counted)
    return Verified(
        report,
        scores,
        same,
        fold,
        people,
        people_note,
        index,
        breakdowns,
        held_out,
        settings,
    )


def chosen_groups(
    columns: dict[str, npt.NDArray[np.str_]], by: Iterable[str], source: str
) -> dict[str, Groups]:
    """Returns the columns of a list of pairs that the user wants broken down.

    Args:
        columns: All columns of the list, each `(P,)`.
        by: Wanted names; `age` also means `age_a` with `age_b`, one of each image.
            `age=20,40` cuts a column of numbers x into the groups "under 20", "20 to 40" (20 <=
            x < 40) and "40 and over". Several may stand in one text, with commas between.
        source: The file, for messages.

    Returns:
        By name: a value for each pair, the values of its first and of its second image, or bands.

    Raises:
        ValueError: If there is no such column, a column comes twice, cuts do not rise, or a value
            to be cut is not a number; the message has the columns, or the value's line.
    """
    sides = [name[:-2] for name in columns if name.endswith("_a") and f"{name[:-2]}_b" in columns]
    known = [*columns, *sides]
    found: dict[str, Groups] = {}
    for name, cuts in _wanted(by, known):
        if name in found:
            raise ValueError(f"by must name each column once, got {name!r} twice")
        if name not in known:
            if not known:
                raise ValueError(
                    f"{source}, line 1: there is no column {name!r} to break down by; there are "
                    "none beside those of the pairs"
                    if Path(source).suffix.lower() in (".csv", ".tsv", ".parquet", ".gz")
                    else f"{source}: a file of this format has no columns, so none to break down "
                    f"by such as {name!r}; a list of pairs with names of columns can have some"
                )
            Table(source, known).at(name)  # raises with what there is
        of = [name] if name in columns else [f"{name}_a", f"{name}_b"]
        if cuts is not None:
            found[name] = _cut({column: columns[column] for column in of}, cuts, source)
        else:
            first, *second = (columns[column] for column in of)
            found[name] = (first, second[0]) if second else first
    return found


def _wanted(by: Iterable[str], known: Sequence[str]) -> list[tuple[str, list[str] | None]]:
    """Names and cuts of "light,age=20,40": a number belongs to the cuts before it."""
    wanted: list[tuple[str, list[str] | None]] = []
    for text in by:
        cuts: list[str] | None = None
        # A name may hold commas itself.
        for part in [text] if text in known else [part.strip() for part in text.split(",")]:
            name, equals, first = part.partition("=")
            if cuts is not None and is_number(part):
                cuts.append(part)
            elif equals and part not in known:
                cuts = [first]
                wanted.append((name, cuts))
            else:
                cuts = None
                wanted.append((part, None))
    return wanted


def _cut(columns: dict[str, npt.NDArray[np.str_]], cuts: list[str], source: str) -> NumberBands:
    rising = all(map(is_number, cuts))
    ends = list(map(float, cuts)) if rising else []
    if not rising or any(high <= low for low, high in pairwise(ends)):
        raise ValueError(
            f"by must cut a column at rising numbers, e.g. age=20,40,60; got {','.join(cuts)!r}"
        )
    sides = []
    for column, values in columns.items():
        texts, number = np.unique(values, return_inverse=True)
        bad = next((text for text in texts.tolist() if not is_number(text)), None)
        if bad is not None:
            table = open_table(source, (column,), strip=True)
            line = next(line for line, (text,) in table.rows((column,)) if text == bad)
            raise table.error(line, f"{column} must be a number to be cut, got {bad[:40]!r}")
        band = np.searchsorted(ends, [float(text) for text in texts.tolist()], side="right")
        sides.append(band[number])
    shown = [f"{end:.15g}" for end in ends]
    inner = [f"{low} to {high}" for low, high in pairwise(shown)]
    bands = [f"under {shown[0]}", *inner, f"{shown[-1]} and over"]
    both = np.sort([sides[0], sides[-1]], axis=0).T
    found, group = np.unique(both, axis=0, return_inverse=True)
    order = [
        bands[low] if low == high else f"{bands[low]} | {bands[high]}"
        for low, high in found.tolist()
    ]
    return NumberBands(np.array(order, dtype=np.str_)[group.ravel()], order)


# Searches of galleries to every number of an identification result.

_CURVE_RANKS = 100


@dataclass(frozen=True)
class SearchSettings:
    """How identification is judged.

    Attributes:
        ranks: The k of the closed set that are reported, each at least 1.
        fpirs: False positive identification rates of the open set, in (0, 1).
        person_score: How the images of a person make a score: "max" or "mean".
        resamples: Of the probes' people, at least 100; 0 for no intervals.
        seed: Of the resampling, at least 0.
        convention: Of the open set, "exact" or "insightface".

    Raises:
        ValueError: If one of them is out of range.
    """

    ranks: tuple[int, ...] = RANKS
    fpirs: tuple[float, ...] = FPIR_LEVELS
    person_score: str = "max"
    resamples: int = 1000
    seed: int = 0
    convention: SearchConvention = "exact"

    def __post_init__(self) -> None:
        # Here and not after the work: images take long to embed.
        if not self.ranks or min(self.ranks) < 1:
            raise ValueError(f"ranks must be at least 1, got {list(self.ranks)}")
        for fpir in self.fpirs:
            if not 0 < fpir < 1:
                raise ValueError(f"fpir must be in (0, 1), got {fpir}")
        if self.person_score not in PERSON_SCORES:
            allowed = " or ".join(PERSON_SCORES)
            raise ValueError(f"person_score must be {allowed}, got {self.person_score!r}")
        if self.convention not in SEARCH_CONVENTIONS:
            allowed = " or ".join(SEARCH_CONVENTIONS)
            raise ValueError(f"convention must be {allowed}, got {self.convention!r}")
        if self.resamples != 0 and self.resamples < 100:
            raise ValueError(f"resamples must be 0 or at least 100, got {self.resamples}")
        if self.resamples > MOST_RESAMPLES:
            raise ValueError(f"resamples must be at most {MOST_RESAMPLES}, got {self.resamples}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")


def shared_note(count: int, probes: int, then: str = "") -> tuple[str, ...]:
    """Returns a note on `count` of the probes, which are in the gallery too; none for 0.

    Args:
        count: How many.
        probes: Of how many.
        then: What is done with them.
    """
    if not count:
        return ()
    are = "is" if count == 1 else "are"
    return (
        f"{count:,} of {probes:,} probes {are} also in the gallery: any model finds an image that "
        f"it has seen, so these say nothing of it{then and f'; {then}'}",
    )


def pairs_of_one_picture(
    one: BoolArray, same: BoolArray, examples: Callable[[int], object], of: str = "pairs"
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns what a result says of pairs whose sides show one picture, and a note; none for none.

    They are kept, so that numbers on a published list of pairs can be compared with others'.

    Args:
        one: `(P,)` which pairs these are.
        same: `(P,)` which pairs are genuine.
        examples: Gives the names of the sides of a pair.
        of: What the pairs are called in the note.
    """
    rows = np.flatnonzero(one)
    if not rows.size:
        return {}, ()
    genuine = int(same[rows].sum())
    counts = {"pairs": int(rows.size), "genuine": genuine, "impostor": int(rows.size) - genuine}
    shown = [examples(row) for row in rows[:SHOWN].tolist()]
    note = (
        f"{rows.size:,} of {one.size:,} {of} have the same picture on both sides ({genuine:,} "
        f"genuine, {counts['impostor']:,} impostor): any model accepts them, so they say nothing "
        "of it; they are kept, as they are listed (--json has examples)"
    )
    return {**counts, "pair_examples": shown}, (note,)


def separability_of(images: JudgedImages, settings: Settings) -> Separability | None:
    """Measures how tight and how far apart people are; a picture that comes twice counts once.

    None where it is not known who is on the images, there are no two people, or no one has two
    images.
    """
    if images.labels is None:
        return None
    embedding, labels = images.embedding, images.labels
    if images.number is not None and (rows := first_of_each(images.number)).size < labels.size:
        embedding, labels = embedding[rows], labels[rows]
    sizes = np.unique(labels, return_counts=True)[1]
    if sizes.size < 2 or sizes.max() < 2:
        return None
    return measure_separability(
        embedding,
        labels,
        bootstrap=RESAMPLES if settings.resamples is None else settings.resamples,
        seed=settings.seed,
    )


def judge_searches(searches: Sequence[GallerySearch], settings: SearchSettings) -> Identified:
    """Measures everything that searches, one for each gallery, can say.

    Raises:
        ValueError: If no probe is of a person in a gallery.
    """
    report = evaluate_identification(
        searches,
        ranks=settings.ranks,
        fpirs=settings.fpirs,
        bootstrap=settings.resamples,
        seed=settings.seed,
        convention=settings.convention,
    )
    last = min(max(_CURVE_RANKS, *settings.ranks), min(search.people.size for search in searches))
    curve = np.mean([cmc(search, last) for search in searches], axis=0)
    return Identified(report, list(searches), curve, settings.seed)
