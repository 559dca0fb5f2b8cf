"""What a server answers: typed, with what each number means."""

from pathlib import PurePath
from typing import Literal, Self

from pydantic import BaseModel, Field

from centerarc.gallery.calibration import Thresholds, Verdict
from centerarc.gallery.enrolment import Enrolled
from centerarc.gallery.gallery import Identity
from centerarc.gallery.store import Person, Photo
from centerarc.gallery.worker import Identified


class Box(BaseModel):
    """Where a face is, in pixels of the upright photo."""

    x: float = Field(description="Left edge.")
    y: float = Field(description="Upper edge.")
    width: float
    height: float


class CandidateAnswer(BaseModel):
    """Somebody whom a face may be."""

    person: int = Field(description="The person's number, which stays when the name changes.")
    name: str
    score: float = Field(description="Highest cosine similarity with a photo of theirs, -1 to 1.")


class FaceAnswer(BaseModel):
    """A face on a photo, and who it is."""

    box: Box
    detection: float | None = Field(description="How sure the detector was, 0 to 1.")
    name: str | None = Field(description="The name, if the verdict is accepted.")
    person: int | None = Field(description="The number of that person.")
    score: float | None = Field(description="The score of the best candidate.")
    verdict: Verdict = Field(
        description="accepted; unsure (between the thresholds, or as near to a second person); "
        "unknown (a stranger, or a face that cannot be judged); no threshold, where the gallery "
        "is not calibrated."
    )
    candidates: list[CandidateAnswer] = Field(description="The nearest people, best first.")
    strangers: float | None = Field(
        description="Share of the calibration's strangers who reach this score, 0 to 1."
    )
    refused: str | None = Field(
        description="Why the face is not judged: too small, bad landmarks, blurred, not finite."
    )
    detail: str | None = Field(description="The numbers behind that.")

    @classmethod
    def of(cls, one: Identity, candidates: int) -> Self:
        """Makes it of a face with a box."""
        face = one.face
        assert face is not None
        assert face.box is not None
        near = [
            CandidateAnswer(person=who.person, name=who.name, score=who.score)
            for who in one.candidates
        ]
        accepted = one.verdict == "accepted"
        return cls(
            box=Box(**dict(zip(("x", "y", "width", "height"), face.box, strict=True))),
            detection=face.score,
            name=one.name,
            person=near[0].person if accepted else None,
            score=near[0].score if near else None,
            verdict=one.verdict,
            candidates=near[:candidates],
            strangers=one.strangers,
            refused=face.refused or None,
            detail=face.detail or None,
        )


class ThresholdsAnswer(BaseModel):
    """When a face has a name."""

    accept: float = Field(description="From this score of the best person on it is the person.")
    reject: float = Field(description="Below this it is a stranger; between both it is unsure.")
    margin: float = Field(description="How far ahead of the second person it must be, too.")

    @classmethod
    def of(cls, limits: Thresholds) -> Self:
        """Makes it of thresholds."""
        return cls(accept=limits.accept, reject=limits.lower, margin=limits.margin)


class IdentifyAnswer(BaseModel):
    """Who is on a photo."""

    width: int = Field(description="Of the upright photo, in pixels.")
    height: int = Field(description="Of the upright photo, in pixels.")
    faces: list[FaceAnswer] = Field(description="All faces, the largest first.")
    reason: str | None = Field(description="Why there is no face.")
    thresholds: ThresholdsAnswer | None = Field(description="Null where there are none.")

    @classmethod
    def of(cls, found: Identified, limits: Thresholds | None, candidates: int) -> Self:
        """Makes it of what a worker found."""
        boxed = [one for one in found.faces if one.face is not None and one.face.box is not None]
        first = found.faces[0].face
        reason = None
        if not boxed and first is not None:
            reason = f"{first.refused}: {first.detail}" if first.detail else first.refused
        return cls(
            width=found.width,
            height=found.height,
            faces=[FaceAnswer.of(one, candidates) for one in boxed],
            reason=reason,
            thresholds=None if limits is None else ThresholdsAnswer.of(limits),
        )


class PersonAnswer(BaseModel):
    """Somebody in the gallery."""

    id: int = Field(description="A number that stays and is never given again.")
    name: str
    photos: int = Field(description="How many photos are enrolled.")

    @classmethod
    def of(cls, person: Person) -> Self:
        """Makes it of a person."""
        return cls(**person._asdict())


class PeopleAnswer(BaseModel):
    """A part of the people, by name."""

    total: int = Field(description="How many people there are.")
    people: list[PersonAnswer]


class PhotoAnswer(BaseModel):
    """A photo that was enrolled; the photo itself is not kept by the gallery."""

    id: int
    added: str = Field(description="When, in UTC (ISO 8601).")
    file: str = Field(description="The name of the file that it was enrolled from or is kept in.")
    sha256: str = Field(description="Of the photo's bytes.")

    @classmethod
    def of(cls, photo: Photo) -> Self:
        """Makes it of a photo."""
        return cls(
            id=photo.id, added=photo.added, file=PurePath(photo.place).name, sha256=photo.digest
        )


class PersonPhotosAnswer(PersonAnswer):
    """Somebody with the photos."""

    photo_list: list[PhotoAnswer] = Field(description="The first 1000, in order of enrolment.")


class EnrolledPhotoAnswer(BaseModel):
    """What became of one photo."""

    status: Literal["added", "known", "refused"] = Field(
        description="known: the same bytes are there already."
    )
    reason: str | None = Field(
        description="Of a refused photo why; of a known one whose it is, if another person's."
    )


class EnrolAnswer(BaseModel):
    """What became of photos, in the order in which they came."""

    person: PersonAnswer | None = Field(description="Null where there is no such person.")
    photos: list[EnrolledPhotoAnswer]

    @classmethod
    def of(cls, person: Person | None, photos: list[Enrolled]) -> Self:
        """Makes it of what the gallery says."""
        return cls(
            person=None if person is None else PersonAnswer.of(person),
            photos=[
                EnrolledPhotoAnswer(status=one.status, reason=one.reason or None) for one in photos
            ],
        )


class RemovedAnswer(BaseModel):
    """What is gone."""

    photos: int = Field(description="How many photos were removed.")


class NewName(BaseModel):
    """Another name for somebody."""

    name: str = Field(min_length=1, max_length=500)


class HealthAnswer(BaseModel):
    """Whether photos can be answered."""

    ready: bool
    gallery: bool = Field(description="Whether the gallery can be read.")


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str = Field(description="One line.")
