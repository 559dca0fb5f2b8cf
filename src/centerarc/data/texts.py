"""Many short texts in two arrays."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

# Every str can be written, file names that are not UTF-8 (lone surrogates) included.
_ERRORS = "surrogatepass"


class Texts(Sequence[str]):
    """A sequence of texts that cannot be changed, kept as UTF-8 in one array.

    Ten million file names as `str` are ten million objects: a gigabyte more, and each worker
    process copies the pages on which it counts their references. Arrays are shared.

    Args:
        data: `(bytes,)` uint8, all texts one after the other.
        ends: `(len,)` int64, where in `data` each text ends.

    Raises:
        ValueError: If the ends fall or do not fit the data.

    Example:
        >>> texts = Texts.of(["Ann/1.jpg", "Bob/2.jpg"])
        >>> len(texts), texts[1]
        (2, 'Bob/2.jpg')
    """

    def __init__(self, data: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]) -> None:
        last = int(ends[-1]) if len(ends) else 0
        if last != len(data) or (np.diff(ends, prepend=0) < 0).any():
            raise ValueError(f"ends must rise from 0 to the {len(data)} bytes of data")
        self.data = data
        self.ends = ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Texts":
        """Packs texts."""
        pieces = [text.encode("utf-8", _ERRORS) for text in texts]
        lengths = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
        return cls(np.frombuffer(b"".join(pieces), dtype=np.uint8), np.cumsum(lengths))

    @classmethod
    def joined(cls, parts: Sequence["Texts"]) -> "Texts":
        """Returns the texts of all parts, one part after the other."""
        before = np.cumsum([0] + [len(part.data) for part in parts])
        ends = [part.ends + start for part, start in zip(parts, before[:-1], strict=True)]
        none = np.zeros(0, dtype=np.uint8), np.zeros(0, dtype=np.int64)
        return cls(
            np.concatenate([none[0], *(part.data for part in parts)]),
            np.concatenate([none[1], *ends]),
        )

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # no slices
        at = range(len(self.ends))[index]
        start = int(self.ends[at - 1]) if at else 0
        return self.data[start : int(self.ends[at])].tobytes().decode("utf-8", _ERRORS)

    def __iter__(self) -> Iterator[str]:
        data, start = self.data.tobytes(), 0
        for end in self.ends.tolist():
            yield data[start:end].decode("utf-8", _ERRORS)
            start = end
