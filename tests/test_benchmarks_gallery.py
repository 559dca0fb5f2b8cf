"""The benchmark of galleries, with few rows."""

import numpy as np
from benchmarks import gallery

from tests.postgres import Server


def test_all_engines_find_the_same_and_tables_are_filled() -> None:
    found = gallery.measure_search(300, 2)
    assert set(found["agree"].values()) == {3}
    assert {"bare product", "RowSearch", "Gallery"} <= found["seconds"][0].keys()
    record = {"search": found, "add": gallery.measure_add(50, 2)}
    head, rows = gallery.search_table(record)
    assert [row[2] for row in rows if row[0] == "bare product"] == ["1.00x"]
    assert "300" in head[0]
    assert gallery.add_table(record)[1][0][0] == "50"
    assert gallery.million_table(record) is None


def test_a_million_is_searched_in_a_process_of_its_own() -> None:
    found = gallery.measure_million(400, 3)
    assert found["recall"] == 1
    assert len(found["seconds"]) == 3
    assert gallery.million_table({"million": found})[1][-1][1] == "100.00%"


def test_queries_are_near_the_rows_that_they_are_drawn_from() -> None:
    rows = gallery.drawn(100)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    queries = gallery.queries_of(rows, 10)
    assert ((queries @ rows.T).max(axis=1) > 0.5).all()


def test_a_file_and_a_database_find_the_same(postgres: Server) -> None:
    from benchmarks import gallery_postgres

    found = gallery_postgres.measure(400, 2, postgres.new())
    assert found["same"] == 1
    assert min(found["found"].values()) > 0.9
    head, rows = gallery_postgres.search_table({"found": found})
    assert [row[0] for row in rows] == ["a file", "PostgreSQL, exact", "PostgreSQL, HNSW"]
    assert {len(row) for row in rows} == {len(head)}
