"""The values of several rounds, in a table's words."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Several rounds' values.

    Attributes:
        middle: their median.
        least: the smallest.
        most: the largest.
    """

    middle: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread | None":
        """Returns that of some values; None if there are none."""
        found = list(values)
        return cls(statistics.median(found), min(found), max(found)) if found else None

    def around(self, shown: Callable[[float], str]) -> str:
        """Returns least and most in brackets, where they look different."""
        least, most = shown(self.least), shown(self.most)
        return "" if least == most else f" ({least} to {most})"

    def words(self, shown: Callable[[float], str]) -> str:
        """Returns all three."""
        return shown(self.middle) + self.around(shown)

    def verdict(self, shown: Callable[[float], str], met: bool) -> str:
        """Returns all three with the median in bold, and whether a goal was met."""
        word = "met" if met else "missed"
        return f"**{shown(self.middle)}**{self.around(shown)}, {word}"


def shown(found: Spread | None, form: Callable[[float], str]) -> str:
    """The cell of a table, empty where nothing was measured."""
    return "" if found is None else found.words(form)
