"""The page of a check: each kind of problem with example pictures, in one file."""

import os
from typing import Any

from centerarc.data import source as sources
from centerarc.data.inspection.check import CheckResult
from centerarc.data.inspection.page import picture, write_page
from centerarc.data.inspection.problems import KINDS, Problem
from centerarc.data.source import FaceSource

_PICTURES = 12
_ROWS = 200


def write_check_page(
    path: str | os.PathLike[str], source: FaceSource, result: CheckResult, *, name: str
) -> None:
    """Writes one HTML page that needs no network and no other file.

    The file is complete or absent. Of each kind of problem up to 12 are shown with their pictures
    and up to 200 are listed; what a model found starts with the surest.

    Args:
        path: The file to write.
        source: The source that was checked.
        result: What was found.
        name: What the page calls the source.
    """
    counts = result.counts()
    write_page(
        path,
        "check.html.j2",
        name=name,
        result=result,
        headline=_headline(result),
        severities={
            severity: sum(n for kind, n in counts.items() if KINDS[kind].severity == severity)
            for severity in ("error", "warning", "note")
        },
        sections=[_section(source, result, kind, count) for kind, count in counts.items()],
    )


def _headline(result: CheckResult) -> str:
    failed = result.images - result.decoded
    images = f"{_images(result.decoded)} decoded"
    images += f", {failed:,} could not be" if failed else ""
    if result.left_out:
        images += f"; {_images(result.left_out)} left out when the source was opened"
    if not result.problems:
        end = "nothing was found."
    elif not result.errors:
        end = "none must be left out of a training."
    else:
        # One image may have several errors, and an archive of images may have one.
        errors = [p for p in result.problems if p.severity == "error"]
        bad = len({p.place for p in errors if KINDS[p.problem].of_image})
        other = len({p.place for p in errors if not KINDS[p.problem].of_image})
        found = [_count(bad, "image")] if bad else []
        found += [_count(other, "archive")] if other else []
        verb = "has an error" if bad + other == 1 else "have an error"
        end = f"{' and '.join(found)} {verb} and must not be trained on."
    judged = f" {_sentence(result.judgement.summary())}" if result.judgement else ""
    return f"{images}; {end}{judged}"


def _images(number: int) -> str:
    return f"{_count(number, 'image')} {'was' if number == 1 else 'were'}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _sentence(line: str) -> str:
    return f"{line[0].upper()}{line[1:]}."


def _section(source: FaceSource, result: CheckResult, kind: str, count: int) -> dict[str, Any]:
    problems = [problem for problem in result.problems if problem.problem == kind]
    surest = sorted(problems, key=lambda p: -(p.confidence or 0))
    return {
        "kind": kind,
        "severity": KINDS[kind].severity,
        "meaning": KINDS[kind].meaning,
        "count": count,
        "examples": _examples(source, surest),
        "listed": problems[:_ROWS],
    }


def _examples(source: FaceSource, problems: list[Problem]) -> list[dict[str, Any]]:
    examples: list[dict[str, Any]] = []
    shown: set[frozenset[int | None]] = set()
    for problem in problems:
        # Both images of a pair may be listed; the pair is shown once.
        pair = frozenset({problem.index, problem.other})
        if problem.index is None or (problem.other is not None and pair in shown):
            continue
        shown.add(pair)
        pictures = [
            _face(source, index) for index in (problem.index, problem.other) if index is not None
        ]
        if pictures[0]["picture"]:
            examples.append({"problem": problem, "faces": pictures})
        if len(examples) == _PICTURES:
            break
    return examples


def _face(source: FaceSource, index: int) -> dict[str, str]:
    return {
        "picture": picture(source, index),
        "name": source.identities[source.labels[index]],
        "place": sources.place(source, index),
    }
