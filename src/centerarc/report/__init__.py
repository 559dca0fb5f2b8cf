"""Pages: one HTML file that holds everything and loads nothing from elsewhere."""

from centerarc.report.comparison_page import write_comparison_page
from centerarc.report.curves import SearchCurves
from centerarc.report.evaluation_page import ReportData, write_evaluation_page, write_report
from centerarc.report.people import FaceSample
from centerarc.report.rendering import require_report_extra
from centerarc.report.study_page import write_study_page
from centerarc.report.study_result import (
    Measured,
    StudyArm,
    StudyCurve,
    StudyResult,
    StudyRow,
    StudyRun,
    StudySetFacts,
)

__all__ = [
    "FaceSample",
    "Measured",
    "ReportData",
    "SearchCurves",
    "StudyArm",
    "StudyCurve",
    "StudyResult",
    "StudyRow",
    "StudyRun",
    "StudySetFacts",
    "require_report_extra",
    "write_comparison_page",
    "write_evaluation_page",
    "write_report",
    "write_study_page",
]
