"""Every image of a source decoded, and what is wrong with the data listed."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.curate.duplicates import Examined, examine, find_duplicates
from centerarc.curate.label_errors import Judgement, find_label_errors
from centerarc.curate.problems import KINDS, SEVERITIES, Problem, two_spellings
from centerarc.data.folder import UNLISTED, UNREAD, UNREADABLE, natural_key
from centerarc.data.source import FaceSource
from centerarc.io.parallel import in_chunks, in_order

_CHUNK = 128


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
        return {kind: found[kind] for kind in kinds_by_severity() if found[kind]}

    def with_problems(self, more: Iterable[Problem]) -> "CheckResult":
        """Returns the same with more problems, such as those that a model sees."""
        every = _ordered([*self.problems, *more])
        return replace(self, problems=every)


def kinds_by_severity() -> list[str]:
    """Returns all kinds of problems, errors first."""
    return sorted(KINDS, key=lambda kind: SEVERITIES.index(KINDS[kind].severity))


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
        raise ValueError(f"min_side is {min_side}; it must be at least 1")
    examined = Examined.empty(len(source))
    start = 0
    work, chunks = partial(examine, min_side=min_side), in_chunks(len(source), _CHUNK)
    with closing(in_order(work, source, chunks, workers=workers, progress=progress)) as parts:
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
        problems += [
            _problem(
                source,
                int(images[row]),
                error.kind,
                f"{detail}; confidence {error.confidence:.3f}",
                other=int(images[error.shown]),
                confidence=error.confidence,
            )
            for row in error.images
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
            detail = item.detail
            kind = "empty" if "empty" in detail else "unreadable"
        elif item.reason == UNREAD:
            kind = "unread format"
        elif item.images or item.reason == UNLISTED:
            kind = "out of reach"
            if item.images > 1:
                detail = f"{detail}: {item.images:,} images"
        yield Problem(item.place, item.identity, kind, detail)


def _ordered(problems: Iterable[Problem]) -> list[Problem]:
    order = {kind: position for position, kind in enumerate(kinds_by_severity())}
    return sorted(problems, key=lambda p: (order[p.problem], natural_key(p.place), p.detail))
