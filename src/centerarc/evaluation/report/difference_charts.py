"""How far models are from the first one, and how sure that is."""

from collections.abc import Mapping, Sequence
from typing import Any

from centerarc.evaluation.report.chart import LINES, Chart, axis, error_bars, numbers, plain_text
from centerarc.evaluation.verification.comparison import Difference


def difference_chart(
    differences: Mapping[str, Sequence[tuple[str, Difference]]], first: str
) -> Chart:
    """Each rate minus that of the first model, with its interval, around a line at none.

    Args:
        differences: by model: names of rates with differences that have a value, the same for all.
        first: what they are differences to.
    """
    names = [name for name, _ in next(iter(differences.values()))]
    data: list[dict[str, Any]] = []
    count = len(differences)
    for number, (model, rates) in enumerate(differences.items()):
        colour = LINES[(number + 1) % len(LINES)][0]
        values = [100 * float(one.value or 0.0) for _, one in rates]
        bars = error_bars([value / 100 for value in values], [o.interval for _, o in rates], colour)
        offset = 0.5 * (number - (count - 1) / 2) / count
        trace: dict[str, Any] = {
            "type": "scatter",
            "mode": "markers",
            "name": plain_text(model),
            "x": numbers(values),
            "y": [len(names) - 1 - row - offset for row in range(len(names))],
            "text": names,
            "marker": {"color": colour, "size": 10},
            "hovertemplate": f"%{{text}}: %{{x:+.2f}} points<extra>{plain_text(model)}</extra>",
        }
        if bars is not None:
            trace["error_x"] = bars
        data.append(trace)
    return Chart(
        "differences",
        f"Minus {first}",
        "Differences in points with their 95 % intervals, all models on the same resampled people. "
        "Where an interval holds 0, other people might turn the difference round.",
        data,
        {
            "xaxis": axis("points", zeroline=True, zerolinecolor="--muted", tickangle=0),
            "yaxis": {
                "tickvals": list(range(len(names))),
                "ticktext": names[::-1],
                "range": [-0.6, len(names) - 0.4],
                "fixedrange": True,
            },
            "showlegend": count > 1,
        },
        height=130 + 46 * len(names),
    )
