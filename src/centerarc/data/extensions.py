"""What the names of picture files end with."""

import os

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
# Pictures as well, which a camera, a phone or a browser saves and this library does not read.
UNREAD_EXTENSIONS = frozenset(
    {".heic", ".heif", ".avif", ".gif", ".jfif", ".jp2", ".jxl", ".dng", ".cr2", ".nef", ".arw"}
)


def extension(name: str) -> str:
    """Returns what a file's name ends with, in small letters with its dot; "" if nothing."""
    return os.path.splitext(name)[1].lower()


def is_picture(name: str) -> bool:
    """Tells whether a file is a picture by its name, read here or not, and is not hidden."""
    return not os.path.basename(name).startswith(".") and (
        extension(name) in EXTENSIONS or extension(name) in UNREAD_EXTENSIONS
    )
