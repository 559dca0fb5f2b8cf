"""A folder of photos becomes a folder of aligned faces."""

import csv
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, NamedTuple, get_args

import cv2
import numpy as np
import simplejpeg

from centerarc.curate.photos import (
    Face,
    FaceRule,
    LandmarkTable,
    Photo,
    PhotoTree,
    check_face_rule,
    choose_faces,
    face_separators,
    output_names,
)
from centerarc.curate.yunet import YuNetDetector
from centerarc.data.alignment import TEMPLATE_SIZE, transform_scale, warp
from centerarc.data.decode import Image, decode_image
from centerarc.data.folder import natural_key
from centerarc.data.source import folded
from centerarc.io.files import LOCK, atomic_path, read_file
from centerarc.io.jobs import changed, locked_job
from centerarc.io.parallel import Tick, check_workers, run_tasks
from centerarc.io.tables import write_csv

# The CSV file that says what became of every photo.

REPORT_NAME = "alignment.csv"
JOURNAL_NAME = ".alignment-unfinished.csv"

# What became of a face, or of a photo without one, as the file has it: texts, "" for nothing.
#
# path, aligned: the photo below the folder of photos, the face below that of faces
# identity: whose face the landmarks say it is
# status, reason: "aligned", "no face", "several faces", "too small", "bad landmarks", "unreadable",
#     "no landmarks", "no photo" or "left out", and more about that
# face, faces: number of the face among those taken from this photo, from 1; how many there are
# score: how sure the detector was
# detector: its file and the first digits of the SHA-256; "" for landmarks
# x1 to y5, scale: landmarks in the photo; pixels of the aligned face for each of the photo
# version: of the photo and its landmarks, when this was done
Row = dict[str, str]

_POINTS = [f"{axis}{number}" for number in range(1, 6) for axis in "xy"]
COLUMNS = [
    *("path", "identity", "status", "reason", "face", "faces", "score", "detector"),
    *_POINTS,
    *("scale", "aligned", "version"),
]
_EMPTY = dict.fromkeys(COLUMNS, "")
_WITHOUT_DETECTOR = [name for name in COLUMNS if name != "detector"]  # as it once was


def _row(path: str, status: str, reason: str = "", **more: Any) -> Row:
    return _EMPTY | {"path": path, "status": status, "reason": reason} | more


def read_report(path: str | os.PathLike[str]) -> list[Row]:
    """Reads a report; empty if there is none. Raises `ValueError` if it is something else."""
    if not os.path.exists(path):
        return []
    with _open(path, "r") as file:
        reader = csv.reader(file, strict=True)
        try:
            columns = next(reader, [])
            if columns not in (COLUMNS, _WITHOUT_DETECTOR):
                raise ValueError("its columns are others")
            return [_EMPTY | dict(zip(columns, fields, strict=True)) for fields in reader]
        except (ValueError, csv.Error) as error:
            raise ValueError(
                f"{os.fspath(path)}, line {reader.line_num}: this is not the report of an "
                f"alignment ({error})"
            ) from error


def _fields(row: Row) -> list[str]:
    return [row[name] for name in COLUMNS]


def write_report(path: str | os.PathLike[str], rows: Iterable[Row]) -> None:
    """Writes a report, complete or not at all."""
    write_csv(path, COLUMNS, map(_fields, rows))


class Journal:
    """Rows kept from the moment they are known, so that a run that is killed is not for nothing."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / JOURNAL_NAME
        self._file: IO[str] = _open(self._path, "w")
        self._writer = csv.writer(self._file)

    def add(self, rows: Iterable[Row]) -> None:
        """Appends all rows of one photo."""
        self._writer.writerows(map(_fields, rows))
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
                rows.append(dict(zip(COLUMNS, fields, strict=True)))  # noqa: PERF401
        except (ValueError, csv.Error):
            pass  # cut off here
    return [row for row in rows if row["path"] != rows[-1]["path"]]


def _open(path: str | os.PathLike[str], mode: Literal["r", "w"]) -> IO[str]:
    # Names that are not UTF-8 come out as the bytes that they are. Lines end as in RFC 4180:
    # Python quotes a carriage return in a name only if lines end with one.
    return open(path, mode, encoding="utf-8", errors="surrogateescape", newline="")


# One photo: its faces are found, chosen, cut out and written.

Format = Literal["jpg", "png"]
_JPEG_QUALITY = 95


class _Group(NamedTuple):
    """Faces of one photo among which the rule chooses; None lets the detector find them.

    They go to `name`, below the output folder and without extension; `separator` stands between
    that and the number of a second face.
    """

    identity: str
    name: str
    separator: str
    faces: Sequence[Face] | None
    version: str

    def file(self, number: int, extension: str) -> str:
        """The file of face `number`, from 1, below the output folder."""
        suffix = "" if number == 1 else f"{self.separator}{number}"
        return f"{self.name}{suffix}.{extension}"


# A photo's path and its faces.
_Task = tuple[str, list[_Group]]


@dataclass(frozen=True)
class _Aligner:
    """What a process needs to align photos; see `align_folder`."""

    root: Path
    out: Path
    size: int
    faces: FaceRule
    min_face: float
    format: Format
    detector: YuNetDetector | None
    named: str  # the detector, as the report has it

    def align(self, tasks: Sequence[_Task], tick: Tick) -> list[list[Row]]:
        """Aligns and writes the faces of photos; returns what became of each photo's faces."""
        every = []
        for path, groups in tasks:
            tick()
            rows: list[Row] = []
            try:
                photo = decode_image(read_file(self.root / path))
                found = self.detector.detect(photo) if self.detector is not None else []
            except (OSError, ValueError) as error:
                rows += [
                    _row(path, "unreadable", str(error), identity=g.identity, version=g.version)
                    for g in groups
                ]
            else:
                for group in groups:
                    faces = found if group.faces is None else group.faces
                    rows += self._align_group(path, photo, group, faces)
            every.append(rows)
        return every

    def _align_group(
        self, path: str, photo: Image, group: _Group, faces: Sequence[Face]
    ) -> Iterator[Row]:
        """Yields what became of each face taken or unfit, and of a group of which none was."""
        height, width = photo.shape[:2]
        about = _row(
            *(path, "no face"),
            identity=group.identity,
            faces=str(len(faces)),
            detector=self.named,
            version=group.version,
        )
        unfit, large, small = [], [], []
        for face in faces:
            if problem := face.problem(width, height):
                unfit.append(_of(about, face, status="bad landmarks", reason=problem))
            elif face.side < self.min_face:
                small.append(face)
            else:
                large.append(face)
        taken = choose_faces(large, self.faces, width, height)
        for number, face in enumerate(taken, start=1):
            matrix = face.matrix(self.size)
            name = group.file(number, self.format)
            self._write(self.root / path, name, warp(photo, matrix, self.size))
            scale = repr(transform_scale(matrix))
            yield _of(about, face, status="aligned", face=str(number), scale=scale, aligned=name)
        if large and not taken:
            yield about | {"status": "several faces", "reason": f"{len(large)} faces"}
        elif small and not taken:
            best = max(small, key=lambda face: face.side)
            reason = f"a square of {best.side:.1f} pixels; at least {self.min_face:g} are asked for"
            yield _of(about, best, status="too small", reason=reason)
        elif not unfit and not taken:
            yield about
        yield from unfit

    def _write(self, photo: Path, name: str, face: Image) -> None:
        target = self.out / name
        if target.exists() and target.samefile(photo):
            raise ValueError(f"{str(target)!r} is the photo itself; it is not overwritten")
        if self.format == "jpg":
            data: bytes = simplejpeg.encode_jpeg(
                face, quality=_JPEG_QUALITY, colorspace="RGB", colorsubsampling="444"
            )
        else:
            _, png = cv2.imencode(".png", np.ascontiguousarray(face[:, :, ::-1]))
            data = png.tobytes()
        try:
            with atomic_path(target) as temporary:
                temporary.write_bytes(data)
        except OSError as error:
            raise OSError(f"cannot write {str(target)!r}: {error.strerror or error}") from error


def _of(about: Row, found: Face, /, **more: str) -> Row:
    points = dict(zip(_POINTS, (repr(float(value)) for value in found.points.flat), strict=True))
    score = "" if found.score is None else repr(found.score)
    return about | {"score": score} | points | more


# What a run has to do, given what earlier runs did.


def _plan(
    tree: PhotoTree,
    landmarks: LandmarkTable | None,
    earlier: Sequence[Row],
    out: Path,
    extension: Format,
) -> tuple[list[_Task], list[Row], int]:
    """Sorts photos into those to work on, in natural order, and those that need no work.

    Returns the tasks, the rows that are known, and how many photos are as an earlier run left them.
    """
    known = [_row(path, "left out", reason) for path, reason in tree.left_out]
    # A photo, an identity, and its faces or None where they are to be detected.
    units: list[tuple[Photo, str, list[Face] | None]] = []
    for photo in tree.photos:
        if landmarks is None:
            units.append((photo, "", None))
        elif found := landmarks.faces(photo.path):
            units += [(photo, identity, faces) for identity, faces in found.items()]
        else:
            known.append(_row(photo.path, "no landmarks"))
    if landmarks is not None:
        absent = landmarks.without_photo(photo.path for photo in tree.photos)
        reason = "the landmarks name it, but it is not there"
        known += [_row(path, "no photo", reason) for path in absent]

    before: dict[tuple[str, str], list[Row]] = {}
    for row in earlier:
        before.setdefault((row["path"], row["identity"]), []).append(row)
    names = output_names([(photo.path, identity) for photo, identity, _ in units])
    separators = face_separators(names)
    todo: dict[str, list[_Group]] = {}
    kept: dict[str, list[Row]] = {}
    stale: set[str] = set()
    for (photo, identity, faces), name in zip(units, names, strict=True):
        rows = before.get((photo.path, identity), [])
        separator = separators.get(PurePosixPath(name).parent.as_posix(), "-")
        group = _Group(identity, name, separator, faces, _version(photo.version, faces))
        todo.setdefault(photo.path, []).append(group)
        kept.setdefault(photo.path, []).extend(rows)
        if not _done(rows, group, out, extension):
            stale.add(photo.path)
    tasks = [(path, groups) for path, groups in todo.items() if path in stale]
    known += [row for path in todo if path not in stale for row in kept[path]]
    here = {photo.path for photo in tree.photos} | {row["path"] for row in known}
    known += [row for row in earlier if row["aligned"] and row["path"] not in here]
    return tasks, known, len(todo) - len(tasks)


def _done(rows: list[Row], group: _Group, out: Path, extension: Format) -> bool:
    """Whether an earlier run did all of this: files are whole or absent."""
    if not rows or any(row["version"] != group.version for row in rows):
        return False
    if any(row["status"] == "unreadable" for row in rows):  # a disk or a network may be back
        return False
    written = [row["aligned"] for row in rows if row["aligned"]]
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


def _remove_outdated(out: Path, earlier: Sequence[Row], now: Sequence[Row]) -> None:
    """Removes faces that earlier runs wrote and that are not in the report any more.

    A face whose landmarks were taken away or given to someone else would otherwise stay among the
    faces of the one it is not. Nothing outside the folder is removed, whatever a report says.
    """
    kept = {folded(row["aligned"]) for row in now}
    for row in earlier:
        if row["aligned"] and folded(row["aligned"]) not in kept:
            path = out / row["aligned"]
            if _is_within(path.parent, out) and ".." not in path.parts:
                path.unlink(missing_ok=True)


def _check_apart(root: Path, out: Path) -> None:
    for inner, outer in ((out, root), (root, out)):
        if _is_within(inner, outer):
            raise ValueError(
                f"out is {str(out)!r} and the photos are in {str(root)!r}; neither may be in the "
                "other, so that no photo is overwritten"
            )
    if out.exists() and not out.is_dir():
        raise ValueError(f"out must be a folder, got {str(out)!r}")


def _check_named(landmarks: LandmarkTable, tree: PhotoTree) -> None:
    """Refuses landmarks of other photos: nothing would be aligned, and earlier faces removed."""
    paths = [photo.path for photo in tree.photos]
    if paths and not any(landmarks.faces(path) for path in paths):
        raise ValueError(
            "landmarks must name photos by their paths in the folder, with the extension, such as "
            f"{paths[0]!r}; none of {len(landmarks):,} does, the first is "
            f"{landmarks.first_path()!r}"
        )


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Writes down how the faces of a folder are aligned, if it is new; else they must be alike."""
    path = out / "alignment.json"
    if path.exists():
        try:
            old = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{str(path)!r} is not what an alignment wrote: {error}") from error
        if old != settings:
            raise ValueError(
                f"out is {str(out)!r}, which holds faces aligned with another "
                f"{changed(old, settings)}; choose another folder, or delete that one"
            )
        return
    if not {REPORT_NAME, JOURNAL_NAME, LOCK}.issuperset(os.listdir(out)):
        raise ValueError(
            f"out is {str(out)!r}, which is not empty and not from an alignment; choose a new "
            "folder"
        )
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _is_within(path: Path, folder: Path) -> bool:
    real, top = os.path.realpath(path), os.path.realpath(folder)
    return real == top or real.startswith(os.path.join(top, ""))


# A whole folder of photos becomes a folder of aligned faces.

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
        others: How many files are not photos by their name.
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
    killed resumes; photos or landmarks that changed are done again.

    Args:
        root: Folder of photos, as deep as it may be.
        out: Folder for the faces: a new one, or that of an earlier run with the same settings.
        faces_from: Landmarks, or a detector to find them.
        size: Side of an aligned face in pixels, from 1 to 4096.
        faces: Which faces of a photo to take; see `choose_faces`. Where landmarks name identities,
            the rule chooses among those of one identity.
        min_face: Leave out faces for which the square cut out of the photo has a smaller side, in
            pixels of the photo.
        format: "jpg", of quality 95 with full color resolution, or "png".
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
        raise ValueError(f"size must be between 1 and {_MAX_SIZE} pixels, got {size}")
    check_face_rule(faces)
    if not 0 <= min_face < math.inf:
        raise ValueError(f"min_face must be at least 0 pixels, got {min_face}")
    if format not in get_args(Format):
        raise ValueError(f"format must be one of {', '.join(get_args(Format))}, got {format!r}")
    if workers is not None:
        check_workers(workers)
    detector = faces_from if isinstance(faces_from, YuNetDetector) else None
    landmarks = faces_from if isinstance(faces_from, LandmarkTable) else None
    if faces == "score" and landmarks is not None and not landmarks.has_scores():
        raise ValueError("faces is 'score', but some landmarks have no score")
    source, target = Path(root), Path(out)
    tree = PhotoTree(source)
    settings: dict[str, Any] = {"size": size, "faces": faces, "min_face": min_face}
    settings |= {"format": format, "faces_from": "landmarks"}
    named = ""
    if detector is not None:
        named = f"{detector.file_name} {detector.sha256[:12]}"
        settings["faces_from"] = f"detector {detector.sha256}"
        settings |= {"min_score": detector.min_score, "max_side": detector.max_side}
    aligner = _Aligner(source, target, size, faces, min_face, format, detector, named)
    _check_apart(source, target)
    if landmarks is not None:
        _check_named(landmarks, tree)
    report = target / REPORT_NAME
    with locked_job(target, target):
        _claim(target, settings)
        earlier = read_report(report)
        if left := read_journal(target):  # a run was killed: what it did goes into the report
            newer = {row["path"] for row in left}
            earlier = [row for row in earlier if row["path"] not in newer] + left
            write_report(report, earlier)
        tasks, rows, unchanged = _plan(tree, landmarks, earlier, target, format)
        journal = Journal(target)
        todo = {path for path, _ in tasks}
        try:
            with closing(_aligned(aligner, tasks, workers, progress)) as photos:
                for found in photos:
                    journal.add(found)
                    rows += found
                    todo.discard(found[0]["path"])
        finally:
            # What an unfinished run did not come to keeps the rows it had.
            rows += [row for row in earlier if row["path"] in todo]
            rows.sort(key=lambda row: natural_key(row["path"]))
            _remove_outdated(target, earlier, rows)
            write_report(report, rows)
            journal.discard()
    counts = Counter(row["status"] for row in rows)
    return AlignmentSummary(
        photos=len(tree.photos),
        unchanged=unchanged,
        faces=counts["aligned"],
        counts=dict(counts.most_common()),
        others=tree.others,
        report=report,
    )


def _aligned(
    aligner: _Aligner,
    tasks: Sequence[_Task],
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> Generator[list[Row], None, None]:
    """Yields the rows of each photo as it is done."""
    if len(tasks) <= _CHUNK:
        workers = 0  # done before the first process has started
    size = 1 if workers == 0 else _CHUNK
    chunks = [tasks[at : at + size] for at in range(0, len(tasks), size)]
    done = 0
    with closing(
        run_tasks(_Aligner.align, aligner, chunks, ordered=False, workers=workers)
    ) as results:
        for found in results:
            yield from found
            done += len(found)
            if progress is not None:
                progress(done, len(tasks))
