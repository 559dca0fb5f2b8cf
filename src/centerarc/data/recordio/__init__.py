"""RecordIO data sets of insightface and mxnet, read and written without mxnet."""

from centerarc.data.recordio.records import RecordFile, Walked, walk
from centerarc.data.recordio.source import RecordIOSource
from centerarc.data.recordio.writer import (
    check_identity,
    finish,
    image_keys,
    write_part,
)

__all__ = [
    "RecordFile",
    "RecordIOSource",
    "Walked",
    "check_identity",
    "finish",
    "image_keys",
    "walk",
    "write_part",
]
