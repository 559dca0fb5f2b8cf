"""Pages: one HTML file that holds everything and asks nobody for anything."""

from centerarc.report.comparison_page import write_comparison_page
from centerarc.report.evaluation_page import write_evaluation_page, write_report
from centerarc.report.numbers import FaceSample, ReportData, SearchCurves
from centerarc.report.rendering import require_report_extra

__all__ = [
    "FaceSample",
    "ReportData",
    "SearchCurves",
    "require_report_extra",
    "write_comparison_page",
    "write_evaluation_page",
    "write_report",
]
