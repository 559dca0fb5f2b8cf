"""Faces of known people, found on photos, kept as embeddings and searched."""

from centerarc.gallery.faces import (
    MIN_FACE,
    MIN_SHARPNESS,
    FoundFace,
    PhotoSource,
    Recognizer,
    Refusal,
    sharpness,
)

__all__ = [
    "MIN_FACE",
    "MIN_SHARPNESS",
    "FoundFace",
    "PhotoSource",
    "Recognizer",
    "Refusal",
    "sharpness",
]
