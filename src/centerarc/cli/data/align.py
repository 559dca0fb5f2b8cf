"""`centerarc data align`: from a folder of photos to a folder of aligned faces."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from centerarc.cli.flags import by_flags

if TYPE_CHECKING:
    from centerarc.curate.photos import LandmarkTable
    from centerarc.curate.yunet import YuNetDetector


@by_flags
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

    The face of PHOTOS/ann/1.png becomes OUT/ann/1.jpg; what became of each photo is in
    OUT/alignment.csv. After a stop, by whatever, the same command resumes with what is left;
    photos and landmarks that changed since are done again. Without --landmarks and --detector the
    faces are found by YuNet, which pip install 'centerarc[detect]' brings. Use one detector for the
    faces that a model is trained on and for those that it is used on.

    Exit code: 0 done, 1 no face was aligned, 2 wrong input, 130 interrupted.

    Parameters
    ----------
    photos
        Folder of photos, e.g. <identity>/<photo>; deeper and flat ones work too.
    out
        Folder for the faces: a new one, or that of an earlier run with the same settings.
    landmarks
        CSV file with the columns path and x1, y1 to x5, y5 (left eye, right eye, nose, left and
        right corner of the mouth as seen in the image, in pixels); optional identity and score.
    detector
        ONNX file of a YuNet face detector, instead of that of the extra detect.
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
        jpg (quality 95, full color resolution) or png.
    """
    from rich.console import Console

    from centerarc.cli.tables import facts_table
    from centerarc.curate.align import align_folder
    from centerarc.io.progress import waiting

    faces_from = _faces_from(photos, landmarks, detector, min_score, detect_side)
    try:
        with waiting("aligning", "photos") as progress:
            summary = align_folder(
                photos,
                out,
                faces_from,
                size=size,
                faces=faces,
                min_face=min_face,
                format=format,
                workers=workers,
                progress=progress,
            )
    except KeyboardInterrupt:
        print("interrupted; the same command resumes with what is left", file=sys.stderr)
        return 130
    facts = {
        "photos": summary.photos,
        "done by an earlier run": summary.unchanged,
        "aligned faces": summary.faces,
        **{status: n for status, n in summary.counts.items() if status != "aligned"},
    }
    if summary.others:
        facts["other files, ignored"] = summary.others
    print(f"aligned {photos} to {out}")
    Console().print(facts_table({name: f"{number:,}" for name, number in facts.items()}))
    if sum(summary.counts.values()) > summary.faces:
        print(f"what was not aligned, and why: {summary.report}")
    if not summary.faces:
        print("no face was aligned", file=sys.stderr)
        return 1
    return 0


def _faces_from(
    photos: Path,
    landmarks: Path | None,
    detector: Path | None,
    min_score: float | None,
    detect_side: int | None,
) -> "LandmarkTable | YuNetDetector":
    from centerarc.curate.photos import read_landmarks
    from centerarc.curate.yunet import YuNetDetector, bundled_yunet

    if landmarks is not None:
        if detector is not None:
            raise ValueError(
                "give either --landmarks FILE.csv or --detector FILE.onnx: where faces are in a "
                "photo must come from one of them"
            )
        if min_score is not None or detect_side is not None:
            name = "--min-score" if min_score is not None else "--detect-side"
            raise ValueError(f"{name} is for a detector; with --landmarks nothing is detected")
        return read_landmarks(landmarks, photos)
    if detector is None:
        try:
            detector = bundled_yunet()
        except ImportError:
            raise ValueError(
                "no face detector is installed: pip install 'centerarc[detect]', or give "
                "--detector FILE.onnx (a YuNet model) or --landmarks FILE.csv"
            ) from None
    return YuNetDetector(
        detector,
        min_score=0.6 if min_score is None else min_score,
        max_side=640 if detect_side is None else detect_side,
    )
