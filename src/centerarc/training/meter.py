"""Means of what the steps between two logged rows measured."""

import math
import time

from centerarc.training.step import StepReport

_LOSSES = ("arcface_loss", "center_loss", "separation")


class Meter:
    """Collects the reports of steps and the time that they took.

    Attributes:
        window: Sums since the last row, by name; part of a run's state, so that a resumed run
            logs the same rows.
    """

    def __init__(self) -> None:
        self.window: dict[str, float] = {}
        self._unread: list[tuple[int, StepReport]] = []
        self._start = 0.0

    def start_clock(self) -> None:
        """Counts time from now on, and not what went before."""
        self._start = time.perf_counter()

    def take_time(self) -> float:
        """Adds the time since the last call to the window and returns it, in seconds."""
        now = time.perf_counter()
        elapsed, self._start = now - self._start, now
        self._add("seconds", elapsed)
        return elapsed

    def add(self, step: int, report: StepReport) -> None:
        """Takes a report without reading it, which would wait for the device."""
        self._unread.append((step, report))

    def read(self) -> bool:
        """Reads the reports that are not read yet.

        Returns:
            Whether a rank wants to stop.

        Raises:
            ValueError: If a loss is not finite. Every rank reads the same sums, so all of them
                raise.
        """
        wanted = False
        for step, report in self._unread:
            values = report.read()
            wanted = wanted or values.pop("stop") > 0
            if not all(math.isfinite(values[name]) for name in _LOSSES):
                raise ValueError(
                    f"the loss is not finite in step {step}: arcface {values['arcface_loss']:g}, "
                    f"center {values['center_loss']:g}, separation {values['separation']:g}; "
                    "try a lower optimizer.lr, more schedule.warmup_epochs or clip_norm"
                )
            count = values.pop("count")
            for name, value in values.items():
                self._add(name, value * count)
            self._add("count", count)
            self._add("steps", 1.0)
        self._unread.clear()
        return wanted

    def empty(self) -> tuple[dict[str, float], float, float]:
        """Returns the means over the window's samples, its steps and its seconds; starts anew."""
        window, self.window = self.window, {}
        count, steps, seconds = (window.pop(name) for name in ("count", "steps", "seconds"))
        means = {name: value / max(count, 1.0) for name, value in window.items()}
        return means, steps, seconds

    def _add(self, name: str, value: float) -> None:
        self.window[name] = self.window.get(name, 0.0) + value
