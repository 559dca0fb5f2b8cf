"""``centerarc data align``: from a folder of photos to a folder of aligned faces."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from rich.table import Table

    from centerarc.curate.align import AlignmentSummary
    from centerarc.curate.faces import YuNetDetector
    from centerarc.curate.photos import LandmarkTable


def align(
    photos: Path,
    /,
    *,
    out: Path,
    landmarks: Path | None = None,
    detector: Path | None = None,
    size: int = 112,
    faces: Literal["largest", "center", "score", "all", "only"] = "largest",
    min_score: Annotated[float | None, Parameter(show_default=lambda _: "0.6")] = None,
    detect_side: Annotated[int | None, Parameter(show_default=lambda _: "640")] = None,
    min_face: float = 0,
    workers: Annotated[int | None, Parameter(show_default=lambda _: "one per core")] = None,
    format: Literal["jpg", "png"] = "jpg",
) -> int:
    """Cut the faces out of photos, turned and scaled so that eyes, nose and mouth lie the same.

    Parameters
    ----------
    photos
        Folder of photos, e.g. <identity>/<photo>; deeper and flat ones do as well.
    out
        Folder for the faces: a new one, or that of an earlier run with the same settings.
    landmarks
        CSV file with the columns path and x1, y1 to x5, y5 (left eye, right eye, nose, left and
        right corner of the mouth as seen in the image, in pixels); optional identity and score.
    detector
        ONNX file of a YuNet face detector, instead of landmarks.
    size
        Side of an aligned face in pixels.
    faces
        Of several faces in a photo: the largest, one large and near the center, the one of the
        best score, all, or only of photos that have one.
    min_score
        Least score of a face that the detector finds.
    detect_side
        Longest side of the picture in which the detector searches; larger photos are shrunk.
    min_face
        Leave out faces that take up a square of a smaller side in the photo, in pixels.
    workers
        Processes; 0 works in this one.
    format
        jpg (quality 95, full colour resolution) or png.
    """
    import sys

    from rich.console import Console

    from centerarc.cli.progress import waiting
    from centerarc.curate.align import align_folder

    source = _faces_from(photos, landmarks, detector, min_score, detect_side)
    try:
        with waiting("aligning", "photos") as progress:
            summary = align_folder(
                photos,
                out,
                source,
                size=size,
                faces=faces,
                min_face=min_face,
                format=format,
                workers=workers,
                progress=progress,
            )
    except KeyboardInterrupt:
        print("interrupted; the same command goes on with what is left", file=sys.stderr)
        return 130
    console = Console()
    console.print(_table(summary, f"{photos} to {out}"))
    missing = sum(summary.counts.values()) - summary.faces
    if missing:
        console.print(f"what was not aligned, and why: {summary.report}", markup=False)
    return 0


def _faces_from(
    photos: Path,
    landmarks: Path | None,
    detector: Path | None,
    min_score: float | None,
    detect_side: int | None,
) -> "LandmarkTable | YuNetDetector":
    from centerarc.curate.faces import YuNetDetector
    from centerarc.curate.photos import read_landmarks

    if (landmarks is None) == (detector is None):
        raise ValueError(
            "give either --landmarks FILE.csv or --detector FILE.onnx: where faces are in a photo "
            "must come from one of them"
        )
    if detector is not None:
        return YuNetDetector(
            detector,
            min_score=0.6 if min_score is None else min_score,
            max_side=640 if detect_side is None else detect_side,
        )
    if min_score is not None or detect_side is not None:
        name = "--min-score" if min_score is not None else "--detect-side"
        raise ValueError(f"{name} is for --detector; with --landmarks nothing is detected")
    assert landmarks is not None
    return read_landmarks(landmarks, photos)


def _table(summary: "AlignmentSummary", title: str) -> "Table":
    from rich.table import Table
    from rich.text import Text

    # Text, not str: a path may hold what rich takes for markup.
    table = Table(title=Text(title), title_justify="left")
    table.add_column("what")
    table.add_column("number", justify="right")
    table.add_row("photos", f"{summary.photos:,}")
    table.add_row("done by an earlier run", f"{summary.unchanged:,}")
    table.add_row("aligned faces", f"{summary.faces:,}")
    for status, count in summary.counts.items():
        if status != "aligned":
            table.add_row(status, f"{count:,}")
    if summary.others:
        table.add_row("other files, ignored", f"{summary.others:,}")
    return table
