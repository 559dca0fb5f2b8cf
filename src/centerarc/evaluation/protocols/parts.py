"""Embeddings of the images of one place, by a model or from a file, as protocols take them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from centerarc.data.source import FaceSource, open_source
from centerarc.data.views import Subset
from centerarc.evaluation.embedding import is_embedding_file
from centerarc.evaluation.protocols.judging import Picture, pictures_of
from centerarc.evaluation.protocols.subject import Progress, Subject, opened_embeddings
from centerarc.evaluation.same_pictures import Embedded
from centerarc.evaluation.scores import BoolArray


@dataclass(frozen=True, eq=False)
class JudgedPart:
    """The embeddings of the images of one place, such as a gallery.

    Attributes:
        path: Where they are.
        found: The embeddings.
        identities: Name of the person on each image.
        places: Name of each image.
        picture: Gives an image; None where there are embeddings only.
        model: What is known of the model.
        notes: What should be known, in sentences.
    """

    path: Path
    found: Embedded
    identities: list[str]
    places: list[str]
    picture: Picture | None
    model: dict[str, object]
    notes: tuple[str, ...]

    def only(self, kept: BoolArray) -> "JudgedPart":
        """Returns the part with some of its images `(N,)`; itself if these are all."""
        if kept.all():
            return self
        rows = np.flatnonzero(kept).tolist()
        picture = self.picture
        return replace(
            self,
            found=Embedded(self.found.embedding[kept]),
            identities=[self.identities[row] for row in rows],
            places=[self.places[row] for row in rows],
            picture=None if picture is None else lambda index: picture(rows[index]),
        )


# Says which images `(N,)` of a place are wanted, by the names of their people and their own names.
Choice = Callable[[list[str], list[str]], BoolArray]


def embedded_part(
    name: str,
    path: Path,
    subject: Subject | None,
    progress: Progress | None,
    choose: Choice | None = None,
) -> JudgedPart:
    """Embeds the images of a source, or reads a file of embeddings.

    Args:
        name: What the user calls it.
        path: A source or a file of embeddings.
        subject: What embeds images; not needed for a file of embeddings.
        progress: Called with the stage, the steps done and all of them.
        choose: Which images are wanted; None for all.

    Raises:
        ValueError: If the source or file is broken, or a subject is needed and not given.
        OSError: If a file cannot be read.
    """
    if is_embedding_file(path):
        given = opened_embeddings(path)
        found = given.found
        embedded = Embedded(found.embedding)
        part = JudgedPart(path, embedded, found.identities, found.places, None, given.facts(), ())
        return part if choose is None else part.only(choose(part.identities, part.places))
    if subject is None:
        raise ValueError(f"{name} is {str(path)!r}, which holds images: give a model")
    opening = None if progress is None else partial(progress, "opening")
    source = open_source(path, image_size=subject.image_size, progress=opening)
    missed = any(item.images for item in source.skipped)
    problems = [source.summary()] if missed else source.problems
    identities = [source.identities[label] for label in source.labels.tolist()]
    places = [source.place(number) for number in range(len(source))]
    kept = np.ones(len(source), dtype=np.bool_) if choose is None else choose(identities, places)
    wanted: FaceSource = source if kept.all() else Subset(source, images=kept)
    rows, picture = np.flatnonzero(kept).tolist(), pictures_of(partial(open_source, path))
    return JudgedPart(
        path,
        subject.embed(wanted, progress),
        [identities[row] for row in rows],
        [places[row] for row in rows],
        lambda index: picture(rows[index]),
        subject.facts(),
        tuple(f"{path}: {problem}" for problem in problems),
    )


def check_one_model(parts: dict[str, JudgedPart]) -> None:
    """Raises a `ValueError` unless one model, used in one way, made the embeddings of all parts."""
    first, *others = parts.values()
    for part in others:
        a, b = first.found.embedding.shape[1], part.found.embedding.shape[1]
        if a != b:
            raise ValueError(
                f"embeddings of {str(first.path)!r} have {a} numbers, those of "
                f"{str(part.path)!r} {b}: one model must make both"
            )
        made_by = _digests(first), _digests(part)
        other_model = all(made_by) and not made_by[0] & made_by[1]
        origins = [
            p.model.get("origin_sha256", p.model.get("weights_sha256")) for p in (first, part)
        ]
        changed = "models: one was quantized or changed after it was made of the same weights"
        different = []
        if other_model:
            different.append(changed if origins[0] == origins[1] is not None else "models")
        finished = [piece.model.get("features") for piece in (first, part)]
        if all(made_by) and finished[0] != finished[1]:
            different.append(
                f"features ({' and '.join(str(one or 'as they are') for one in finished)})"
            )
        for fact, words in (("mirror", "mirror sums"), ("preprocessing", "preprocessing")):
            known = [piece.model[fact] for piece in (first, part) if fact in piece.model]
            if len(known) == 2 and known[0] != known[1]:
                different.append(words)
        if different:
            raise ValueError(
                f"embeddings of {str(first.path)!r} and {str(part.path)!r} are of different "
                f"{different[0]}"
            )


def _digests(part: JudgedPart) -> set[object]:
    """What tells the model of a part; empty for files of others, which do not say it."""
    names = ("sha256", "model", "weights_sha256")
    return {part.model[name] for name in names if part.model.get(name)}
