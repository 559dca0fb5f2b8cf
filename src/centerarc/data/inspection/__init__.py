"""What a set of face images holds, and what is wrong with it."""

from centerarc.data.inspection.check import (
    CheckResult,
    check_checksums,
    check_source,
    judge_labels,
)
from centerarc.data.inspection.check_page import write_check_page
from centerarc.data.inspection.counts import CountStatistics, count_statistics
from centerarc.data.inspection.inspect_page import require_plotly, write_inspect_page
from centerarc.data.inspection.judgement import Judgement, judgement
from centerarc.data.inspection.label_errors import LabelError, find_label_errors
from centerarc.data.inspection.overview import Overview, inspect_source
from centerarc.data.inspection.problems import KINDS, Problem, write_problems
from centerarc.data.inspection.similarity import check_enough_people
from centerarc.data.inspection.tail_plot import tail_plot

__all__ = [
    "KINDS",
    "CheckResult",
    "CountStatistics",
    "Judgement",
    "LabelError",
    "Overview",
    "Problem",
    "check_checksums",
    "check_enough_people",
    "check_source",
    "count_statistics",
    "find_label_errors",
    "inspect_source",
    "judge_labels",
    "judgement",
    "require_plotly",
    "tail_plot",
    "write_check_page",
    "write_inspect_page",
    "write_problems",
]
