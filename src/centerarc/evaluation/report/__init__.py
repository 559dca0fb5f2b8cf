"""Pages: one HTML file that holds everything and asks nobody for anything."""

from centerarc.evaluation.report.comparison_page import write_comparison_page
from centerarc.evaluation.report.data import FaceSample, ReportData, SearchCurves
from centerarc.evaluation.report.evaluation_page import write_evaluation_page
from centerarc.evaluation.report.page import write_report
from centerarc.evaluation.report.rendering import require_report_extra

__all__ = [
    "FaceSample",
    "ReportData",
    "SearchCurves",
    "require_report_extra",
    "write_comparison_page",
    "write_evaluation_page",
    "write_report",
]
