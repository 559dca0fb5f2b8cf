"""A folder of photos becomes a folder of aligned faces."""

import csv
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, get_args

import cv2
import numpy as np
import simplejpeg

from centerarc.curate.faces import Face, FaceRule, YuNetDetector, check_face_rule, choose_faces
from centerarc.curate.photos import (
    LandmarkTable,
    Photo,
    PhotoTree,
    face_separators,
    find_photos,
    folded_name,
    output_names,
)
from centerarc.data.alignment import TEMPLATE_SIZE, Floats, transform_scale, warp
from centerarc.data.decode import Image, decode_image
from centerarc.data.folder import natural_key
from centerarc.io.files import atomic_path, read_file
from centerarc.io.parallel import Tick, as_done, check_workers

# The CSV file that says what became of every photo.

REPORT_NAME = "alignment.csv"
JOURNAL_NAME = ".alignment-unfinished.csv"

Status = Literal[
    "aligned",
    "no face",
    "several faces",
    "too small",
    "bad landmarks",
    "unreadable",
    "no landmarks",
    "no photo",
    "left out",
]

_POINTS = [f"{axis}{number}" for number in range(1, 6) for axis in "xy"]
COLUMNS = [
    *("path", "identity", "status", "reason", "face", "faces", "score"),
    *_POINTS,
    *("scale", "aligned", "version"),
]


@dataclass(frozen=True, eq=False)
class Row:
    """What became of a face, or of a photo without one.

    Args:
        path: The photo, below the folder of photos.
        status: What became of it.
        reason: More about that, or "".
        identity: Whose face the landmarks say it is, or "".
        face: Number of the face among those taken from this photo, from 1; 0 if none was.
        faces: How many faces the photo has; None if nobody looked.
        score: How sure the detector was; None if nobody says.
        points: `(5, 2)` landmarks in the photo, or None.
        scale: Pixels of the aligned face for each of the photo, or None.
        aligned: The file written, below the output folder, or "".
        version: Of the photo and its landmarks, when this was done.
    """

    path: str
    status: Status
    reason: str = ""
    identity: str = ""
    face: int = 0
    faces: int | None = None
    score: float | None = None
    points: Floats | None = None
    scale: float | None = None
    aligned: str = ""
    version: str = ""

    def fields(self) -> list[str]:
        """Returns the values in the order of `COLUMNS`."""
        points = [""] * 10 if self.points is None else [repr(float(v)) for v in self.points.flat]
        return [
            *(self.path, self.identity, self.status, self.reason),
            *(str(self.face or ""), _text(self.faces), _text(self.score)),
            *points,
            *(_text(self.scale), self.aligned, self.version),
        ]


def _text(value: float | None) -> str:
    return "" if value is None else repr(value)


def _row(fields: list[str]) -> Row:
    value = dict(zip(COLUMNS, fields, strict=True))
    points = [float(value[name]) for name in _POINTS if value[name]]
    return Row(
        path=value["path"],
        status=value["status"],  # type: ignore[arg-type]
        reason=value["reason"],
        identity=value["identity"],
        face=int(value["face"] or 0),
        faces=int(value["faces"]) if value["faces"] else None,
        score=float(value["score"]) if value["score"] else None,
        points=np.array(points).reshape(5, 2) if points else None,
        scale=float(value["scale"]) if value["scale"] else None,
        aligned=value["aligned"],
        version=value["version"],
    )


def read_report(path: str | os.PathLike[str]) -> list[Row]:
    """Reads a report; empty if there is none.

    Args:
        path: The file.

    Returns:
        Its rows.

    Raises:
        ValueError: If it is no such report.
    """
    rows: list[Row] = []
    if not os.path.exists(path):
        return rows
    with _open(path, "r") as file:
        reader = csv.reader(file, strict=True)
        try:
            if next(reader, None) != COLUMNS:
                raise ValueError("its columns are others")
            for fields in reader:
                rows.append(_row(fields))  # noqa: PERF401 (the rows before an error are used)
        except (ValueError, csv.Error) as error:
            raise ValueError(
                f"{os.fspath(path)}:{reader.line_num}: this is no report of an alignment ({error})"
            ) from error
    return rows


def write_report(path: str | os.PathLike[str], rows: Iterable[Row]) -> None:
    """Writes a report, complete or not at all.

    Args:
        path: The file.
        rows: Its rows.
    """
    with atomic_path(path) as temporary, _open(temporary, "w") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(row.fields() for row in rows)


class Journal:
    """Rows kept from the moment they are known, so that a killed run is not for nothing.

    Args:
        folder: Where the report will be.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / JOURNAL_NAME
        self._file: IO[str] = _open(self._path, "w")
        self._writer = csv.writer(self._file)

    def add(self, rows: Iterable[Row]) -> None:
        """Appends all rows of one photo."""
        self._writer.writerows(row.fields() for row in rows)
        self._file.flush()

    def discard(self) -> None:
        """Removes the journal; its rows must be in the report by now."""
        self._file.close()
        self._path.unlink(missing_ok=True)


def read_journal(folder: Path) -> list[Row]:
    """Reads what a killed run left, without its last photo, which may not be whole."""
    rows: list[Row] = []
    path = folder / JOURNAL_NAME
    if not path.exists():
        return rows
    with _open(path, "r") as file:
        try:
            for fields in csv.reader(file, strict=True):
                rows.append(_row(fields))  # noqa: PERF401 (as above)
        except (ValueError, csv.Error):
            pass  # cut off here
    return [row for row in rows if row.path != rows[-1].path]


def _open(path: str | os.PathLike[str], mode: Literal["r", "w"]) -> IO[str]:
    # Names that are not UTF-8 come out as the bytes that they are. Lines end as in RFC 4180:
    # Python quotes a carriage return in a name only if lines end with one.
    return open(path, mode, encoding="utf-8", errors="surrogateescape", newline="")


# One photo: its faces are found, chosen, cut out and written.

Format = Literal["jpg", "png"]
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class Group:
    """Faces of one photo among which the rule chooses.

    Args:
        identity: Whose they are, or "".
        name: Where they go, below the output folder, without extension.
        separator: What stands between that and the number of a second face.
        faces: The faces; None lets the detector find them.
        version: Of the photo and these faces.
    """

    identity: str
    name: str
    separator: str
    faces: Sequence[Face] | None
    version: str

    def file(self, number: int, extension: str) -> str:
        """Returns the file of face `number`, from 1, below the output folder."""
        suffix = "" if number == 1 else f"{self.separator}{number}"
        return f"{self.name}{suffix}.{extension}"


@dataclass(frozen=True)
class PhotoAligner:
    """Aligns photos one by one.

    Args:
        root: Folder of the photos.
        out: Folder for the aligned faces.
        size: Side of an aligned face in pixels.
        faces: Which faces of a photo to take; see `choose_faces`.
        min_face: Least side, in pixels of the photo, of the square that is cut out.
        format: "jpg", of quality 95 with full colour resolution, or "png".
        detector: Finds the faces where none are given.
    """

    root: Path
    out: Path
    size: int
    faces: FaceRule
    min_face: float
    format: Format
    detector: YuNetDetector | None

    def align(self, path: str, groups: Sequence[Group]) -> list[Row]:
        """Aligns the faces of a photo and writes them.

        Args:
            path: The photo, below the root.
            groups: Its faces.

        Returns:
            What became of each face taken or unfit, and of each group of which none was taken.

        Raises:
            OSError: If a face cannot be written.
        """
        try:
            photo = decode_image(read_file(self.root / path))
            found = self.detector.detect(photo) if self.detector is not None else []
        except (OSError, ValueError) as error:
            reason = str(error)
            return [
                Row(path, "unreadable", reason, identity=group.identity, version=group.version)
                for group in groups
            ]
        rows: list[Row] = []
        for group in groups:
            faces = found if group.faces is None else group.faces
            rows += self._align_group(path, photo, group, faces)
        return rows

    def _align_group(
        self, path: str, photo: Image, group: Group, faces: Sequence[Face]
    ) -> list[Row]:
        height, width = photo.shape[:2]

        about = Row(
            path, "no face", identity=group.identity, faces=len(faces), version=group.version
        )
        unfit, large, small = [], [], []
        for face in faces:
            if problem := face.problem(width, height):
                unfit.append(_of(about, face, status="bad landmarks", reason=problem))
            elif face.side < self.min_face:
                small.append(face)
            else:
                large.append(face)
        taken = []
        for number, face in enumerate(choose_faces(large, self.faces, width, height), start=1):
            matrix = face.matrix(self.size)
            name = group.file(number, self.format)
            self._write(self.root / path, name, warp(photo, matrix, self.size))
            scale = transform_scale(matrix)
            taken.append(_of(about, face, status="aligned", face=number, scale=scale, aligned=name))
        if taken:
            return taken + unfit
        if large:
            several = replace(about, status="several faces", reason=f"{len(large)} faces")
            return [several, *unfit]
        if small:
            best = max(small, key=lambda face: face.side)
            reason = f"a square of {best.side:.1f} pixels; at least {self.min_face:g} are asked for"
            return [_of(about, best, status="too small", reason=reason), *unfit]
        return unfit or [about]

    def _write(self, photo: Path, name: str, face: Image) -> None:
        target = self.out / name
        if target.exists() and target.samefile(photo):
            raise ValueError(f"{str(target)!r} is the photo itself; it is not overwritten")
        data = _encoded(face, self.format)
        try:
            with atomic_path(target) as temporary:
                temporary.write_bytes(data)
        except OSError as error:
            raise OSError(f"cannot write {str(target)!r}: {error.strerror or error}") from error


def _of(about: Row, found: Face, /, **more: Any) -> Row:
    return replace(about, score=found.score, points=found.points, **more)


def _encoded(face: Image, extension: Format) -> bytes:
    if extension == "jpg":
        data: bytes = simplejpeg.encode_jpeg(
            face, quality=_JPEG_QUALITY, colorspace="RGB", colorsubsampling="444"
        )
        return data
    done, png = cv2.imencode(".png", np.ascontiguousarray(face[:, :, ::-1]))
    if not done:
        raise OSError("the PNG could not be encoded")
    return png.tobytes()


# What a run has to do, given what earlier runs did.

SETTINGS_NAME = "alignment.json"


@dataclass
class Plan:
    """What there is to do.

    Args:
        tasks: Path and groups of faces of each photo to work on, in natural order.
        known: Rows that need no work: of earlier runs, and of what cannot be aligned at all.
        unchanged: How many photos are as an earlier run left them.
    """

    tasks: list[tuple[str, list[Group]]] = field(default_factory=list)
    known: list[Row] = field(default_factory=list)
    unchanged: int = 0


def make_plan(
    tree: PhotoTree,
    landmarks: LandmarkTable | None,
    earlier: Sequence[Row],
    out: Path,
    extension: Format,
) -> Plan:
    """Sorts photos into those to work on and those that are done.

    Args:
        tree: The photos.
        landmarks: Their faces; None if a detector finds them.
        earlier: Rows of earlier runs with the same settings.
        out: The output folder, in which those runs' files still have to be.
        extension: Of the files written.

    Returns:
        The plan.
    """
    plan = Plan()
    # A photo, an identity, and its faces or None where they are to be detected.
    units: list[tuple[Photo, str, list[Face] | None]] = []
    for path, reason in tree.left_out:
        plan.known.append(Row(path, "left out", reason))
    for photo in tree.photos:
        if landmarks is None:
            units.append((photo, "", None))
        elif found := landmarks.faces(photo.path):
            units += [(photo, identity, faces) for identity, faces in found.items()]
        else:
            plan.known.append(Row(photo.path, "no landmarks"))
    if landmarks is not None:
        for path in landmarks.without_photo([photo.path for photo in tree.photos]):
            plan.known.append(Row(path, "no photo", "the landmarks name it, but it is not there"))

    before: dict[tuple[str, str], list[Row]] = {}
    for row in earlier:
        before.setdefault((row.path, row.identity), []).append(row)
    names = output_names([(photo.path, identity) for photo, identity, _ in units])
    separators = face_separators(names)
    todo: dict[str, list[Group]] = {}
    kept: dict[str, list[Row]] = {}
    stale: set[str] = set()
    for (photo, identity, faces), name in zip(units, names, strict=True):
        rows = before.get((photo.path, identity), [])
        group = Group(
            identity,
            name,
            separators.get(PurePosixPath(name).parent.as_posix(), "-"),
            faces,
            _version(photo.version, faces),
        )
        todo.setdefault(photo.path, []).append(group)
        kept.setdefault(photo.path, []).extend(rows)
        if not _done(rows, group, out, extension):
            stale.add(photo.path)
    for path, groups in todo.items():
        if path in stale:
            plan.tasks.append((path, groups))
        else:
            plan.known += kept[path]
            plan.unchanged += 1
    here = {photo.path for photo in tree.photos} | {row.path for row in plan.known}
    plan.known += [row for row in earlier if row.aligned and row.path not in here]
    return plan


def _done(rows: list[Row], group: Group, out: Path, extension: Format) -> bool:
    """Tells whether an earlier run did all of this: files are whole or absent."""
    if not rows or any(row.version != group.version for row in rows):
        return False
    if any(row.status == "unreadable" for row in rows):  # a disk or a network may be back
        return False
    written = [row.aligned for row in rows if row.aligned]
    wanted = [group.file(number, extension) for number in range(1, len(written) + 1)]
    return sorted(written) == sorted(wanted) and all((out / name).is_file() for name in written)


def _version(photo: str, faces: Sequence[Face] | None) -> str:
    if faces is None:
        return photo
    digest = hashlib.sha256()
    for face in faces:
        digest.update(np.ascontiguousarray(face.points).tobytes())
        digest.update(repr(face.score).encode())
    return f"{photo}-{digest.hexdigest()[:16]}"


def remove_outdated(out: Path, earlier: Sequence[Row], now: Sequence[Row]) -> None:
    """Removes faces that earlier runs wrote and that are not in the report any more.

    A face whose landmarks were taken away or given to somebody else would otherwise stay among
    the faces of the one it is not.

    Args:
        out: The output folder; nothing outside it is removed, whatever a report says.
        earlier: The rows of earlier runs.
        now: The rows of the report to come.
    """
    kept = {folded_name(row.aligned) for row in now}
    for row in earlier:
        if row.aligned and folded_name(row.aligned) not in kept:
            path = out / row.aligned
            if _is_within(path.parent, out) and ".." not in path.parts:
                path.unlink(missing_ok=True)


def claim_folder(root: Path, out: Path, settings: dict[str, Any]) -> None:
    """Makes the output folder and writes down how its faces are aligned.

    Args:
        root: The folder of photos.
        out: The output folder: absent, empty, or that of a run with the same settings.
        settings: What makes one alignment differ from another.

    Raises:
        ValueError: If one folder is in the other, `out` holds something else, or its faces were
            aligned differently.
    """
    for inner, outer in ((out, root), (root, out)):
        if _is_within(inner, outer):
            raise ValueError(
                f"out is {str(out)!r} and the photos are in {str(root)!r}; neither may be in the "
                "other, so that no photo is overwritten"
            )
    path = out / SETTINGS_NAME
    if out.exists() and not out.is_dir():
        raise ValueError(f"out is {str(out)!r}, which is not a folder")
    if path.exists():
        try:
            old = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{str(path)!r} is not what an alignment wrote: {error}") from error
        for name in sorted(old.keys() | settings.keys()):
            if old.get(name) != settings.get(name):
                raise ValueError(
                    f"out {str(out)!r} holds faces aligned with {name} {old.get(name)!r}, now it "
                    f"is {settings.get(name)!r}; choose another folder, or delete that one"
                )
        return
    ours = {REPORT_NAME, JOURNAL_NAME}
    if out.exists() and any(name not in ours for name in os.listdir(out)):
        raise ValueError(
            f"out {str(out)!r} is not empty and not from an alignment; choose a new folder"
        )
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _is_within(path: Path, folder: Path) -> bool:
    real, top = os.path.realpath(path), os.path.realpath(folder)
    return real == top or real.startswith(os.path.join(top, ""))


# A whole folder of photos becomes a folder of aligned faces.

PhotoWork = tuple[str, list[Group]]
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


def _align_photos(
    aligner: PhotoAligner, photos: Sequence[PhotoWork], tick: Tick
) -> list[list[Row]]:
    """Returns the rows of each photo."""
    found = []
    for path, groups in photos:
        tick()
        found.append(aligner.align(path, groups))
    return found
