"""The long tail as text: identities by their number of images, both axes logarithmic."""

import numpy as np
import numpy.typing as npt

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def tail_plot(
    counts: npt.ArrayLike, *, width: int = 80, height: int = 10, unicode: bool = True
) -> str:
    """Draws the images of each identity, the one with most images at the left.

    Args:
        counts: `(C,)` images of each identity, each at least 1.
        width: Characters in a line, at least 20.
        height: Lines of the plot without its axis, at least 2.
        unicode: Draw with block characters; otherwise with plain ASCII.

    Returns:
        `height + 2` lines.

    Raises:
        ValueError: If `width` or `height` is too small or there is no identity.

    Example:
        >>> print(tail_plot([100, 10, 10, 1], width=20, height=4, unicode=False))
        100 |#######
         10 |###############
            |###############
          1 |###############
            +---------------
             1             4
    """
    values = np.sort(np.asarray(counts, dtype=np.float64))[::-1]
    if width < 20 or height < 2 or not values.size:
        raise ValueError(
            f"width is {width} and height {height} for {values.size} identities; a plot needs at "
            "least 20, 2 and 1"
        )
    top = max(float(np.log10(values[0])), 0.3)
    ticks = _row_labels(top, height)
    margin = max(map(len, ticks)) + 2
    columns = width - margin
    # Column x stands for the identities at rank C^(x / columns).
    rank = len(values) ** ((np.arange(columns) + 0.5) / columns)
    heights = np.log10(values[np.minimum(rank.astype(int), len(values)) - 1]) / top * (height - 1)
    lines = []
    for row in range(height - 1, -1, -1):
        # An identity with one image still shows: the lowest row is always full.
        filled = np.clip(heights - row + 1, 0, 1)
        bar = "│" if unicode else "|"
        lines.append(f"{ticks[row]:>{margin - 2}} {bar}" + _cells(filled, unicode))
    corner = "└" + "─" * columns if unicode else "+" + "-" * columns
    lines.append(" " * (margin - 1) + corner)
    lines.append(" " * margin + _ranks(len(values), columns))
    return "\n".join(line.rstrip() for line in lines)


def _cells(filled: npt.NDArray[np.float64], unicode: bool) -> str:
    if unicode:
        return "".join(_EIGHTHS[round(8 * part)] for part in filled)
    return "".join("#" if part >= 0.5 else " " for part in filled)


def _row_labels(top: float, height: int) -> list[str]:
    """Names the row of each power of ten, and the top one, from the bottom up."""
    labels = [""] * height
    for power in range(int(top) + 1):
        labels[round(power / top * (height - 1))] = f"{10**power:,}"
    if top > 0.3:
        labels[height - 1] = f"{round(10**top):,}"
    return labels


def _ranks(size: int, columns: int) -> str:
    """Names the ranks under the axis, as many powers of ten as there is room for."""
    line = [" "] * columns
    last = f"{size:,}"
    if size > 1:
        line[columns - len(last) :] = last
    end = 0
    for power in range(len(str(size))):
        name = f"{10**power:,}"
        at = int(columns * power / np.log10(size)) if size > 1 else 0
        if at >= end and at + len(name) < columns - len(last):
            line[at : at + len(name)] = name
            end = at + len(name) + 2
    return "".join(line)
