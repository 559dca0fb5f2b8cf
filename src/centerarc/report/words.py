"""Numbers and sentences as a page writes them."""

from dataclasses import dataclass

from centerarc.evaluation.intervals import Estimate, Interval, TooFew, Trials

ABSENT = "not measurable"
# What a page calls the trials that there are too few of.
_TRIALS: dict[Trials, str] = {
    "genuine": "pairs of one person",
    "impostor": "pairs of two people",
    "either": "pairs of either kind",
    "impostor of each": "pairs with others for every person",
    "unmated": "probes of people who are not in the gallery",
}


@dataclass(frozen=True)
class Row:
    """A line of a table of numbers.

    Attributes:
        name: the measure.
        value: the number, or ``ABSENT``.
        interval: "90.10 to 93.20", or "".
        how: what it says.
    """

    name: str
    value: str
    interval: str
    how: str


def percent(rate: float, digits: int = 2) -> str:
    """A rate as per cent without the sign: 0.5 is "50.00"."""
    return f"{100 * rate:.{digits}f}"


def with_sign(rate: float, digits: int = 2) -> str:
    """A rate as per cent with the sign; no line breaks inside it.

    Example:
        >>> with_sign(0.5)
        '50.00\xa0%'
    """
    return f"{percent(rate, digits)}\u00a0%"


def small_percent(rate: float) -> str:
    """A rate that may be tiny, as per cent with three significant digits and the sign.

    No line breaks inside it.

    Example:
        >>> small_percent(0.1), small_percent(1e-5), small_percent(0.01234)
        ('10\xa0%', '0.001\xa0%', '1.23\xa0%')
    """
    if rate == 0:
        return "0\u00a0%"
    text = f"{100 * rate:.3g}"
    if "e" in text:
        text = f"{100 * rate:.10f}".rstrip("0")
    return f"{text}\u00a0%"


def one_in(rate: float) -> str:
    """A small rate as "1 in 1,000"."""
    return f"1 in {round(1 / rate):,}"


def interval_words(interval: Interval | None, factor: float = 100.0, digits: int = 2) -> str:
    """An interval as "90.10 to 93.20", or nothing."""
    if interval is None:
        return ""
    return f"{factor * interval.low:.{digits}f} to {factor * interval.high:.{digits}f}"


def rate_row(name: str, estimate: Estimate, how: str) -> Row:
    """A rate in per cent as a line of a table."""
    value = ABSENT if estimate.value is None else with_sign(estimate.value)
    return Row(name, value, interval_words(estimate.interval), how)


def people_words(count: int) -> str:
    """So many people, or one person."""
    return "1 person" if count == 1 else f"{count:,} people"


def reason_words(too_few: TooFew | None) -> str:
    """Why there is no value, as a sentence in the page's words, or nothing.

    Example:
        >>> reason_words(TooFew("impostor", 2, rate=("FAR", 0.1)))
        'FAR 10\xa0% needs at least 10 pairs of two people, there are 2.'
    """
    if too_few is None:
        return ""
    words = too_few.sentence(small_percent, _TRIALS)
    return f"{words[0].upper()}{words[1:]}."
