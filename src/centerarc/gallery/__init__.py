"""Who is this? People and their photos in a gallery, and who somebody is."""

from centerarc.gallery.calibration import GalleryCalibration, Thresholds, Verdict
from centerarc.gallery.enrolment import Enrolled
from centerarc.gallery.faces import (
    MIN_FACE,
    MIN_SHARPNESS,
    FoundFace,
    PhotoSource,
    Recognizer,
    Refusal,
    sharpness,
)
from centerarc.gallery.gallery import (
    Candidate,
    EnrolRule,
    Gallery,
    Identity,
    judged,
)
from centerarc.gallery.store import Person, Photo

__all__ = [
    "MIN_FACE",
    "MIN_SHARPNESS",
    "Candidate",
    "EnrolRule",
    "Enrolled",
    "FoundFace",
    "Gallery",
    "GalleryCalibration",
    "Identity",
    "Person",
    "Photo",
    "PhotoSource",
    "Recognizer",
    "Refusal",
    "Thresholds",
    "Verdict",
    "judged",
    "sharpness",
]
