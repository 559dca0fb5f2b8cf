"""`centerarc data check`: every image decoded, and what is wrong with it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from centerarc.cli.flags import ListFlags, ModelFlags, by_flags, flag

if TYPE_CHECKING:
    from rich.table import Table

    from centerarc.curate.check import CheckResult
    from centerarc.data.source import FaceSource
    from centerarc.models.embedder import Embedder


@by_flags
def check(
    source: Path,
    /,
    *,
    problems: Path | None = None,
    leave_out: Literal["errors", "warnings"] = "errors",
    report: Path | None = None,
    json: Path | None = None,
    model: str | None = None,
    min_side: int = 64,
    columns: ListFlags | None = None,
    workers: int | None = None,
    device: str = "auto",
    flags: Annotated[ModelFlags | None, Parameter(show_default=False)] = None,
    overwrite: Annotated[bool, flag()] = False,
) -> int:
    """Decode every image and report what is wrong: damage, duplicates, wrong labels.

    Errors are images that must not be trained on, warnings deserve a look, notes are good to
    know. A table goes to the terminal, the list of images to leave out to the file of
    --problems, everything to that of --json, a page with pictures to that of --report. Nothing
    is changed or deleted.

    Exit code: 0 no errors, 1 there are errors, 2 wrong input, 130 interrupted.

    Parameters
    ----------
    source
        A folder of <person>/<image>, a .rec file, .tar shards, or a .csv or .parquet list.
    problems
        Write the images that a training should leave out to this CSV file, which data.leave_out of
        a configuration and data pack --leave-out read: every row is left out.
    leave_out
        What goes into that file: errors, or warnings as well.
    report
        Also write a page with example pictures to this file.
    json
        Also write everything that was found to this file.
    model
        A trained model: also look for wrong labels. A run folder, a weights file, an ONNX file,
        hf://owner/name on the Hugging Face Hub, or a public checkpoint with --architecture.
    min_side
        Call images tiny whose shorter side has fewer pixels.
    workers
        Processes that decode; 0 decodes in this one. One for each core by default.
    device
        Where the model computes: auto, cpu, cuda or mps; ONNX models on cpu or cuda.
    overwrite
        Replace the files of --problems, --json and --report if they are there.
    """
    from rich.console import Console

    from centerarc.cli.flags import check_outputs, opened, opened_model, reopened
    from centerarc.curate.check import check_checksums, check_source, write_problems
    from centerarc.curate.label_errors import check_enough_people
    from centerarc.io.progress import counting, waiting
    from centerarc.report.dataset_pages import write_check_page

    outputs = [("problems", problems), ("json", json), ("report", report)]
    check_outputs(outputs, [source, model], overwrite=overwrite)
    faces = opened(source, columns=columns)
    network = None
    if model is not None:  # before the hours of decoding
        check_enough_people(faces.labels)
        network = opened_model(model, flags, device)
    with counting("decoding", "images", len(faces)) as advance:
        result = check_source(faces, min_side=min_side, workers=workers, progress=advance)
    with waiting("checksums") as progress:
        result = result.with_problems(check_checksums(faces, progress=progress))
    if network is not None:
        try:
            check_enough_people(faces.labels[result.readable])
        except ValueError as error:  # what was found without the model stays
            print(f"labels not judged: {error}", file=sys.stderr)
        else:
            resized = reopened(source, network.image_size, columns)
            result = _judged(faces, resized, result, network.embedder, workers)
    line = f"{source}: {result.decoded:,} of {result.images:,} images decoded, "
    line += f"{result.identities:,} identities"
    if result.left_out:
        line += f"; {result.left_out:,} more images left out at opening"
    print(line)
    Console().print(_table(result))
    if result.judgement is not None:
        print(result.judgement.summary())
    if problems is not None:
        least: Literal["error", "warning"] = "error" if leave_out == "errors" else "warning"
        rows = write_problems(problems, result.problems, least=least)
        print(f"to leave out: {rows:,} rows in {problems}")
    if json is not None:
        _write_json(json, result, str(source))
        print(f"everything: {json}")
    if report is not None:
        write_check_page(report, faces, result, name=source.resolve().name)
        print(f"report: {report}")
    return 1 if result.errors else 0


def _judged(
    faces: "FaceSource",
    resized: "FaceSource",
    result: "CheckResult",
    embedder: "Embedder",
    workers: int | None,
) -> "CheckResult":
    """Adds what the model says of the labels of the readable images, and how far to trust it."""
    from dataclasses import replace

    from centerarc.curate.check import judge_labels
    from centerarc.curate.label_errors import judgement
    from centerarc.data.views import Subset
    from centerarc.evaluation.embedding import embed
    from centerarc.io.parallel import explain_dead_workers, workers_for_a_model
    from centerarc.io.progress import counting

    readable = Subset(resized, images=result.readable)
    processes = workers_for_a_model() if workers is None else workers
    with (
        counting("embedding", "images", len(readable)) as advance,
        explain_dead_workers(processes),
    ):
        embeddings = embed(embedder, readable, workers=processes, progress=advance)
    found = judge_labels(faces, readable.indices, embeddings)
    return replace(result.with_problems(found), judgement=judgement(embeddings, readable.labels))


def _table(result: "CheckResult") -> "Table":
    from rich.table import Table
    from rich.text import Text

    from centerarc.curate.check import KINDS

    # Text, not str: a path may hold what rich takes for markup.
    table = Table()
    for column in ("problem", "severity"):
        table.add_column(column, no_wrap=True)
    table.add_column("count", justify="right", no_wrap=True)
    table.add_column("example", overflow="fold")
    colors = {"error": "red", "warning": "yellow", "note": ""}
    for kind, count in result.counts().items():
        severity = KINDS[kind].severity
        first = next(p for p in result.problems if p.problem == kind)
        example = f"{first.place}: {first.detail}" if first.detail else first.place
        table.add_row(kind, Text(severity, colors[severity]), f"{count:,}", Text(example))
    if not result.problems:
        table.add_row("none", "", "0", "")
    return table


def _write_json(path: Path, result: "CheckResult", name: str) -> None:
    from dataclasses import asdict
    from json import dumps

    from centerarc.io.files import atomic_path

    by = result.judgement
    judged = None if by is None else {**asdict(by), "too_weak": by.too_weak}
    content = {
        "source": name,
        "images": result.images,
        "identities": result.identities,
        "decoded": result.decoded,
        "left_out_at_opening": result.left_out,
        "errors": result.errors,
        "labels_judged": judged,
        "counts": result.counts(),
        "problems": [{**asdict(p), "severity": p.severity} for p in result.problems],
    }
    with atomic_path(path) as temporary:
        temporary.write_text(dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
