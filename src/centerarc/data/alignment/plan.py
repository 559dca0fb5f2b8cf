"""What a run has to do, given what earlier runs did."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from centerarc.data.alignment.align_photo import Format, Group
from centerarc.data.alignment.faces import Face
from centerarc.data.alignment.landmarks import LandmarkTable
from centerarc.data.alignment.photos import (
    Photo,
    PhotoTree,
    face_separators,
    folded_name,
    output_names,
)
from centerarc.data.alignment.report import JOURNAL_NAME, REPORT_NAME, Row
from centerarc.data.files import atomic_path

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
