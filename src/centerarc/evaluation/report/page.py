"""The page itself: numbers put into words, charts and pictures put into one file."""

import json
import os
from importlib.util import find_spec
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from centerarc import __version__
from centerarc.data.files import atomic_path
from centerarc.evaluation.report.data import FaceSample, ReportData
from centerarc.evaluation.report.face_map import face_map
from centerarc.evaluation.report.mistakes import find_mistakes
from centerarc.evaluation.report.pictures import data_uri
from centerarc.evaluation.report.score_charts import roc_chart, score_chart
from centerarc.evaluation.report.training_charts import training_charts
from centerarc.evaluation.verification import Estimate, VerificationReport

_STRIP_FACES = 14
_STRIP_PICTURE = 112


def require_report_extra() -> None:
    """Says how to install what reports need, if it is not there; cheap enough before training.

    Raises:
        ImportError: plotly or scikit-learn is missing.

    Example:
        >>> require_report_extra()
    """
    missing = [
        name
        for module, name in (("plotly", "plotly"), ("sklearn", "scikit-learn"))
        if find_spec(module) is None
    ]
    if missing:
        raise ImportError(
            f"a report needs {' and '.join(missing)}: pip install 'centerarc[report]'"
        )


def write_report(path: str | os.PathLike[str], data: ReportData) -> None:
    """Write one self-contained HTML page; it needs no network and no other file.

    The file is complete or absent. The page shows the numbers with their intervals and protocol,
    the curves of training, the ROC, the score histograms, a map of faces, the hardest mistakes
    and the recipe, as far as ``data`` holds them.

    Args:
        path: the file to write, usually ``*.html``.
        data: what to show.

    Raises:
        ImportError: the extra ``report`` is not installed.
        ValueError: an embedding or a score that is not finite.
    """
    require_report_extra()
    from plotly.offline import get_plotlyjs

    report = data.verification
    training = training_charts(data.history, data.validation)
    scores = [
        score_chart(data.scores, data.same, report.threshold),
        roc_chart(data.scores, data.same, report),
    ]
    faces = face_map(data.faces) if data.faces is not None else None
    charts = [*training, *scores, *([faces.chart] if faces else [])]
    false_accepts, false_rejects = find_mistakes(data)
    environment = Environment(
        loader=PackageLoader("centerarc.evaluation.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    page = environment.get_template("page.html.j2").render(
        data=data,
        report=report,
        version=__version__,
        kfold=report.protocol == "k-fold",
        headline=headline(data),
        rows=number_rows(report),
        training=training,
        scores=scores,
        map=faces.chart if faces else None,
        strip=_strip(data.faces),
        false_accepts=false_accepts,
        false_rejects=false_rejects,
        figures=_script_json({chart.key: chart.figure() for chart in charts}),
        pictures=_script_json(faces.pictures if faces else []),
        plotly_js=get_plotlyjs(),
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def percent(rate: float, digits: int = 2) -> str:
    """A rate as per cent without the sign: 0.5 is "50.00"."""
    return f"{100 * rate:.{digits}f}"


def headline(data: ReportData) -> str:
    """What the accuracy means, in a sentence."""
    report = data.verification
    rate = report.accuracy.value
    assert rate is not None  # an accuracy always has a value
    sentence = (
        f"Shown two pictures, the model says rightly whether they are of one person in "
        f"{percent(rate, 1)} of 100 cases"
    )
    if report.accuracy.interval is not None:
        low, high = report.accuracy.interval.low, report.accuracy.interval.high
        sentence += (
            f"; with other people of this kind it would plausibly be between {percent(low, 1)} "
            f"and {percent(high, 1)}"
        )
    if report.protocol != "k-fold":
        sentence += ". The threshold was chosen on these very pairs, so expect less on others"
    return sentence + "."


def number_rows(report: VerificationReport) -> list[dict[str, str]]:
    """The table of numbers: name, value, interval, how it is measured."""
    if report.protocol == "k-fold":
        name = "Accuracy"
        spread = f"{percent(report.fold_std or 0.0)} points standard deviation over folds"
        how = (
            f"Mean of {len(report.fold_accuracy)} folds, each judged at the threshold that is best "
            f"on the others; {spread}."
        )
    else:
        name = "Best accuracy"
        how = "At the threshold that is best for these very pairs: optimistic."
    rows = [
        _row(name, report.accuracy, how),
        _row("AUC", report.auc, "Chance that a pair of one person scores above one of two people."),
        _row("EER", report.eer, "Error where false accepts and false rejects are equally many."),
    ]
    for far, tar in report.tar_at_far.items():
        limit = f"1 in {round(1 / far):,} pairs of two people"
        how = f"Pairs of one person accepted when at most {limit} is."
        rows.append(_row(f"TAR at FAR {100 * far:g} %", tar, tar.reason or how))
    return rows


def _row(name: str, estimate: Estimate, how: str) -> dict[str, str]:
    value = "not measurable" if estimate.value is None else f"{percent(estimate.value)} %"
    interval = ""
    if estimate.interval is not None:
        interval = f"{percent(estimate.interval.low)} to {percent(estimate.interval.high)}"
    return {"name": name, "value": value, "interval": interval, "how": how}


def _strip(faces: FaceSample | None) -> list[tuple[str, str]]:
    """Name and picture of one face of each of the first people."""
    if faces is None:
        return []
    identities, first = np.unique(faces.labels, return_index=True)
    return [
        (faces.names[int(label)], data_uri(faces.images[int(i)], _STRIP_PICTURE))
        for label, i in list(zip(identities, first, strict=True))[:_STRIP_FACES]
    ]


def _script_json(content: Any) -> str:
    """JSON that no name inside can end the script element of."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
