"""``centerarc embed``: every image of a source as an embedding in one file."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from centerarc.cli.flags import MODEL, OUTPUT, ListFlags, ModelFlags, by_flags, flag

if TYPE_CHECKING:
    from centerarc.curate.embed import EmbedReport


_LIST = Group("Where SOURCE is a list", sort_key=3)


@by_flags
def embed(
    source: Path,
    /,
    *,
    model: Annotated[Path, Parameter(group=MODEL)],
    flags: Annotated[ModelFlags | None, Parameter(group=MODEL, show_default=False)] = None,
    mirror: Annotated[bool, flag(MODEL)] = False,
    batch_size: Annotated[int, Parameter(group=MODEL)] = 64,
    workers: Annotated[
        int | None, Parameter(group=MODEL, show_default=lambda _: "one per core, at most 16")
    ] = None,
    device: Annotated[str, Parameter(group=MODEL)] = "auto",
    columns: Annotated[ListFlags | None, Parameter(group=_LIST)] = None,
    out: Annotated[Path, Parameter(name=["--out", "-o"], group=OUTPUT)],
    overwrite: Annotated[bool, flag(OUTPUT)] = False,
) -> None:
    """Embed all images of a source into one Parquet or npz file, by any model.

    Each row has the image's place, its identity and its embedding, not normalised. Damaged images
    are left out and named in OUT.left-out.csv. The same command goes on after a stop.

    Parameters
    ----------
    source
        A folder of <person>/<image>, a .rec file, .tar shards, or a .csv or .parquet list.
    model
        A run folder, a weights file, an ONNX file, or a public checkpoint with --architecture.
    out
        The file to write, .parquet or .npz.
    mirror
        Sum the features of each image and its mirror image.
    batch_size
        Images at once.
    workers
        Processes that read images; 0 reads in this one.
    device
        Where PyTorch computes: auto, cpu, cuda or mps. ONNX models run on the CPU.
    overwrite
        Replace OUT, and what another command left unfinished.
    """
    from rich.console import Console
    from rich.text import Text

    from centerarc.cli.flags import opened, opened_model
    from centerarc.cli.progress import waiting
    from centerarc.cli.tables import facts_table
    from centerarc.curate.embed import embed_to_file
    from centerarc.evaluation.embedding import file_format
    from centerarc.io.parallel import workers_for_a_model

    file_format(out)  # before a large model is loaded
    network = opened_model(model, flags, device)
    faces = opened(source, network.image_size, columns)
    try:
        with waiting("embedding", "images") as progress:
            report = embed_to_file(
                network,
                faces,
                out,
                mirror=mirror,
                batch_size=batch_size,
                workers=workers_for_a_model() if workers is None else workers,
                overwrite=overwrite,
                progress=progress,
            )
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        raise
    console = Console()
    console.print(Text(f"embedded {source} into {out}"), soft_wrap=True)
    console.print(facts_table(_facts(report)))
    if report.left_out_file is not None:
        console.print(Text(f"what is left out, and why: {report.left_out_file}"), soft_wrap=True)


def _facts(report: "EmbedReport") -> dict[str, str]:
    from centerarc.cli.tables import work_facts

    return {
        "images": f"{report.images:,}",
        "people": f"{report.identities:,}",
        "numbers in an embedding": f"{report.embedding_size:,}",
        **work_facts(report.left_out, report.embedded, report.seconds),
    }
