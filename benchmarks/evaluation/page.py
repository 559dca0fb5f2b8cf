"""The regions of the results' page."""

from typing import Any

from benchmarks.evaluation.goals import goals_table
from benchmarks.evaluation.tables import curves_table, resampling_table, templates_table
from benchmarks.head.machine import machine_words
from benchmarks.scaling.page import markdown_table

TABLES = {
    "goals": goals_table,
    "curves": curves_table,
    "resampling": resampling_table,
    "templates": templates_table,
}


def regions_of(record: dict[str, Any]) -> dict[str, str]:
    """Name -> Markdown of everything that was measured."""
    caption = (
        f"{record['date']}, `{record['command']}`. {record['versions']}. {machine_words(record)}"
    )
    found = {name: table(record) for name, table in TABLES.items()}
    return {
        name: f"{markdown_table(*table)}\n\n{caption}"
        for name, table in found.items()
        if table is not None
    }
