"""From what a user writes to the shards that it means."""

import glob
import itertools
import os
import re
from pathlib import Path

from centerarc.data.folder import natural_key

_GROUP = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
_MOST_SHARDS = 100_000


def find_shards(location: str | os.PathLike[str]) -> list[Path]:
    """Finds the shards that a location names.

    Args:
        location: A folder with `*.tar` files (hidden ones are left out), one file, or a pattern
            with `*` or with braces: `faces-{000000..000012}.tar`, `{train,extra}-*.tar`.

    Returns:
        Their paths in natural order (2 before 10), each once.

    Raises:
        ValueError: If there are none, one that is named is absent, or they are compressed.
    """
    text = os.fspath(location)
    path = Path(text)
    if path.is_dir():
        found = _in_folder(path)
    elif path.is_file():
        found = [path]
    elif "*" in text or _GROUP.search(text):
        found = _matching(text)
    else:
        raise ValueError(f"location is {text!r}, which is not there")
    if compressed := [path for path in found if _is_compressed(path)]:
        raise ValueError(_refusal(compressed[0]))
    return sorted(dict.fromkeys(found), key=lambda path: natural_key(path.as_posix()))


def expand_braces(pattern: str) -> list[str]:
    """Writes out `{000..012}` and `{a,b}` as a shell does; other braces stay.

    Args:
        pattern: A text with any number of groups, also nested ones.

    Returns:
        All texts it stands for, each once.

    Raises:
        ValueError: If there are more than 100 000.

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
        paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise ValueError(f"cannot list {str(folder)!r}: {error.strerror}") from error
    if compressed := sorted(path for path in paths if _is_compressed(path)):
        raise ValueError(_refusal(compressed[0]))
    shards = [path for path in paths if path.suffix.lower() == ".tar" and path.is_file()]
    if not shards:
        raise ValueError(f"{str(folder)!r} holds no shard (*.tar)")
    return shards


def _matching(pattern: str) -> list[Path]:
    texts = expand_braces(pattern)
    found = [[Path(text)] if "*" not in text else _globbed(text) for text in texts]
    paths = list(itertools.chain.from_iterable(found))
    if absent := [path for path in paths if not path.is_file()]:
        raise ValueError(
            f"{len(absent)} of the {len(paths)} shards that {pattern!r} names are not there, "
            f"first {str(absent[0])!r}"
        )
    return paths


def _globbed(pattern: str) -> list[Path]:
    # Only * is special: folders may have brackets and question marks in their names.
    literal = pattern.replace("[", "[[]").replace("?", "[?]")
    paths = [path for path in map(Path, glob.glob(literal)) if path.is_file()]
    if not paths:
        raise ValueError(f"no file matches {pattern!r}")
    return paths


def _is_compressed(path: Path) -> bool:
    return path.name.lower().endswith(_COMPRESSED)


def _refusal(path: Path) -> str:
    return (
        f"{str(path)!r} is a compressed tar file, in which no image can be found without unpacking "
        "all before it; decompress the shards (images hardly shrink)"
    )
