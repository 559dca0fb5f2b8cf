"""Who is this, among many: search, memory and adding, beside the bare product and other engines.

    pip install faiss-cpu qdrant-client
    python -m benchmarks.gallery [search|million|add ...] --page docs/results/gallery.md

Embeddings are drawn: people are directions, photos lie around them. Every engine gets the same rows
and queries, one query at a time, and gives five answers; engines that are not installed are left
out. `million` runs in a process of its own, whose highest memory is taken.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.common.machine import machine_words
from benchmarks.common.page import Record, Table, filled_regions, write_regions
from benchmarks.common.runner import add_flags, new_record, parsed
from benchmarks.common.turns import play, take_turns

from centerarc.gallery import Gallery
from centerarc.gallery.search import RowSearch

SIZE, ANSWERS, PHOTOS = 512, 5, 5
TASKS = ("search", "million", "add")


def drawn(count: int, seed: int = 0) -> np.ndarray:
    """Photos of people, five each, in float32 of unit length."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(
        rng.standard_normal((-(-count // PHOTOS), SIZE), dtype=np.float32), PHOTOS, axis=0
    )[:count]
    rows += rng.standard_normal(rows.shape, dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def queries_of(rows: np.ndarray, count: int) -> np.ndarray:
    """More photos of people who are there."""
    rng = np.random.default_rng(1)
    chosen = rows[rng.choice(len(rows), count, replace=False)]
    noisy = chosen + 0.04 * rng.standard_normal(chosen.shape, dtype=np.float32)
    return np.asarray(noisy / np.linalg.norm(noisy, axis=1, keepdims=True), np.float32)


def bare(rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """The product and its five highest rows."""
    scores = rows @ query
    top = np.argpartition(scores, len(scores) - ANSWERS)[-ANSWERS:]
    return np.asarray(top[np.argsort(-scores[top])])


def peers(rows: np.ndarray) -> dict[str, Callable[[np.ndarray], list[int]]]:
    """Other engines that are installed, each with all rows in it."""
    found: dict[str, Callable[[np.ndarray], list[int]]] = {}
    try:
        import faiss

        index = faiss.IndexFlatIP(SIZE)
        index.add(rows)
        found[f"faiss-cpu {faiss.__version__}, IndexFlatIP"] = lambda query: index.search(
            query[None], ANSWERS
        )[1][0].tolist()
    except ImportError:
        pass
    try:
        import importlib.metadata

        from qdrant_client import QdrantClient, models

        client = QdrantClient(":memory:")
        vectors = models.VectorParams(size=SIZE, distance=models.Distance.COSINE)
        client.create_collection("faces", vectors_config=vectors)
        client.upload_collection("faces", vectors=rows, ids=range(len(rows)))
        version = importlib.metadata.version("qdrant-client")
        found[f"qdrant-client {version}, local"] = lambda query: [
            int(point.id) for point in client.query_points("faces", query, limit=ANSWERS).points
        ]
    except ImportError:
        pass
    return found


def measure_search(count: int, rounds: int) -> dict[str, Any]:
    """Seconds of a query, by engine, in rounds; and whether their first answers agree."""
    rows = drawn(count)
    queries = queries_of(rows, rounds + 1)
    person = np.arange(count) // PHOTOS
    search = RowSearch([rows], person)
    with tempfile.TemporaryDirectory() as folder:
        gallery = Gallery.create(Path(folder) / "people.db", embedding_size=SIZE)
        gallery.add_embeddings([f"P{one}" for one in person], rows)
        gallery.identify_embeddings(queries[:1])
        others = peers(rows)
        turn = 0

        def works() -> dict[str, Callable[[], object]]:
            query = queries[turn]
            return {
                "bare product": lambda: bare(rows, query),
                "RowSearch": lambda: search.nearest(query[None], ANSWERS),
                "Gallery": lambda: gallery.identify_embeddings(query[None], candidates=ANSWERS),
                **{name: lambda ask=ask: ask(query) for name, ask in others.items()},
            }

        def play_round(number: int) -> dict[str, float]:
            nonlocal turn
            turn = number % len(queries)
            return play(works(), number)

        record: list[dict[str, float]] = []
        take_turns(f"searching {count:,}", rounds, play_round, record)
        agree = {}
        for query in queries[:20]:
            first = int(bare(rows, query)[0])
            answers = {
                "RowSearch": int(search.nearest(query[None], 1).row[0, 0]),
                "Gallery": gallery.identify_embeddings(query[None])[0].candidates[0].photo - 1,
                **{name: ask(query)[0] for name, ask in others.items()},
            }
            for name, row in answers.items():
                agree[name] = agree.get(name, 0) + (row == first)
        gallery.close()
    return {"count": count, "seconds": record, "agree": agree}


def measure_million(count: int, queries: int) -> dict[str, Any]:
    """In a process of its own: time of a query, highest memory, and answers that float64 gives."""
    with tempfile.TemporaryDirectory() as folder:
        gallery = Gallery.create(Path(folder) / "people.db", embedding_size=SIZE)
        step = 50_000
        for first in range(0, count, step):
            rows = drawn(min(step, count - first), seed=first + 1)
            names = [f"P{first + row // PHOTOS * PHOTOS}" for row in range(len(rows))]
            gallery.add_embeddings(names, rows)
        gallery.close()
        words = [sys.executable, "-m", "benchmarks.gallery", "one-process", folder, str(queries)]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"count": count, **found}


def one_process(folder: Path, queries: int) -> None:
    """Opens a gallery, searches, and says how it went."""
    start = time.perf_counter()
    gallery = Gallery(folder / "people.db")
    known = drawn(50_000, seed=1)
    asked = queries_of(known, queries)
    gallery.identify_embeddings(asked[:1])
    first = time.perf_counter() - start
    seconds, answers = [], []
    for query in asked:
        start = time.perf_counter()
        (found,) = gallery.identify_embeddings(query[None], candidates=ANSWERS)
        seconds.append(time.perf_counter() - start)
        answers.append([one.photo for one in found.candidates])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    again = Gallery(folder / "people.db")
    start = time.perf_counter()
    again.identify_embeddings(asked[:1])
    opened = time.perf_counter() - start
    again.close()
    # After the peak was taken: people by float64, block by block.
    best: list[dict[int, tuple[float, int]]] = [{} for _ in asked]
    rows = gallery.store.rows()
    wide = asked.astype(np.float64)
    for begin in range(0, len(rows.photo), 20_000):
        part = slice(begin, begin + 20_000)
        scores = rows.embedding[part].astype(np.float64) @ wide.T
        for at in range(len(asked)):
            for row in np.argpartition(scores[:, at], -50)[-50:]:
                person, photo = int(rows.person[part][row]), int(rows.photo[part][row])
                score = float(scores[row, at])
                if score > best[at].get(person, (-2.0, 0))[0]:
                    best[at][person] = (score, photo)
    right = total = 0
    for mine, all_of in zip(answers, best, strict=True):
        wanted = [photo for _, photo in sorted(all_of.values(), reverse=True)[:ANSWERS]]
        right += len(set(mine) & set(wanted))
        total += len(wanted)
    said = {"seconds": seconds, "peak": peak, "recall": right / total}
    print(json.dumps({**said, "first": first, "opened": opened}))


def measure_add(count: int, rounds: int) -> dict[str, Any]:
    """Seconds to add so many embeddings in one transaction, into a gallery that has some."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        gallery = Gallery.create(Path(folder) / "people.db", embedding_size=SIZE)
        for number in range(rounds + 1):
            rows = drawn(count, seed=number)
            names = [f"P{number}-{row // PHOTOS}" for row in range(count)]
            start = time.perf_counter()
            gallery.add_embeddings(names, rows)
            seconds.append(time.perf_counter() - start)
        gallery.close()
    return {"count": count, "seconds": seconds[1:]}


def search_table(record: Record) -> Table | None:
    found = record.get("search")
    if found is None:
        return None
    rounds = found["seconds"]
    rows = []
    for name in rounds[0]:
        ratios = [one[name] / one["bare product"] for one in rounds]
        middle = float(np.median([one[name] for one in rounds]))
        agreed = (
            ""
            if name not in found["agree"]
            else f"{found['agree'][name]} of {min(20, len(rounds) + 1)}"
        )
        rows.append([name, f"{1000 * middle:.1f}", f"{np.median(ratios):.2f}x", agreed])
    asked = f"one query among {found['count']:,} x {SIZE}"
    head = [asked, "median, ms", "to the product", "same first answer"]
    return head, sorted(rows, key=lambda row: float(row[2][:-1]))


def million_table(record: Record) -> Table | None:
    found = record.get("million")
    if found is None:
        return None
    rows = [
        ["one query, median", f"{1000 * np.median(found['seconds']):.0f} ms"],
        ["first opening, which writes the file of rows", f"{found['first']:.1f} s"],
        ["later openings, with the first query", f"{found['opened']:.1f} s"],
        ["highest memory, mapped rows counted", f"{found['peak'] / 1e9:.2f} GB"],
        ["of the five people that float64 gives, found", f"{100 * found['recall']:.2f}%"],
    ]
    return [f"among {found['count']:,} x 512", ""], rows


def add_table(record: Record) -> Table | None:
    found = record.get("add")
    if found is None:
        return None
    rates = found["count"] / np.array(found["seconds"])
    row = [f"{found['count']:,}", f"{np.median(rates):,.0f}"]
    row.append(f"{rates.min():,.0f} to {rates.max():,.0f}")
    return ["embeddings in one transaction", "rows a second, median", "from to"], [row]


def main(arguments: list[str] | None = None) -> None:
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["one-process"]:
        one_process(Path(words[1]), int(words[2]))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gallery", description=__doc__)
    parser.add_argument("tasks", nargs="*", help=f"of {', '.join(TASKS)}; all by default")
    add_flags(parser, rounds=31)
    chosen = parsed(parser, arguments)
    if wrong := set(chosen.tasks) - set(TASKS):
        parser.error(f"tasks must be of {', '.join(TASKS)}, got {', '.join(sorted(wrong))}")
    record = new_record("benchmarks.gallery", arguments)
    tasks = chosen.tasks or TASKS
    rounds = chosen.rounds or (3 if chosen.quick else 31)
    if "search" in tasks:
        record["search"] = measure_search(5_000 if chosen.quick else 100_000, rounds)
    if "million" in tasks:
        record["million"] = measure_million(*((20_000, 5) if chosen.quick else (1_000_000, 50)))
    if "add" in tasks:
        record["add"] = measure_add(1_000 if chosen.quick else 10_000, min(rounds, 15))
    tables = {"search": search_table, "million": million_table, "add": add_table}
    caption = f"{record['date']}, `{record['command']}`. {machine_words(record)}"
    regions = filled_regions(record, tables, caption)
    for region in regions.values():
        print(f"{region}\n")
    if chosen.page is not None:
        write_regions(regions, chosen.page)


if __name__ == "__main__":
    main()
