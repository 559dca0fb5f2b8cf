"""How an evaluation from a file was judged: what its JSON says, checked."""

from pathlib import Path
from typing import Any, get_args

from centerarc.evaluation.identification.gallery_search import PERSON_SCORES
from centerarc.evaluation.protocols.outcome import Settings
from centerarc.evaluation.protocols.searching import SearchSettings
from centerarc.evaluation.verification.answers import CONVENTIONS, Convention


class Content:
    """The content of a JSON file whose fields are asked for by name.

    Args:
        path: the file, for messages.
        content: what is in it.
    """

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self._path = path
        self._content = content

    def text(self, *names: str) -> str:
        """A text that must be there.

        Raises:
            ValueError: it is not; the message has the file and the field.
        """
        return str(self._at(names, str, "a text"))

    def block(self, *names: str) -> dict[str, Any]:
        """An object that must be there; see :meth:`text`."""
        found: dict[str, Any] = self._at(names, dict, "an object")
        return found

    def verification(self) -> Settings:
        """How pairs were judged.

        Raises:
            ValueError: a field is missing or out of range; the message has file and field.
        """
        where = ("verification", "settings")
        named = self.text(*where, "convention")
        convention = next((one for one in get_args(Convention) if one == named), None)
        if convention is None:
            raise self._wrong((*where, "convention"), f"one of {', '.join(CONVENTIONS)}")
        fars = self._at((*where, "far"), list, "a list")
        if not all(_is_rate(far) for far in fars):
            raise self._wrong((*where, "far"), "rates in (0, 1)")
        resamples, seed = self._resampling(*where)
        return Settings(convention, (), tuple(map(float, fars)), resamples, seed)

    def identification(self) -> SearchSettings:
        """How searches were judged; see :meth:`verification`."""
        part = "identification"
        try:
            ranks = [int(rank) for rank in self.block(part, "cmc")]
        except ValueError:
            ranks = []
        if not ranks or min(ranks) < 1:
            raise self._wrong((part, "cmc"), "shares by rank")
        try:
            fpirs = [float(fpir) for fpir in self.block(part, "tpir_at_fpir")]
        except ValueError:
            fpirs = [0.0]
        if not all(map(_is_rate, fpirs)):
            raise self._wrong((part, "tpir_at_fpir"), "shares by rates in (0, 1)")
        person_score = self.text(part, "person_score")
        if person_score not in PERSON_SCORES:
            raise self._wrong((part, "person_score"), f"one of {', '.join(PERSON_SCORES)}")
        resamples, seed = self._resampling(part, "settings")
        return SearchSettings(tuple(ranks), tuple(fpirs), person_score, resamples, seed)

    def _resampling(self, *where: str) -> tuple[int, int]:
        resamples = self._at((*where, "resamples"), int, "a whole number")
        if resamples != 0 and resamples < 100:
            raise self._wrong((*where, "resamples"), "0 or at least 100")
        seed = self._at((*where, "seed"), int, "a whole number")
        if seed < 0:
            raise self._wrong((*where, "seed"), "at least 0")
        return resamples, seed

    def _at(self, names: tuple[str, ...], kind: type, what: str) -> Any:
        value: Any = self._content
        for depth, name in enumerate(names, 1):
            if not isinstance(value, dict) or name not in value:
                raise ValueError(f"{str(self._path)!r} has no {'.'.join(names[:depth])}")
            value = value[name]
        # True is a whole number to Python, and to nobody else.
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self._wrong(names, what)
        return value

    def _wrong(self, names: tuple[str, ...], what: str) -> ValueError:
        value: Any = self._content
        for name in names:
            value = value[name]
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
        return ValueError(f"{str(self._path)!r}: {'.'.join(names)} must be {what}, got {shown}")


def _is_rate(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < 1
