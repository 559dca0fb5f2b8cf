"""A map of faces: embeddings flattened to two dimensions, one colour a person."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.embedding import pair_scores
from centerarc.evaluation.report.chart import Chart
from centerarc.evaluation.report.data import FaceSample
from centerarc.evaluation.report.pictures import data_uri

MAX_IDENTITIES = 30
MAX_FACES = 400
_PICTURE = 80
# About the widest strip without any face, of the map's width and height.
_WIDEST_GAP = 0.1
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
    # A face has about as many true neighbours as its person has faces.
    around = float(np.clip(np.median([group.size for group in groups]), 5, 30))
    perplexity = min(around, (chosen.size - 1) / 3)
    place = TSNE(metric="cosine", perplexity=perplexity, random_state=0).fit_transform(vectors)
    place = _fill(place.astype(np.float64))
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
                    "size": 10,
                    "line": {"color": "--card", "width": 1},
                },
                "cliponaxis": False,
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
        "far groups mean nothing, so wide empty strips are narrowed. Point at a face to see it, or "
        "walk with the arrow keys: the one that is shown has a ring. Zoom with the buttons, or "
        "with + and -; 0 shows all again.",
        data,
        {
            "xaxis": hidden,
            "yaxis": hidden,
            "margin": {"l": 14, "r": 14, "t": 14, "b": 14},
        },
        height=520,
    )
    return FaceMap(chart, pictures)


def _fill(place: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Lay points (N, 2) out for a wide chart: the longest way across, little of it empty.

    t-SNE leaves the map's direction to chance and its large distances without meaning, so turning
    it and narrowing strips that hold no face tell nothing wrong.
    """
    centred = place - place.mean(axis=0)
    turned: npt.NDArray[np.float64] = centred @ np.linalg.svd(centred, full_matrices=False)[2].T
    for axis in (0, 1):
        order = np.argsort(turned[:, axis], kind="stable")
        gaps = np.diff(turned[order, axis])
        # Narrowing one strip makes the others a larger share of what is left.
        for _ in range(4):
            gaps = np.minimum(gaps, _WIDEST_GAP * gaps.sum())
        turned[order, axis] = np.concatenate([[0.0], np.cumsum(gaps)])
    return turned
