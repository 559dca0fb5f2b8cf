"""The regions of the results' page."""

from typing import Any

from benchmarks.common.machine import machine_words
from benchmarks.common.page import filled_regions
from benchmarks.evaluation.goals import goals_table
from benchmarks.evaluation.tables import curves_table, templates_table

TABLES = {
    "goals": goals_table,
    "curves": curves_table,
    "templates": templates_table,
}


def regions_of(record: dict[str, Any]) -> dict[str, str]:
    """Name -> Markdown of everything that was measured."""
    caption = (
        f"{record['date']}, `{record['command']}`. {record['versions']}. {machine_words(record)}"
    )
    return filled_regions(record, TABLES, caption)
