"""Whether a calibrated gallery keeps what is promised: `python -m benchmarks.calibration`.

Galleries are drawn from known distributions and calibrated; the true rates at the chosen threshold
come from many more strangers. With `--embeddings` the same is done with people of real faces.
"""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from benchmarks.common.machine import machine_words
from benchmarks.common.page import Record, Table, filled_regions
from benchmarks.common.runner import Progress, add_flags, new_record, parsed, publish

from centerarc.evaluation import (
    LeaveOneOut,
    Rate,
    extreme_tail,
    leave_one_out,
    operating_point,
    read_embeddings,
)
from centerarc.evaluation.intervals import draw_people
from centerarc.evaluation.open_set import smallest_fpir
from centerarc.evaluation.pareto_tail import why_no_tail
from centerarc.evaluation.people_rates import clopper_pearson, in_larger, lowest_threshold

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
# Embeddings and their people, of so many people.
Draw = Callable[[int], tuple[Floats, Ints]]
Found = dict[str, Any]

WORLDS = {
    "tight": "photos of a person close together, all people alike",
    "loose": "photos of a person far apart",
    "unequal": "six groups of people, some crowded, and people of unequal spread",
}
SIZE = 32
# Wanted FPIRs by people; the rate that is extrapolated; photos of strangers that find the true one.
FPIRS = {20: (0.1, 0.3), 200: (0.01, 0.05), 2000: (0.001, 0.01)}
RARE = {20: 0.02, 200: 0.002, 2000: 0.0005}
STRANGERS = {20: 8_000, 200: 16_000, 2000: 40_000}
LARGER = 4
RESAMPLES = 200
# Of real faces: people in the gallery, and the wanted FPIR.
REAL = {50: 0.1, 200: 0.03, 500: 0.01}
MOST_PHOTOS = 10


def unit(values: npt.NDArray[Any]) -> Floats:
    """Rows of length 1."""
    rows = values / np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(rows, dtype=np.float32)


def draw(world: str, generator: np.random.Generator, people: int) -> tuple[Floats, Ints]:
    """Embeddings of people: a direction each, and 1 to 10 photos around it.

    Up to 200 people have each number of photos as often, more people have 2.8 on average.
    """
    counts = generator.integers(1, MOST_PHOTOS + 1, people)
    if people > 200:
        counts = np.minimum(generator.geometric(0.36, people), MOST_PHOTOS)
    centers = unit(generator.normal(size=(people, SIZE))).astype(np.float64)
    spread = np.full(people, 0.5 if world == "tight" else 1.2)
    if world == "unequal":
        spread = 0.7 * np.exp(0.5 * generator.normal(size=people))
        groups = unit(np.random.default_rng(99).normal(size=(6, SIZE)))
        group = generator.choice(6, people, p=[0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
        pull = 1.5 * np.array([0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
        centers = unit(centers + pull[group, None] * groups[group]).astype(np.float64)
    who = np.repeat(np.arange(people), counts)
    noise = generator.normal(size=(who.size, SIZE)) / np.sqrt(SIZE)
    return unit(centers[who] + spread[who, None] * noise), who


def best_scores(gallery: Floats, probes: Floats) -> Floats:
    """(Q,) the highest cosine of each probe in a gallery."""
    parts = [(gallery @ probes[at : at + 512].T).max(axis=0) for at in range(0, len(probes), 512)]
    return np.concatenate(parts)


def own_scores(faces: Floats, who: Ints) -> npt.NDArray[np.float64]:
    """(N,) the highest cosine to another photo of the person, NaN without one; `who` is sorted."""
    result = np.full(who.size, -np.inf)
    for step in range(1, MOST_PHOTOS):
        same = np.flatnonzero(who[step:] == who[:-step])
        cosine = np.einsum("nd,nd->n", faces[same], faces[same + step])
        np.maximum.at(result, same, cosine)
        np.maximum.at(result, same + step, cosine)
    return np.where(np.isfinite(result), result, np.nan)


def judged(rate: Rate, true: float) -> Found:
    """Whether an interval holds the true rate, how wide it is, and how wide it could be."""
    ideal = clopper_pearson(rate.value * rate.of, rate.of, 0.95)
    return {
        "below": true < rate.low,
        "above": true > rate.high,
        "true": true,
        "width": rate.high - rate.low,
        "ideal": ideal[1] - ideal[0],
    }


def plain_bootstrap(left: LeaveOneOut, threshold: float, seed: int) -> tuple[float, float]:
    """The usual percentile interval over people, with the threshold kept."""
    people = left.people.size
    named = np.bincount(left.person, left.rival >= threshold, people)
    drawn = np.concatenate(list(draw_people(people, 400, seed, 64)), axis=1)
    shares = (named @ drawn) / (left.photos_of @ drawn)
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(low), float(high)


def choose(left: LeaveOneOut, fpir: float) -> float:
    """The threshold that `calibrate` accepts from."""
    people = left.people.size
    return lowest_threshold(left.rival, None, in_larger(fpir, (people - 1) / people))


def a_round(world: str, people: int, seed: int) -> Found:
    """One gallery: what was promised, and what is true."""
    generator = np.random.default_rng((people, seed))
    faces, who = draw(world, generator, people)
    left = leave_one_out(faces, who)
    # Drawn at once, so that they have as many photos each as the gallery's people.
    parts = [draw(world, generator, people)]
    while sum(len(part[1]) for part in parts) < STRANGERS[people]:
        parts.append(draw(world, generator, people))
    strangers = np.concatenate([part[0] for part in parts])
    owner = np.concatenate([part[1] + people * n for n, part in enumerate(parts)])
    best = best_scores(faces, strangers)
    own = own_scores(strangers, owner)
    enrolled = ~np.isnan(own)
    found: Found = {"cases": {}, "enrolled": {}}
    for fpir in FPIRS[people]:
        threshold = choose(left, fpir)
        point = operating_point(left, threshold)
        true = float(np.mean(best >= threshold))
        low, high = plain_bootstrap(left, threshold, seed)
        found["cases"][fpir] = judged(point.fpir, true) | {"plain": low <= true <= high}
        if point.fnir is not None:
            right = (own >= threshold) & (own > best)
            found["enrolled"][fpir] = judged(point.fnir, 1 - float(np.mean(right[enrolled])))
    none = float(np.nextafter(left.rival.max(), 2))
    found["vouched"] = float(np.mean(best >= none)) <= smallest_fpir(left, 0.95)
    if people <= 200:
        joined = best
        for _ in range(LARGER - 1):
            more = draw(world, generator, people)[0]
            joined = np.maximum(joined, best_scores(more, strangers))
        threshold = choose(left, FPIRS[people][0])
        now = operating_point(left, threshold).fpir
        true = float(np.mean(joined >= threshold))
        low, high = in_larger(now.low, LARGER), in_larger(now.high, LARGER)
        found["larger"] = {"inside": low <= true <= high, "width": high - low, "true": true}
    if why_no_tail(left, RARE[people]) is None:
        tail = extreme_tail(left, RARE[people], bootstrap=RESAMPLES, seed=seed)
        at_low, at_high = (float(np.mean(best >= end)) for end in (tail.low, tail.high))
        found["tail"] = {
            "inside": at_high <= RARE[people] <= at_low,
            "true": float(np.mean(best >= tail.threshold)),
            "fits": tail.fit_p >= 0.05,
        }
    return found


def a_real_round(faces: Floats, who: Ints, people: int, seed: int) -> Found:
    """One gallery of some real people; the others are the strangers."""
    generator = np.random.default_rng((people, seed))
    order = generator.permutation(who.size)
    place = np.empty(who.size, dtype=np.int64)
    sorted_ = order[np.argsort(who[order], kind="stable")]
    starts = np.searchsorted(who[sorted_], who[sorted_])
    place[sorted_] = np.arange(who.size) - starts
    kept = place < MOST_PHOTOS
    chosen = generator.permutation(np.unique(who))[:people]
    inside = np.isin(who, chosen)
    left = leave_one_out(faces[inside & kept], who[inside & kept])
    threshold = choose(left, REAL[people])
    point = operating_point(left, threshold)
    best = best_scores(faces[inside & kept], faces[~inside & kept])
    true = float(np.mean(best >= threshold))
    low, high = plain_bootstrap(left, threshold, seed)
    found = judged(point.fpir, true) | {"plain": low <= true <= high}
    found["vouched"] = float(np.mean(best >= np.nextafter(left.rival.max(), 2))) <= smallest_fpir(
        left, 0.95
    )
    found["fnir"] = None if point.fnir is None else point.fnir.value
    return found


# The tables.


def mean(values: Iterable[float]) -> float:
    """Their mean."""
    return float(np.mean(list(values)))


def share(values: Iterable[bool]) -> str:
    """How many of them are true."""
    return f"{100 * mean(values):.1f}%"


def percent(value: float) -> str:
    """A rate in percent, with three digits."""
    return f"{100 * value:.3g}%"


def coverage_row(name: list[str], rounds: list[Found]) -> list[str]:
    """How often some intervals hold."""
    width, ideal = (mean(each[key] for each in rounds) for key in ("width", "ideal"))
    inside = [not (each["below"] or each["above"]) for each in rounds]
    return [
        *name,
        f"**{share(inside)}**",
        f"{share(each['below'] for each in rounds)} / {share(each['above'] for each in rounds)}",
        *([share(each["plain"] for each in rounds)] if "plain" in rounds[0] else []),
        percent(mean(each["true"] for each in rounds)),
        percent(width),
        percent(ideal),
    ]


HEAD = ["below / above it", "mean true rate", "mean width", "of independent photos"]


def coverage_table(record: Record) -> Table | None:
    """FPIR at chosen thresholds."""
    rows = [
        coverage_row(
            [f"{case['people']:,}", case["world"], percent(fpir)],
            [each["cases"][fpir] for each in case["rounds"]],
        )
        for case in record.get("drawn", [])
        for fpir in FPIRS[case["people"]]
    ]
    head = ["people", "world", "wanted FPIR", "true FPIR in the interval", HEAD[0]]
    return ([*head, "in the plain bootstrap's", *HEAD[1:]], rows) if rows else None


def enrolled_table(record: Record) -> Table | None:
    """Errors among the enrolled at the same thresholds."""
    rows = []
    for case in record.get("drawn", []):
        fpir = FPIRS[case["people"]][0]
        rounds = [each["enrolled"][fpir] for each in case["rounds"] if fpir in each["enrolled"]]
        name = [f"{case['people']:,}", case["world"], percent(fpir)]
        rows.append(coverage_row(name, rounds))
    head = ["people", "world", "at FPIR", "true FNIR in the interval", *HEAD]
    return (head, rows) if rows else None


def beyond_table(record: Record) -> Table | None:
    """What lies beyond the data."""
    rows = []
    for case in record.get("drawn", []):
        rounds, people = case["rounds"], case["people"]
        larger = [each["larger"] for each in rounds if "larger" in each]
        tails = [each["tail"] for each in rounds if "tail" in each]
        rows.append(
            [
                f"{people:,}",
                case["world"],
                share(each["vouched"] for each in rounds),
                share(each["inside"] for each in larger) if larger else "",
                percent(RARE[people]),
                f"{len(tails)} of {len(rounds)}",
                share(each["inside"] for each in tails) if tails else "",
                percent(float(np.median([each["true"] for each in tails]))) if tails else "",
                share(not each["fits"] for each in tails) if tails else "",
            ]
        )
    head = [
        "people",
        "world",
        "true FPIR at most `smallest_fpir`",
        f"{LARGER} times the people: in the extrapolated interval",
        "FPIR of the tail",
        "tails",
        "its true threshold in the interval",
        "median true FPIR at its threshold",
        "fit refused (p < 0.05)",
    ]
    return (head, rows) if rows else None


def real_table(record: Record) -> Table | None:
    """The same with real faces."""
    rows = []
    for case in record.get("real", []):
        rounds = case["rounds"]
        name = [f"{case['people']:,}", percent(REAL[case["people"]])]
        missed = [each["fnir"] for each in rounds if each["fnir"] is not None]
        row = coverage_row(name, rounds)
        rows.append([*row, share(each["vouched"] for each in rounds), percent(mean(missed))])
    head = ["people", "wanted FPIR", "true FPIR in the interval", HEAD[0]]
    head += ["in the plain bootstrap's", *HEAD[1:]]
    return ([*head, "true FPIR at most `smallest_fpir`", "mean FNIR"], rows) if rows else None


TABLES = {
    "coverage": coverage_table,
    "enrolled": enrolled_table,
    "beyond": beyond_table,
    "real": real_table,
}


def regions_of(record: Record) -> dict[str, str]:
    """Name -> Markdown of everything that was measured."""
    caption = (
        f"{record['date']}, `{record['command']}`, {record['galleries']} galleries a row. "
        f"{record['versions']}. {machine_words(record)}"
    )
    return filled_regions(record, TABLES, caption)


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """What the user asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.calibration",
        description="Measure how often the intervals of a calibrated gallery hold.",
    )
    add_flags(parser, rounds=500)
    parser.add_argument(
        "--embeddings",
        type=Path,
        help="of real faces, from `centerarc embed`: only the table of real faces",
    )
    chosen = parsed(parser, arguments)
    if chosen.embeddings is not None and not chosen.embeddings.is_file():
        parser.error(f"--embeddings: there is no {str(chosen.embeddings)!r}")
    return chosen


def measure(record: Record, rounds: int, embeddings: Path | None) -> None:
    """Puts all into the record, piece by piece, so that an early end leaves what there is."""
    # Each process has one core; a process that starts sees this before it loads numpy.
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
    works: list[tuple[Record, Callable[[int], Found]]] = []
    if embeddings is None:
        works += [
            ({"world": world, "people": people}, partial(a_round, world, people))
            for people in FPIRS
            for world in WORLDS
        ]
    else:
        read = read_embeddings(embeddings)
        who = np.unique(np.asarray(read.identities), return_inverse=True)[1].astype(np.int64)
        faces = unit(read.embedding)
        works += [
            ({"people": people}, partial(a_real_round, faces, who, people)) for people in REAL
        ]
    kind = "drawn" if embeddings is None else "real"
    record[kind] = []
    progress = Progress(kind, len(works))
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for case, work in works:
            found = pool.map(work, range(rounds), chunksize=max(1, rounds // 20))
            record[kind].append({**case, "rounds": found})
            progress.step()


def main(arguments: list[str] | None = None) -> int:
    """Measures and writes."""
    chosen = options(arguments)
    rounds = chosen.rounds or (4 if chosen.quick else 500)
    record = new_record("benchmarks.calibration", arguments)
    record["versions"] = f"numpy {np.__version__}"
    record["galleries"] = rounds
    stopped = False
    try:
        measure(record, rounds, chosen.embeddings)
    except KeyboardInterrupt:
        stopped = True
        print("stopped; the tables hold what there is", flush=True)
    publish("calibration", record, regions_of(record), chosen)
    return 1 if stopped else 0


if __name__ == "__main__":
    sys.exit(main())
