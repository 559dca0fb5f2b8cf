"""What becomes of a photo, whoever enrols it."""

import numpy as np

from centerarc.gallery import FoundFace
from centerarc.gallery.enrolment import Enrolment

FACE = FoundFace(box=(1, 2, 3, 4), score=0.9, side=50, embedding=np.ones(1, np.float32))


def test_a_photo_is_added_refused_or_known() -> None:
    one = Enrolment("Ann", "a.jpg", b"d" * 32)
    assert not one.settled
    assert one.shows(FACE, "largest").outcome() == ("a.jpg", "Ann", "added", "")
    refused = one.shows(FoundFace("blurred", "0.3"), "largest")
    assert refused.settled
    assert refused.outcome() == ("a.jpg", "Ann", "refused", "blurred: 0.3")
    assert one._replace(held="Ann").outcome() == ("a.jpg", "Ann", "known", "")
    said = "the same photo is there as Bob's"
    assert one._replace(held="Bob").outcome() == ("a.jpg", "Ann", "known", said)


def test_a_face_among_several_is_said_once_it_is_added() -> None:
    face = FoundFace(embedding=FACE.embedding, among=3)
    one = Enrolment("Ann", "a.jpg").shows(face, "center")
    assert not one.settled
    assert one.outcome()[2:] == ("added", "one of 3 faces was taken (rule 'center')")


def test_a_store_keeps_what_was_measured_of_the_face() -> None:
    kept = Enrolment("Ann", "a.jpg", b"d" * 32).photo(FACE)
    assert (kept.digest, kept.place, kept.face) == (b"d" * 32, "a.jpg", 0)
    assert kept.facts == {"box": (1, 2, 3, 4), "score": 0.9, "side": 50, "sharpness": None}
