"""A map of faces: embeddings flattened to two dimensions, one colour a person."""

from dataclasses import dataclass

import numpy as np

from centerarc.evaluation.embedding import pair_scores
from centerarc.evaluation.report.chart import Chart
from centerarc.evaluation.report.data import FaceSample
from centerarc.evaluation.report.pictures import data_uri

MAX_IDENTITIES = 30
MAX_FACES = 400
_PICTURE = 80
_HUES = 10
_SYMBOLS = ("circle", "diamond", "square")


@dataclass(frozen=True)
class FaceMap:
    """The chart, and the picture behind each of its points, trace by trace."""

    chart: Chart
    pictures: list[list[str]]


def face_map(faces: FaceSample) -> FaceMap | None:
    """t-SNE (van der Maaten, Hinton 2008) of the faces by cosine distance, the same every time.

    The identities with the most faces are shown, at most 30 of them and 400 faces; None with
    fewer than 3 identities or 10 faces, which make no map.
    """
    from sklearn.manifold import TSNE

    identity, count = np.unique(faces.labels, return_counts=True)
    shown = identity[np.argsort(-count, kind="stable")][:MAX_IDENTITIES]
    if shown.size < 3:
        return None
    each = MAX_FACES // shown.size
    groups = [np.flatnonzero(faces.labels == label)[:each] for label in shown]
    chosen = np.concatenate(groups)
    if chosen.size < 10:
        return None
    vectors = np.asarray(faces.embeddings, dtype=np.float64)[chosen]
    pair_scores(vectors, [0], [0])  # refuses what has no direction
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    perplexity = min(30.0, (chosen.size - 1) / 3)
    place = TSNE(metric="cosine", perplexity=perplexity, random_state=0).fit_transform(vectors)
    data, pictures = [], []
    end = 0
    for number, (label, group) in enumerate(zip(shown, groups, strict=True)):
        points = place[end : end + group.size]
        end += group.size
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": faces.names[int(label)],
                "x": points[:, 0].round(2).tolist(),
                "y": points[:, 1].round(2).tolist(),
                "marker": {
                    "color": f"--hue-{number % _HUES}",
                    "symbol": _SYMBOLS[number // _HUES],
                    "size": 9,
                    "line": {"color": "--card", "width": 1},
                },
                "hoverinfo": "none",
            }
        )
        pictures.append([data_uri(faces.images[i], _PICTURE, 75) for i in group])
    hidden = {"visible": False}
    chart = Chart(
        "map",
        "A map of faces",
        f"{chosen.size} faces of {shown.size} people, placed by t-SNE so that faces which the "
        "model finds alike are neighbours. Colour and shape tell people apart; distances between "
        "far groups mean nothing. Point at a face to see it, or use the arrow keys.",
        data,
        {
            "xaxis": hidden,
            "yaxis": hidden | {"scaleanchor": "x"},
            "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        },
        height=520,
    )
    return FaceMap(chart, pictures)
