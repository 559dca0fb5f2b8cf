"""A page from a template: one file that loads nothing from elsewhere, held to that by a policy."""

import base64
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image as Pillow

from centerarc import __version__
from centerarc.io.files import atomic_path
from centerarc.report.charts import Chart
from centerarc.report.numbers import Image

# Pictures inside a page.


def data_uri(image: Image, size: int, quality: int = 80) -> str:
    """The image as a JPEG in a ``data:`` URI, its longer side at most ``size`` pixels."""
    picture = Pillow.fromarray(image)
    picture.thumbnail((size, size), Pillow.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


# A page from a template: one file that asks nobody for anything, and a policy that enforces it.

# Of a text that is escaped already.
_PERCENT = re.compile(r"(?<=\d) (?=%)")
_UNBROKEN = re.compile(r"(?<![^\s(])(?:--[a-z][a-z-]*|-\d[\d.]*)")
_ASSETS = "centerarc.report", "assets"


def tied(text: str) -> Markup:
    """A sentence, escaped, with no line break before a per cent sign nor inside a flag or a signed
    number.

    Example:
        >>> tied("<95 % of --folds")
        Markup('&lt;95&nbsp;% of <span class="tied">--folds</span>')
    """
    return Markup(_PERCENT.sub("&nbsp;", str(typed(text))))


def typed(text: str) -> Markup:
    """A command, escaped, with no line break inside a flag; a copy of it is what it was."""
    return Markup(_UNBROKEN.sub(r'<span class="tied">\g<0></span>', str(escape(text))))


def require_report_extra() -> None:
    """Says how to install what reports need, if it is not there; cheap enough before training.

    Raises:
        ImportError: plotly or scikit-learn is missing.

    Example:
        >>> require_report_extra()
    """
    missing = [
        name
        for module, name in (("plotly", "plotly"), ("sklearn", "scikit-learn"))
        if find_spec(module) is None
    ]
    if missing:
        raise ImportError(
            f"a report needs {' and '.join(missing)}: pip install 'centerarc[report]'"
        )


def render(
    path: str | os.PathLike[str],
    template: str,
    charts: Iterable[Chart],
    *,
    pictures: Any = (),
    steps: Any = None,
    **content: Any,
) -> None:
    """Write a page; the file is complete or absent.

    Args:
        path: the file to write.
        template: its template among the assets.
        charts: every chart that the template shows.
        pictures: of the map's points, trace by trace.
        steps: what each threshold does, for the slider.
        **content: what else the template names.

    Raises:
        OSError: the file cannot be written.
    """
    from plotly.offline import get_plotlyjs

    scripts = [get_plotlyjs(), files(_ASSETS[0]).joinpath("assets/charts.js").read_text("utf-8")]
    environment = Environment(
        loader=PackageLoader(*_ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "told": lambda name: name.replace("_", " "),
        "tied": tied,
        "typed": typed,
    }
    page = environment.get_template(template).render(
        **content,
        version=__version__,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        # Only these two may run, so that nothing that a name smuggles in ever does.
        script_hashes=Markup(" ".join(f"'sha256-{_digest(script)}'" for script in scripts)),
        scripts=[Markup(script) for script in scripts],
        figures=_script_json({chart.key: chart.figure() for chart in charts}),
        pictures=_script_json(pictures),
        steps=_script_json(steps),
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _script_json(content: Any) -> Markup:
    """JSON that no name inside can end the script element of."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))
