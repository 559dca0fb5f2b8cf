"""How far long work is, how fast it goes and when it will be done, in words."""

import sys
import time

# Seconds between two lines where no one watches, such as in the log of a job.
_LINE_SECONDS = 30.0


class Pace:
    """Tells how far work is: `12,000 of 50,000, 410 images/s, 0:01:33 left`.

    What was done before the first call, by an earlier run, does not count for the rate. Where the
    total changes, such as from bytes to records, the rate is measured again.

    Args:
        unit: What is counted, such as "images"; empty where the number would tell nothing, such as
            that of bytes: then it is `24%, 0:01:33 left`.
    """

    def __init__(self, unit: str = "") -> None:
        self.unit = unit
        self._begun = 0.0
        self._first: tuple[int, int] | None = None

    def tell(self, done: int, total: int) -> str:
        """Returns how far it is.

        Args:
            done: Steps done so far.
            total: All of them; 0 as long as it is not known.
        """
        now = time.monotonic()
        if self._first is None or total != self._first[1] or done < self._first[0]:
            self._begun, self._first = now, (done, total)
        if not total:
            return ""
        parts = [f"{done:,} of {total:,}" if self.unit else f"{done / total:.0%}"]
        steps, seconds = done - self._first[0], now - self._begun
        if steps and seconds:
            if self.unit:
                parts.append(f"{steps / seconds:,.0f} {self.unit}/s")
            parts.append(f"{duration((total - done) * seconds / steps)} left")
        return ", ".join(parts)


class Lines:
    """Writes `embedding: 12,000 of 50,000, 410 images/s, 0:01:33 left` to stderr every 30 seconds.

    Call it with the steps done so far and all of them, as often as you like.

    Args:
        what: What is done, such as "embedding".
        unit: What is counted; see `Pace`.
    """

    def __init__(self, what: str, unit: str = "") -> None:
        self.what = what
        self._pace = Pace(unit)
        self._written = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Writes a line if it is time for one."""
        text = self._pace.tell(done, total)
        if text and (now := time.monotonic()) - self._written >= _LINE_SECONDS:
            self._written = now
            print(f"{self.what}: {text}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Returns a time as h:mm:ss.

    Example:
        >>> duration(3725.4)
        '1:02:05'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
