"""Which shards a path means, and the manifest of a folder of them."""

import glob
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from centerarc.data.folder import natural_key
from centerarc.data.source import COMPRESSED_TARS
from centerarc.io import files
from centerarc.io.files import atomic_path

# From what a user writes to the shards that it means.

_GROUP = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST_SHARDS = 100_000


def find_shards(location: str | os.PathLike[str]) -> list[Path]:
    """The shards of a folder, file or pattern with `*` or braces, each once, in natural order."""
    text = os.fspath(location)
    path = Path(text)
    if path.is_dir():
        found = _in_folder(path)
    elif path.is_file():
        found = [path]
    elif "*" in text or _GROUP.search(text):
        found = matching_files(text)
    else:
        raise ValueError(f"path is {text!r}, which is not there")
    if compressed := [path for path in found if path.name.lower().endswith(COMPRESSED_TARS)]:
        raise ValueError(
            f"{str(compressed[0])!r} is a compressed tar file, in which no image can be found "
            "without unpacking all before it; decompress the shards, as gunzip does (images hardly "
            "shrink)"
        )
    return sorted(dict.fromkeys(found), key=lambda path: natural_key(path.as_posix()))


def expand_braces(pattern: str) -> list[str]:
    """Writes out `{000..012}` and `{a,b}`, also nested, as a shell does; other braces stay.

    Example:
        >>> expand_braces("faces-{08..10}.tar")
        ['faces-08.tar', 'faces-09.tar', 'faces-10.tar']
    """
    done: list[str] = []
    waiting = [pattern]
    while waiting:
        text = waiting.pop()
        for group in _GROUP.finditer(text):
            if choices := _choices(group[1], pattern):
                written = [text[: group.start()] + c + text[group.end() :] for c in choices]
                waiting += reversed(written)
                break
        else:
            done.append(text)
        if len(done) + len(waiting) > _MOST_SHARDS:
            raise ValueError(f"pattern {pattern!r} stands for more than {_MOST_SHARDS} names")
    return list(dict.fromkeys(done))  # a group within a group is written out more than once


def _choices(group: str, pattern: str) -> list[str]:
    if match := _RANGE.fullmatch(group):
        first, last = int(match[1]), int(match[2])
        if abs(last - first) >= _MOST_SHARDS:
            raise ValueError(f"pattern {pattern!r} stands for more than {_MOST_SHARDS} names")
        padded = any(len(end) > 1 and end[0] == "0" for end in match.groups())
        width = max(map(len, match.groups())) if padded else 0
        step = 1 if first <= last else -1
        return [f"{number:0{width}d}" for number in range(first, last + step, step)]
    return group.split(",") if "," in group else []


def _in_folder(folder: Path) -> list[Path]:
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ValueError(f"cannot list {str(folder)!r}: {error.strerror}") from error
    compressed = [path for path in paths if path.name.lower().endswith(COMPRESSED_TARS)]
    shards = [path for path in paths if path.suffix.lower() == ".tar" and path.is_file()]
    if not shards and not compressed:
        raise ValueError(f"{str(folder)!r} holds no shard (*.tar)")
    return compressed + shards


def matching_files(pattern: str) -> list[Path]:
    """The files of a pattern with `*` or braces; raises `ValueError` if one is not there."""
    paths: list[Path] = []
    for text in expand_braces(pattern):
        if "*" not in text:
            paths.append(Path(text))
            continue
        # Only * is special: folders may have brackets and question marks in their names.
        literal = text.replace("[", "[[]").replace("?", "[?]")
        found = [path for path in map(Path, glob.glob(literal)) if path.is_file()]
        if not found:
            raise ValueError(f"no file matches {text!r}")
        paths += found
    if absent := [path for path in paths if not path.is_file()]:
        raise ValueError(
            f"{len(absent)} of the {len(paths)} files that {pattern!r} names are not there, "
            f"first {str(absent[0])!r}"
        )
    return paths


# What a folder of shards holds, written down when they are packed.

MANIFEST_NAME = "dataset.json"
_FORMAT = "centerarc shards"
_VERSION = 1


@dataclass(frozen=True)
class ShardInfo:
    """One shard as it was written: file name, images, bytes, and SHA-256 in hexadecimal digits."""

    name: str
    images: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A packed set of faces: the name that belongs to each label, and shards in natural order."""

    identities: list[str]
    shards: list[ShardInfo]

    @property
    def images(self) -> int:
        """How many images are in all shards."""
        return sum(shard.images for shard in self.shards)


def write_manifest(
    folder: str | os.PathLike[str], shards: Iterable[ShardInfo], identities: Sequence[str]
) -> Manifest:
    """Writes `dataset.json` beside the shards of a packed set, and returns what it says.

    Args:
        folder: Where the shards are.
        shards: What `write_shard` returned for each, in any order.
        identities: The name that belongs to each label.

    Raises:
        ValueError: If a shard or an identity comes twice, or there is none.
        OSError: If it cannot be written.
    """
    in_order = sorted(shards, key=lambda shard: natural_key(shard.name))
    manifest = Manifest(list(identities), in_order)
    _check(manifest)
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "images": manifest.images,
        "shards": [asdict(shard) for shard in manifest.shards],
        "identities": manifest.identities,
    }
    with atomic_path(Path(folder) / MANIFEST_NAME) as temporary:
        # Names that are not UTF-8 survive: whatever is not ASCII is escaped.
        temporary.write_text(json.dumps(content, indent=1), encoding="ascii")
    return manifest


def read_manifest(folder: str | os.PathLike[str]) -> Manifest | None:
    """Reads the `dataset.json` of a folder; None where there is none, or another tool's.

    Raises:
        ValueError: If it is damaged or was written by a newer version.
        OSError: If it cannot be read.
    """
    path = Path(folder) / MANIFEST_NAME
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is damaged: it is no JSON ({error})") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        return None
    if content.get("version") != _VERSION:
        raise ValueError(
            f"{str(path)!r} has version {content.get('version')!r} and this centerarc reads "
            f"{_VERSION}; use a newer one or pack again"
        )
    try:
        manifest = _from_json(content)
        _check(manifest)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}") from error
    return manifest


def check_shards(folder: Path, manifest: Manifest, present: Iterable[str], *, all_of: bool) -> None:
    """Checks names and sizes of shards, and with `all_of` that none is missing, by the manifest."""
    wanted, names = {shard.name: shard.bytes for shard in manifest.shards}, set(present)
    for name in sorted(names, key=natural_key):
        if name not in wanted:
            raise ValueError(
                f"{name!r} is not in {str(folder / MANIFEST_NAME)!r}, which lists the shards "
                "of this folder; remove the shard, or the list if it is not that of these shards"
            )
        if (size := (folder / name).stat().st_size) != wanted[name]:
            raise ValueError(
                f"shard {str(folder / name)!r} has {size} bytes and should have "
                f"{wanted[name]}; it was cut off or changed"
            )
    if all_of and (missing := [name for name in wanted if name not in names]):
        raise ValueError(
            f"{str(folder)!r} lacks {len(missing)} of the {len(wanted)} shards that its "
            f"{MANIFEST_NAME} lists, first {missing[0]!r}"
        )


def verify_checksums(
    folder: str | os.PathLike[str], progress: Callable[[int, int], Any] | None = None
) -> list[str]:
    """Reads all shards of a packed set and compares them with what was written.

    Args:
        folder: The folder with its `dataset.json`.
        progress: Called with the bytes read so far and the bytes of all shards.

    Returns:
        One line for each problem; empty if every shard is as it was written.

    Raises:
        ValueError: If the folder has no `dataset.json` of ours, or it is damaged.
    """
    root = Path(folder)
    manifest = read_manifest(root)
    if manifest is None:
        raise ValueError(
            f"{str(root)!r} has no {MANIFEST_NAME} with checksums; centerarc data pack writes one"
        )
    wanted = {shard.name: (shard.bytes, shard.sha256) for shard in manifest.shards}
    strange = {path.name for path in root.glob("*.tar") if path.name[0] != "."} - wanted.keys()
    return files.verify_checksums(root, wanted, progress) + [
        f"{name}: is not in {MANIFEST_NAME}" for name in sorted(strange, key=natural_key)
    ]


def _from_json(content: dict[str, Any]) -> Manifest:
    identities, listed = content.get("identities"), content.get("shards")
    if not isinstance(identities, list) or not all(isinstance(n, str) for n in identities):
        raise ValueError("identities is not a list of names")
    if not isinstance(listed, list) or not all(isinstance(shard, dict) for shard in listed):
        raise ValueError("shards is not a list of shards")
    kinds = {"name": str, "images": int, "bytes": int, "sha256": str}
    for shard in listed:
        for field, kind in kinds.items():
            if not isinstance(shard.get(field), kind):
                raise ValueError(f"{field} of shard {shard.get('name')!r} is {shard.get(field)!r}")
    return Manifest(identities, [ShardInfo(*map(shard.get, kinds)) for shard in listed])


def _check(manifest: Manifest) -> None:
    if not manifest.shards or not manifest.identities:
        raise ValueError("there must be at least one shard and one identity")
    names = [shard.name for shard in manifest.shards]
    for name in names:
        if not name or Path(name).name != name:
            raise ValueError(f"shard {name!r} is not a file name")
    for what, values in (("shard", names), ("identity", manifest.identities)):
        value, count = Counter(values).most_common(1)[0]
        if count > 1:
            raise ValueError(f"{what} {value!r} comes {count} times")
