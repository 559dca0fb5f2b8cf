"""One thread that has the model: photos wait for it in a queue of bounded length."""

import hashlib
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from centerarc.data.decode import MAX_PIXELS, Image, decode_image
from centerarc.gallery.calibration import Thresholds
from centerarc.gallery.enrolment import Enrolled, Enrolment
from centerarc.gallery.gallery import EnrolRule, Gallery, Identity
from centerarc.gallery.store import NewPhoto, person_name

# People who are named for each face, at most.
MOST_CANDIDATES = 20
# What decoders say of a picture that is too large.
_TOO_LARGE = f"at most {MAX_PIXELS} are decoded"


class QueueFullError(Exception):
    """As much waits as may wait, or the server is about to end."""


class PhotoError(ValueError):
    """A photo that cannot be used; `too_large` where it has too many pixels."""

    @property
    def too_large(self) -> bool:
        """Whether it is the number of pixels."""
        return _TOO_LARGE in str(self)


class Identified(NamedTuple):
    """Who is on a photo.

    Args:
        width: Of the upright photo, in pixels.
        height: Of the same.
        faces: All faces, at least one entry; see `Gallery.identify`.
    """

    width: int
    height: int
    faces: list[Identity]


def enroll(
    gallery: Gallery,
    person: str,
    photos: Sequence[bytes],
    places: Sequence[str],
    rule: EnrolRule = "largest",
) -> list[Enrolled]:
    """Enrolls photos of one person, given as the bytes of their files, in one transaction.

    Args:
        gallery: With a recognizer.
        person: The name; who is not there is made.
        photos: The photos.
        places: What is kept as the place of each.
        rule: Which face of a photo is the person's; see `centerarc.curate.choose_faces`.

    Returns:
        What became of each.

    Raises:
        ValueError: If the name cannot be one, or the gallery has no recognizer.
    """
    if gallery.recognizer is None:
        raise ValueError("photos need a recognizer: give one when the gallery is opened")
    name = person_name(person)
    waiting = []
    for photo, place in zip(photos, places, strict=True):
        digest = hashlib.sha256(photo).digest()
        waiting.append(Enrolment(name, place, digest, held=gallery.store.holder(digest)))
    new = [at for at, one in enumerate(waiting) if not one.settled]
    rows: dict[int, NewPhoto] = {}
    every = gallery.recognizer.stream((photos[at] for at in new), rule=rule)
    for at, [face, *_] in zip(new, every, strict=True):
        waiting[at] = waiting[at].shows(face, rule)
        if not waiting[at].settled:
            rows[at] = waiting[at].photo(face)
    said = gallery.store.add([(name, row) for row in rows.values()]) if rows else []
    for at, held in zip(rows, said, strict=True):
        waiting[at] = waiting[at]._replace(held=held or None)
    return [one.outcome() for one in waiting]


@dataclass(eq=False)
class _Job:
    """Work that waits: a photo to identify, or with a name photos to enrol."""

    photos: Sequence[bytes]
    person: str | None = None
    places: Sequence[str] = ()
    rule: EnrolRule = "largest"
    result: "Future[Any]" = field(default_factory=Future)


class Worker:
    """Identifies and enrols, one after the other, in a thread of its own.

    Photos to identify that wait together are embedded and searched together.

    Args:
        gallery: With a recognizer; changes that other processes make are seen.
        queue: Photos that may wait, at most.
        batch: Photos that are taken together, at most.
        thresholds: When a face has a name; by default those of the gallery's calibration.

    Raises:
        ValueError: If the gallery has no recognizer.
    """

    def __init__(
        self,
        gallery: Gallery,
        *,
        queue: int = 32,
        batch: int = 8,
        thresholds: Thresholds | None = None,
    ) -> None:
        if gallery.recognizer is None:
            raise ValueError("a gallery that is served needs a recognizer")
        self.gallery = gallery
        self.recognizer = gallery.recognizer
        self.queue = queue
        self.batch = batch
        self.fixed_thresholds = thresholds
        self.seconds_per_photo = 0.1
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._ending = False
        self._thread = threading.Thread(target=self._work, name="recognizer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Photos that wait."""
        with self._changed:
            return self._count()

    @property
    def is_full(self) -> bool:
        """Whether no further photo may wait."""
        return self.waiting >= self.queue

    @property
    def alive(self) -> bool:
        """Whether it takes work."""
        return self._thread.is_alive() and not self._ending

    @property
    def thresholds(self) -> Thresholds | None:
        """When a face has a name."""
        return self.fixed_thresholds or self.gallery.thresholds

    @property
    def patience(self) -> int:
        """Whole seconds after which what waits will be done, about."""
        return 1 + int(self.waiting * self.seconds_per_photo)

    def identify(self, photo: bytes) -> "Future[Identified]":
        """Says who is on a photo.

        Args:
            photo: The bytes of an image file.

        Returns:
            What will be the result, or `PhotoError`.

        Raises:
            QueueFullError: If too many wait.
        """
        return self._put(_Job([photo]))

    def enroll(
        self, person: str, photos: Sequence[bytes], places: Sequence[str], rule: EnrolRule
    ) -> "Future[list[Enrolled]]":
        """Enrols photos of a person, all in one transaction; see `enroll`.

        Raises:
            QueueFullError: If too many wait.
        """
        return self._put(_Job(photos, person, places, rule))

    def close(self) -> None:
        """Finishes what waits and ends."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._thread.join()

    def _count(self) -> int:
        return sum(len(job.photos) for job in self._waiting)

    def _put(self, job: _Job) -> "Future[Any]":
        with self._changed:
            # A request of many photos may wait alone; what is larger than the queue never could.
            full = self._waiting and self._count() + len(job.photos) > self.queue
            if self._ending or full:
                raise QueueFullError
            self._waiting.append(job)
            self._changed.notify()
        return job.result

    def _work(self) -> None:
        while jobs := self._next():
            begun = time.perf_counter()
            self._do(jobs)
            took = (time.perf_counter() - begun) / sum(len(job.photos) for job in jobs)
            self.seconds_per_photo += 0.1 * (took - self.seconds_per_photo)

    def _next(self) -> list[_Job]:
        """The next jobs to do together; none at the end."""
        with self._changed:
            jobs: list[_Job] = []
            while not jobs and not (self._ending and not self._waiting):
                if not self._waiting:
                    self._changed.wait()
                self._take(jobs)
            return jobs

    def _take(self, jobs: list[_Job]) -> None:
        while self._waiting and len(jobs) < self.batch:
            if jobs and (jobs[0].person is not None or self._waiting[0].person is not None):
                break
            job = self._waiting.popleft()
            if job.result.set_running_or_notify_cancel():
                jobs.append(job)

    def _do(self, jobs: list[_Job]) -> None:
        first = jobs[0]
        try:
            if first.person is not None:
                first.result.set_result(
                    enroll(self.gallery, first.person, first.photos, first.places, first.rule)
                )
            else:
                self._identify(jobs)
        except Exception as error:
            if len(jobs) == 1:
                if not first.result.done():
                    first.result.set_exception(error)
                return
            for job in jobs:  # one of them is at fault
                if not job.result.done():
                    self._do([job])

    def _identify(self, jobs: Sequence[_Job]) -> None:
        kept: list[tuple[_Job, int, int]] = []

        def photos() -> Iterator[Image]:
            for job in jobs:  # one at a time, as a decoded photo is large
                try:
                    photo = decode_image(job.photos[0])
                except ValueError as error:
                    job.result.set_exception(PhotoError(str(error)))
                    continue
                kept.append((job, photo.shape[1], photo.shape[0]))
                yield photo

        every = list(self.recognizer.stream(photos(), rule="all"))
        rows = [face.embedding for faces in every for face in faces if face.embedding is not None]
        known = iter(
            self.gallery.identify_embeddings(
                np.stack(rows), self.thresholds, candidates=MOST_CANDIDATES
            )
            if rows
            else ()
        )
        for (job, width, height), faces in zip(kept, every, strict=True):
            found = []
            for face in faces:
                one = next(known) if face.embedding is not None else Identity("unknown", ())
                found.append(Identity(one.verdict, one.candidates, one.strangers, face))
            job.result.set_result(Identified(width, height, found))
