"""Headers of members of a tar file: the bytes that `tarfile` gives, which takes too long."""

import tarfile

_NAME = tarfile.LENGTH_NAME
_SIZE, _SIZE_END = 124, 135
_SUM, _SUM_END = 148, 154
_BLANK = tarfile.TarInfo("").tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
_BEFORE_SIZE, _AFTER_SIZE = _BLANK[_NAME:_SIZE], _BLANK[_SIZE_END:_SUM]
_AFTER_SUM = _BLANK[_SUM_END:]
# The sum counts its own eight bytes as spaces, and the name and the size are added to it.
_REST_SUM = sum(_BEFORE_SIZE) + sum(_AFTER_SIZE) + 8 * ord(" ") + sum(_BLANK[_SUM + 8 :])


def member_header(name: str, size: int) -> bytes:
    """Returns the header of a plain file, of time 0 and nobody's.

    Args:
        name: Its name.
        size: Its number of bytes, at least 0.

    Returns:
        One block of 512 bytes; several where the name or the size does not fit into one.
    """
    if not (name.isascii() and len(name) <= _NAME and 0 <= size < 8**11):
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
    text, digits = name.encode("ascii"), b"%011o" % size
    checksum = b"%06o" % (_REST_SUM + sum(text) + sum(digits))
    header = (text.ljust(_NAME, b"\0"), _BEFORE_SIZE, digits, _AFTER_SIZE, checksum, _AFTER_SUM)
    return b"".join(header)
