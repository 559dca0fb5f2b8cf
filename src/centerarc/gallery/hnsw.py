"""An approximate index of pgvector: how it is made, what it finds, and what is kept of it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from psycopg import sql

# The most numbers of a vector that pgvector indexes, as float32 and as float16.
_SINGLE, MOST = 2_000, 4_000
# What its graph is built with: links of each embedding, and candidates for them.
_LINKS, _CANDIDATES = 16, 128
# Photos that a search looks at, the fewest that reach the recall are kept; pgvector has no more.
EF_SEARCH = (40, 80, 160, 320, 640, 1_000)
# People whom a search compares exactly, at least: the first whose photos were found.
COMPARED = 100
# People whom a search is to find, and photos of the gallery that it is measured with.
NEAREST, PROBES = 10, 200


@dataclass(frozen=True)
class Hnsw:
    """What is kept of a gallery's index.

    Args:
        ef_search: How many photos a search looks at; the first people among them are compared
            exactly.
        first: The share of probes whose nearest person was found.
        recall: The share of the 10 nearest people that were found.
        probes: How many photos were looked for, each as if it were not in the gallery.
        photos: How many there were.
    """

    ef_search: int
    first: float
    recall: float
    probes: int
    photos: int

    @classmethod
    def of(cls, text: str) -> Self:
        """Reads what `text` wrote."""
        return cls(**json.loads(text))

    def text(self) -> str:
        """Returns it as the gallery keeps it."""
        return json.dumps(asdict(self))

    def words(self) -> str:
        """Returns it for people."""
        said = f"HNSW, looking at {self.ef_search} photos"
        if not self.probes:
            return f"{said}; not measured, the gallery was empty"
        return (
            f"{said}; of {self.probes} photos of {self.photos:,} it found the nearest person for "
            f"{self.first:.1%} and {self.recall:.1%} of the {NEAREST} nearest people"
        )


def check_size(size: int) -> None:
    """Raises `ValueError` if embeddings of a length cannot be indexed."""
    if size > MOST:
        raise ValueError(
            f"embeddings must have at most {MOST:,} numbers for an index of pgvector, got "
            f"{size:,}; without one the search is exact"
        )


def _column(size: int) -> tuple[str, str]:
    if size <= _SINGLE:
        return "embedding", "vector"
    return f"(embedding::halfvec({size}))", "halfvec"


def making(size: int) -> str:
    """The statement that makes the index of embeddings of a length."""
    column, kind = _column(size)
    return (
        f"CREATE INDEX photo_hnsw ON photo USING hnsw ({column} {kind}_ip_ops) "
        f"WITH (m = {_LINKS}, ef_construction = {_CANDIDATES})"
    )


def near(size: int, query: str, ef_search: int, without: int = 0) -> sql.Composable:
    """The statement that finds whose the photos near to a query are, but for one photo."""
    column, kind = _column(size)
    return sql.SQL(
        "SELECT person FROM photo WHERE id <> {without} "
        "ORDER BY {column} <#> {query}::{kind}({size}) LIMIT {count}"
    ).format(
        without=sql.Literal(without),
        column=sql.SQL(column),
        query=sql.Literal(query),
        kind=sql.SQL(kind),
        size=sql.Literal(size),
        count=sql.Literal(ef_search),
    )


def measured(
    exact: Sequence[Sequence[int]],
    found: Callable[[int], Sequence[set[int]]],
    wanted: float,
    photos: int,
) -> Hnsw:
    """Chooses the fewest photos to look at that reach a recall.

    Args:
        exact: The nearest people of each probe, the nearest first.
        found: Returns the people whom the index finds for each probe, by `ef_search`.
        wanted: The recall to reach; if none does, the most are looked at.
        photos: How many there are.
    """
    count = sum(map(len, exact))
    if not count:
        return Hnsw(EF_SEARCH[0], 0.0, 0.0, 0, photos)
    for ef_search in EF_SEARCH:
        both = list(zip(exact, found(ef_search), strict=True))
        recall = sum(len(people.intersection(near)) for near, people in both) / count
        if recall >= wanted:
            break
    first = sum(bool(near) and near[0] in people for near, people in both) / len(both)
    return Hnsw(ef_search, first, recall, len(both), photos)
