"""The regions of the results' page."""

from typing import Any

from benchmarks.common.machine import machine_words
from benchmarks.common.page import filled_regions
from benchmarks.data.goals import goals_table
from benchmarks.data.tables import memory_table, openings_table, throughput_table, workers_table

TABLES = {
    "goals": goals_table,
    "throughput": throughput_table,
    "workers": workers_table,
    "opening": openings_table,
    "memory": memory_table,
}


def regions_of(record: dict[str, Any]) -> dict[str, str]:
    """Name -> Markdown of everything that was measured."""
    caption = (
        f"{record['date']}, `{record['command']}`. {record['images']}. {machine_words(record)}"
    )
    return filled_regions(record, TABLES, caption)
