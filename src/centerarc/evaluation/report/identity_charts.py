"""How tight and how far apart people are, as ranges on one axis of cosines."""

from typing import Any

from centerarc.evaluation.report.chart import Chart, axis, numbers
from centerarc.evaluation.separability.measure import Distribution, Separability


def identity_chart(found: Separability) -> Chart:
    """Where most of each cosine lies: from 5 to 95 %, the middle half, and the median."""
    rows: list[tuple[str, Distribution]] = [
        ("margin", found.margin),
        ("nearest other center", found.separation),
        ("own center", found.compactness),
    ]
    if found.thresholds is not None:
        rows.insert(0, ("own threshold", found.thresholds))
    low = min(values.quantiles[0.05].value for _, values in rows)
    high = max(values.quantiles[0.95].value for _, values in rows)
    pad = 0.05 * max(high - low, 0.1)
    data: list[dict[str, Any]] = []
    for quantiles, width, name in (((0.05, 0.95), 3, "90\u00a0%"), ((0.25, 0.75), 11, "half")):
        x: list[float | None] = []
        y: list[float | None] = []
        for row, (_, values) in enumerate(rows):
            ends = numbers((values.quantiles[q].value for q in quantiles), 4)
            x += [*ends, None]
            y += [row, row, None]
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": x,
                "y": y,
                "line": {"color": "--accent", "width": width},
                "opacity": 0.45 if width > 3 else 0.8,
                "hoverinfo": "skip",
            }
        )
    data.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "median",
            "x": numbers((values.quantiles[0.5].value for _, values in rows), 4),
            "y": list(range(len(rows))),
            "text": [
                f"{name}: median {v.quantiles[0.5].value:.3f}<br>half from "
                f"{v.quantiles[0.25].value:.3f} to {v.quantiles[0.75].value:.3f}<br>90\u00a0% from "
                f"{v.quantiles[0.05].value:.3f} to {v.quantiles[0.95].value:.3f}"
                for name, v in rows
            ],
            "marker": {"color": "--ink", "size": 9, "symbol": "diamond"},
            "hovertemplate": "%{text}<extra></extra>",
        }
    )
    return Chart(
        "identities",
        "Cosines of faces and centers",
        "Where the cosines lie: the thin bar holds 90 %, the thick one half, the mark is the "
        "median. Faces should be near their own center, centers far from each other, and the "
        "thresholds that people need alike.",
        data,
        {
            "xaxis": axis("cosine", range=[low - pad, high + pad]),
            "yaxis": {
                "tickvals": list(range(len(rows))),
                "ticktext": [name for name, _ in rows],
                "range": [-0.6, len(rows) - 0.4],
                "fixedrange": True,
            },
        },
        height=300,
    )
