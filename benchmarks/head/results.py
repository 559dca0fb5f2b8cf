"""Raw measurements, one JSON object a line, and their medians. Imports no torch."""

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


class Results:
    """The measurements of one device, with or without huge pages.

    Args:
        records: dictionaries of a ``Case``'s fields and what its process found.
    """

    def __init__(self, records: Iterable[dict[str, Any]]) -> None:
        self.records = list(records)

    @classmethod
    def read(cls, path: Path) -> "Results":
        """Of a file of raw results."""
        lines = path.read_text(encoding="utf-8").splitlines()
        return cls(json.loads(line) for line in lines if line.strip())

    def select(self, **fields: Any) -> "Results":
        """Those whose fields have these values."""
        return Results(
            record
            for record in self.records
            if all(record.get(name) == value for name, value in fields.items())
        )

    def rounds(self, name: str, shape: str, task: str, mode: str) -> list[float]:
        """The median of each round, in milliseconds."""
        chosen = self.select(implementation=name, shape=shape, task=task, mode=mode)
        return [1e3 * statistics.median(r["seconds"]) for r in chosen.records if r.get("seconds")]

    def milliseconds(self, name: str, shape: str, task: str, mode: str) -> float | None:
        """The median over rounds; None if there is no round."""
        found = self.rounds(name, shape, task, mode)
        return statistics.median(found) if found else None

    def bytes(self, name: str, shape: str, task: str, mode: str) -> float | None:
        """Memory above the inputs, median over rounds."""
        chosen = self.select(implementation=name, shape=shape, task=task, mode=mode)
        found = [record["bytes"] for record in chosen.records if "bytes" in record]
        return statistics.median(found) if found else None

    def fastest(self, names: Sequence[str], shape: str, task: str, mode: str) -> str | None:
        """Which of these implementations takes the least time."""
        times = {name: self.milliseconds(name, shape, task, mode) for name in names}
        measured = {name: value for name, value in times.items() if value is not None}
        return min(measured, key=measured.__getitem__, default=None)
