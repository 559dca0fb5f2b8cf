"""The report of a run: one HTML page that holds everything and asks nobody for anything."""

from centerarc.evaluation.report.data import FaceSample, ReportData
from centerarc.evaluation.report.page import require_report_extra, write_report

__all__ = ["FaceSample", "ReportData", "require_report_extra", "write_report"]
