"""The page of one model: numbers put into words, charts and pictures put into one file."""

import os

import numpy as np

from centerarc.evaluation.report.breakdown_charts import breakdown_parts
from centerarc.evaluation.report.curve_charts import Curve, curve_charts
from centerarc.evaluation.report.data import FaceSample, ReportData
from centerarc.evaluation.report.face_map import face_map
from centerarc.evaluation.report.identity_charts import identity_chart
from centerarc.evaluation.report.mistakes import find_mistakes
from centerarc.evaluation.report.numbers import (
    headline,
    number_rows,
    search_rows,
    separability_rows,
)
from centerarc.evaluation.report.pictures import data_uri
from centerarc.evaluation.report.rendering import render, require_report_extra
from centerarc.evaluation.report.score_charts import Step, score_chart, threshold_steps
from centerarc.evaluation.report.search_charts import search_charts
from centerarc.evaluation.report.threshold_charts import kept_promise_chart, threshold_rows
from centerarc.evaluation.report.training_charts import training_charts
from centerarc.evaluation.report.words import with_sign
from centerarc.evaluation.verification.result import VerificationReport

_STRIP_FACES = 14
_STRIP_PICTURE = 112


def write_report(path: str | os.PathLike[str], data: ReportData) -> None:
    """Write one self-contained HTML page; it needs no network and no other file.

    The file is complete or absent. The page shows the numbers with their intervals and protocol,
    ROC and DET, the score histograms with a threshold that can be moved, what calibrated thresholds
    are worth, identification, breakdowns, a map of faces, the hardest mistakes, the curves of
    training and the recipe, as far as ``data`` holds them.

    Args:
        path: the file to write, usually ``*.html``.
        data: what to show.

    Raises:
        ImportError: the extra ``report`` is not installed.
        ValueError: an embedding or a score that is not finite.
        OSError: the file cannot be written.
    """
    require_report_extra()
    report = data.verification
    training = training_charts(data.history, data.validation)
    scores, curves, promise, mistakes, steps = None, [], None, None, None
    marks: list[Step] = []
    if report is not None:
        scores = score_chart(data.scores, data.same, report.threshold)
        steps, marks = threshold_steps(data.scores, data.same, report)
        steps["marks"] = [mark.to_dict() for mark in marks]
        curves = curve_charts({"": Curve.of(data.scores, data.same, report)}, marks[0])
        promise = kept_promise_chart(report, data.held_out)
        mistakes = find_mistakes(data)
    search = [] if data.search is None else search_charts({"": data.search})
    identities = None if data.separability is None else identity_chart(data.separability)
    breakdowns = breakdown_parts(data.breakdowns)
    faces = face_map(data.faces) if data.faces is not None else None
    single = [scores, promise, identities, faces.chart if faces else None]
    charts = [
        *(chart for chart in single if chart is not None),
        *(chart for part in breakdowns for chart in part.charts),
        *(*curves, *search, *training),
    ]
    render(
        path,
        "page.html.j2",
        charts,
        pictures=faces.pictures if faces else [],
        steps=steps,
        data=data,
        report=report,
        kfold=report is not None and report.protocol == "k-fold",
        fold_accuracy=[] if report is None else _folds(report.fold_accuracy),
        headline=headline(data),
        start=_start_words(report, marks),
        rows=[] if report is None else number_rows(report),
        threshold_rows=[] if report is None else threshold_rows(report, data.held_out),
        scores=scores,
        curves=curves,
        promise=promise,
        search=search,
        search_rows=[] if data.search is None else search_rows(data.search.report),
        identities=identities,
        identity_rows=[] if data.separability is None else separability_rows(data.separability),
        breakdowns=breakdowns,
        training=training,
        map=faces.chart if faces else None,
        strip=_strip(data.faces),
        mistakes=mistakes,
    )


def _start_words(report: VerificationReport | None, marks: list[Step]) -> str:
    """How the answers at the slider's first threshold go with the accuracy above, in a sentence."""
    if report is None or report.protocol != "k-fold":
        return ""
    at = marks[0]
    right = report.num_genuine * at.tar + report.num_impostor * (1 - at.far)
    right /= report.num_genuine + report.num_impostor
    return (
        f"The accuracy of {with_sign(float(report.accuracy.value or 0.0))} is not of one "
        "threshold: each fold is judged at the one that is best on the other folds. The slider "
        f"begins at their mean, {at.threshold:.3f}, where {with_sign(right)} of the answers to all "
        "pairs are right."
    )


def _folds(accuracy: dict[int, float]) -> list[tuple[int, str]]:
    return [(fold, with_sign(value)) for fold, value in accuracy.items()]


def _strip(faces: FaceSample | None) -> list[tuple[str, str]]:
    """Name and picture of one face of each of the first people."""
    if faces is None:
        return []
    identities, first = np.unique(faces.labels, return_index=True)
    return [
        (faces.names[int(label)], data_uri(faces.images[int(i)], _STRIP_PICTURE))
        for label, i in list(zip(identities, first, strict=True))[:_STRIP_FACES]
    ]
