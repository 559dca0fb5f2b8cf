"""A whole folder of photos becomes a folder of aligned faces."""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from centerarc.data.alignment.align_photo import Format, Group, PhotoAligner
from centerarc.data.alignment.detect import YuNetDetector
from centerarc.data.alignment.faces import FaceRule, check_face_rule
from centerarc.data.alignment.landmarks import LandmarkTable
from centerarc.data.alignment.photos import find_photos
from centerarc.data.alignment.plan import claim_folder, make_plan, remove_outdated
from centerarc.data.alignment.report import (
    REPORT_NAME,
    Journal,
    Row,
    read_journal,
    read_report,
    write_report,
)
from centerarc.data.alignment.template import TEMPLATE_SIZE
from centerarc.data.folder import natural_key
from centerarc.data.processes import Tick, as_done
from centerarc.data.workers import check_workers

Photo = tuple[str, list[Group]]
_CHUNK = 8  # photos a process gets at once: at most a second or two of work
_MAX_SIZE = 4096


@dataclass(frozen=True)
class AlignmentSummary:
    """What became of a folder of photos.

    Args:
        photos: How many photos there are.
        unchanged: How many of them were done before.
        faces: How many aligned faces there are now.
        counts: Number of rows of the report by status, the most frequent first.
        others: How many files are no photos by their name.
        report: The report.
    """

    photos: int
    unchanged: int
    faces: int
    counts: dict[str, int]
    others: int
    report: Path


def align_folder(
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    faces_from: LandmarkTable | YuNetDetector,
    *,
    size: int = TEMPLATE_SIZE,
    faces: FaceRule = "largest",
    min_face: float = 0,
    format: Format = "jpg",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AlignmentSummary:
    """Aligns the faces of all photos below a folder.

    The face of `<root>/ann/1.png` goes to `<out>/ann/1.jpg`, further ones under the rule "all" to
    `1-2.jpg` and so on; where landmarks name identities, to `<out>/<identity>/`. What became of
    every photo is in `<out>/alignment.csv`. Photos are only read. A run that was interrupted or
    killed goes on where it was; photos or landmarks that changed are done again.

    Args:
        root: Folder of photos, as deep as it may be.
        out: Folder for the faces: a new one, or that of an earlier run with the same settings.
        faces_from: Landmarks, or a detector to find them.
        size: Side of an aligned face in pixels, from 1 to 4096.
        faces: Which faces of a photo to take; see `choose_faces`. Where landmarks name identities,
            the rule chooses among those of one identity.
        min_face: Leave out faces for which the square cut out of the photo has a smaller side, in
            pixels of the photo.
        format: "jpg" or "png".
        workers: Processes that work; 0 works in this one, None takes one for each core.
        progress: Called with the number of photos done and the number of all to do.

    Returns:
        How many photos became what.

    Raises:
        OSError: If a face cannot be written or a process dies.
        ValueError: If an argument is out of range, there is no photo, or `out` may not be used.
        KeyboardInterrupt: On Ctrl-C, with all that was done in the report.
    """
    if not 1 <= size <= _MAX_SIZE:
        raise ValueError(f"size is {size}; it must be between 1 and {_MAX_SIZE} pixels")
    check_face_rule(faces)
    if not 0 <= min_face < math.inf:
        raise ValueError(f"min_face is {min_face}; it must be at least 0 pixels")
    if format not in get_args(Format):
        raise ValueError(f"format is {format!r}; it must be one of {', '.join(get_args(Format))}")
    if workers is not None:
        check_workers(workers)
    detector = faces_from if isinstance(faces_from, YuNetDetector) else None
    landmarks = faces_from if isinstance(faces_from, LandmarkTable) else None
    if faces == "score" and landmarks is not None and not landmarks.has_scores():
        raise ValueError("faces is 'score', but some landmarks have no score")
    source, target = Path(root), Path(out)
    tree = find_photos(source)
    settings: dict[str, Any] = {"size": size, "faces": faces, "min_face": min_face}
    settings |= {"format": format, **_settings_of(detector)}
    claim_folder(source, target, settings)
    report = target / REPORT_NAME
    earlier = _earlier(target)
    plan = make_plan(tree, landmarks, earlier, target, format)
    aligner = PhotoAligner(source, target, size, faces, min_face, format, detector)
    rows = list(plan.known)
    journal = Journal(target)
    done = 0
    todo = {path for path, _ in plan.tasks}
    if len(plan.tasks) <= _CHUNK:
        workers = 0  # done before the first process has started
    size = 1 if workers == 0 else _CHUNK
    chunks = [plan.tasks[i : i + size] for i in range(0, len(plan.tasks), size)]
    try:
        with closing(as_done(_align_photos, aligner, chunks, workers=workers)) as results:
            for found in results:
                for of_photo in found:
                    journal.add(of_photo)
                    rows += of_photo
                    todo.discard(of_photo[0].path)
                done += len(found)
                if progress is not None:
                    progress(done, len(plan.tasks))
    finally:
        # What an unfinished run did not come to keeps the rows it had.
        rows += [row for row in earlier if row.path in todo]
        rows.sort(key=lambda row: natural_key(row.path))
        remove_outdated(target, earlier, rows)
        write_report(report, rows)
        journal.discard()
    counts = Counter(row.status for row in rows)
    return AlignmentSummary(
        photos=len(tree.photos),
        unchanged=plan.unchanged,
        faces=counts["aligned"],
        counts=dict(counts.most_common()),
        others=tree.others,
        report=report,
    )


def _settings_of(detector: YuNetDetector | None) -> dict[str, Any]:
    if detector is None:
        return {"faces_from": "landmarks"}
    return {
        "faces_from": f"detector {hashlib.sha256(detector.model).hexdigest()}",
        "min_score": detector.min_score,
        "max_side": detector.max_side,
    }


def _earlier(out: Path) -> list[Row]:
    """Returns the rows of earlier runs, and puts those of a killed one into the report."""
    report = out / REPORT_NAME
    rows = read_report(report)
    if left := read_journal(out):
        newer = {row.path for row in left}
        rows = [row for row in rows if row.path not in newer] + left
        write_report(report, rows)
    return rows


def _align_photos(aligner: PhotoAligner, photos: Sequence[Photo], tick: Tick) -> list[list[Row]]:
    """Returns the rows of each photo."""
    found = []
    for path, groups in photos:
        tick()
        found.append(aligner.align(path, groups))
    return found
