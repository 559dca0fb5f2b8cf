"""A gallery: people, their photos as embeddings of one model, and who somebody is."""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from centerarc import __version__
from centerarc.evaluation.embedding import Part, write_npz, write_parquet
from centerarc.evaluation.embedding import file_format as embedding_format
from centerarc.evaluation.scores import check_embeddings, row_blocks
from centerarc.gallery.calibration import GalleryCalibration, Thresholds, Verdict, calibrated
from centerarc.gallery.enrolment import Enrolled, Enrolment
from centerarc.gallery.search import Float32Array
from centerarc.gallery.store import (
    NewPhoto,
    Person,
    Photo,
    create_store,
    open_store,
    person_name,
)
from centerarc.io.files import atomic_path, read_file

if TYPE_CHECKING:
    from centerarc.gallery.faces import FoundFace, Recognizer

EnrolRule = Literal["largest", "center", "score", "only"]
"""Which face of an enrolled photo is the person's; see `centerarc.curate.choose_faces`."""
# So many times the people of its calibration outgrow it.
_OUTGROWN = 1.25
# Embeddings that are enrolled in one transaction, at most.
_AT_ONCE = 50_000


class Candidate(NamedTuple):
    """Somebody whom a face may be.

    Args:
        person: The person's number.
        name: The person's name.
        score: The highest cosine similarity with a photo of theirs, -1 to 1.
        photo: The number of that photo.
    """

    person: int
    name: str
    score: float
    photo: int


def judged(candidates: Sequence[Candidate], limits: Thresholds) -> Verdict:
    """Returns what a face is, given who is nearest, the nearest first.

    Example:
        >>> judged([Candidate(1, "Ann", 0.45, 7)], Thresholds(0.5, reject=0.4))
        'unsure'
    """
    if not candidates or candidates[0].score < limits.lower:
        return "unknown"
    close = len(candidates) > 1 and candidates[0].score - candidates[1].score < limits.margin
    return "unsure" if close or candidates[0].score < limits.accept else "accepted"


@dataclass(frozen=True)
class Identity:
    """Who a face is.

    Args:
        verdict: "accepted", "unsure" (between the thresholds, or as near to a second person),
            "unknown" (a stranger), or "no threshold" where none was given or calibrated.
        candidates: The nearest people, the nearest first.
        strangers: The share of strangers, among those of the calibration, who reach the score of
            the nearest person; None without a calibration.
        face: Where the face is; None of an embedding.
    """

    verdict: Verdict
    candidates: tuple[Candidate, ...]
    strangers: float | None = None
    face: "FoundFace | None" = None

    @property
    def name(self) -> str | None:
        """The name, if it is accepted."""
        return self.candidates[0].name if self.verdict == "accepted" else None


class Gallery:
    """People and their photos in one file or database, and who a face is.

    Args:
        path: The gallery's file, or where it is in a PostgreSQL database with pgvector:
            `postgresql://user@host/database?gallery=people`.
        recognizer: Makes embeddings of photos; without one the gallery takes embeddings alone.

    Raises:
        ValueError: If there is no such gallery, or it has embeddings of another model.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> gallery = Gallery.create(f"{folder.name}/people.db", embedding_size=3)
        >>> [one.status for one in gallery.add_embeddings(["Ann", "Bob"], [[1, 0, 0], [0, 1, 0]])]
        ['added', 'added']
        >>> found = gallery.identify_embeddings([[0.9, 0.1, 0]], Thresholds(0.5))
        >>> found[0].name, round(found[0].candidates[0].score, 3)
        ('Ann', 0.994)
        >>> gallery.close()
        >>> folder.cleanup()
    """

    def __init__(
        self, path: str | os.PathLike[str], recognizer: "Recognizer | None" = None
    ) -> None:
        self.store = open_store(path)
        self.recognizer = recognizer
        try:
            if recognizer is not None:
                self._check_model(recognizer)
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        recognizer: "Recognizer | None" = None,
        *,
        embedding_size: int | None = None,
        facts: dict[str, str] | None = None,
    ) -> Self:
        """Makes an empty gallery.

        Args:
            path: A file that is not there yet, or a URL; see `Gallery`.
            recognizer: Makes its embeddings.
            embedding_size: D, where there is no recognizer.
            facts: Further texts to keep in it.

        Raises:
            ValueError: If there is something at the path, or not exactly one of recognizer and
                `embedding_size` is given.
        """
        if (recognizer is None) == (embedding_size is None):
            raise ValueError("give either recognizer or embedding_size")
        if recognizer is not None:
            size = _embedding_size(recognizer)
        elif not 1 <= (size := embedding_size or 0) <= 1 << 16:
            raise ValueError(f"embedding_size must be between 1 and {1 << 16}, got {size}")
        kept = {"size": str(size), "made_by": __version__, "model": ""} | (facts or {})
        if recognizer is not None:
            kept["identity"] = json.dumps(recognizer.identity)
            kept["settings"] = json.dumps(recognizer.settings)
        create_store(path, kept).close()
        return cls(path, recognizer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file or the connection."""
        self.store.close()

    def _check_model(self, recognizer: "Recognizer") -> None:
        kept = self.store.facts.get("identity")
        if kept is None:
            raise ValueError(
                f"{self.store.place!r} holds embeddings that were given as numbers, so no "
                "model may add to it; make another gallery for photos"
            )
        with self.store.undamaged("what it keeps of its model"):
            there = dict(json.loads(kept))
        here = recognizer.identity
        for name in sorted(there.keys() | here.keys()):
            if there.get(name) != here.get(name):
                raise ValueError(
                    f"{self.store.place!r} holds embeddings of another model: {name} is "
                    f"{there.get(name)!r} there and {here.get(name)!r} here; use its model, or "
                    "make a new gallery"
                )

    def _recognizer(self) -> "Recognizer":
        if self.recognizer is None:
            raise ValueError("photos need a recognizer: give one when the gallery is opened")
        return self.recognizer

    # Who is in it.

    def people(self) -> list[Person]:
        """Returns everybody, by name."""
        return self.store.people()

    def person(self, who: str | int) -> Person:
        """Returns somebody by name or number; `ValueError` if there is no one."""
        return self.store.person(who)

    def photos(self, who: str | int | None = None) -> Iterator[Photo]:
        """Yields the photos of somebody, or of all, in the order in which they were enrolled."""
        return self.store.photos(None if who is None else self.person(who).id)

    def rename(self, who: str | int, name: str) -> None:
        """Gives somebody another name; `ValueError` if someone else has it."""
        self.store.rename(self.person(who).id, name)

    def remove(self, who: str | int) -> int:
        """Removes somebody with all photos, and returns how many those were.

        The rows are overwritten in the file; copies and backups of it are not. What a database
        keeps of them is said in the documentation.
        """
        return self.store.remove(people=[self.person(who).id])

    def remove_photos(self, photos: Iterable[int]) -> int:
        """Removes photos by their numbers, and returns how many were there."""
        return self.store.remove(photos=list(photos))

    # Enrolment.

    def add_folder(
        self,
        root: str | os.PathLike[str],
        *,
        rule: EnrolRule = "largest",
        progress: Callable[[int, int], Any] | None = None,
    ) -> Iterator[Enrolled]:
        """Enrols a folder of `<person>/<photo>`; see `add_photos`.

        Photos that lie in the folder itself are nobody's, and refused.
        """
        from centerarc.curate.photos import PhotoTree

        tree = PhotoTree(Path(root))
        for path, reason in tree.left_out:
            yield Enrolled(str(Path(root) / path), "", "refused", reason)
        named = []
        for photo in tree.photos:
            place, parts = Path(root) / photo.path, PurePath(photo.path).parts
            if len(parts) < 2:
                reason = f"it is in no person's folder: put it into {root}/<person>/"
                yield Enrolled(str(place), "", "refused", reason)
            else:
                named.append((parts[0], place))
        yield from self._add(named, rule, progress)

    def add_photos(
        self,
        person: str,
        photos: Iterable[str | os.PathLike[str]],
        *,
        rule: EnrolRule = "largest",
        progress: Callable[[int, int], Any] | None = None,
    ) -> Iterator[Enrolled]:
        """Enrols photos of one person, and yields what became of each.

        Each is one transaction: whoever is killed loses at most those in hand, and the same call
        continues, since photos that are there are known by their bytes.

        Args:
            person: The name; who is not there is made.
            photos: Paths.
            rule: Which face of a photo is the person's; see `centerarc.curate.choose_faces`.
            progress: Called with the number of photos done and of all.
        """
        yield from self._add([(person, Path(photo)) for photo in photos], rule, progress)

    def _add(
        self,
        named: Sequence[tuple[str, Path]],
        rule: EnrolRule,
        progress: Callable[[int, int], Any] | None,
    ) -> Iterator[Enrolled]:
        recognizer = self._recognizer()
        waiting: deque[Enrolment] = deque()

        def photos() -> Iterator[bytes]:
            for name, path in named:
                try:
                    kept, content = person_name(name), read_file(path)
                except (OSError, ValueError) as error:
                    waiting.append(Enrolment(name, str(path), problem=str(error)))
                    continue
                digest = hashlib.sha256(content).digest()
                held = self.store.holder(digest)
                waiting.append(Enrolment(kept, str(path), digest, held=held))
                if held is None:  # else it need not be embedded again
                    yield content

        done = 0
        stream = recognizer.stream(photos(), rule=rule)
        while done < len(named):
            found = next(stream, None)
            # Those before it that need no embedding come first, so that the order is kept.
            while waiting and (waiting[0].settled or found is not None):
                one = waiting.popleft()
                if one.settled:
                    yield one.outcome()
                else:
                    assert found is not None
                    yield self._enrol(one, found[0], rule)
                    found = None
                done += 1
                if progress is not None:
                    progress(done, len(named))

    def _enrol(self, one: Enrolment, face: "FoundFace", rule: str) -> Enrolled:
        one = one.shows(face, rule)
        if not one.settled:
            held = self.store.add([(one.name, one.photo(face))])[0]
            one = one._replace(held=held or None)
        return one.outcome()

    def add_embeddings(
        self,
        people: Sequence[str],
        embeddings: npt.ArrayLike,
        places: Sequence[str] | None = None,
    ) -> list[Enrolled]:
        """Enrols embeddings, of any length but 0, in one transaction for each 50,000.

        Args:
            people: `(N,)` names.
            embeddings: `(N, D)`.
            places: `(N,)` where each comes from.

        Raises:
            ValueError: If shapes do not fit, or an embedding is not finite or has length 0.
        """
        values = self._unit(embeddings, "embeddings")
        named = [""] * len(values) if places is None else list(places)
        for label, texts in (("people", people), ("places", named)):
            if len(texts) != len(values):
                raise ValueError(f"{label} must have {len(values)} names, got {len(texts)}")
        result = []
        for part in row_blocks(len(values), _AT_ONCE):
            rows = [
                (name, NewPhoto(hashlib.sha256(row.tobytes()).digest(), row, place))
                for name, row, place in zip(people[part], values[part], named[part], strict=True)
            ]
            said = self.store.add(rows)
            result += [
                Enrolment(person_name(name), new.place, held=held or None).outcome()
                for (name, new), held in zip(rows, said, strict=True)
            ]
        return result

    def _unit(self, embeddings: npt.ArrayLike, name: str) -> Float32Array:
        values, lengths = check_embeddings(embeddings, name)
        size = int(self.store.facts["size"])
        if values.shape[1] != size:
            raise ValueError(
                f"{name} must have {size} numbers each, as those of the gallery, got "
                f"{values.shape[1]}"
            )
        unit = np.empty(values.shape, np.float32)
        for part in row_blocks(len(values), _AT_ONCE):
            unit[part] = values[part] / lengths[part, None]
        return unit

    # Who somebody is.

    @property
    def thresholds(self) -> Thresholds | None:
        """Those that the last calibration chose; None before one."""
        kept = self.store.facts.get("thresholds")
        with self.store.undamaged("its calibration"):
            return None if kept is None else Thresholds(**json.loads(kept))

    @property
    def outgrown(self) -> str:
        """Why the calibration does not hold any more, in words; empty while it does, or without it.

        The share of strangers who get a name grows with the people that they are compared with.
        """
        kept = self.store.facts.get("calibration")
        if kept is None:
            return ""
        with self.store.undamaged("its calibration"):
            then = int(json.loads(kept)["people"])
        now = sum(1 for one in self.people() if one.photos)
        if now <= _OUTGROWN * then:
            return ""
        return f"calibrated with {then:,} people, and there are {now:,} now: calibrate again"

    def identify(
        self,
        photos: Iterable[str | os.PathLike[str] | bytes | npt.NDArray[np.uint8]],
        thresholds: Thresholds | None = None,
        *,
        candidates: int = 3,
    ) -> Iterator[list[Identity]]:
        """Yields who is on each photo: all faces, the largest first.

        A face that cannot be judged, such as a blurred one, is "unknown" without candidates; its
        `face.refused` says why. A photo without a face has one such entry.

        Args:
            photos: Paths, bytes of image files, or `(H, W, 3)` uint8 RGB.
            thresholds: When a face has a name; by default those of the calibration.
            candidates: How many people are named for each face, at most.
        """
        for faces in self._recognizer().stream(photos, rule="all"):
            sound = [face.embedding for face in faces if face.embedding is not None]
            known = iter(self._identify(np.array(sound), thresholds, candidates) if sound else [])
            found = []
            for face in faces:
                one = next(known) if face.embedding is not None else Identity("unknown", ())
                found.append(Identity(one.verdict, one.candidates, one.strangers, face))
            yield found

    def identify_embeddings(
        self,
        embeddings: npt.ArrayLike,
        thresholds: Thresholds | None = None,
        *,
        candidates: int = 3,
    ) -> list[Identity]:
        """Returns who each of `(Q, D)` embeddings is; see `identify`."""
        return self._identify(self._unit(embeddings, "embeddings"), thresholds, candidates)

    def _identify(
        self, queries: Float32Array, thresholds: Thresholds | None, count: int
    ) -> list[Identity]:
        if count < 1:
            raise ValueError(f"candidates must be at least 1, got {count}")
        limits = self.thresholds if thresholds is None else thresholds
        found = self.store.search(queries, max(count, 2))  # the second decides on the margin
        names = self.store.names(found.person)
        shares = self._stranger_scores()
        result = []
        for row in zip(
            found.person.tolist(), found.score.tolist(), found.row.tolist(), strict=True
        ):
            near = tuple(
                Candidate(person, names[person], score, photo)
                for person, score, photo in zip(*row, strict=True)
                if person in names
            )
            verdict: Verdict = "no threshold" if limits is None else judged(near, limits)
            share = None
            if shares is not None and near:
                below = int(np.searchsorted(shares, near[0].score, side="left"))
                share = (len(shares) - below) / len(shares)
            result.append(Identity(verdict, near[:count], share))
        return result

    def _stranger_scores(self) -> npt.NDArray[np.float64] | None:
        kept = self.store.facts.get("stranger_scores")
        with self.store.undamaged("its calibration"):
            return None if kept is None else np.array(json.loads(kept), np.float64)

    # As a whole.

    def calibrate(
        self,
        fpir: float = 0.01,
        *,
        fnir: float = 0.01,
        confidence: float = 0.95,
        unsure: bool = False,
        margin: bool = False,
        extrapolate: bool = False,
        bootstrap: int = 1000,
        seed: int = 0,
    ) -> GalleryCalibration:
        """Chooses thresholds by the gallery's own photos, and keeps them.

        Each photo is compared with all others, once as one of its person, once as a stranger's:
        with its whole person left out.

        Args:
            fpir: Wanted share of strangers' photos that get a name, at most, in (0, 1).
            fnir: For `unsure`: share of enrolled people's photos that may score below `reject`.
            confidence: Of all intervals, in (0, 1).
            unsure: Choose a second threshold, `reject`, below `accept`.
            margin: Also ask that the best person is ahead of the second one, where that recognizes
                more at the same FPIR.
            extrapolate: Take the threshold from the distribution of the highest strangers' scores,
                beyond what people were measured; for rates that the gallery is too small for.
            bootstrap: Resamples of people, at least 100.
            seed: Of these.

        Returns:
            What was chosen, and all that was measured.

        Raises:
            ValueError: If there are fewer than two people, an argument is out of range, or the tail
                has too few scores to be extrapolated.
        """
        found = calibrated(
            self,
            fpir,
            fnir,
            confidence,
            unsure=unsure,
            margin=margin,
            extrapolate=extrapolate,
            bootstrap=bootstrap,
            seed=seed,
        )
        self.store.keep(**found.facts())
        return found

    def export(self, path: str | os.PathLike[str]) -> int:
        """Writes all embeddings into a file as `centerarc embed` does, .parquet or .npz.

        Returns:
            How many there are.

        Raises:
            ValueError: If the gallery is empty, or the name of the file has another end.
        """
        target = Path(path)
        kind = embedding_format(target)
        (embedding, photos, names), facts = self.store.whole(), self.store.facts
        if not photos:
            raise ValueError(f"{self.store.place!r} has no photo to export")
        places = [photo.place or f"photo {photo.id}" for photo in photos]
        whole = Part(places, [names[photo.person] for photo in photos], embedding)
        with self.store.undamaged("what it keeps of its model"):
            identity = dict(json.loads(facts.get("identity", "{}")))
        metadata = {**identity, "model_file": facts["model"], "version": __version__}
        write = write_parquet if kind == "parquet" else write_npz
        with atomic_path(target) as temporary:
            write(temporary, lambda _: [whole], embedding.shape[1], metadata)
        return len(places)

    def check(self) -> Iterator[str]:
        """Yields what is wrong with the gallery, in words; nothing if all is well."""
        yield from self.store.problems()
        for read in (lambda: self.thresholds, lambda: self.outgrown, self._stranger_scores):
            try:
                read()
            except ValueError as error:
                yield str(error)
                break
        for person in self.people():
            if not person.photos:
                yield f"{person.name} (person {person.id}) has no photo"


def _embedding_size(recognizer: "Recognizer") -> int:
    size = recognizer.model.image_size
    return int(recognizer.model.embedder.embed(np.zeros((1, size, size, 3), np.uint8)).shape[1])
