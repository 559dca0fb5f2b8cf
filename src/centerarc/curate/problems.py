"""The problems that a check finds, and the file that lists them."""

import csv
import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from centerarc.io.files import atomic_path

# The problems that a check finds: their kinds, severities, and the file that lists them.

COLUMNS = ("place", "identity", "problem", "severity", "detail")
Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Kind:
    """A kind of problem.

    Args:
        severity: "error": must not be trained on; "warning": look at it; "note": good to know.
        meaning: What it is and what follows from it, a sentence or two.
        of_image: Whether it names images, which a training can leave out.
    """

    severity: Severity
    meaning: str
    of_image: bool = True


# In the order in which reports show them.
KINDS: dict[str, Kind] = {
    "checksum": Kind(
        "error",
        "A file of the data is not what its manifest says: it was changed or damaged on the way.",
        of_image=False,
    ),
    "empty": Kind("error", "The file has no bytes."),
    "truncated": Kind("error", "The file ends before its image does."),
    "unreadable": Kind("error", "The image cannot be decoded, or its file cannot be read."),
    "blank": Kind("error", "All pixels have one colour, so there is nobody to learn."),
    "duplicate across identities": Kind(
        "error",
        "One picture belongs to several people. At least one label is wrong, and nothing in the "
        "pictures says which, so all of them are listed.",
    ),
    "near duplicate across identities": Kind(
        "warning",
        "Almost the same picture belongs to two people: most often one photograph, cropped or "
        "saved again under another name, sometimes two shots of one moment.",
    ),
    "other person": Kind(
        "warning",
        "By the model, the image does not look like its identity and does look like another one.",
    ),
    "two people": Kind(
        "warning",
        "By the model, the images of an identity fall into two groups as unlike as two people; "
        "those of the smaller group are listed.",
    ),
    "two names": Kind(
        "warning",
        "By the model, two identities are one person; the images of the smaller one are listed. "
        "Joining the two is better than leaving one out.",
    ),
    "out of reach": Kind(
        "warning",
        "Images, by their names, that are not trained on because they lie outside a person's "
        "folder or in a folder inside it, or because a link or a folder cannot be followed.",
        of_image=False,
    ),
    "unread format": Kind(
        "warning",
        "A picture in a format that is not read, so it is not trained on: save it as JPEG or PNG.",
        of_image=False,
    ),
    "one identity under two spellings": Kind(
        "warning",
        "Two identities whose names differ only in case or in how their letters are encoded "
        "(Unicode normal form): almost surely one person, learned as two. Join them.",
        of_image=False,
    ),
    "tiny": Kind("warning", "The shorter side has fewer pixels than a face needs."),
    "duplicate": Kind(
        "note", "The same picture again within one identity: harmless, but it counts twice."
    ),
    "near duplicate": Kind("note", "Almost the same picture again within one identity."),
    "grey": Kind("note", "The image has no colour; it is trained on as grey."),
    "wrong extension": Kind("note", "The file's format is another than its name says."),
    "animated": Kind("note", "The file holds several pictures; the first one is used."),
    "left out": Kind("note", "The source does not serve this; it was left out when opened."),
}


@dataclass(frozen=True)
class Problem:
    """One problem of one image, or of a file of the data.

    Args:
        place: Where the image is, as its source names it.
        identity: Whose it is; "" where nobody is meant.
        problem: A kind in `KINDS`.
        detail: The particulars, in a few words.
        index: Number of the image in the source; None if the source does not serve it.
        other: Number of the image that it is compared with, if any.
        confidence: Chance that it is as said, for what a model judged; None elsewhere.
    """

    place: str
    identity: str
    problem: str
    detail: str
    index: int | None = None
    other: int | None = None
    confidence: float | None = None

    @property
    def severity(self) -> Severity:
        """How bad it is: that of its kind."""
        return KINDS[self.problem].severity


def write_problems(
    path: str | os.PathLike[str],
    problems: Iterable[Problem],
    *,
    least: Severity = "error",
) -> int:
    """Writes the images that a training should leave out as CSV, which `read_leave_out` reads.

    Every row names an image, so the whole file is what is left out. Kinds that name no image,
    such as a wrong checksum of an archive, are not in it.

    Args:
        path: The file to write: columns place, identity, problem, severity, detail (RFC 4180,
            UTF-8; bytes of a name that are no UTF-8 stay as they are). Complete or absent.
        problems: What was found, in the order wanted.
        least: The mildest severity to write.

    Returns:
        The number of rows.
    """
    wanted = SEVERITIES[: SEVERITIES.index(least) + 1]
    rows = [p for p in problems if p.severity in wanted and KINDS[p.problem].of_image]
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows((p.place, p.identity, p.problem, p.severity, p.detail) for p in rows)
    return len(rows)


# Identities whose names are one name, written in two ways.


def two_spellings(identities: Sequence[str]) -> list[Problem]:
    """Finds identities whose names differ only in case or in Unicode normal form.

    Args:
        identities: Names of the identities.

    Returns:
        A problem for each name but the first of those that are alike.

    Example:
        >>> [problem.detail for problem in two_spellings(["Ann Lee", "Bob", "ann lee"])]
        ["'Ann Lee' differs in case only"]
    """
    first: dict[str, str] = {}
    problems = []
    for name in identities:
        other = first.setdefault(_plain(name), name)
        if other != name:
            detail = f"{other!r} {_difference(name, other)}"
            problems.append(Problem(name, name, "one identity under two spellings", detail))
    return problems


def _plain(name: str) -> str:
    # Folding case may take a letter's composed form apart, so it is composed again.
    return _composed(_composed(name).casefold())


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _difference(name: str, other: str) -> str:
    if _composed(name) == _composed(other):
        forms = [f"U+{ord(letter):04X}" for letter in _first_difference(name, other)]
        return f"looks the same and is encoded otherwise (Unicode normal form: {', '.join(forms)})"
    if name.casefold() == other.casefold():
        return "differs in case only"
    return "differs only in case and in how its letters are encoded (Unicode normal form)"


def _first_difference(name: str, other: str) -> tuple[str, str]:
    return next((a, b) for a, b in zip(other, name, strict=False) if a != b)
