"""What is judged: a model or embeddings, and who it was trained on."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from centerarc.data.source import FaceSource, composed, namesakes
from centerarc.data.views import read_identities
from centerarc.evaluation.embedding import Embeddings, check_usable, embed, read_embeddings
from centerarc.evaluation.protocols.judging import Evaluation
from centerarc.evaluation.same_pictures import Embedded, picture_digest, thumbnail
from centerarc.evaluation.scores import IntArray
from centerarc.io.parallel import explain_dead_workers
from centerarc.io.yaml_file import read_yaml

if TYPE_CHECKING:
    from centerarc.models.opened import OpenedModel


def trained_people(weights: Path) -> list[str]:
    """Returns the people that a model was trained on, as its run wrote them beside the weights."""
    from centerarc.models.weights import PEOPLE_FILE

    file = weights.parent / PEOPLE_FILE
    return read_identities(file) if file.is_file() else []


def recipe_of(weights: Path) -> dict[str, Any]:
    """Returns the settings that a run wrote beside its weights; none where there are no such."""
    file = weights.parent / "config.yaml"
    if weights.suffix != ".safetensors" or not file.is_file():
        return {}
    try:
        return read_yaml(file)
    except (OSError, ValueError):
        return {}  # which is no reason not to judge the weights


def warn_of_trained_people(evaluation: Evaluation, trained: Sequence[str]) -> Evaluation:
    """Returns the evaluation with a note, and names in its data, if people were trained on."""
    images = evaluation.images
    if images.labels is None or not trained:
        return evaluation
    judged = {images.identities[label] for label in np.unique(images.labels).tolist()}
    both = sorted(namesakes(judged, trained))
    data = {**evaluation.data, "people_trained_on": both}
    if not both:
        return replace(evaluation, data=data)
    note = (
        f"{len(both):,} of the {len(judged):,} people have the name of somebody the model was "
        "trained on: if they are the same people, the results are better than they would be on "
        "others (--json has the names)"
    )
    return replace(evaluation, data=data, notes=(note, *evaluation.notes))


Matrix = npt.NDArray[np.float32]
# Called with what is being done, the steps done so far and all of them.
Progress = Callable[[str, int, int], Any]
_SHOWN = 3


class ModelSubject:
    """A model as what is judged.

    Args:
        model: From `open_model`.
        mirror: Sum the features of each image and of its mirror image.
        batch_size: Images at once, at least 1.
        workers: Decoding processes; 0 decodes in this one.

    Attributes:
        trained_on: Names of the people that the model was trained on, as far as known.
    """

    def __init__(
        self,
        model: "OpenedModel",
        *,
        mirror: bool = False,
        batch_size: int = 64,
        workers: int = 0,
    ) -> None:
        self.model = model
        self.mirror = mirror
        self.trained_on = trained_people(model.path) if model.kind == "weights" else []
        self._batch_size = batch_size
        self._workers = workers

    @property
    def image_size(self) -> int | None:
        """Side of the images that the model takes."""
        return self.model.image_size

    def embed(self, source: FaceSource, progress: Progress | None = None) -> Embedded:
        """Returns the images of a source embedded; each embedding is finite and longer than 0.

        Raises:
            ValueError: If one of them is neither, or there is none; the message names the image.
                If the embedding of an image depends on the batch, or the model takes the middle
                of square images and these are not square.
        """
        from centerarc.models.embedder import check_square

        check_square(source, self.model.preprocessing)
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            check_usable(checked.found, lambda row: source.place(done + row), self.model.name)
            done += count
            if progress is not None:
                progress("embedding", done, len(source))

        checked = _Digested(self.model)
        advance(0)
        with explain_dead_workers(self._workers):
            embedding = embed(
                checked,
                source,
                batch_size=self._batch_size,
                mirror=self.mirror,
                workers=self._workers,
                progress=advance,
            )
        # Before these come the images that it is tried on.
        own = slice(-len(source), None)
        digests = np.array(checked.digests[own])
        return Embedded(embedding, digests, np.array(checked.thumbnails[own]))

    def facts(self) -> dict[str, Any]:
        """Returns the file, its digest and what becomes of an image."""
        return {
            "file": self.model.name,
            "kind": self.model.kind,
            "sha256": self.model.sha256,
            **self.model.identity,
            "preprocessing": self.model.preprocessing.to_dict(),
            "mirror": self.mirror,
            **({"recipe": recipe} if (recipe := recipe_of(self.model.path)) else {}),
        }


class EmbeddingsSubject:
    """A file of embeddings as what is judged, its rows found by their places.

    Args:
        path: The file, for messages.
        found: What it holds, from `read_embeddings`.

    Attributes:
        found: What it holds.

    Raises:
        ValueError: If two rows have one place, or an embedding has length 0; the message has the
            rows.
    """

    image_size: int | None = None

    def __init__(self, path: Path, found: Embeddings) -> None:
        self.path = path
        self.found = found
        self.row_of: dict[str, int] = {}
        for row, name in enumerate(found.places):
            first = self.row_of.setdefault(name, row)
            if first != row:
                raise ValueError(
                    f"{str(path)!r}: rows {first} and {row}, counted from 0, are both of {name!r}"
                )
        zero = np.flatnonzero(~found.embedding.any(axis=1))
        if zero.size:
            raise ValueError(
                f"{str(path)!r}: the embedding in row {zero[0]} ({found.places[zero[0]]!r}), "
                "counted from 0, has length 0"
            )

    def rows(self, names: Sequence[str]) -> IntArray:
        """Returns the rows of places, in any Unicode form.

        Raises:
            ValueError: If some of them are not there; the message has the first few.
        """
        if missing := self.absent(names):
            shown = ", ".join(map(repr, missing[:_SHOWN]))
            more = ", ..." if len(missing) > _SHOWN else ""
            raise ValueError(
                f"{str(self.path)!r} lacks {len(missing)} of {len(names)} images: {shown}{more}"
            )
        rows = [self._any_form.get(name, self._any_form.get(composed(name), -1)) for name in names]
        return np.array(rows, dtype=np.int64)

    def absent(self, names: Sequence[str]) -> list[str]:
        """Returns the places that are not there, in any Unicode form."""
        known = self._any_form
        return [name for name in names if name not in known and composed(name) not in known]

    @cached_property
    def _any_form(self) -> dict[str, int]:
        return {composed(name): row for name, row in self.row_of.items()} | self.row_of

    def embed(self, source: FaceSource, progress: Progress | None = None) -> Embedded:
        """Returns the embeddings of a source's images, by their places; as `ModelSubject.embed`."""
        rows = self.rows([source.place(number) for number in range(len(source))])
        return Embedded(self.found.embedding[rows])

    def facts(self) -> dict[str, Any]:
        """Returns the file, and what it says of the model that made it."""
        return {"file": str(self.path), "kind": "embeddings", **self.found.metadata}


Subject = ModelSubject | EmbeddingsSubject
"""What a protocol judges: a model, or its embeddings in a file."""


def opened_embeddings(path: str | os.PathLike[str]) -> EmbeddingsSubject:
    """Opens a file of embeddings as what is judged.

    Raises:
        ValueError: If the file is broken, or an embedding in it; the message has file and row.
    """
    return EmbeddingsSubject(Path(path), read_embeddings(path))


class _Digested:
    """An embedder that digests all images, and keeps what it found last."""

    def __init__(self, model: "OpenedModel") -> None:
        self.path = model.name
        self._model = model
        self.found: Matrix = np.zeros((0, 1), np.float32)
        self.digests: list[npt.NDArray[np.uint64]] = []
        self.thumbnails: list[npt.NDArray[np.uint8]] = []

    @property
    def image_size(self) -> int | None:
        return self._model.image_size

    def embed(self, images: npt.NDArray[np.uint8], *, mirror: bool = False) -> Matrix:
        self.found = self._model.embedder.embed(images, mirror=mirror)
        self.digests += map(picture_digest, images)
        self.thumbnails += map(thumbnail, images)
        return self.found
