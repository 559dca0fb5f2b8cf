"""What becomes of photos that are to be enrolled."""

from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from centerarc.gallery.store import NewPhoto

if TYPE_CHECKING:
    from centerarc.gallery.faces import FoundFace


class Enrolled(NamedTuple):
    """What became of a photo that was to be enrolled.

    Args:
        place: The photo.
        person: The name of the person.
        status: "added", "known" (the same bytes are there already) or "refused".
        reason: Of what is refused; of what is known, whose it is if it is another person's; of what
            is added, that the face is one of several.
    """

    place: str
    person: str
    status: Literal["added", "known", "refused"]
    reason: str = ""


class Enrolment(NamedTuple):
    """A photo on its way into a gallery, and what is known of it so far.

    Args:
        name: Of the person, as it is kept.
        place: The photo.
        digest: SHA-256 of its bytes.
        problem: Why it is refused.
        held: Whose it is already.
        note: What is to be said of it though it is enrolled.
    """

    name: str
    place: str
    digest: bytes = b""
    problem: str = ""
    held: str | None = None
    note: str = ""

    @property
    def settled(self) -> bool:
        """Whether what becomes of it is known without an embedding."""
        return bool(self.problem) or self.held is not None

    def shows(self, face: "FoundFace", rule: str) -> Self:
        """Returns what is known once its face was found by a rule."""
        if face.embedding is None:
            return self._replace(problem=face.reason)
        if face.among == 1:
            return self
        return self._replace(note=f"one of {face.among} faces was taken (rule {rule!r})")

    def photo(self, face: "FoundFace") -> NewPhoto:
        """Returns what a store keeps of it, given its face, which has an embedding."""
        assert face.embedding is not None
        facts = {"box": face.box, "score": face.score, "side": face.side}
        facts["sharpness"] = face.sharpness
        return NewPhoto(self.digest, face.embedding, self.place, facts=facts)

    def outcome(self) -> Enrolled:
        """Returns what became of it."""
        if self.problem:
            return Enrolled(self.place, self.name, "refused", self.problem)
        if self.held is None:
            return Enrolled(self.place, self.name, "added", self.note)
        other = f"the same photo is there as {self.held}'s" if self.held != self.name else ""
        return Enrolled(self.place, self.name, "known", other)
