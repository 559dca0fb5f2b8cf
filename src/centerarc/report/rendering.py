"""A page from a template: one file that loads nothing from elsewhere, held to that by a policy."""

import base64
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from centerarc import __version__
from centerarc.io.files import atomic_path
from centerarc.report.charts import Chart
from centerarc.report.numbers import small_percent, with_sign

Image = npt.NDArray[np.uint8]
# What pages with charts need: names of packages by those of their modules.
_EXTRA = {"plotly": "plotly", "sklearn": "scikit-learn"}
# Of a text that is escaped already.
_UNBROKEN = re.compile(r"(?<![^\s(])(?:--[a-z][a-z-]*|-\d[\d.]*)")


def require_report_extra(modules: Sequence[str] = tuple(_EXTRA)) -> None:
    """Says how to install what pages need, if it is not there; cheap enough before training.

    Args:
        modules: what the page needs: "plotly", and for a map of faces "sklearn".

    Raises:
        ImportError: one is missing.

    Example:
        >>> require_report_extra()
    """
    missing = [_EXTRA[module] for module in modules if find_spec(module) is None]
    if missing:
        raise ImportError(
            f"a report needs {' and '.join(missing)}: pip install 'centerarc[report]'"
        )


def data_uri(image: Image, size: int = 112) -> str:
    """The image as a JPEG in a `data:` URI, its longer side at most `size` pixels."""
    from PIL import Image as Pillow

    picture = Pillow.fromarray(image)
    picture.thumbnail((size, size), Pillow.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def tied(text: str) -> Markup:
    """A text, escaped, with no line break inside a flag or a signed number; a copy of it is the
    text as it was.

    Example:
        >>> tied("<95% of --folds")
        Markup('&lt;95% of <span class="tied">--folds</span>')
    """
    return Markup(_UNBROKEN.sub(r'<span class="tied">\g<0></span>', str(escape(text))))


def render(
    path: str | os.PathLike[str],
    template: str,
    charts: Sequence[Chart] = (),
    *,
    pictures: Any = (),
    steps: Any = None,
    **content: Any,
) -> None:
    """Writes a page; the file is complete or absent.

    Args:
        path: the file to write.
        template: its template among the assets.
        charts: every chart that the template shows; a page without any has no scripts.
        pictures: of the map's points, trace by trace.
        steps: what each threshold does, for the slider.
        **content: what else the template names.

    Raises:
        OSError: the file cannot be written.
    """
    # A third of the time that the command line takes to start.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    figures = {chart.key: {"data": chart.data, "layout": chart.layout} for chart in charts}
    scripts: list[str] = []
    if figures:
        from plotly.offline import get_plotlyjs

        ours = files("centerarc.report").joinpath("assets/charts.js")
        scripts = [get_plotlyjs(), ours.read_text("utf-8")]
    environment = Environment(
        loader=PackageLoader("centerarc.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., Any]] = {
        "capital": lambda text: f"{text[:1].upper()}{text[1:]}",
        "number": "{:,}".format,
        "percent": with_sign,
        "small": small_percent,
        "spaced": lambda name: name.replace("_", " "),
        "tied": tied,
    }
    environment.filters |= filters
    page = environment.get_template(template).render(
        **content,
        charts={chart.key: chart for chart in charts},
        pictures=pictures,
        version=__version__,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        # Only these may run, so that nothing that a name smuggles in ever does.
        script_hashes=Markup(" ".join(f"'sha256-{_digest(script)}'" for script in scripts)),
        scripts=[Markup(script) for script in scripts],
        script_data={
            "figures": _script_json(figures),
            "pictures": _script_json(pictures),
            "steps": _script_json(steps),
        },
    )
    with atomic_path(path) as temporary:
        # Names of files may hold bytes that are no UTF-8; a browser could not show them.
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace", newline="\n")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _script_json(content: Any) -> Markup:
    """JSON that no name inside can end the script element of."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))
