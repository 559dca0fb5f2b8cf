"""Names of members: which belong together, and what a safe one is."""

import hashlib
import re
from typing import NamedTuple

# By the extension, in lower case and without its dot.
IMAGES = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif"})

# What file systems, `tar` and readers of shards stumble over.
_UNSAFE = re.compile(r'[\x00-\x1f\x7f%/\\<>:"|?*\ud800-\udfff]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE)
_META = re.compile(r"__.*__")
_MOST_BYTES = 200  # file systems end at 255; an extension and a number follow


class Member(NamedTuple):
    """A member's name in its parts.

    Args:
        folder: What is above its base name; empty if nothing is.
        key: What all members of a sample share: the name up to the first dot of its base name.
        field: What follows that dot, in lower case: `jpg`, `cls`, `json`, ...
    """

    folder: str
    key: str
    field: str


def split_name(name: str) -> Member | None:
    """Takes a member's name apart by WebDataset's convention.

    Args:
        name: As it is in the tar file, without a leading `./`.

    Returns:
        Its parts; None for what belongs to no sample: no extension, hidden, or notes to readers
        (`__notes__/...`).

    Example:
        >>> split_name("Ann_Lee/0001.jpg")
        Member(folder='Ann_Lee', key='Ann_Lee/0001', field='jpg')
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, field = base.partition(".")
    if not stem or not dot or re.match(r"__[^/]*__(/|$)", name):
        return None
    return Member(folder, f"{folder}{slash}{stem}", field.lower())


def safe_key(key: str) -> str:
    """Makes the key of a sample that any reader and any file system takes.

    What is unsafe becomes `%` and two hexadecimal digits for each of its bytes, as in web
    addresses, so different keys stay different. Over 200 bytes a part is cut and gets a checksum.

    Args:
        key: `identity/stem`; what comes before the last slash is the identity, slashes included.

    Returns:
        The key, with one slash.

    Raises:
        ValueError: If there is no slash, or a part is empty.

    Example:
        >>> safe_key("Ann Lee/0001.front")
        'Ann Lee/0001%2Efront'
    """
    identity, slash, stem = key.rpartition("/")
    if not slash or not identity or not stem:
        raise ValueError(f"key is {key!r}; it must be an identity, a slash and a stem")
    return f"{_safe_folder(identity)}/{_short(_escape(stem).replace('.', '%2E'))}"


def _safe_folder(identity: str) -> str:
    safe = _escape(identity)
    if safe[0] == "." or _DEVICES.match(safe) or _META.fullmatch(safe):
        safe = f"%{ord(safe[0]):02X}{safe[1:]}"
    safe = _short(safe)
    if safe[-1] in ". ":  # Windows drops them
        safe = f"{safe[:-1]}%{ord(safe[-1]):02X}"
    return safe


def _escape(text: str) -> str:
    return _UNSAFE.sub(lambda match: _percent(match[0]), text)


def _percent(character: str) -> str:
    try:
        data = character.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        data = character.encode("utf-8", "surrogatepass")
    return "".join(f"%{byte:02X}" for byte in data)


def _short(text: str) -> str:
    data = text.encode("utf-8")
    if len(data) <= _MOST_BYTES:
        return text
    checksum = hashlib.sha256(data).hexdigest()[:16]
    return data[: _MOST_BYTES - 17].decode("utf-8", "ignore") + "-" + checksum
