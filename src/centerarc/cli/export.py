"""``centerarc export``: a trained model as one ONNX file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from centerarc.cli.flags import by_flags

if TYPE_CHECKING:
    from centerarc.models.onnx_export import ExportReport


# Faces that the file is compared with PyTorch on.
_SAMPLES = 16


@by_flags
def export(
    model: Path,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    images: Path | None = None,
    opset: int = 20,
    architecture: Annotated[str, Parameter(show_default=False)] = "",
    size: int | None = None,
) -> None:
    """Write a model to one ONNX file, for any number of images at once, and check it.

    The file says itself how it wants its images. It is read back by onnxruntime and compared with
    PyTorch on faces; if they differ by more than rounding, no file is left.

    Parameters
    ----------
    model
        A run folder, a weights file, or a public checkpoint with --architecture.
    out
        The file to write, e.g. model.onnx.
    images
        Faces to compare on: a folder of <person>/<image>, a .rec file, .tar shards, or a .csv or
        .parquet list; drawn faces by default.
    opset
        Version of ONNX's operators, 18 to 23.
    architecture
        Backbone of a public checkpoint that does not name it, e.g. iresnet50.
    size
        Side of the images that such a checkpoint takes, 112 by default.
    """
    from rich.console import Console
    from rich.text import Text

    from centerarc.cli.flags import ModelFlags, opened_model
    from centerarc.cli.tables import facts_table
    from centerarc.models.onnx_export import export_onnx
    from centerarc.models.onnx_model import require_export_extra

    require_export_extra()
    if out.suffix.lower() != ".onnx":
        raise ValueError(f"out is {str(out)!r}; it must end in .onnx")
    opened = opened_model(model, ModelFlags(architecture=architecture, size=size))
    if opened.network is None:
        raise ValueError(f"{str(model)!r} is an ONNX file already")
    samples, words = _samples(images, opened.image_size)
    errors = Console(stderr=True)
    with errors.status("exporting and comparing, about half a minute"):
        report = export_onnx(
            opened.network, out, samples=samples, opset=opset, weights_sha256=opened.sha256
        )
    console = Console()
    console.print(Text(f"exported {opened.path} to {out}"), soft_wrap=True)
    console.print(facts_table(_facts(report, words)))


def _samples(images: Path | None, size: int) -> tuple[Any, str]:
    """Some faces, evenly from all of a source, and what they are in words."""
    import numpy as np

    from centerarc.cli.flags import opened
    from centerarc.data.sources import create_source

    if images is None:
        faces = create_source(
            "synthetic", num_identities=_SAMPLES, images_per_identity=1, image_size=size
        )
        words = "drawn faces"
    else:
        faces = opened(images, image_size=size)
        words = f"faces of {images}"
    numbers = np.linspace(0, len(faces) - 1, min(_SAMPLES, len(faces))).round().astype(int)
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
