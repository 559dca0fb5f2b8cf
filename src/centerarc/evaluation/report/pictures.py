"""Pictures inside a page."""

import base64
import io

from PIL import Image as Pillow

from centerarc.evaluation.report.data import Image


def data_uri(image: Image, size: int, quality: int = 80) -> str:
    """The image as a JPEG in a ``data:`` URI, its longer side at most ``size`` pixels."""
    picture = Pillow.fromarray(image)
    picture.thumbnail((size, size), Pillow.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
