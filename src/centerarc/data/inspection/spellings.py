"""Identities whose names are one name, written in two ways."""

import unicodedata
from collections.abc import Sequence

from centerarc.data.inspection.problems import Problem


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
