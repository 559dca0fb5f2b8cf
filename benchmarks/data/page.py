"""The regions of the results' page."""

from typing import Any

from benchmarks.data.goals import goals_table
from benchmarks.data.tables import memory_table, openings_table, throughput_table, workers_table
from benchmarks.head.machine import machine_words
from benchmarks.scaling.page import markdown_table

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
    found = {name: table(record) for name, table in TABLES.items()}
    return {
        name: f"{markdown_table(*table)}\n\n{caption}"
        for name, table in found.items()
        if table is not None
    }
