"""Every image of a source decoded, and all that is wrong with the data listed."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from centerarc.curate.duplicates import Examined, examine, find_duplicates
from centerarc.curate.label_errors import Judgement, find_label_errors
from centerarc.data.folder import UNLISTED, UNREADABLE, natural_key
from centerarc.data.source import UNREAD, FaceSource, as_source, composed, spelled_twice
from centerarc.io.parallel import in_chunks, run_tasks
from centerarc.io.tables import write_csv

_CHUNK = 128

# Problems: their kinds, severities, and the file that lists them.

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


class Kind(NamedTuple):
    """A kind of problem: its severity, what it means, and whether it names images.

    An error must not be trained on, a warning deserves a look, a note is good to know.
    """

    severity: Severity
    meaning: str
    of_image: bool = True


KINDS: dict[str, Kind] = {
    "checksum": Kind(
        "error",
        "A file of the data is not what its manifest says: it was changed or damaged on the way.",
        of_image=False,
    ),
    "empty": Kind("error", "The file has no bytes."),
    "truncated": Kind("error", "The file ends before its image does."),
    "unreadable": Kind("error", "The image cannot be decoded, or its file cannot be read."),
    "blank": Kind("error", "All pixels have one color, so there is no one to learn."),
    "duplicate across identities": Kind(
        "error",
        "One picture belongs to several people. At least one label is wrong, and nothing in the "
        "pictures says which, so all of them are listed.",
    ),
    "near duplicate across identities": Kind(
        "warning",
        "Almost the same picture belongs to two people: most often one photograph, cropped or "
        "saved again under another name, sometimes two shots of one moment.",
    ),
    "other person": Kind(
        "warning",
        "By the model, the image does not look like its identity and does look like another one.",
    ),
    "two people": Kind(
        "warning",
        "By the model, the images of an identity fall into two groups as unlike as two people; "
        "those of the smaller group are listed.",
    ),
    "two names": Kind(
        "warning",
        "By the model, two identities are one person; the images of the smaller one are listed. "
        "Joining the two is better than leaving one out.",
    ),
    "out of reach": Kind(
        "warning",
        "Images, by their names, that are not trained on because they lie outside a person's "
        "folder or in a folder inside it, because a link or a folder cannot be followed, or "
        "because further dots in the name make them a field of a sample in a shard.",
        of_image=False,
    ),
    "unread format": Kind(
        "warning",
        "A picture in a format that is not read, so it is not trained on: save it as JPEG or PNG.",
        of_image=False,
    ),
    "one identity under two spellings": Kind(
        "warning",
        "Two identities whose names differ only in case or in how their letters are encoded "
        "(Unicode normal form): almost surely one person, learned as two. Join them.",
        of_image=False,
    ),
    "tiny": Kind("warning", "The shorter side has fewer pixels than a face needs."),
    "duplicate": Kind(
        "note", "The same picture again within one identity: harmless, but it counts twice."
    ),
    "near duplicate": Kind("note", "Almost the same picture again within one identity."),
    "grey": Kind("note", "The image has no color; it is trained on as gray."),
    "wrong extension": Kind("note", "The file's format is not the one its name says."),
    "animated": Kind("note", "The file holds several pictures; the first one is used."),
    "left out": Kind("note", "The source does not serve this; it was left out when opened."),
}
"""Every kind of problem that a check reports, in the order of its reports."""


@dataclass(frozen=True)
class Problem:
    """One problem of one image, or of a file of the data.

    Args:
        place: Where the image is, as its source names it.
        identity: Whose it is; "" where no one is meant.
        problem: A kind in `KINDS`.
        detail: The particulars, in a few words.
        index: Number of the image in the source; None if the source does not serve it.
        other: Number of the image that it is compared with, if any.
        confidence: Chance that it is as said, for what a model judged; None elsewhere.
    """

    place: str
    identity: str
    problem: str
    detail: str
    index: int | None = None
    other: int | None = None
    confidence: float | None = None

    @property
    def severity(self) -> Severity:
        """How bad it is: that of its kind."""
        return KINDS[self.problem].severity


def write_problems(
    path: str | os.PathLike[str],
    problems: Iterable[Problem],
    *,
    least: Severity = "error",
) -> int:
    """Writes the images that a training should leave out as CSV, which `read_leave_out` reads.

    Every row names an image, so the whole file is what is left out. Kinds that name no image,
    such as a wrong checksum of an archive, are not in it.

    Args:
        path: The file to write, complete or absent: columns place, identity, problem, severity,
            detail (RFC 4180, UTF-8; bytes of a name that are not UTF-8 stay as they are).
        problems: What was found, in the order wanted.
        least: The mildest severity to write.

    Returns:
        The number of rows.
    """
    wanted = SEVERITIES[: SEVERITIES.index(least) + 1]
    rows = [p for p in problems if p.severity in wanted and KINDS[p.problem].of_image]
    fields = [(p.place, p.identity, p.problem, p.severity, p.detail) for p in rows]
    write_csv(path, ("place", "identity", "problem", "severity", "detail"), fields)
    return len(rows)


# What a check finds.


@dataclass(frozen=True)
class CheckResult:
    """What a check found.

    Attributes:
        images: Images of the source.
        identities: Identities of the source.
        problems: Worst kind first, then by place in natural order.
        readable: `(images,)` bool, which of them can be decoded.
        left_out: Images that the source left out when it was opened, as far as it knows.
        judgement: How far a model can be trusted that judged the labels; None if none did.
    """

    images: int
    identities: int
    problems: list[Problem]
    readable: npt.NDArray[np.bool_]
    left_out: int = 0
    judgement: Judgement | None = None

    @property
    def decoded(self) -> int:
        """The number of images that can be decoded."""
        return int(self.readable.sum())

    @property
    def errors(self) -> int:
        """The number of problems that are errors."""
        return sum(problem.severity == "error" for problem in self.problems)

    def counts(self) -> dict[str, int]:
        """Returns how many problems of each kind there are, worst kind first, none left out."""
        found = Counter(problem.problem for problem in self.problems)
        return {kind: found[kind] for kind in _worst_first() if found[kind]}

    def with_problems(self, more: Iterable[Problem]) -> "CheckResult":
        """Returns the same with more problems, such as those that a model sees."""
        return replace(self, problems=_ordered([*self.problems, *more]))


def _worst_first() -> list[str]:
    return sorted(KINDS, key=lambda kind: SEVERITIES.index(KINDS[kind].severity))


def _ordered(problems: Iterable[Problem]) -> list[Problem]:
    order = {kind: position for position, kind in enumerate(_worst_first())}
    return sorted(problems, key=lambda p: (order[p.problem], natural_key(p.place), p.detail))


def check_source(
    source: FaceSource,
    *,
    min_side: int = 64,
    workers: int | None = None,
    progress: Callable[[int], Any] | None = None,
) -> CheckResult:
    """Decodes every image and finds damaged, odd and repeated ones.

    Args:
        source: The source, its images in their own sizes.
        min_side: Images whose shorter side has fewer pixels are tiny, at least 1.
        workers: Processes that decode; 0 decodes in this one, None takes one for each core.
        progress: Called with a number of images whenever so many more are done.

    Returns:
        What was found; the same for any number of workers. Takes about 300 bytes of memory for
        each image.

    Raises:
        ValueError: If `min_side` or `workers` is out of range.
        OSError: If a worker process died.

    Example:
        >>> from centerarc.data import create_source
        >>> faces = create_source("synthetic", num_identities=2, images_per_identity=3)
        >>> check_source(faces, workers=0).problems
        []
    """
    if min_side < 1:
        raise ValueError(f"min_side must be at least 1, got {min_side}")
    source = as_source(source)
    examined = Examined(len(source))
    start = 0
    work, chunks = partial(examine, min_side=min_side), in_chunks(len(source), _CHUNK)
    with closing(run_tasks(work, source, chunks, workers=workers, progress=progress)) as parts:
        for part in parts:
            examined.put(start, part)
            start += len(part.readable)
    problems = [_problem(source, index, kind, detail) for index, kind, detail in examined.found]
    for index, kind, other, detail in find_duplicates(examined, source.labels):
        beside = _named(source, index, other)
        problems.append(_problem(source, index, kind, f"{detail} {beside}", other=other))
    problems += _skipped(source)
    problems += two_spellings(source.identities)
    return CheckResult(
        len(source),
        len(source.identities),
        _ordered(problems),
        examined.readable,
        left_out=sum(item.images for item in source.skipped),
    )


def judge_labels(
    source: FaceSource, indices: npt.ArrayLike, embeddings: npt.ArrayLike
) -> list[Problem]:
    """Finds labels that a model's embeddings speak against; see `label_errors`.

    Args:
        source: The source.
        indices: `(M,)` numbers of the images that were embedded.
        embeddings: `(M, D)` of those images, any length but 0.

    Returns:
        A problem for each image concerned.

    Raises:
        ValueError: As `find_label_errors`.
    """
    images = np.asarray(indices, dtype=np.int64)
    problems = []
    for error in find_label_errors(embeddings, source.labels[images]):
        other = source.identities[error.other]
        own, alike = f"{error.own_similarity:.2f}", f"{error.other_similarity:.2f}"
        detail = {
            "other person": f"looks like {other} (cosine {alike}, to its own identity {own})",
            "two people": f"unlike the others of this identity (cosine {alike}, within {own})",
            "two names": f"looks like the same person as {other} (cosine {alike})",
        }[error.kind]
        detail = f"{detail}; confidence {error.confidence:.3f}"
        more = {"other": int(images[error.shown]), "confidence": error.confidence}
        problems += [
            _problem(source, int(images[row]), error.kind, detail, **more) for row in error.images
        ]
    return problems


def check_checksums(
    source: FaceSource, *, progress: Callable[[int, int], Any] | None = None
) -> list[Problem]:
    """Compares the shards of a packed set with the checksums of its manifest.

    Args:
        source: Any source; only a `ShardSource` whose folder has a manifest has checksums.
        progress: Called with the bytes read so far and the bytes of all shards.

    Returns:
        A problem for each shard that is not as it was written.

    Raises:
        ValueError: If the manifest is damaged.
    """
    # Tar shards are not loaded for sources of other kinds.
    from centerarc.data.shards.manifest import read_manifest, verify_checksums
    from centerarc.data.shards.source import ShardSource

    if not isinstance(source, ShardSource):
        return []
    folder = Path(source.shards[0]).parent
    if read_manifest(folder) is None:
        return []
    problems = []
    for line in verify_checksums(folder, progress):
        name, _, detail = line.partition(": ")
        problems.append(Problem(name, "", "checksum", detail))
    return problems


def _problem(source: FaceSource, index: int, kind: str, detail: str, **more: Any) -> Problem:
    identity = source.identities[source.labels[index]]
    return Problem(source.place(index), identity, kind, detail, index, **more)


def _named(source: FaceSource, index: int, other: int) -> str:
    """The other image's place, with its identity where the place alone may not tell."""
    place = source.place(other)
    identity = source.identities[source.labels[other]]
    known = source.labels[index] == source.labels[other] or identity in place
    return place if known else f"{place} of {identity}"


def _skipped(source: FaceSource) -> Iterator[Problem]:
    for item in source.skipped:
        kind, detail = "left out", str(item)
        if item.reason == UNREADABLE:
            kind = "empty" if "empty" in item.detail else "unreadable"
            detail = item.detail
        elif item.reason == UNREAD:
            kind = "unread format"
        elif item.images or item.reason == UNLISTED:
            kind = "out of reach"
            if item.images > 1:
                detail = f"{detail}: {item.images:,} images"
        yield Problem(item.place, item.identity, kind, detail)


def two_spellings(identities: Sequence[str]) -> list[Problem]:
    """Finds identities whose names differ only in case or in Unicode normal form.

    Args:
        identities: Names of the identities.

    Returns:
        A problem for each name but the first of those that are alike.

    Example:
        >>> [problem.detail for problem in two_spellings(["Ann Lee", "Bob", "ann lee"])]
        ["'Ann Lee' differs in case only"]
        >>> [problem.detail for problem in two_spellings(["Ann Lee", "Ann Lee "])]
        ["'Ann Lee' differs in blanks at its ends only"]
    """
    return [
        Problem(name, name, "one identity under two spellings", f"{o!r} {_difference(name, o)}")
        for o, name in spelled_twice(identities)
    ]


def _difference(name: str, other: str) -> str:
    if name.strip() == other.strip():
        return "differs in blanks at its ends only"
    if composed(name) == composed(other):
        name, other = name.strip(), other.strip()
        a, b = next(pair for pair in zip(other, name, strict=False) if pair[0] != pair[1])
        forms = f"U+{ord(a):04X}, U+{ord(b):04X}"
        return f"looks the same and is encoded otherwise (Unicode normal form: {forms})"
    if name.casefold() == other.casefold():
        return "differs in case only"
    return "differs only in case and in how its letters are encoded (Unicode normal form)"
