"""`centerarc embed` and `centerarc export`: a model on all images of a source, and as a file."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from centerarc.cli.flags import (
    MODEL,
    OUTPUT,
    ListFlags,
    ModelFlags,
    Overwrite,
    Workers,
    by_flags,
    check_outputs,
    flag,
    opened,
    opened_model,
)

if TYPE_CHECKING:
    from centerarc.models.onnx_export import ExportReport

_LIST = Group("Where SOURCE is a list", sort_key=3)


@by_flags
def embed(
    source: Path,
    /,
    *,
    model: Annotated[str, Parameter(group=MODEL)],
    flags: Annotated[ModelFlags | None, Parameter(group=MODEL, show_default=False)] = None,
    mirror: Annotated[bool, flag(MODEL)] = False,
    batch_size: Annotated[int, Parameter(group=MODEL)] = 64,
    workers: Workers = None,
    device: Annotated[str, Parameter(group=MODEL)] = "auto",
    columns: Annotated[ListFlags | None, Parameter(group=_LIST)] = None,
    out: Annotated[Path, Parameter(name=["--out", "-o"], group=OUTPUT)],
    overwrite: Overwrite = False,
) -> None:
    """Embed all images of a source into one file, by any model.

    The file is Parquet or npz. Each row has the image's place, its identity and its embedding, not
    normalized. Damaged images are left out and named in OUT.left-out.csv. After a stop the same
    command resumes.

    Parameters
    ----------
    source
        A folder of <person>/<image>, a .rec file, .tar shards, or a .csv or .parquet list.
    model
        A run folder, a weights file, an ONNX file, hf://owner/name on the Hugging Face Hub, or a
        public checkpoint with --architecture.
    out
        The file to write, .parquet or .npz.
    mirror
        Sum the features of each image and its mirror image.
    batch_size
        Images at once.
    workers
        Processes that read images; 0 reads in this one.
    device
        Where the model computes: auto, cpu, cuda or mps; ONNX models on cpu or cuda.
    overwrite
        Replace OUT, and what another command left unfinished.
    """
    from rich.console import Console
    from rich.text import Text

    from centerarc.cli.tables import facts_table, work_facts
    from centerarc.curate.embed import check_out, embed_to_file
    from centerarc.io.parallel import workers_for_a_model
    from centerarc.io.progress import waiting

    check_out(out, overwrite=overwrite)  # before a large model is loaded
    network = opened_model(model, flags, device, mirror=mirror)
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
        print("stopped; the same command resumes", file=sys.stderr)
        raise
    console = Console()
    console.print(Text(f"embedded {source} into {out}"), soft_wrap=True)
    facts = {
        "images": f"{report.images:,}",
        "people": f"{report.identities:,}",
        "numbers in an embedding": f"{report.embedding_size:,}",
        **work_facts(report.left_out, report.embedded, report.seconds),
    }
    console.print(facts_table(facts))
    if report.left_out_file is not None:
        console.print(Text(f"what is left out, and why: {report.left_out_file}"), soft_wrap=True)


# Faces that an exported file is compared with PyTorch on.
_SAMPLES = 16


@by_flags
def export(
    model: str,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    images: Path | None = None,
    opset: int = 20,
    architecture: Annotated[str, Parameter(group=MODEL, show_default=False)] = "",
    size: Annotated[int | None, Parameter(group=MODEL)] = None,
    mean: Annotated[str, Parameter(group=MODEL, show_default=False)] = "",
    std: Annotated[str, Parameter(group=MODEL, show_default=False)] = "",
    channels: Annotated[Literal["rgb", "bgr"] | None, Parameter(group=MODEL)] = None,
    plugin: Annotated[
        tuple[str, ...],
        Parameter(group=MODEL, consume_multiple=True, negative="", show_default=False),
    ] = (),
    overwrite: Annotated[bool, flag()] = False,
) -> None:
    """Write a model to one ONNX file, checked against PyTorch.

    The file takes any number of images at once and says itself how it wants them. It is read back
    by onnxruntime and compared with PyTorch on faces; if they differ by more than rounding, no file
    is left.

    Parameters
    ----------
    model
        A run folder, a weights file, hf://owner/name on the Hugging Face Hub, or a public
        checkpoint with --architecture.
    out
        The file to write, e.g. model.onnx.
    images
        Faces to compare on: a folder of <person>/<image>, a .rec file, .tar shards, or a .csv or
        .parquet list; drawn faces by default.
    opset
        Version of ONNX's operators, 18 to 23.
    overwrite
        Replace the file if it is there.
    architecture
        Backbone of a public checkpoint that does not name it, e.g. iresnet50.
    size
        Side of the images that such a checkpoint takes, where its weights do not show it.
    mean
        Of weights of others: taken from each pixel value, 0 to 255; one number or three with
        commas between. 127.5 by default.
    std
        Likewise: what the difference is divided by. 127.5 by default.
    channels
        Likewise: rgb by default, or bgr.
    plugin
        Module or .py file that registers the backbone, if it is your own.
    """
    from rich.console import Console
    from rich.text import Text

    from centerarc.cli.tables import facts_table
    from centerarc.models.onnx_export import export_onnx
    from centerarc.models.onnx_model import require_export_extra

    require_export_extra()
    if out.suffix.lower() != ".onnx":
        raise ValueError(f"out must end in .onnx, got {str(out)!r}")
    check_outputs([("out", out)], (model, images), overwrite=overwrite)
    given = ModelFlags(
        architecture=architecture,
        size="" if size is None else str(size),
        mean=mean,
        std=std,
        channels=channels,
        plugin=plugin,
    )
    network = opened_model(model, given)
    if network.network is None:
        raise ValueError(f"{model!r} is an ONNX file already")
    samples, words = _samples(images, network.image_size)
    with Console(stderr=True).status("exporting and comparing, about half a minute"):
        report = export_onnx(
            network.network,
            out,
            samples=samples,
            opset=opset,
            weights_sha256=network.sha256,
            preprocessing=network.preprocessing,
        )
    console = Console()
    console.print(Text(f"exported {network.name} to {out}"), soft_wrap=True)
    console.print(facts_table(_facts(report, words)))


def _samples(images: Path | None, size: int) -> tuple[Any, str]:
    """Some faces, evenly from all of a source, and what they are in words."""
    import numpy as np

    from centerarc.data.source import create_source

    if images is None:
        faces = create_source(
            "synthetic", num_identities=_SAMPLES, images_per_identity=1, image_size=size
        )
    else:
        faces = opened(images, image_size=size)
    numbers = np.linspace(0, len(faces) - 1, min(_SAMPLES, len(faces))).round().astype(int)
    words = "drawn faces" if images is None else f"faces of {images}"
    return np.stack([faces.image(int(number)) for number in numbers]), words


def _facts(report: "ExportReport", words: str) -> dict[str, str]:
    size = report.preprocessing.image_size
    facts = {
        "size": f"{report.size / 1e6:,.1f} MB",
        "opset": str(report.opset),
        "input": f"images, float32 (N, 3, {size}, {size})",
        "": str(report.preprocessing),
        "output": f"embedding, float32 (N, {report.embedding_size})",
        "compared with PyTorch on": f"{report.comparisons[0].images} {words}",
    }
    for result in report.comparisons:
        facts[f"largest difference, {result.batch_size} at a time"] = (
            f"{result.largest_difference:.2g} of numbers up to {result.largest_number:.3g}"
        )
    return {**facts, "smallest cosine": f"1 - {max(1 - report.smallest_cosine, 0):.1g}"}
