"""What the pages of this room share: their template environment and pictures."""

import base64
import io
import json
import os
from typing import Any

import numpy as np
import PIL.Image

from centerarc import __version__
from centerarc.data.files import atomic_path
from centerarc.data.source import FaceSource

_QUALITY = 82


def write_page(path: str | os.PathLike[str], template: str, **content: Any) -> None:
    """Renders a template of `assets` to one self-contained file, complete or absent.

    Args:
        path: The file to write.
        template: Name of the template.
        **content: What the template shows.
    """
    # With its dependencies a third of the time that the command line takes to start.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("centerarc.data.inspection", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = "{:,}".format
    page = environment.get_template(template).render(version=__version__, **content)
    with atomic_path(path) as temporary:
        # Names of files may hold bytes that are no UTF-8; a browser could not show them.
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def picture(source: FaceSource, index: int, size: int = 112) -> str:
    """Returns an image as a JPEG in a `data:` URI, or "" if it cannot be decoded.

    Args:
        source: Where it is.
        index: Its number.
        size: The most pixels of its longer side.
    """
    try:
        small = PIL.Image.fromarray(np.asarray(source.image(index)))
    except ValueError:
        return ""
    small.thumbnail((size, size), PIL.Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def in_units(size: float) -> str:
    """Returns a number of bytes for people: "4.1 kB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}" if unit != "bytes" else f"{size:.0f} bytes"
        size /= 1000
    return f"{size:.3g} TB"


def script_json(content: Any) -> str:
    """Returns JSON that no name inside can end the script element of."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
